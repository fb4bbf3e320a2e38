//! `attach`: a service that another program has started, in place of a `command`.

use super::{Fields, Reader, boolean, place};
use crate::fault::Fault;
use crate::yaml::{Node, Value};
use enforcer_model::spec::{Attach, Check, Mode, WorkloadSpec};

/// The keys that an attached service may have beside `attach`.
pub(crate) const KEYS: &[&str] = &[
    "attach",
    "prove",
    "mode",
    "cgroup",
    "user",
    "group",
    "groups",
    "priority",
    "probes",
    "on_ready",
    "on_unready",
    "watch",
    "recovery",
    "commands",
];

/// The longest name of a unit (systemd.unit(5)), and of a container.
const LONGEST: usize = 255;

impl Reader<'_> {
    /// Reads an attached service.
    pub(super) fn attached(&mut self, node: &Node, fields: &Fields<'_>) -> WorkloadSpec {
        let mut spec = WorkloadSpec {
            mode: Mode::Observe,
            ..WorkloadSpec::default()
        };
        spec.limits.memory_oom_group = None;
        for (name, value, _) in node.value.pairs() {
            let is_known = super::workload::KEYS.contains(&name);
            if is_known && !KEYS.contains(&name) {
                let message = format!("`{name}` does not go with `attach`");
                let fault = Fault::error(value.clone(), message);
                self.fault(
                    fault
                        .label("its owner has started it, and decides about this")
                        .help(format!("keys beside `attach`: {}", KEYS[1..].join(", "))),
                );
            }
        }
        if let Some(node) = fields.get("attach") {
            spec.attach = self.service(node);
        }
        self.set(
            fields,
            "mode",
            &mut spec.mode,
            super::one_of(&super::document::MODES),
        );
        if let (Mode::Enforce, Some(node), Some(service)) =
            (spec.mode, fields.get("mode"), &spec.attach)
        {
            let fault = if service.is_pattern() {
                Some("it stands for several services, and a remedy needs the full name of one")
            } else if service.is_protected() {
                Some("the host depends on it, so enforcer never restarts it")
            } else if service.restart(false).is_none() {
                Some("it has no owner that could restart it")
            } else {
                None
            };
            if let Some(label) = fault {
                let message = format!("{service} can only be observed");
                let fault = Fault::error(node.span.clone(), message);
                self.fault(fault.label(label).help("mode: observe"));
            }
        }
        if let Some(node) = fields.get("cgroup") {
            spec.limits = self.limits(node, spec.limits.clone());
            self.limits_of_attached(node, &spec);
        }
        self.set(fields, "prove", &mut spec.prove, boolean);
        if fields.get("user").is_some() {
            self.account(node, fields, &mut spec);
        }
        self.priority(fields, &mut spec);
        if let Some(node) = fields.get("probes") {
            spec.probes = self.probes(node);
            self.asked_of_attached(node, &spec);
        }
        spec.on_ready = fields.get("on_ready").and_then(|node| self.command(node));
        spec.on_unready = fields.get("on_unready").and_then(|node| self.command(node));
        if let Some(node) = fields.get("watch") {
            spec.watch = self.watch(node);
        }
        if let Some(node) = fields.get("recovery") {
            spec.recovery = self.recovery(node);
            self.recovery_of_attached(node);
        }
        if let Some(node) = fields.get("commands") {
            spec.commands = self.commands(node);
        }
        let probes = spec.probes.values();
        let runs_commands = spec.on_ready.is_some()
            || spec.on_unready.is_some()
            || probes
                .into_iter()
                .any(|probe| matches!(probe.check, Check::Exec { .. }));
        if runs_commands && spec.user.is_none() && self.accounts.agent_is_root() {
            let fault = Fault::error(node.span.clone(), "this workload has no `user`");
            self.fault(
                fault
                    .label("its commands would run as root")
                    .help("name the account that they run as; write `user: root` to mean it"),
            );
        }
        spec
    }

    /// Refuses the limits that the owner of a service cannot set.
    fn limits_of_attached(&mut self, node: &Node, spec: &WorkloadSpec) {
        if spec.mode == Mode::Observe {
            let fault = Fault::error(node.span.clone(), "an observed service gets no limits");
            self.fault(
                fault
                    .label("its owner is asked for them with `mode: enforce` alone")
                    .help("mode: enforce"),
            );
            return;
        }
        let known = spec.attach.as_ref().map_or_else(Vec::new, Attach::limits);
        for (name, place, _) in node.value.pairs() {
            if super::limits::KEYS.contains(&name) && !known.contains(&name) {
                let owner = spec.attach.as_ref().map_or("its owner", |of| of.parts().0);
                let message = format!("{owner} does not set `{name}`");
                let fault = Fault::error(place.clone(), message);
                let help = format!("it sets {}", known.join(", "));
                self.fault(
                    fault
                        .label("the owner of the service sets its limits")
                        .help(help),
                );
            }
        }
    }

    /// Refuses the probes that only a program of the agent's own answers.
    fn asked_of_attached(&mut self, node: &Node, spec: &WorkloadSpec) {
        for (name, at, _) in node.value.pairs() {
            let mut probes = spec.probes.iter();
            let found = probes.find(|(known, _)| known.as_str() == name);
            if found.is_some_and(|(_, probe)| matches!(probe.check, Check::Notify { .. })) {
                let message = "an attached service does not say `READY=1` to enforcer";
                let fault = Fault::error(at.clone(), message);
                self.fault(fault.label("expected another kind of probe"));
            }
        }
    }

    /// Refuses what only a start of the agent's own could do.
    fn recovery_of_attached(&mut self, node: &Node) {
        for (name, place, _) in node.value.pairs() {
            if matches!(name, "restart" | "strategy" | "reset_paths") {
                let message = format!("`{name}` does not go with `attach`");
                let fault = Fault::error(place.clone(), message);
                self.fault(fault.label("its owner starts it again"));
            }
        }
    }

    fn service(&mut self, node: &Node) -> Option<Attach> {
        let fields = match &node.value {
            Value::Mapping(_) => Some(self.fields(node, &Attach::KEYS)),
            Value::Null | Value::Scalar { .. } | Value::Sequence(_) => None,
        };
        let mut entries = fields.iter().flat_map(Fields::iter);
        let (Some((key, value)), None) = (entries.next(), entries.next()) else {
            let fault = Fault::error(node.span.clone(), "expected one service");
            self.fault(
                fault
                    .label("one of `systemd`, `docker`, `podman` and `cgroup`")
                    .help("attach: { systemd: nginx.service }"),
            );
            return None;
        };
        let name = self.parsed(value, |text| match key {
            "systemd" => of_user(text, unit),
            "cgroup" => cgroup(text),
            "podman" => of_user(text, container),
            _ => container(text),
        })?;
        let service = Attach::new(key, name)?;
        if let Some(user) = service.user()
            && !self.accounts.has_user(user)
        {
            let message = format!("there is no user `{user}` on this host");
            let fault = Fault::error(value.span.clone(), message);
            self.fault(fault.label("the service is one of this user's own"));
        }
        Some(service)
    }
}

/// Reads a name, which may have the user before it whose service it is.
fn of_user(text: &str, read: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let Some((user, name)) = text.split_once('/') else {
        return read(text);
    };
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let begins = user.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    match begins && user.bytes().all(is_good) {
        true => Ok(format!("{user}/{}", read(name)?)),
        false => Err("the name of a user before the slash".to_owned()),
    }
}

/// Reads the path of a cgroup. Its last part may be a pattern.
fn cgroup(text: &str) -> Result<String, String> {
    let path = place(
        text,
        "a path below /sys/fs/cgroup, such as /system.slice/nginx.service",
    )?;
    let (above, _) = path.rsplit_once('/').unwrap_or_default();
    match above.contains(['*', '?']) {
        true => {
            Err("a path whose last part alone is a pattern, such as /system.slice/*".to_owned())
        }
        false => Ok(path),
    }
}

/// Reads the name of a unit that has a cgroup, or a pattern of such names.
fn unit(text: &str) -> Result<String, String> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@*?".contains(&byte);
    let has_kind = [".service", ".scope", ".slice"]
        .iter()
        .any(|kind| text.len() > kind.len() && text.ends_with(kind));
    // It stands on a command line. The root slice alone begins with `-`.
    let begins = |first: char| first.is_ascii_alphanumeric() || "_*?".contains(first);
    let begins = text.starts_with(begins);
    let begins = begins || text == "-.slice";
    match has_kind && begins && text.len() <= LONGEST && text.bytes().all(is_good) {
        true => Ok(text.to_owned()),
        false => {
            Err("the full name of a service, a scope or a slice, such as nginx.service".to_owned())
        }
    }
}

/// Reads the name or the id of a container, in the engines' own characters, or a pattern of names.
fn container(text: &str) -> Result<String, String> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-*?".contains(&byte);
    let begins = |first: char| first.is_ascii_alphanumeric() || "*?".contains(first);
    let begins = text.starts_with(begins);
    match begins && text.len() <= LONGEST && text.bytes().all(is_good) {
        true => Ok(text.to_owned()),
        false => Err("the name or the id of a container".to_owned()),
    }
}
