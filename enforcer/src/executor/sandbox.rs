//! The mounts, the rules for paths, and the filters of a sandbox.

use super::directories;
use super::view::{mount, option, optional, string};
use crate::name_servers::name_servers;
use crate::report::error_chain;
use enforcer_core::event::StartError;
use enforcer_core::spec::{
    DirectoryKind, HOMES, PROGRAMS, Peer, READ_ONLY, SOCKET_FOLDERS, SOCKETS, Sandbox, TEMPORARY,
    WorkloadSpec,
};
use enforcer_kernel::account::Identity;
use enforcer_kernel::bpf::network::{NetworkError, NetworkFilters, Rules};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::landlock::{Access, Ruleset};
use enforcer_kernel::seccomp::{self, Allowed, Filter};
use enforcer_kernel::settings_file;
use enforcer_kernel::spawn::{Mount, NOTHING, Source};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

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
        all.push(optional(home, own(home, spec.sandbox == Sandbox::Strict)?)?);
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
    if spec.sandbox == Sandbox::Strict {
        all.extend(of_strict(spec)?);
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

/// Returns what stays writable in a read-only tree, and hides what would lead around the rules.
fn of_strict(spec: &WorkloadSpec) -> io::Result<Vec<Mount>> {
    let mut all = Vec::new();
    for path in TEMPORARY {
        all.push(optional(path, own(path, false)?)?);
    }
    // In a root they are the host's, and are mounted with it. After a removal, one may be missing.
    for path in own_directories(spec).iter().filter(|_| spec.root.is_none()) {
        all.push(optional(path, own(path, false)?)?);
    }
    for path in SOCKET_FOLDERS {
        all.push(optional(path, empty("0755")?)?);
    }
    for path in SOCKETS {
        // No process listens there.
        let nothing = Source::Hosts {
            path: string(NOTHING)?,
            read_only: true,
        };
        all.push(optional(path, nothing)?);
    }
    Ok(all)
}

/// Sees that nothing is executed from the places that a workload in `strict` can change, except where a
/// program of its manifest is.
pub(super) fn without_programs(spec: &WorkloadSpec, mounts: &mut [Mount]) {
    if spec.sandbox != Sandbox::Strict {
        return;
    }
    // A program may be named by a link.
    let named = spec.programs();
    let resolved = named
        .clone()
        .filter_map(|path| std::fs::canonicalize(path).ok());
    let programs: Vec<PathBuf> = named.map(PathBuf::from).chain(resolved).collect();
    for mount in mounts {
        let is_writable = match &mount.source {
            Source::Hosts { read_only, .. }
            | Source::Own { read_only, .. }
            | Source::Memory { read_only, .. } => !read_only,
            Source::Given(_) | Source::ReadOnly | Source::Processes | Source::Devices => false,
        };
        let place = mount.at.to_string_lossy().into_owned();
        let holds_program = programs.iter().any(|program| program.starts_with(&place));
        mount.no_exec = is_writable && !holds_program;
    }
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
        level: spec.sandbox,
        calls: &spec.system_calls,
        namespaces: spec.namespaces,
    };
    seccomp::filters(allowed).map_err(|error| error.to_string())
}

/// Returns the paths of the directories that are made for the workload.
fn own_directories(spec: &WorkloadSpec) -> Vec<String> {
    let kinds = DirectoryKind::ALL.into_iter();
    let found = kinds.filter_map(|kind| Some((kind, spec.directories(kind)?)));
    let paths = found.flat_map(|(kind, found)| {
        let names = found.names.iter();
        names.map(move |name| directories::path_of(kind, name).display().to_string())
    });
    paths.collect()
}

/// Returns the rules for paths, which `strict` alone has. The program itself may be anywhere.
pub(super) fn paths(spec: &WorkloadSpec, is_main: bool) -> io::Result<Option<Ruleset>> {
    if spec.sandbox != Sandbox::Strict {
        return Ok(None);
    }
    let directories = own_directories(spec);
    let program = spec.command.first().map(String::as_str);
    let executed = PROGRAMS.into_iter().chain(program);
    let executed = executed.chain(spec.read_only_paths.iter().map(String::as_str));
    let changed = TEMPORARY.into_iter();
    let named = directories.iter().chain(&spec.read_write_paths);
    let named = named.chain(spec.tmpfs.iter().map(|one| &one.path));
    let changed = changed.chain(named.map(String::as_str));
    let mounts = spec.mounts.iter().map(|one| match one.read_only {
        true => (one.to.as_str(), Access::Execute),
        false => (one.to.as_str(), Access::Change),
    });
    let rules = executed
        .map(|path| (path, Access::Execute))
        .chain(changed.map(|path| (path, Access::Change)))
        .chain(mounts);
    Ruleset::new(rules, is_main).map(Some)
}

/// Gives a cgroup of the workload the filters of its network, or none.
pub(super) fn filter_network(
    spec: &WorkloadSpec,
    cgroup: &Cgroup,
    filters: &NetworkFilters,
) -> Result<(), NetworkFailure> {
    let rules = match spec.sandbox {
        Sandbox::Off | Sandbox::Default => None,
        Sandbox::Strict => Some(Rules::of(&spec.network, &resolvers(spec)?)),
    };
    Ok(filters.set(cgroup, rules.as_ref())?)
}

/// A cgroup whose network is not filtered as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkFailure {
    #[error("read the name servers in {RESOLVERS}")]
    Resolvers(#[source] io::Error),
    #[error("filter its network")]
    Filter(#[from] NetworkError),
}

impl From<NetworkFailure> for StartError {
    fn from(failure: NetworkFailure) -> Self {
        Self {
            stage: failure.to_string(),
            errno: None,
            error: std::error::Error::source(&failure).map_or_else(String::new, error_chain),
        }
    }
}

const RESOLVERS: &str = "/etc/resolv.conf";

/// Returns the name servers in the workload's `/etc/resolv.conf`, if it may ask them.
fn resolvers(spec: &WorkloadSpec) -> Result<Vec<IpAddr>, NetworkFailure> {
    const FILE: &str = RESOLVERS;
    if !spec.network.connect.contains(&Peer::Resolver) {
        return Ok(Vec::new());
    }
    let is_mounted = spec
        .mounts
        .iter()
        .any(|one| Path::new(FILE).starts_with(&one.to));
    let below =
        |root: &str, path: &str| settings_file::read_in_tree(root, path.trim_start_matches('/'));
    let found = match (&spec.root, spec.on_host(FILE)) {
        (None, _) if !is_mounted => std::fs::read(FILE),
        // A tree may be another user's, and anything may be at its place.
        (Some(root), _) if !is_mounted => below(root, FILE),
        (_, Some(path)) => below("/", &path),
        (_, None) => Ok(Vec::new()),
    };
    match found {
        Ok(text) => Ok(name_servers(&String::from_utf8_lossy(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(NetworkFailure::Resolvers(error)),
    }
}
