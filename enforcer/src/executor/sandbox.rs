//! The mounts and the filters of a sandbox.

use super::view::{mount, option, optional, string};
use enforcer_core::spec::{HOMES, READ_ONLY, Sandbox, TEMPORARY, WorkloadSpec};
use enforcer_kernel::account::Identity;
use enforcer_kernel::seccomp::{self, Allowed, Filter};
use enforcer_kernel::spawn::{Mount, Source};
use std::io;
use std::path::Path;

/// Returns the mounts. If two have the same place, the first one is used.
pub(super) fn mounts(
    spec: &WorkloadSpec,
    user: &Identity,
    agents_folder: &Path,
) -> io::Result<Vec<Mount>> {
    if spec.sandbox == Sandbox::Off {
        return Ok(Vec::new());
    }
    let mut all = opened(spec)?;
    all.extend(Mount::of_a_sandbox());
    for path in READ_ONLY {
        all.push(optional(path, Source::ReadOnly)?);
    }
    // The user's own home goes before the folder of homes, which root's is itself.
    let home = user.home.trim_end_matches('/');
    let mut homes = HOMES.iter();
    let holds_all = home != "/root" && HOMES.contains(&home);
    if homes.any(|path| Path::new(home).starts_with(path)) && !holds_all {
        all.push(optional(home, own(home, false)?)?);
    }
    for path in HOMES {
        all.push(optional(path, empty("0755")?)?);
    }
    for path in TEMPORARY.iter().filter(|_| spec.private_tmp) {
        let memory = Source::Memory {
            options: vec![option("mode", "1777")?],
            read_only: false,
        };
        all.push(optional(path, memory)?);
    }
    if spec.root.is_none() {
        // The agent's own files and sockets, except what is mounted there for the workload.
        let folder = agents_folder.to_string_lossy();
        all.push(mount(&folder, empty("0711")?)?);
        let notify = agents_folder.join("notify");
        let notify = notify.to_string_lossy();
        all.push(optional(&notify, own(&notify, false)?)?);
    }
    Ok(all)
}

/// Returns the mounts of the keys that make exceptions.
fn opened(spec: &WorkloadSpec) -> io::Result<Vec<Mount>> {
    let mut all = Vec::new();
    for path in &spec.read_write_paths {
        all.push(mount(path, own(path, false)?)?);
    }
    for path in &spec.read_only_paths {
        all.push(mount(path, own(path, true)?)?);
    }
    for path in &spec.devices {
        let source = Source::Hosts {
            path: string(path.as_str())?,
            read_only: false,
        };
        all.push(mount(path, source)?);
    }
    Ok(all)
}

/// Returns a path of the workload's files.
fn own(path: &str, read_only: bool) -> io::Result<Source> {
    let path = string(path)?;
    Ok(Source::Own { path, read_only })
}

/// Returns an empty folder that cannot be changed.
fn empty(mode: &str) -> io::Result<Source> {
    Ok(Source::Memory {
        options: vec![option("mode", mode)?],
        read_only: true,
    })
}

/// Returns the filters of system calls.
pub(super) fn filters(spec: &WorkloadSpec) -> Result<Vec<Filter>, String> {
    if spec.sandbox == Sandbox::Off {
        return Ok(Vec::new());
    }
    let allowed = Allowed {
        calls: &spec.system_calls,
        namespaces: spec.namespaces,
    };
    seccomp::filters(&allowed).map_err(|error| error.to_string())
}
