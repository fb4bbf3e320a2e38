//! `root`, `mounts`, `tmpfs`, `read_only` and `hostname`.

use super::{Fields, Reader, boolean, place};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::{Node, Value};
use enforcer_model::spec::{Mount, Tmpfs, WorkloadSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The most places of `mounts` and `tmpfs` together.
const MOST_PLACES: usize = 64;

impl Reader<'_> {
    pub(super) fn files(&mut self, fields: &Fields<'_>, spec: &mut WorkloadSpec) {
        if let Some(node) = fields.get("root") {
            spec.root = self.parsed(node, |text| place(text, "a folder other than /"));
        }
        for item in self.items(fields.get("mounts"), "a list of mounts") {
            spec.mounts.extend(self.mount(item));
        }
        for item in self.items(fields.get("tmpfs"), "a list of paths") {
            spec.tmpfs.extend(self.tmpfs(item));
        }
        self.set(fields, "read_only", &mut spec.read_only, boolean);
        if let Some(node) = fields.get("read_only")
            && spec.read_only
            && fields.get("root").is_none()
        {
            self.fault(
                Fault::error(
                    node.span.clone(),
                    "`read_only` is for a workload with a `root` of its own",
                )
                .label("the host's files are not made read-only"),
            );
        }
        self.set_some(fields, "hostname", &mut spec.hostname, host_name);
        if let Some(node) = fields.get("hosts") {
            spec.hosts = self.hosts(node, spec.root.is_some());
        }
        self.check_places(fields, spec);
    }

    fn hosts(&mut self, node: &Node, has_root: bool) -> BTreeMap<String, IpAddr> {
        let mut all = BTreeMap::new();
        for (name, value) in self.entries(node).iter() {
            if !is_name_of_host(name) {
                let message = format!("`{}` is no host name", name.escape_debug());
                let fault = Fault::error(value.span.clone(), message);
                self.fault(fault.label("expected letters, digits and - . _ before the colon"));
                continue;
            }
            let address = self.parsed(value, |text| {
                let address = text.parse::<IpAddr>();
                address.map_err(|_| "an address, such as 127.0.0.1 or ::1".to_owned())
            });
            all.extend(address.map(|address| (name.to_owned(), address)));
        }
        if !has_root {
            let message = "`hosts` is for a workload with a `root` of its own";
            let fault = Fault::error(node.span.clone(), message);
            self.fault(fault.label("the others see the host's /etc/hosts"));
        }
        all
    }

    fn mount(&mut self, node: &Node) -> Option<Mount> {
        let fields = self.fields(node, &["from", "to", "read_only"]);
        let (Some(from), Some(to)) = (fields.get("from"), fields.get("to")) else {
            if matches!(node.value, Value::Mapping(_)) {
                self.fault(
                    Fault::error(node.span.clone(), "this mount has no `from` and `to`")
                        .label("expected both")
                        .help("mounts: [{ from: /srv/data, to: /data }]"),
                );
            }
            return None;
        };
        let from = self.absolute_path(from);
        let to = self.parsed(to, in_files);
        let mut read_only = false;
        self.set(&fields, "read_only", &mut read_only, boolean);
        Some(Mount {
            from: from?,
            to: to?,
            read_only,
        })
    }

    /// Reads a path, or a path and a size.
    fn tmpfs(&mut self, node: &Node) -> Option<Tmpfs> {
        let mut size = None;
        let path = match &node.value {
            Value::Scalar { .. } | Value::Sequence(_) => self.parsed(node, in_files)?,
            Value::Mapping(_) | Value::Null => {
                let fields = self.fields(node, &["path", "size"]);
                self.set_some(&fields, "size", &mut size, quantity::bytes);
                let Some(path) = fields.get("path") else {
                    self.fault(
                        Fault::error(node.span.clone(), "this tmpfs has no `path`")
                            .label("expected a `path`")
                            .help("tmpfs: [{ path: /tmp, size: 64M }]"),
                    );
                    return None;
                };
                self.parsed(path, in_files)?
            }
        };
        Some(Tmpfs { path, size })
    }

    fn check_places(&mut self, fields: &Fields<'_>, spec: &WorkloadSpec) {
        let mounts = spec.mounts.iter().map(|mount| &mount.to);
        let places: Vec<&String> = mounts
            .chain(spec.tmpfs.iter().map(|one| &one.path))
            .collect();
        let node = fields.get("mounts").or_else(|| fields.get("tmpfs"));
        let Some(node) = node else {
            return;
        };
        let mut seen = BTreeSet::new();
        for twice in places.iter().filter(|place| !seen.insert(**place)) {
            let message = format!("two mounts have the place {twice}");
            self.fault(Fault::error(node.span.clone(), message).label("expected one"));
        }
        if places.len() > MOST_PLACES {
            let message = format!("these are {} mounts", places.len());
            let label = format!("expected at most {MOST_PLACES}");
            self.fault(Fault::error(node.span.clone(), message).label(label));
        }
    }
}

/// Reads a path in the workload's own files.
fn in_files(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "an absolute path other than / and outside /proc";
    let path = place(text, EXPECTED)?;
    // The one is a link to the other in nearly every tree.
    let path = match path.strip_prefix("/var/run/") {
        Some(rest) => format!("/run/{rest}"),
        None => path,
    };
    match path == "/proc" || path.starts_with("/proc/") {
        true => Err(EXPECTED.to_owned()),
        false => Ok(path),
    }
}

/// Compose's names may have underscores.
fn is_name_of_host(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(is_good)
}

fn host_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let good = (1..=64).contains(&text.len())
        && text.bytes().all(plain)
        && edge(text.bytes().next())
        && edge(text.bytes().last());
    match good {
        true => Ok(text.to_owned()),
        false => Err("a host name: letters, digits, - and ., at most 64".to_owned()),
    }
}
