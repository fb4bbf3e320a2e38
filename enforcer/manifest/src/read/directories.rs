//! `runtime_directory`, `state_directory` and `cache_directory`, and `credentials`.

use super::Reader;
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::{Node, Value};
use enforcer_model::spec::{Directories, FileMode};
use std::collections::BTreeMap;

/// A process reads each of them at every start.
const MOST_CREDENTIALS: usize = 100;

impl Reader<'_> {
    /// Reads a name, a list of names, or a mapping with the permissions.
    pub(super) fn directories(&mut self, node: &Node) -> Option<Directories> {
        let mut mode = FileMode::default();
        let names = match &node.value {
            Value::Scalar { .. } | Value::Sequence(_) => self.directory_names(node),
            Value::Mapping(_) | Value::Null => {
                let fields = self.fields(node, &["names", "mode"]);
                self.set(&fields, "mode", &mut mode, |text| {
                    quantity::permissions(text).map(FileMode)
                });
                let Some(names) = fields.get("names") else {
                    self.fault(
                        Fault::error(node.span.clone(), "these directories have no `names`")
                            .label("expected `names`"),
                    );
                    return None;
                };
                self.directory_names(names)
            }
        };
        (!names.is_empty()).then_some(Directories { names, mode })
    }

    fn directory_names(&mut self, node: &Node) -> Vec<String> {
        let items = match &node.value {
            Value::Sequence(items) => items.as_slice(),
            Value::Scalar { .. } | Value::Mapping(_) | Value::Null => std::slice::from_ref(node),
        };
        let names = items
            .iter()
            .filter_map(|item| self.parsed(item, directory_name));
        names.collect()
    }

    /// Reads names and files.
    pub(super) fn credentials(&mut self, node: &Node) -> BTreeMap<String, String> {
        let mut credentials = BTreeMap::new();
        for (name, value) in self.entries(node).iter() {
            if !is_file_name(name) {
                let shown = name.escape_debug();
                self.fault(
                    Fault::error(
                        value.span.clone(),
                        format!("`{shown}` is no name of a credential"),
                    )
                    .label("expected letters, digits and _ . @ - before the colon"),
                );
                continue;
            }
            let file = self.parsed(value, |text| match text.is_empty() || text.contains('\0') {
                true => Err("the path of a file".to_owned()),
                false => Ok(text.to_owned()),
            });
            credentials.extend(file.map(|file| (name.to_owned(), file)));
        }
        if credentials.len() > MOST_CREDENTIALS {
            let count = credentials.len();
            self.fault(
                Fault::error(node.span.clone(), format!("these are {count} credentials"))
                    .label(format!("expected at most {MOST_CREDENTIALS}")),
            );
        }
        credentials
    }
}

fn is_file_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte);
    !matches!(text, "" | "." | "..") && text.len() <= 255 && text.bytes().all(plain)
}

/// Reads a path below a folder of the host's. It leads nowhere else.
fn directory_name(text: &str) -> Result<String, String> {
    match text.split('/').all(is_file_name) && text.len() <= 1024 {
        true => Ok(text.to_owned()),
        false => Err(
            "a relative path of letters, digits and _ . @ -, such as web or web/cache".to_owned(),
        ),
    }
}
