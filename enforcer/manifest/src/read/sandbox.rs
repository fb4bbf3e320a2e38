//! `sandbox`, and the keys that open it.

use super::{Fields, Reader, boolean, nearest, place, word_of};
use crate::fault::Fault;
use enforcer_model::spec::{Network, REFUSED_BY_LANDLOCK, Sandbox, WorkloadSpec, openable_calls};

impl Reader<'_> {
    /// Reads the level and the keys that open it. `usual` is the level of workloads that do not run as
    /// root. An agent that is not root cannot make a sandbox.
    pub(super) fn sandbox(&mut self, fields: &Fields<'_>, usual: Sandbox, spec: &mut WorkloadSpec) {
        if !spec.is_root() && self.accounts.agent_is_root() {
            spec.sandbox = usual;
        }
        self.set(fields, "sandbox", &mut spec.sandbox, word_of(&Sandbox::ALL));
        self.set(fields, "private_tmp", &mut spec.private_tmp, boolean);
        self.set(fields, "namespaces", &mut spec.namespaces, boolean);
        spec.read_only_paths = self.places(fields.get("read_only_paths"));
        spec.read_write_paths = self.places(fields.get("read_write_paths"));
        for item in self.items(fields.get("devices"), "a list of devices") {
            spec.devices.extend(self.parsed(item, device));
        }
        let level = spec.sandbox;
        for item in self.items(fields.get("system_calls"), "a list of system calls") {
            let call = self.parsed(item, |name| system_call(name, level));
            spec.system_calls.extend(call);
        }
        self.network(fields, spec);
    }

    fn network(&mut self, fields: &Fields<'_>, spec: &mut WorkloadSpec) {
        let Some(node) = fields.get("network") else {
            return;
        };
        if spec.sandbox != Sandbox::Strict {
            self.fault(
                Fault::error(node.span.clone(), "`network` needs `sandbox: strict`")
                    .label("without effect here")
                    .help("add `sandbox: strict`, or remove `network`"),
            );
        }
        let inner = self.fields(node, &["bind", "connect"]);
        let Network {
            mut bind,
            mut connect,
        } = Network::default();
        if let Some(node) = inner.get("bind") {
            let items = self.items(Some(node), "a list of ports, such as [tcp/8080]");
            bind = items
                .iter()
                .filter_map(|item| self.parsed(item, str::parse))
                .collect();
        }
        if let Some(node) = inner.get("connect") {
            let items = self.items(
                Some(node),
                "a list of peers, such as [loopback, 10.0.0.0/8]",
            );
            connect = items
                .iter()
                .filter_map(|item| self.parsed(item, str::parse))
                .collect();
        }
        spec.network = Network { bind, connect };
    }
}

fn device(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "a path below /dev, such as /dev/dri";
    let path = place(text, EXPECTED)?;
    match path.starts_with("/dev/") {
        true => Ok(path),
        false => Err(EXPECTED.to_owned()),
    }
}

/// Reads the name of a system call, which must be among those that the sandbox refuses.
fn system_call(name: &str, level: Sandbox) -> Result<String, String> {
    let known: Vec<&str> = openable_calls(level).collect();
    if known.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(match (name, nearest(name, &known)) {
        ("clone" | "clone3" | "unshare", _) => {
            "another call; `namespaces: true` allows this one".to_owned()
        }
        (
            "openat2" | "personality" | "sched_setattr" | "sched_setscheduler" | "chmod" | "fchmod"
            | "fchmodat" | "fchmodat2" | "mknod" | "mknodat" | "socket",
            _,
        ) => "another call; no key allows what the sandbox refuses of this one".to_owned(),
        _ if REFUSED_BY_LANDLOCK.contains(&name) => {
            "another call; Landlock refuses this one in `sandbox: strict`".to_owned()
        }
        _ if openable_calls(Sandbox::Strict).any(|call| call == name) => {
            "a call that the sandbox refuses; `sandbox: strict` alone refuses this one".to_owned()
        }
        (_, Some(meant)) => format!("a call that the sandbox refuses, such as {meant}"),
        (_, None) => "a call that the sandbox refuses; it does not refuse this one".to_owned(),
    })
}
