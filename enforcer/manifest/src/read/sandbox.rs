//! `sandbox`, and the keys that open it.

use super::{Fields, Reader, boolean, nearest, one_of, place};
use enforcer_model::spec::{Sandbox, WorkloadSpec, refused_calls};

const LEVELS: [(&str, Sandbox); 2] = [("off", Sandbox::Off), ("default", Sandbox::Default)];

impl Reader<'_> {
    /// Reads the level and the keys that open it. `usual` is the level of workloads that do not run as
    /// root. An agent that is not root cannot make a sandbox.
    pub(super) fn sandbox(&mut self, fields: &Fields<'_>, usual: Sandbox, spec: &mut WorkloadSpec) {
        if !spec.is_root() && self.accounts.agent_is_root() {
            spec.sandbox = usual;
        }
        self.set(fields, "sandbox", &mut spec.sandbox, one_of(&LEVELS));
        self.set(fields, "private_tmp", &mut spec.private_tmp, boolean);
        self.set(fields, "namespaces", &mut spec.namespaces, boolean);
        spec.read_only_paths = self.places(fields.get("read_only_paths"));
        spec.read_write_paths = self.places(fields.get("read_write_paths"));
        for item in self.items(fields.get("devices"), "a list of devices") {
            spec.devices.extend(self.parsed(item, device));
        }
        for item in self.items(fields.get("system_calls"), "a list of system calls") {
            spec.system_calls.extend(self.parsed(item, system_call));
        }
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
fn system_call(name: &str) -> Result<String, String> {
    let known: Vec<&str> = refused_calls().collect();
    if known.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(match (name, nearest(name, &known)) {
        ("clone" | "clone3" | "unshare", _) => {
            "another call; `namespaces: true` allows this one".to_owned()
        }
        (
            "openat2" | "personality" | "sched_setattr" | "sched_setscheduler" | "chmod" | "fchmod"
            | "fchmodat" | "fchmodat2" | "mknod" | "mknodat",
            _,
        ) => "another call; no key allows what the sandbox refuses of this one".to_owned(),
        (_, Some(meant)) => format!("a call that the sandbox refuses, such as {meant}"),
        (_, None) => "a call that the sandbox refuses; it does not refuse this one".to_owned(),
    })
}
