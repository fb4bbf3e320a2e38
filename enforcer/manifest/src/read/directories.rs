//! `runtime_directory`, `state_directory` and `cache_directory`.

use super::Reader;
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::{Node, Value};
use enforcer_model::spec::{Directories, FileMode};

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
}

/// Reads a path below a folder of the host's. It leads nowhere else.
fn directory_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte);
    let is_name = |part: &str| {
        !matches!(part, "" | "." | "..") && part.len() <= 255 && part.bytes().all(plain)
    };
    match text.split('/').all(is_name) && text.len() <= 1024 {
        true => Ok(text.to_owned()),
        false => Err(
            "a relative path of letters, digits and _ . @ -, such as web or web/cache".to_owned(),
        ),
    }
}
