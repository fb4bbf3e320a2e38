//! What a workload's processes see: the files of a root of their own, mounts, and credentials.

use super::start::io_failure;
use super::{Executor, ShortCommand, directories, sandbox};
use enforcer_core::ReplicaId;
use enforcer_core::event::StartError;
use enforcer_core::spec::{DirectoryKind, Sandbox, WorkloadSpec};
use enforcer_kernel::account::Identity;
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::credentials::{self, CredentialError};
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::place::Place;
use enforcer_kernel::process;
use enforcer_kernel::spawn::{MOST_MOUNTS, Mount, OwnView, Root, Source, View};
use nix::unistd::geteuid;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The folder of the agent's own files in a root.
const IN_ROOT: &str = "/run/enforcer";

/// Returns the variable by which the program finds its credentials, as systemd.exec(5) has it.
pub(super) fn environment(
    folder: &Path,
    name: &ReplicaId,
    spec: &WorkloadSpec,
) -> Option<(String, Vec<u8>)> {
    let place = || credentials_of(folder_of(folder, spec), name);
    let path = || place().into_os_string().into_encoded_bytes();
    (!spec.credentials.is_empty()).then(|| ("CREDENTIALS_DIRECTORY".to_owned(), path()))
}

/// Returns the agent's folder, as the workload sees it.
pub(super) fn folder_of<'f>(folder: &'f Path, spec: &WorkloadSpec) -> &'f Path {
    match spec.root {
        Some(_) => Path::new(IN_ROOT),
        None => folder,
    }
}

/// Returns the folder that the credentials are mounted on. On the host it is always empty.
fn credentials_of(folder: &Path, workload: &ReplicaId) -> PathBuf {
    folder.join("credentials").join(workload.file_name())
}

/// Returns whether a workload's processes have namespaces of their own.
fn has_own(spec: &WorkloadSpec) -> bool {
    spec.has_own_files() || spec.hostname.is_some() || !spec.credentials.is_empty()
}

/// Returns the paths on the host of files that a workload names. Those in its memory have none.
pub(super) fn on_host(spec: &WorkloadSpec, paths: &[String]) -> Vec<String> {
    paths.iter().filter_map(|path| spec.on_host(path)).collect()
}

impl Executor {
    /// Finds a path as a workload's processes see it.
    pub(crate) fn find_place(&self, workload: &ReplicaId, path: &str) -> io::Result<Place> {
        let Some(instance) = self.instances.get(workload) else {
            return Ok(Place::of_host(path));
        };
        match &instance.pidfd {
            Some(main) if instance.spec.has_own_files() && !main.has_exited() => {
                Place::of_process(instance.main.pid, main, path)
            }
            _ => find_in(&instance.spec, instance.cgroup(), path),
        }
    }

    /// Returns the view of a process that starts while no other process of the workload runs.
    pub(super) fn view_of_its_own(
        &self,
        workload: &ReplicaId,
        spec: &WorkloadSpec,
        user: &Identity,
    ) -> Result<View, StartError> {
        if !has_own(spec) {
            return Ok(View::Hosts);
        }
        if !geteuid().is_root() {
            return Err(StartError {
                stage: "make its own namespaces".to_owned(),
                errno: None,
                error: "the agent is not root and can mount nothing".to_owned(),
            });
        }
        let failed = |error: io::Error| io_failure("prepare its mounts", &error);
        let mut mounts = mounts_of(spec, user).map_err(failed)?;
        mounts.extend(self.credentials(workload, spec, user)?);
        mounts.extend(sandbox::mounts(spec, user, &self.runtime_dir).map_err(failed)?);
        if spec.root.is_some() {
            mounts.extend(self.mounts_of_root(spec).map_err(failed)?);
            mounts.extend(self.names_of_hosts(workload, spec).map_err(failed)?);
        }
        let mut taken = BTreeSet::new();
        // If two have the same place, the first one is used: the manifest names it.
        mounts.retain(|mount| taken.insert(mount.at.clone()));
        sandbox::without_programs(spec, &mut mounts);
        if mounts.len() > MOST_MOUNTS {
            let count = mounts.len();
            let many = format!("the workload has {count} mounts, and {MOST_MOUNTS} are the most");
            return Err(failed(io::Error::other(many)));
        }
        let root = self.root_of(spec).map_err(failed)?;
        let hostname = spec.hostname.clone().map(string).transpose();
        Ok(View::Own(OwnView {
            root,
            mounts: in_order(mounts).map_err(failed)?,
            hostname: hostname.map_err(failed)?,
            read_only: spec.root.is_none() && spec.sandbox == Sandbox::Strict,
        }))
    }

    fn root_of(&self, spec: &WorkloadSpec) -> io::Result<Option<Root>> {
        let Some(root) = &spec.root else {
            return Ok(None);
        };
        let stage = self.runtime_dir.join("root");
        make_folder(&stage)?;
        Ok(Some(Root {
            folder: string(root.as_str())?,
            read_only: spec.read_only || spec.sandbox == Sandbox::Strict,
            stage: of_path(&stage)?,
        }))
    }

    /// Returns what a root has beside its own files: the kernel's interfaces, memory below `/run`, and
    /// what the agent makes for the workload.
    fn mounts_of_root(&self, spec: &WorkloadSpec) -> io::Result<Vec<Mount>> {
        let hosts = |path: &str, read_only| -> io::Result<Source> {
            let path = string(path)?;
            Ok(Source::Hosts { path, read_only })
        };
        let memory = Source::Memory {
            options: vec![option("mode", "0755")?, option("size", "16m")?],
            read_only: false,
        };
        let mut all = Vec::from(Mount::of_the_kernel());
        all.push(optional("/run", memory)?);
        let notify = self.runtime_dir.join("notify");
        let source = hosts(&notify.to_string_lossy(), false)?;
        all.push(optional(&format!("{IN_ROOT}/notify"), source)?);
        for kind in DirectoryKind::ALL {
            let names = spec.directories(kind).map(|found| found.names.as_slice());
            for name in names.unwrap_or_default() {
                let path = directories::path_of(kind, name);
                let path = path.to_string_lossy();
                // The manifest may mount it elsewhere, as an imported volume is: then the tree needs no place
                // for it here.
                let is_elsewhere = spec.mounts.iter().any(|one| one.from == path);
                let place = if is_elsewhere { optional } else { mount };
                all.push(place(&path, hosts(&path, false)?)?);
            }
        }
        Ok(all)
    }

    /// Writes the workload's `/etc/hosts`, which must be there in its root: it is mounted over that file.
    fn names_of_hosts(
        &self,
        workload: &ReplicaId,
        spec: &WorkloadSpec,
    ) -> io::Result<Option<Mount>> {
        if spec.hosts.is_empty() {
            return Ok(None);
        }
        let folder = self.runtime_dir.join("hosts");
        make_folder(&folder)?;
        let path = folder.join(workload.file_name());
        let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost\n".to_owned();
        for (name, address) in &spec.hosts {
            text.push_str(&format!("{address}\t{name}\n"));
        }
        std::fs::write(&path, text)?;
        // Whatever umask the agent was started with.
        for (path, mode) in [(&folder, 0o755), (&path, 0o644)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        let source = Source::Hosts {
            path: of_path(&path)?,
            read_only: true,
        };
        mount("/etc/hosts", source).map(Some)
    }

    /// Copies the credentials.
    fn credentials(
        &self,
        workload: &ReplicaId,
        spec: &WorkloadSpec,
        user: &Identity,
    ) -> Result<Option<Mount>, StartError> {
        if spec.credentials.is_empty() {
            return Ok(None);
        }
        let folder = folder_of(&self.runtime_dir, spec);
        let place = credentials_of(folder, workload);
        let made = match spec.root {
            Some(_) => Ok(()),
            None => self.make_credentials_folder(&place),
        };
        let at = made.and_then(|()| of_path(&place));
        let at = at.map_err(|error| io_failure("make the folder of its credentials", &error))?;
        let file_system = credentials::make(&spec.credentials, user).map_err(|error| {
            let stage = error.to_string();
            match error {
                CredentialError::FileSystem(source) | CredentialError::File { source, .. } => {
                    io_failure(&stage, &source)
                }
            }
        })?;
        Ok(Some(Mount {
            source: Source::Given(file_system),
            at,
            below: None,
            is_optional: false,
            no_exec: false,
        }))
    }

    fn make_credentials_folder(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            self.make_passable(folder)?;
        }
        make_folder(path)
    }

    pub(super) fn remove_credentials_folder(&self, workload: &ReplicaId) {
        // It is not there if the workload has none.
        let _ = std::fs::remove_dir(credentials_of(&self.runtime_dir, workload));
        let names = self.runtime_dir.join("hosts").join(workload.file_name());
        let _ = std::fs::remove_file(names);
    }

    /// Returns what a short command sees: what the running instance sees, if there is one.
    pub(super) fn view_of_command(
        &self,
        command: &ShortCommand,
        is_of_instance: bool,
        user: &Identity,
    ) -> Result<View, StartError> {
        let Some(workload) = &command.workload else {
            return Ok(View::Hosts);
        };
        let instance = self.instances.get(workload).filter(|_| is_of_instance);
        if let Some(instance) = instance
            && let Some(main) = instance.pidfd
            && !main.has_exited()
        {
            return Ok(match has_own(&instance.spec) {
                true => View::Of(main),
                false => View::Hosts,
            });
        }
        self.view_of_its_own(workload, &command.spec, user)
    }
}

/// Finds a path as the processes of a cgroup see it.
pub(super) fn find_in(spec: &WorkloadSpec, cgroup: &Cgroup, path: &str) -> io::Result<Place> {
    if !spec.has_own_files() {
        return Ok(Place::of_host(path));
    }
    for pid in cgroup.all_processes() {
        if let Some(found) = process::identify(pid)
            && let Some(pidfd) = PidFd::of(found)?
        {
            return Place::of_process(pid, &pidfd, path);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

/// Returns the mounts that the manifest names.
fn mounts_of(spec: &WorkloadSpec, user: &Identity) -> io::Result<Vec<Mount>> {
    let mut all = Vec::new();
    for one in &spec.mounts {
        let source = Source::Hosts {
            path: string(one.from.as_str())?,
            read_only: one.read_only,
        };
        all.push(mount(&one.to, source)?);
    }
    for one in &spec.tmpfs {
        let mut options = vec![
            option("mode", "0755")?,
            option("uid", &user.uid.to_string())?,
            option("gid", &user.gid.to_string())?,
        ];
        if let Some(size) = one.size {
            options.push(option("size", &size.0.to_string())?);
        }
        let source = Source::Memory {
            options,
            read_only: false,
        };
        all.push(mount(&one.path, source)?);
    }
    Ok(all)
}

/// Puts mounts in the order in which they are attached: each after those above it. Below a file system
/// in memory, missing parent folders are created.
fn in_order(mut mounts: Vec<Mount>) -> io::Result<Vec<Mount>> {
    let path = |mount: &Mount| PathBuf::from(mount.at.to_string_lossy().into_owned());
    mounts.sort_by_key(path);
    let above: Vec<(PathBuf, bool)> = mounts
        .iter()
        .map(|mount| {
            let is_memory = matches!(mount.source, Source::Memory { .. } | Source::Devices);
            (path(mount), is_memory)
        })
        .collect();
    for (index, mount) in mounts.iter_mut().enumerate() {
        let at = &above[index].0;
        // The nearest one comes last.
        let nearest = above[..index].iter().enumerate().rev();
        let nearest = nearest
            .filter_map(|(place, (path, is_memory))| {
                Some((place, at.strip_prefix(path).ok()?, *is_memory))
            })
            .next();
        if let Some((memory, rest, true)) = nearest {
            let parts = rest.iter().map(|part| string(part.as_encoded_bytes()));
            mount.below = Some((memory, parts.collect::<io::Result<_>>()?));
        }
    }
    Ok(mounts)
}

pub(super) fn mount(at: &str, source: Source) -> io::Result<Mount> {
    Ok(Mount {
        source,
        at: string(at)?,
        below: None,
        is_optional: false,
        no_exec: false,
    })
}

pub(super) fn optional(at: &str, source: Source) -> io::Result<Mount> {
    Ok(Mount {
        is_optional: true,
        ..mount(at, source)?
    })
}

pub(super) fn option(key: &str, value: &str) -> io::Result<(CString, CString)> {
    Ok((string(key)?, string(value)?))
}

pub(super) fn string(text: impl Into<Vec<u8>>) -> io::Result<CString> {
    Ok(CString::new(text)?)
}

fn of_path(path: &Path) -> io::Result<CString> {
    string(path.as_os_str().as_encoded_bytes())
}

fn make_folder(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_follow_those_above_them_and_memory_makes_the_way() {
        let hosts = || Source::Hosts {
            path: c"/srv".to_owned(),
            read_only: false,
        };
        let memory = || Source::Memory {
            options: Vec::new(),
            read_only: false,
        };
        let all = vec![
            mount("/run/a/b", hosts()).expect("a mount"),
            mount("/run-more", hosts()).expect("a mount"),
            mount("/run/a/b/c/d", hosts()).expect("a mount"),
            mount("/run", memory()).expect("a mount"),
        ];
        let ordered = in_order(all).expect("an order");
        let shown: Vec<(String, Option<usize>)> = ordered
            .iter()
            .map(|mount| {
                let parts = mount.below.as_ref().map(|(_, parts)| parts.len());
                (mount.at.to_string_lossy().into_owned(), parts)
            })
            .collect();
        let expected = [
            ("/run", None),
            ("/run/a/b", Some(2)),
            // It is below a folder of the host's, in which nothing is made.
            ("/run/a/b/c/d", None),
            ("/run-more", None),
        ];
        assert_eq!(
            shown,
            expected.map(|(path, parts)| (path.to_owned(), parts))
        );
    }
}
