//! A workload's spec to what the child needs: names looked up, files read,
//! strings made. Everything that can fail by the manifest's doing fails here,
//! before there is a process.

use super::{directories, sandbox};
use enforcer_core::ReplicaId;
use enforcer_core::event::StartError;
use enforcer_core::spec::{MAY_BE_MISSING, OUT_OF_SANDBOX, OUT_OF_STRICT, Sandbox, WorkloadSpec};
use enforcer_kernel::account::{self, Accounts, Identity};
use enforcer_kernel::process::OWN_PROGRAM;
use enforcer_kernel::settings_file;
use enforcer_kernel::spawn::Launch;
use enforcer_kernel::system_limits;
use enforcer_manifest::environment_file;
use enforcer_manifest::{CAPABILITIES, capability_number, rlimit_number};
use nix::unistd::{Gid, Uid, geteuid};
use std::collections::BTreeMap;
use std::ffi::CString;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The kernel's own default, which an agent's unit may have raised.
const DEFAULT_NOFILE: u64 = 524_288;
/// A check is worth less than whatever it checks.
const FIRST_TO_GO: i32 = 500;

/// Prepares what a process of a workload needs. `own` are variables that the agent sets for it. The
/// account is looked up if it is not known. The main process signals no others than its children in
/// `sandbox: strict`; a short command may signal the main process.
pub(super) fn prepare(
    workload: &ReplicaId,
    spec: &WorkloadSpec,
    own: Vec<(String, Vec<u8>)>,
    known: Option<&Identity>,
    is_main: bool,
) -> Result<Launch, StartError> {
    let identity = known.cloned().map_or_else(|| identity(spec), Ok)?;
    let switch_user = geteuid().is_root();
    if !switch_user && identity.uid != geteuid() {
        return Err(failure(
            "become the user",
            format!("the agent is not root and can't become `{}`", identity.name),
        ));
    }
    let has_groups = spec.group.is_some() || !spec.groups.is_empty();
    if !switch_user && (has_groups || !spec.capabilities.is_empty()) {
        let why = "the agent is not root and can give neither a group nor capabilities";
        return Err(failure("take on the identity", why.to_owned()));
    }
    let default_nofile = !spec.rlimits.contains_key("nofile");
    let mut rlimits = Vec::new();
    for (name, limit) in &spec.rlimits {
        let Some(number) = rlimit_number(name) else {
            continue;
        };
        // setrlimit(2): the kernel accepts no more open files than fs.nr_open, even from root.
        let most = match name.as_str() {
            "nofile" => system_limits::most_open_files(),
            _ => libc::RLIM_INFINITY,
        };
        let limit = limit.at().unwrap_or(most);
        if limit > most {
            let why = format!("nofile {limit} is above the kernel's fs.nr_open, which is {most}");
            return Err(failure("set the resource limits", why));
        }
        rlimits.push((number, limit));
    }
    if default_nofile && switch_user {
        let limit = DEFAULT_NOFILE.min(system_limits::most_open_files());
        rlimits.push((rlimit_number("nofile").unwrap_or_default(), limit));
    }
    let (capabilities, bounds_root) = capabilities(spec, &identity);
    Ok(Launch {
        command: strings(spec.command.iter().cloned())?,
        environment: strings(
            environment(workload, spec, &identity)?
                .into_iter()
                .chain(own)
                .map(assignment),
        )?,
        directory: string(spec.directory.clone().unwrap_or_else(|| "/".to_owned()))?,
        switch_user,
        capabilities,
        bounds_root,
        rlimits,
        default_nofile,
        umask: spec.umask.0,
        nice: spec.nice,
        no_new_privs: !identity.uid.is_root() || spec.sandbox != Sandbox::Off,
        oom_score_adj: string(spec.oom_score_adj().to_string())?,
        hides_memory: !spec.credentials.is_empty(),
        paths: sandbox::paths(spec, is_main)
            .map_err(|error| failure("make the rules for its paths", error.to_string()))?,
        filters: sandbox::filters(spec)
            .map_err(|error| failure("make the filters of system calls", error))?,
        identity,
    })
}

/// Returns the capabilities of a workload, and whether they are a bound for root. In a sandbox, root has
/// none of those that lead out of it, unless the manifest lists them.
fn capabilities(spec: &WorkloadSpec, user: &Identity) -> (Vec<u8>, bool) {
    let listed = spec.capabilities.iter();
    let listed = listed.filter_map(|name| capability_number(name));
    if spec.sandbox == Sandbox::Off || spec.capabilities_listed.0 || !user.uid.is_root() {
        return (listed.collect(), spec.capabilities_listed.0);
    }
    let kept = CAPABILITIES
        .iter()
        .filter(|name| !OUT_OF_SANDBOX.contains(name))
        .filter(|name| spec.sandbox != Sandbox::Strict || !OUT_OF_STRICT.contains(name));
    let kept = kept.filter_map(|name| capability_number(name));
    (kept.collect(), true)
}

/// Prepares a short command beside a workload: with the user and the environment of its instance,
/// and without its capabilities. Without an instance it has the variables of the next one, and
/// `own`, which the agent sets.
pub(super) fn short_command(
    command: &super::ShortCommand,
    instance: Option<&Launch>,
    own: Vec<(String, Vec<u8>)>,
) -> Result<Launch, StartError> {
    let mut spec = WorkloadSpec {
        command: command.command.clone(),
        ..(*command.spec).clone()
    };
    if instance.is_some() {
        // Read when the instance was started: what they say now is for the next one.
        spec.environment_files.clear();
    }
    let host = ReplicaId::parse("host");
    let name = command.workload.as_ref().or(host.as_ref());
    let Some(name) = name else {
        return Err(failure("prepare the command", "it has no name".to_owned()));
    };
    let known = instance.map(|instance| &instance.identity);
    let mut launch = prepare(name, &spec, own, known, false)?;
    if let Some(instance) = instance {
        launch.environment.clone_from(&instance.environment);
        // A command gets no sockets.
        let of_sockets = |one: &CString| one.as_bytes().starts_with(b"LISTEN_FD");
        launch.environment.retain(|one| !of_sockets(one));
    }
    // The agent's own program uses calls that a sandbox refuses, and runs nothing else.
    if command
        .command
        .first()
        .is_some_and(|path| path == OWN_PROGRAM)
    {
        launch.filters.clear();
        launch.paths = None;
    }
    // For root, the list is the bound.
    if !launch.identity.uid.is_root() {
        launch.capabilities.clear();
    }
    let reported = command.environment.iter();
    launch.environment.extend(strings(
        reported.map(|(name, value)| format!("{name}={}", value.replace('\0', " "))),
    )?);
    launch.oom_score_adj = string(FIRST_TO_GO.to_string())?;
    Ok(launch)
}

/// Returns the variables of a workload: what the manifest names, and what a program expects to
/// find. Nothing of the agent's own is among them.
fn environment(
    workload: &ReplicaId,
    spec: &WorkloadSpec,
    identity: &Identity,
) -> Result<BTreeMap<String, Vec<u8>>, StartError> {
    let mut variables = BTreeMap::from([
        ("PATH".to_owned(), PATH.into()),
        ("HOME".to_owned(), identity.home.clone().into()),
        ("USER".to_owned(), identity.name.clone().into()),
    ]);
    for file in &spec.environment_files {
        let (path, may_be_missing) = match file.strip_prefix(MAY_BE_MISSING) {
            Some(path) => (path, true),
            None => (file.as_str(), false),
        };
        let stage = format!("read {path}");
        let read = settings_file::read(path, identity);
        if let Err(error) = &read
            && may_be_missing
            && error.kind() == std::io::ErrorKind::NotFound
        {
            continue;
        }
        let text = read.map_err(|error| StartError {
            errno: error.raw_os_error(),
            ..failure(&stage, enforcer_kernel::spawn::describe(&error))
        })?;
        let read = environment_file::parse(&text);
        variables.extend(read.map_err(|fault| failure(&stage, fault.to_string()))?);
    }
    variables.extend(directories::environment(spec));
    let declared = spec.environment.iter();
    variables.extend(declared.map(|(name, value)| (name.clone(), value.clone().into())));
    let name = workload.workload().to_string();
    variables.insert("ENFORCER_WORKLOAD".to_owned(), name.into());
    Ok(variables)
}

/// `NAME=value`, as execve(2) wants it.
fn assignment((name, value): (String, Vec<u8>)) -> Vec<u8> {
    let mut text = name.into_bytes();
    text.push(b'=');
    text.extend(value);
    text
}

fn strings<T: Into<Vec<u8>>>(texts: impl Iterator<Item = T>) -> Result<Vec<CString>, StartError> {
    texts.map(string).collect()
}

fn string(text: impl Into<Vec<u8>>) -> Result<CString, StartError> {
    CString::new(text).map_err(|error| {
        failure(
            "prepare the command",
            format!(
                "a NUL byte in `{}`",
                String::from_utf8_lossy(&error.into_vec()).escape_debug()
            ),
        )
    })
}

/// Returns who owns what is made for the workload; `None` if that is the agent's own user.
pub(super) fn owner(spec: &WorkloadSpec) -> Result<Option<(Uid, Gid)>, StartError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let identity = identity(spec)?;
    Ok(Some((identity.uid, identity.gid)))
}

/// Looks the account of a workload up: on the host, or in the files of its own root.
pub(super) fn identity(spec: &WorkloadSpec) -> Result<Identity, StartError> {
    let accounts = match &spec.root {
        None => Accounts::Host,
        Some(root) => Accounts::Tree {
            passwd: file_of_tree(root, "etc/passwd")?,
            group: file_of_tree(root, "etc/group")?,
        },
    };
    let found = accounts.identity(spec.user.as_deref(), spec.group.as_deref(), &spec.groups);
    if let (Ok(found), Some(root)) = (&found, &spec.root)
        && let Some(other) = account::name_on_host(found.uid)
        && other != found.name
    {
        let (name, uid) = (&found.name, found.uid);
        tracing::warn!("{root} gives `{name}` the uid {uid}, which is `{other}` on the host");
    }
    found.map_err(|error| {
        let stage = match &spec.root {
            None => "look up the account".to_owned(),
            Some(root) => format!("look up the account in {root}/etc"),
        };
        failure(&stage, crate::report::error_chain(&error))
    })
}

/// Returns a file of a tree, which is empty if the tree has none.
fn file_of_tree(root: &str, path: &str) -> Result<String, StartError> {
    match settings_file::read_in_tree(root, path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(String::new()),
        Err(error) => {
            let stage = format!("read {path} in its root {root}");
            Err(super::start::io_failure(&stage, &error))
        }
    }
}

fn failure(stage: &str, error: String) -> StartError {
    StartError {
        stage: stage.to_owned(),
        errno: None,
        error,
    }
}
