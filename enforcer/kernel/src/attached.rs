//! Finds the cgroup of an attached service. It asks no socket of the owner: systemd
//! names a unit's cgroup after the unit, and Docker and Podman name a container's after its id, which
//! stands beside its name in their files.
//!
//! ```text
//! /system.slice/nginx.service                           a unit, below slices alone
//! /system.slice/docker-ID.scope     /docker/ID          a container of Docker's
//! /machine.slice/libpod-ID.scope    /libpod_parent/libpod-ID    one of Podman's
//! /user.slice/user-UID.slice/user@UID.service/…           what a user's own systemd and Podman run
//! ```
//!
//! Podman's helper has a cgroup of its own, `libpod-conmon-ID.scope`, which is none of these.

use crate::account::{AccountError, Accounts, Identity};
use crate::cgroupfs::{Cgroup, CgroupError, MOUNT_POINT};
use crate::{limits, process};
use enforcer_model::ids::ProcessId;
use enforcer_model::spec::{Attach, Container};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use serde::Deserialize;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The places where Docker and Podman keep what they know of their containers.
const DOCKER: &str = "/var/lib/docker/containers";
const PODMAN: [&str; 2] = [
    "/var/lib/containers/storage/overlay-containers/containers.json",
    "/var/lib/containers/storage/vfs-containers/containers.json",
];
/// The most that is read of one of their files.
const LONGEST_FILE: u64 = 1 << 20;
/// The slices of systemd are this deep at most.
const DEPTH: usize = 8;
/// A container's id in full, and the fewest digits that name one.
const ID: usize = 64;
const SHORT_ID: usize = 12;

/// The part of a user's home with the files of the user's own Podman.
const PODMAN_OF_USER: [&str; 2] = [
    ".local/share/containers/storage/overlay-containers/containers.json",
    ".local/share/containers/storage/vfs-containers/containers.json",
];

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is more than 1 MiB", .0.display())]
    TooLong(PathBuf),
    #[error("{0} names several containers")]
    Several(String),
    #[error("find the user {user}")]
    User { user: String, source: AccountError },
}

/// The user whose systemd or Podman runs a service.
struct Owner {
    identity: Identity,
    /// The cgroup of the user's systemd.
    manager: PathBuf,
}

impl Owner {
    /// Reads the files of the user's own Podman with the user's rights, so that a link there leads to nothing that the user may not
    /// read.
    fn read<T>(
        &self,
        read: impl FnOnce(&[&Path]) -> Result<T, AttachError>,
    ) -> Result<T, AttachError> {
        let files = PODMAN_OF_USER.map(|file| Path::new(&self.identity.home).join(file));
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let _rights = Rights::of(&self.identity);
        read(&files)
    }
}

/// The rights of another user to files, which this thread has until this is dropped (setfsuid(2)).
struct Rights {
    before: (Uid, Gid),
}

impl Rights {
    fn of(identity: &Identity) -> Self {
        // The group first: a user may not choose it.
        let gid = setfsgid(identity.gid);
        let uid = setfsuid(identity.uid);
        Self { before: (uid, gid) }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let (uid, gid) = self.before;
        setfsuid(uid);
        setfsgid(gid);
    }
}

/// Returns the user whose service it is; `None` if it is the host's.
fn owner(service: &Attach) -> Option<Result<Owner, AttachError>> {
    let user = service.user()?;
    let found = Accounts::Host.identity(Some(user), None, &[]);
    let found = found.map_err(|source| AttachError::User {
        user: user.to_owned(),
        source,
    });
    Some(found.map(|identity| {
        let uid = identity.uid;
        let manager = format!("user.slice/user-{uid}.slice/user@{uid}.service");
        Owner {
            identity,
            manager: Path::new(MOUNT_POINT).join(manager),
        }
    }))
}

/// Returns whether the host's first process is systemd (sd_booted(3)).
#[must_use]
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Returns the variables with which a user's own systemd and Podman are found.
#[must_use]
pub fn environment(service: &Attach) -> Vec<(String, String)> {
    let Some(Ok(owner)) = owner(service) else {
        return Vec::new();
    };
    let folder = format!("/run/user/{}", owner.identity.uid);
    let bus = format!("unix:path={folder}/bus");
    let variables = [
        ("XDG_RUNTIME_DIR", folder),
        ("DBUS_SESSION_BUS_ADDRESS", bus),
    ];
    variables
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

/// Returns the cgroup of a service; `None` if it does not run.
///
/// # Errors
/// If a file of its owner's cannot be read, or does not say which one it is.
pub fn locate(service: &Attach) -> Result<Option<PathBuf>, AttachError> {
    let top = Path::new(MOUNT_POINT);
    match service {
        Attach::Systemd(unit) => Ok(match owner(service) {
            Some(owner) => unit_below(&owner?.manager, service.own_name(), DEPTH),
            None => unit_below(top, unit, DEPTH),
        }),
        Attach::Cgroup(path) => {
            let path = top.join(path.trim_start_matches('/'));
            Ok(path.is_dir().then_some(path))
        }
        Attach::Docker(name) => {
            let id = docker_id(Path::new(DOCKER), name)?;
            Ok(id.and_then(|id| {
                first_folder(&[
                    top.join(format!("system.slice/docker-{id}.scope")),
                    top.join(format!("docker/{id}")),
                ])
            }))
        }
        Attach::Podman(name) => {
            if let Some(owner) = owner(service) {
                let owner = owner?;
                let id = owner.read(|files| podman_id(files, service.own_name()))?;
                let scope = id.map(|id| format!("libpod-{id}.scope"));
                return Ok(scope.and_then(|scope| unit_below(&owner.manager, &scope, DEPTH)));
            }
            let id = podman_id(&PODMAN.map(Path::new), name)?;
            Ok(id.and_then(|id| {
                first_folder(&[
                    top.join(format!("machine.slice/libpod-{id}.scope")),
                    top.join(format!("libpod_parent/libpod-{id}")),
                ])
            }))
        }
    }
}

/// Returns the containers that run, by their names, with their cgroups.
///
/// # Errors
/// If a file of an engine's cannot be read.
pub fn containers() -> Result<Vec<(Attach, PathBuf)>, AttachError> {
    let docker = docker_containers(Path::new(DOCKER))?;
    let podman = podman_containers(&PODMAN.map(Path::new))?;
    let named = |make: fn(String) -> Attach| {
        move |(id, names): Named| make(names.into_iter().next().unwrap_or(id))
    };
    let all = docker.into_iter().map(named(Attach::Docker));
    let all = all.chain(podman.into_iter().map(named(Attach::Podman)));
    let found = all.filter_map(|service| {
        let place = locate(&service).ok().flatten()?;
        Some((service, place))
    });
    Ok(found.collect())
}

/// Returns the services that run and that a pattern stands for. enforcer's own units are none of them.
///
/// # Errors
/// If a file of their owner's cannot be read.
pub fn matching(pattern: &Attach) -> Result<Vec<Attach>, AttachError> {
    let top = Path::new(MOUNT_POINT);
    let mut found: Vec<(Attach, PathBuf)> = match pattern {
        Attach::Systemd(_) => {
            let owner = owner(pattern).transpose()?;
            let mut units = Vec::new();
            units_below(
                owner.as_ref().map_or(top, |owner| &owner.manager),
                DEPTH,
                &mut units,
            );
            let named = |unit: String| match pattern.user() {
                Some(user) => format!("{user}/{unit}"),
                None => unit,
            };
            let units = units.into_iter();
            units
                .map(|(unit, place)| (Attach::Systemd(named(unit)), place))
                .collect()
        }
        Attach::Cgroup(path) => {
            let (above, _) = path.rsplit_once('/').unwrap_or_default();
            let entries = fs::read_dir(top.join(above.trim_start_matches('/')));
            let entries = entries.into_iter().flatten().flatten();
            let folders = entries.filter(|entry| entry.path().is_dir());
            let named = folders.filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((Attach::Cgroup(format!("{above}/{name}")), entry.path()))
            });
            named.collect()
        }
        Attach::Podman(_) if pattern.user().is_some() => {
            let all = owner(pattern).transpose()?;
            let all = all.map(|owner| owner.read(podman_containers)).transpose()?;
            let user = pattern.user().unwrap_or_default();
            let located = |(id, names): Named| {
                let name = names.into_iter().next().unwrap_or(id);
                let service = Attach::Podman(format!("{user}/{name}"));
                let place = locate(&service).ok().flatten()?;
                Some((service, place))
            };
            all.into_iter().flatten().filter_map(located).collect()
        }
        Attach::Docker(_) | Attach::Podman(_) => {
            let mut all = containers()?;
            all.retain(|(service, _)| service.parts().0 == pattern.parts().0);
            all
        }
    };
    found.retain(|(service, place)| {
        let name = service.parts().1;
        let last = name.rsplit('/').next().unwrap_or_default();
        pattern.has_match(name) && !last.starts_with("enforcer") && is_in_use(place)
    });
    Ok(found.into_iter().map(|(service, _)| service).collect())
}

/// Returns whether a cgroup, or one below it, has a process. An owner may keep that of a service that has ended.
pub(crate) fn is_in_use(place: &Path) -> bool {
    let cgroup = Cgroup::open_foreign(place);
    cgroup.is_ok_and(|cgroup| cgroup.is_populated().unwrap_or(false))
}

/// Collects all services, scopes and slices, with their cgroups. Only slices have units below them.
fn units_below(folder: &Path, depth: usize, found: &mut Vec<(String, PathBuf)>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let kind = path.extension().and_then(std::ffi::OsStr::to_str);
        let is_unit = matches!(kind, Some("service" | "scope" | "slice")) && path.is_dir();
        if let Some(name) = entry.file_name().to_str().filter(|_| is_unit) {
            found.push((name.to_owned(), path.clone()));
        }
        if kind == Some("slice") && depth > 0 {
            units_below(&path, depth - 1, found);
        }
    }
}

/// Returns what the engine of a container is told beside the limits that change. What cannot be read is left out.
pub fn container(service: &Attach, cgroup: &Cgroup) -> Container {
    let swap = limits::present(cgroup, "memory.swap.max");
    Container {
        swap: swap.and_then(|swap| swap.parse().ok()),
        has_cpus: has_cpus(service),
    }
}

fn has_cpus(service: &Attach) -> bool {
    let Attach::Docker(name) = service else {
        return false;
    };
    let folder = Path::new(DOCKER);
    let Ok(Some(id)) = docker_id(folder, name) else {
        return false;
    };
    let read = read_json::<HostConfig>(&folder.join(id).join("hostconfig.json"));
    read.ok()
        .flatten()
        .is_some_and(|found| found.nano_cpus != 0)
}

/// Returns the id of a unit's present start, which systemd keeps for those that may not ask it
/// (systemd.exec(5), `$INVOCATION_ID`). Others have none.
#[must_use]
pub fn invocation(service: &Attach) -> Option<String> {
    let Attach::Systemd(unit) = service else {
        return None;
    };
    let link = format!("/run/systemd/units/invocation:{unit}");
    let target = fs::read_link(link).ok()?;
    target.to_str().map(str::to_owned)
}

/// Returns the cgroups above one whose limits hold for it, nearest first. The root has none.
#[must_use]
pub fn ancestors_of(path: &Path) -> Arc<Vec<Cgroup>> {
    let top = Path::new(MOUNT_POINT);
    let above = path.ancestors().skip(1);
    let above = above.take_while(|one| one.starts_with(top) && *one != top);
    let above = above.filter_map(|one| Cgroup::open_foreign(one).ok());
    let above = above.filter(|one| one.has_file("memory.events.local"));
    Arc::new(above.collect())
}

/// Returns the process of a cgroup that is taken for its main one: the one that has lived longest.
///
/// # Errors
/// If the processes cannot be listed.
pub fn oldest(cgroup: &Cgroup) -> Result<Option<ProcessId>, CgroupError> {
    cgroup.processes()?;
    let all = cgroup.all_processes().into_iter();
    let all = all.filter_map(process::identify);
    Ok(all.min_by_key(|one| (one.start_ticks, one.pid)))
}

fn first_folder(paths: &[PathBuf]) -> Option<PathBuf> {
    paths.iter().find(|path| path.is_dir()).cloned()
}

/// Finds the folder of a unit. Only slices have units below them.
fn unit_below(folder: &Path, unit: &str, depth: usize) -> Option<PathBuf> {
    let here = folder.join(unit);
    if here.is_dir() {
        return Some(here);
    }
    if depth == 0 {
        return None;
    }
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut slices: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "slice") && path.is_dir())
        .collect();
    slices.sort();
    slices
        .iter()
        .find_map(|slice| unit_below(slice, unit, depth - 1))
}

#[derive(Deserialize)]
struct DockerContainer {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Name")]
    name: String,
}

/// The part of Docker's settings of a container that is read.
#[derive(Deserialize)]
struct HostConfig {
    #[serde(rename = "NanoCpus", default)]
    nano_cpus: u64,
}

#[derive(Deserialize)]
struct PodmanContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

/// A container, by its id and its names.
type Named = (String, Vec<String>);

/// Returns the id of a container of this name, or whose id begins so.
fn docker_id(folder: &Path, name: &str) -> Result<Option<String>, AttachError> {
    chosen(docker_containers(folder)?, name)
}

fn docker_containers(folder: &Path) -> Result<Vec<Named>, AttachError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            let path = folder.to_owned();
            return Err(AttachError::Read { path, source });
        }
    };
    let mut all: Vec<Named> = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path().join("config.v2.json");
        // One that is being made or removed has no such file, or half of it.
        let Some(found) = read_json::<DockerContainer>(&path)? else {
            continue;
        };
        // Docker puts a slash before its names.
        let name = found.name.trim_start_matches('/').to_owned();
        all.push((found.id, vec![name]));
    }
    Ok(all)
}

fn podman_id(files: &[&Path], name: &str) -> Result<Option<String>, AttachError> {
    chosen(podman_containers(files)?, name)
}

fn podman_containers(files: &[&Path]) -> Result<Vec<Named>, AttachError> {
    let mut all: Vec<Named> = Vec::new();
    for file in files {
        let found = read_json::<Vec<PodmanContainer>>(file)?.unwrap_or_default();
        all.extend(found.into_iter().map(|one| (one.id, one.names)));
    }
    Ok(all)
}

fn chosen(all: Vec<Named>, name: &str) -> Result<Option<String>, AttachError> {
    let is_id = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    // The id becomes a part of a path.
    let mut all = all;
    all.retain(|(id, _)| id.len() == ID && is_id(id));
    let by_name = all
        .iter()
        .find(|(_, names)| names.iter().any(|one| one == name));
    if let Some((id, _)) = by_name {
        return Ok(Some(id.clone()));
    }
    if name.len() < SHORT_ID || !is_id(name) {
        return Ok(None);
    }
    let mut by_id = all.iter().filter(|(id, _)| id.starts_with(name));
    match (by_id.next(), by_id.next()) {
        (Some(_), Some(_)) => Err(AttachError::Several(name.to_owned())),
        (first, _) => Ok(first.map(|(id, _)| id.clone())),
    }
}

/// Reads a file of an engine's; `None` if it is not there, or is half written.
fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, AttachError> {
    let failed = |source| AttachError::Read {
        path: path.to_owned(),
        source,
    };
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Ok(file) if file.metadata().is_ok_and(|found| found.is_file()) => file,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    let read = file.take(LONGEST_FILE + 1).read_to_end(&mut bytes);
    read.map_err(failed)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(AttachError::TooLong(path.to_owned()));
    }
    Ok(serde_json::from_slice(&bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("attached-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    #[test]
    fn a_unit_is_found_below_slices_alone() {
        let top = folder("unit");
        for path in [
            "system.slice/nginx.service/inner.service",
            "system.slice/system-getty.slice/getty@tty1.service",
            "other/hidden.service",
        ] {
            fs::create_dir_all(top.join(path)).expect("a folder");
        }
        let found = |unit| unit_below(&top, unit, DEPTH);
        assert_eq!(
            found("nginx.service"),
            Some(top.join("system.slice/nginx.service"))
        );
        assert_eq!(
            found("getty@tty1.service"),
            Some(top.join("system.slice/system-getty.slice/getty@tty1.service"))
        );
        assert_eq!(found("inner.service"), None);
        assert_eq!(found("hidden.service"), None);
        fs::remove_dir_all(top).expect("an end");
    }

    #[test]
    fn units_are_listed_below_slices_alone() {
        let top = folder("units");
        for path in [
            "init.scope",
            "system.slice/nginx.service/inner.service",
            "system.slice/system-getty.slice/getty@tty1.service",
            "other/hidden.service",
        ] {
            fs::create_dir_all(top.join(path)).expect("a folder");
        }
        let mut found = Vec::new();
        units_below(&top, DEPTH, &mut found);
        found.sort();
        let (names, places): (Vec<String>, Vec<PathBuf>) = found.into_iter().unzip();
        assert_eq!(places[1], top.join("init.scope"));
        assert_eq!(
            names,
            [
                "getty@tty1.service",
                "init.scope",
                "nginx.service",
                "system-getty.slice",
                "system.slice"
            ]
        );
        fs::remove_dir_all(top).expect("an end");
    }

    #[test]
    fn a_container_is_found_by_its_name_or_its_id() {
        let top = folder("docker");
        let (one, two) = ("a".repeat(ID), format!("{}b", "a".repeat(ID - 1)));
        for (id, name) in [(&one, "web"), (&two, "db")] {
            let place = top.join(id);
            fs::create_dir_all(&place).expect("a folder");
            let text = format!(r#"{{"ID":"{id}","Name":"/{name}","State":{{}}}}"#);
            fs::write(place.join("config.v2.json"), text).expect("a file");
        }
        fs::create_dir_all(top.join("half")).expect("a folder");
        fs::write(top.join("half/config.v2.json"), "{\"ID\":").expect("a file");
        let found = |name: &str| docker_id(&top, name);
        assert_eq!(found("web").expect("an answer"), Some(one.clone()));
        assert_eq!(found("db").expect("an answer"), Some(two));
        assert_eq!(found(&one).expect("an answer"), Some(one));
        assert_eq!(found("aaaa").expect("an answer"), None, "too short");
        assert!(matches!(
            found(&"a".repeat(SHORT_ID)),
            Err(AttachError::Several(_))
        ));
        assert_eq!(found("../../etc").expect("an answer"), None);
        fs::write(top.join("half/config.v2.json"), vec![b' '; 2 << 20]).expect("a file");
        assert!(matches!(found("web"), Err(AttachError::TooLong(_))));
        fs::remove_dir_all(&top).expect("an end");
        assert_eq!(found("web").expect("an answer"), None);
    }

    #[test]
    fn podmans_containers_have_several_names() {
        let top = folder("podman");
        let file = top.join("containers.json");
        let id = "0123456789abcdef".repeat(4);
        let text = format!(
            r#"[{{"id":"{id}","names":["web","old"],"layer":"x"}},{{"id":"../up","names":["bad"]}}]"#
        );
        fs::write(&file, text).expect("a file");
        let found = |name: &str| podman_id(&[&file, &top.join("none")], name).expect("an answer");
        assert_eq!(found("old"), Some(id.clone()));
        assert_eq!(found(&id[..SHORT_ID]), Some(id));
        assert_eq!(found("bad"), None, "its id is no id");
        fs::remove_dir_all(top).expect("an end");
    }
}
