//! The files that a workload sees: its root, and what is mounted for it.

use super::sandbox::TEMPORARY;
use super::{Sandbox, WorkloadSpec};
use crate::settings::Setting;
use crate::shapes;
use crate::units::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A file or a folder of the host's that the workload sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Mount {
    /// The path on the host.
    #[schemars(with = "shapes::AbsolutePath")]
    pub from: String,
    /// The path in the workload's files, which must be there.
    #[schemars(with = "shapes::AbsolutePath")]
    pub to: String,
    /// The workload cannot change it.
    pub read_only: bool,
}

/// A file system in memory, which the workload's user owns. It is gone with the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Tmpfs {
    /// The path in the workload's files.
    #[schemars(with = "shapes::AbsolutePath")]
    pub path: String,
    /// The most that it may hold. The default is half of the host's memory; `memory.max` counts it as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "shapes::Size")]
    pub size: Option<Bytes>,
}

impl WorkloadSpec {
    /// Returns whether the workload sees other files than the host's processes do.
    #[must_use]
    pub fn has_own_files(&self) -> bool {
        self.root.is_some()
            || !self.mounts.is_empty()
            || !self.tmpfs.is_empty()
            || self.sandbox != Sandbox::Off
    }

    /// Returns the path on the host of a file that the workload names; `None` for one in its memory.
    /// Links are not looked at.
    #[must_use]
    pub fn on_host(&self, path: &str) -> Option<String> {
        let path = Path::new(path);
        let nearest = |at: &str| path.starts_with(at).then(|| Path::new(at).iter().count());
        let own_tmp = self.sandbox != Sandbox::Off && self.private_tmp;
        let temporary = TEMPORARY.iter().filter(|_| own_tmp).copied();
        let memory = self.tmpfs.iter().map(|one| one.path.as_str());
        let memory = memory.chain(temporary).filter_map(nearest).max();
        let root = self.root.as_deref().unwrap_or("/");
        // What the sandbox shows is at the same path in the workload's own files.
        let shown = self.read_write_paths.iter().chain(&self.read_only_paths);
        let shown = shown.map(|at| (at.as_str(), "/", root));
        let mounts = self.mounts.iter();
        let mounts = mounts.map(|one| (one.to.as_str(), one.to.as_str(), one.from.as_str()));
        let mount = mounts
            .chain(shown)
            .filter_map(|(at, below, from)| Some((nearest(at)?, below, from)))
            .max_by_key(|(depth, ..)| *depth);
        let (below, from) = match mount {
            _ if memory > mount.map(|(depth, ..)| depth) => return None,
            Some((_, below, from)) => (below, from),
            None => ("/", root),
        };
        let rest = path.strip_prefix(below).ok()?;
        let found = match rest.as_os_str().is_empty() {
            true => from.into(),
            false => Path::new(from).join(rest),
        };
        Some(found.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_workload_has_a_path_on_the_host() {
        let spec = WorkloadSpec {
            root: Some("/srv/tree".to_owned()),
            mounts: vec![Mount {
                from: "/data/shop".to_owned(),
                to: "/var/shop".to_owned(),
                read_only: false,
            }],
            tmpfs: vec![Tmpfs {
                path: "/var/shop/tmp".to_owned(),
                size: None,
            }],
            ..WorkloadSpec::default()
        };
        let on_host = |path| spec.on_host(path);
        for (path, expected) in [
            ("/etc/shop", Some("/srv/tree/etc/shop")),
            ("/var/shop", Some("/data/shop")),
            ("/var/shop/a/b", Some("/data/shop/a/b")),
            ("/var/shopping", Some("/srv/tree/var/shopping")),
            ("/var/shop/tmp/x", None),
        ] {
            assert_eq!(on_host(path).as_deref(), expected, "{path}");
        }
        let shown = WorkloadSpec {
            sandbox: Sandbox::Default,
            read_write_paths: vec!["/tmp/shared".to_owned()],
            ..spec
        };
        let on_host = |path| shown.on_host(path);
        assert_eq!(on_host("/tmp/x"), None);
        let expected = Some("/srv/tree/tmp/shared/x");
        assert_eq!(on_host("/tmp/shared/x").as_deref(), expected);
        let plain = WorkloadSpec::default();
        assert_eq!(plain.on_host("/etc/shop").as_deref(), Some("/etc/shop"));
    }
}
