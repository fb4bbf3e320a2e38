//! What a sandbox would change for a workload, as far as its manifest shows.

use super::network::{Bind, Protocol};
use super::sandbox::{HOMES, READ_ONLY, Sandbox, TEMPORARY};
use super::{Check, DirectoryKind, WorkloadSpec};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// The devices that a sandbox has.
const DEVICES: [&str; 14] = [
    "/dev/fd",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
    "/dev/ptmx",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/log",
    "/dev/pts",
    "/dev/shm",
];

/// A path or a port that the manifest names and that the sandbox changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Consequence {
    /// A path, or a port such as `tcp/8080`.
    pub object: String,
    pub what: Denial,
    /// The key of the manifest that opens it.
    pub key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Denial {
    /// It is not there: it is another user's, or a device.
    Hidden,
    /// The workload has a folder of its own there, which is empty at each start.
    Private,
    /// The workload cannot change it.
    ReadOnly,
    /// The workload cannot listen on it.
    NotBound,
}

impl Denial {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Private => "private",
            Self::ReadOnly => "read-only",
            Self::NotBound => "not bound",
        }
    }
}

impl WorkloadSpec {
    /// Returns what this level of a sandbox changes, of what the manifest names, for a user with
    /// this home.
    #[must_use]
    pub fn in_sandbox(&self, level: Sandbox, home: &str) -> BTreeSet<Consequence> {
        let mut all = BTreeSet::new();
        if level == Sandbox::Off {
            return all;
        }
        for path in self.named_paths().filter(|path| !self.opens(path)) {
            let is_in =
                |folders: &[&str]| folders.iter().any(|one| Path::new(path).starts_with(one));
            let found = if is_in(&HOMES) && !Path::new(path).starts_with(home) {
                Some((Denial::Hidden, format!("read_only_paths: [{path}]")))
            } else if is_in(&TEMPORARY) && self.private_tmp {
                Some((Denial::Private, "private_tmp: false".to_owned()))
            } else if is_in(&["/dev"]) && !is_in(&DEVICES) {
                Some((Denial::Hidden, format!("devices: [{path}]")))
            } else {
                None
            };
            all.extend(found.map(|(what, key)| consequence(path, what, key)));
        }
        for path in self.written_paths().filter(|path| !self.opens(path)) {
            let is_in =
                |folders: &[&str]| folders.iter().any(|one| Path::new(path).starts_with(one));
            let mut made = self.listen.values();
            let is_made = made.any(|one| one.unix.as_deref() == Some(path));
            let is_writable = is_in(&TEMPORARY) || self.is_own_directory(path) || is_made;
            if is_in(&READ_ONLY) || (level == Sandbox::Strict && !is_writable) {
                let folder = Path::new(path).parent().unwrap_or(Path::new(path));
                let key = format!("read_write_paths: [{}]", folder.display());
                all.insert(consequence(path, Denial::ReadOnly, key));
            }
        }
        if level == Sandbox::Strict {
            let made = self.listen.values().filter_map(|one| one.tcp);
            let made: Vec<u16> = made.map(|address| address.port()).collect();
            let ports = self.probed_ports().filter(|port| !made.contains(port));
            let ports = ports.filter(|port| {
                let allowed = [Bind::Any, Bind::Port(Protocol::Tcp, *port)];
                !self.network.bind.iter().any(|bind| allowed.contains(bind))
            });
            all.extend(ports.map(|port| {
                let port = Bind::Port(Protocol::Tcp, port).to_string();
                let key = format!("network: {{ bind: [{port}] }}");
                consequence(&port, Denial::NotBound, key)
            }));
        }
        all
    }

    /// Returns whether a path is in a directory that is made for the workload.
    fn is_own_directory(&self, path: &str) -> bool {
        DirectoryKind::ALL.into_iter().any(|kind| {
            let found = self.directories(kind);
            let mut names = found.into_iter().flat_map(|found| &found.names);
            names.any(|name| Path::new(path).starts_with(Path::new(kind.base()).join(name)))
        })
    }

    /// Returns the ports at which the probes ask the workload itself.
    fn probed_ports(&self) -> impl Iterator<Item = u16> {
        self.probes
            .values()
            .filter_map(|probe| probe.check.own_port())
    }

    /// Returns whether the manifest already shows a path in the sandbox.
    fn opens(&self, path: &str) -> bool {
        let mounts = self.mounts.iter().map(|one| &one.to);
        let memory = self.tmpfs.iter().map(|one| &one.path);
        let paths = self.read_write_paths.iter().chain(&self.read_only_paths);
        let mut all = mounts.chain(memory).chain(paths).chain(&self.devices);
        all.any(|one| Path::new(path).starts_with(one))
    }

    /// Returns the absolute paths that the manifest names: of programs and in their arguments too.
    fn named_paths(&self) -> impl Iterator<Item = &str> {
        let words = self.commands_of_all().flatten();
        let words = words.map(String::as_str).chain(self.directory.as_deref());
        words
            .filter(|word| word.starts_with('/'))
            .chain(self.written_paths())
    }

    /// Returns the paths of the programs that the manifest names.
    pub fn programs(&self) -> impl Iterator<Item = &str> + Clone {
        let commands = self.commands_of_all();
        commands.filter_map(|command| command.first().map(String::as_str))
    }

    /// Returns the workload's command, and those of its probes, hooks and remedies.
    fn commands_of_all(&self) -> impl Iterator<Item = &Vec<String>> + Clone {
        let probes = self.probes.values().filter_map(|probe| {
            let Check::Exec { command } = &probe.check else {
                return None;
            };
            Some(command)
        });
        let hooks = self.before_start.iter().chain(&self.after_start);
        let hooks = hooks.chain(&self.before_stop);
        let reload = self.reload.as_ref().and_then(|reload| reload.run.as_ref());
        let hooks = hooks.chain(reload).chain(self.remedies());
        let hooks = hooks
            .chain(self.on_ready.iter())
            .chain(self.on_unready.iter());
        hooks.chain(probes).chain([&self.command])
    }

    /// Returns the commands of the strategies.
    fn remedies(&self) -> impl Iterator<Item = &Vec<String>> + Clone {
        self.recovery.strategies.commands()
    }

    /// Returns the paths that the program writes to.
    fn written_paths(&self) -> impl Iterator<Item = &str> {
        let probes = self.probes.values().filter_map(|probe| {
            if let Check::File { path, .. } = &probe.check {
                return Some(path.as_str());
            }
            let Check::Http { unix, .. } = &probe.check else {
                return None;
            };
            unix.as_deref()
        });
        let reset = self.recovery.reset_paths.iter().map(String::as_str);
        probes.chain(self.main_pid_file.as_deref()).chain(reset)
    }
}

fn consequence(object: &str, what: Denial, key: String) -> Consequence {
    Consequence {
        object: object.to_owned(),
        what,
        key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Directories, FileMode, Network, Probe, ProbeName};
    use std::collections::BTreeMap;

    #[test]
    fn a_sandbox_changes_what_the_manifest_names() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let spec = WorkloadSpec {
            command: words("/usr/bin/node /home/app/server.js --gpu=1 /dev/dri/card0 /dev/null"),
            directory: Some("/srv".to_owned()),
            main_pid_file: Some("/etc/shop/pid".to_owned()),
            before_start: vec![words("/tmp/prepare /home/web/own")],
            ..WorkloadSpec::default()
        };
        let at = |level: Sandbox, spec: &WorkloadSpec| -> Vec<String> {
            let all = spec.in_sandbox(level, "/home/web").into_iter();
            all.map(|one| format!("{} {} {}", one.object, one.what.as_str(), one.key))
                .collect()
        };
        let found = |spec: &WorkloadSpec| at(Sandbox::Default, spec);
        assert_eq!(
            found(&spec),
            [
                "/dev/dri/card0 hidden devices: [/dev/dri/card0]",
                "/etc/shop/pid read-only read_write_paths: [/etc/shop]",
                "/home/app/server.js hidden read_only_paths: [/home/app/server.js]",
                "/tmp/prepare private private_tmp: false",
            ]
        );
        let opened = WorkloadSpec {
            private_tmp: false,
            read_only_paths: words("/home/app"),
            read_write_paths: words("/etc/shop"),
            devices: words("/dev/dri"),
            ..spec
        };
        assert_eq!(found(&opened), [""; 0]);
        let asked = Check::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 8080,
        };
        let strict = WorkloadSpec {
            main_pid_file: Some("/run/shop/pid".to_owned()),
            probes: BTreeMap::from([(ProbeName::Liveness, Probe::of(asked))]),
            ..opened
        };
        assert_eq!(at(Sandbox::Off, &strict), [""; 0]);
        assert_eq!(
            at(Sandbox::Strict, &strict),
            [
                "/run/shop/pid read-only read_write_paths: [/run/shop]",
                "tcp/8080 not bound network: { bind: [tcp/8080] }",
            ]
        );
        let strict = WorkloadSpec {
            runtime_directory: Some(Directories {
                names: vec!["shop".to_owned()],
                mode: FileMode::default(),
            }),
            network: Network {
                bind: vec![Bind::Port(Protocol::Tcp, 8080)],
                ..Network::default()
            },
            ..strict
        };
        assert_eq!(at(Sandbox::Strict, &strict), [""; 0]);
    }
}
