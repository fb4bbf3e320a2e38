//! The rules for workloads that a user who is not root may define, such as those of a fleet. The host's own operator writes them, and
//! everything that they do not name is refused.
//!
//! Every setting of a workload is looked at: the list of them in [`Allowed::check`] does not compile if one is missing.

use crate::Parsed;
use crate::fault::Fault;
use enforcer_model::name::WorkloadName;
use enforcer_model::spec::WorkloadSpec;
use enforcer_model::units::{Bytes, Limit};
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// The rules of a host for the workloads of a fleet. Nothing is allowed that they do not name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The users that workloads may run as, as a manifest names them. root is one of them only if it is here.
    pub users: BTreeSet<String>,
    /// The groups beside those of their users.
    pub groups: BTreeSet<String>,
    pub capabilities: BTreeSet<String>,
    /// The folders below which a root may be.
    pub roots: BTreeSet<String>,
    /// The folders below which a mount may be.
    pub mounts: BTreeSet<String>,
    /// The folders below which the agent opens files as root: credentials, files of variables, Unix sockets, and PID files.
    pub files: BTreeSet<String>,
    pub devices: BTreeSet<String>,
    /// The first and the last number of ports.
    pub ports: BTreeSet<(u16, u16)>,
    /// The most memory of all of these workloads together.
    pub memory: Option<Bytes>,
}

/// The memory that workloads may use together.
#[derive(Debug)]
pub struct Together {
    most: Option<Bytes>,
    used: u64,
}

impl Together {
    /// Adds the replicas of a workload.
    ///
    /// # Errors
    /// If they do not fit beside the others.
    pub fn add(&mut self, spec: &WorkloadSpec, replicas: usize) -> Result<(), String> {
        let Some(most) = self.most else {
            return Ok(());
        };
        let of_one = spec.limits.memory_max.and_then(Limit::at);
        let of_one = of_one.unwrap_or_default().0;
        let count = u64::try_from(replicas).unwrap_or(u64::MAX);
        let all = self.used.saturating_add(of_one.saturating_mul(count));
        if all > most.0 {
            return Err(format!(
                "these workloads may use {most} here together, and would use {}",
                Bytes(all)
            ));
        }
        self.used = all;
        Ok(())
    }
}

impl Allowed {
    /// Returns an empty sum of the memory of workloads.
    #[must_use]
    pub fn together(&self) -> Together {
        Together {
            most: self.memory,
            used: 0,
        }
    }

    /// Returns a fault for each workload of a file that the rules do not allow.
    #[must_use]
    pub fn faults(&self, file: &Parsed) -> Vec<Fault> {
        let mut together = self.together();
        let workloads = file.manifest.workloads.iter();
        let faults = workloads.filter_map(|(name, spec)| {
            let most = spec.replicas.map_or(1, |replicas| replicas.max);
            let replicas = usize::from(most).max(spec.replica_indexes.len());
            let checked = self.check(name, spec);
            let why = checked.and_then(|()| together.add(spec, replicas)).err()?;
            let place = file.places.get(name).cloned().unwrap_or(0..0);
            Some(Fault::error(place, format!("`{name}` is refused: {why}")))
        });
        faults.collect()
    }

    /// Checks a workload. Its limit of memory is for one replica.
    ///
    /// # Errors
    /// If the rules do not allow it. The text names each fault.
    pub fn check(&self, name: &WorkloadName, spec: &WorkloadSpec) -> Result<(), String> {
        let mut faults = Faults(Vec::new());
        let WorkloadSpec {
            attach,
            user,
            group,
            groups,
            nice,
            main_pid_file,
            runtime_directory,
            state_directory,
            cache_directory,
            credentials,
            root,
            mounts,
            listen,
            ports,
            devices,
            environment_files,
            capabilities,
            rlimits,
            limits,
            // These have the rights of the workload's user, or take something away from it.
            mode: _,
            prove: _,
            command: _,
            umask: _,
            directory: _,
            tmpfs: _,
            read_only: _,
            hostname: _,
            hosts: _,
            replicas: _,
            replicas_cgroup: _,
            is_scaled: _,
            delegate: _,
            leased: _,
            replica_indexes: _,
            unready_wait: _,
            rollout: _,
            sandbox: _,
            private_tmp: _,
            read_only_paths: _,
            read_write_paths: _,
            namespaces: _,
            system_calls: _,
            network: _,
            environment: _,
            capabilities_listed: _,
            priority: _,
            needs: _,
            probes: _,
            on_ready: _,
            on_unready: _,
            reload: _,
            reload_on: _,
            before_start: _,
            after_start: _,
            before_stop: _,
            watch: _,
            recovery: _,
            stop: _,
            start_timeout: _,
            logs: _,
            commands: _,
        } = spec;
        faults.unless(attach.is_none(), || {
            "it may not attach to what others have started".to_owned()
        });
        match user {
            Some(user) => faults.named("user", user, &self.users),
            None => faults.unless(false, || "it names no user".to_owned()),
        }
        for group in group.iter().chain(groups) {
            faults.named("group", group, &self.groups);
        }
        for capability in capabilities {
            faults.named("capability", capability, &self.capabilities);
        }
        for device in devices {
            faults.named("device", device, &self.devices);
        }
        faults.unless(nice.is_none_or(|nice| nice >= 0), || {
            "it may take no CPU time from the host's own programs: `nice` is below 0".to_owned()
        });
        // With these a program gets before others by itself (setrlimit(2)).
        for name in ["nice", "rtprio"] {
            faults.unless(!rlimits.contains_key(name), || {
                format!(
                    "it may take no CPU time from the host's own programs: `rlimits` has {name}"
                )
            });
        }
        if let Some(root) = root {
            faults.below("root", root, &self.roots);
        }
        for mount in mounts {
            faults.below("mount", &mount.from, &self.mounts);
        }
        let sockets = listen.values().filter_map(|listen| listen.unix.as_ref());
        let files = credentials.values().chain(environment_files);
        let files = files.chain(main_pid_file).chain(sockets);
        for file in files {
            // A file of variables may be missing, which a hyphen says.
            faults.below("file", file.trim_start_matches('-'), &self.files);
        }
        let directories = [runtime_directory, state_directory, cache_directory];
        for directory in directories.into_iter().flatten().flat_map(|one| &one.names) {
            let first = directory.split('/').next().unwrap_or_default();
            faults.unless(first == name.as_str(), || {
                format!(
                    "the directory {directory} is not below one with the workload's name, `{name}`"
                )
            });
        }
        let bound = ports
            .values()
            .flat_map(|port| [Some(port.port), port.target]);
        let made = listen.values().map(|listen| listen.tcp.map(|at| at.port()));
        for port in bound.chain(made).flatten() {
            let is_in = |(first, last): &(u16, u16)| (*first..=*last).contains(&port);
            faults.unless(self.ports.iter().any(is_in), || {
                format!("the port {port} is not allowed here")
            });
        }
        if let Some(most) = self.memory {
            let is_within = matches!(limits.memory_max, Some(Limit::At(bytes)) if bytes <= most);
            faults.unless(is_within, || {
                format!("its memory.max must be {most} or less here")
            });
        }
        match faults.0.is_empty() {
            true => Ok(()),
            false => Err(faults.0.join("; ")),
        }
    }
}

struct Faults(Vec<String>);

impl Faults {
    fn unless(&mut self, is_well: bool, fault: impl FnOnce() -> String) {
        if !is_well {
            self.0.push(fault());
        }
    }

    fn named(&mut self, what: &str, name: &str, allowed: &BTreeSet<String>) {
        self.unless(allowed.contains(name), || {
            format!("the {what} {name} is not allowed here")
        });
    }

    fn below(&mut self, what: &str, path: &str, allowed: &BTreeSet<String>) {
        let path = Path::new(path);
        let is_plain = path.is_absolute()
            && path
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let is_below = allowed.iter().any(|folder| path.starts_with(folder));
        self.unless(is_plain && is_below, || {
            format!("the {what} {} is not allowed here", path.display())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_model::spec::{Attach, Mount, Port};

    fn rules() -> Allowed {
        let set = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
        Allowed {
            users: set(&["web"]),
            groups: set(&["media"]),
            roots: set(&["/srv/roots"]),
            mounts: set(&["/srv/data"]),
            files: set(&["/etc/web"]),
            ports: [(80, 80), (8000, 8999)].into(),
            memory: Some(Bytes(1 << 30)),
            ..Allowed::default()
        }
    }

    fn spec() -> WorkloadSpec {
        let mut spec = WorkloadSpec {
            user: Some("web".to_owned()),
            ..WorkloadSpec::default()
        };
        spec.limits.memory_max = Some(Limit::At(Bytes(256 << 20)));
        spec
    }

    fn checked(change: impl FnOnce(&mut WorkloadSpec)) -> String {
        let mut spec = spec();
        change(&mut spec);
        let name = WorkloadName::parse("shop").expect("a name");
        match rules().check(&name, &spec) {
            Ok(()) => "allowed".to_owned(),
            Err(why) => why,
        }
    }

    fn mount(from: &str) -> Mount {
        Mount {
            from: from.to_owned(),
            to: "/data".to_owned(),
            read_only: false,
        }
    }

    #[test]
    fn what_is_named_is_allowed() {
        let all = checked(|spec| {
            spec.groups = vec!["media".to_owned()];
            spec.root = Some("/srv/roots/shop".to_owned());
            spec.mounts = vec![mount("/srv/data"), mount("/srv/data/shop")];
            spec.environment_files = vec!["-/etc/web/variables".to_owned()];
            spec.ports.insert("http".to_owned(), Port::plain(8080));
            spec.ports.insert("plain".to_owned(), Port::plain(80));
        });
        assert_eq!(all, "allowed");
    }

    #[test]
    fn what_is_not_named_is_refused() {
        let refused = [
            checked(|spec| spec.user = Some("root".to_owned())),
            checked(|spec| spec.user = None),
            checked(|spec| spec.groups = vec!["disk".to_owned()]),
            checked(|spec| spec.capabilities = vec!["CAP_SYS_ADMIN".to_owned()]),
            checked(|spec| spec.nice = Some(-5)),
            checked(|spec| {
                spec.rlimits.insert("rtprio".to_owned(), Limit::At(50));
            }),
            checked(|spec| spec.attach = Some(Attach::Systemd("ssh.service".to_owned()))),
            checked(|spec| spec.root = Some("/".to_owned())),
            checked(|spec| spec.root = Some("/srv/roots/../../etc".to_owned())),
            checked(|spec| spec.mounts = vec![mount("/srv/data-of-others"), mount("/etc")]),
            checked(|spec| spec.main_pid_file = Some("/etc/shadow".to_owned())),
            checked(|spec| {
                spec.credentials
                    .insert("key".to_owned(), "/etc/shadow".to_owned());
            }),
            checked(|spec| {
                spec.ports.insert("ssh".to_owned(), Port::plain(22));
            }),
            checked(|spec| spec.limits.memory_max = Some(Limit::Max)),
            checked(|spec| spec.limits.memory_max = Some(Limit::At(Bytes(2 << 30)))),
        ];
        expect_test::expect![[r#"
            the user root is not allowed here
            it names no user
            the group disk is not allowed here
            the capability CAP_SYS_ADMIN is not allowed here
            it may take no CPU time from the host's own programs: `nice` is below 0
            it may take no CPU time from the host's own programs: `rlimits` has rtprio
            it may not attach to what others have started
            the root / is not allowed here
            the root /srv/roots/../../etc is not allowed here
            the mount /srv/data-of-others is not allowed here; the mount /etc is not allowed here
            the file /etc/shadow is not allowed here
            the file /etc/shadow is not allowed here
            the port 22 is not allowed here
            its memory.max must be 1G or less here
            its memory.max must be 1G or less here
        "#]]
        .assert_eq(&(refused.join("\n") + "\n"));
    }
}
