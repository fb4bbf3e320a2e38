//! A workload's section: the program, its user and its place.

use super::{Reader, one_of};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::{Node, Value};
use enforcer_model::ids::account_id as id;
use enforcer_model::spec::{DirectoryKind, Listed, Mode, Sandbox, Umask, WorkloadSpec};
use enforcer_model::units::Limit;
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) const KEYS: &[&str] = &[
    "mode",
    "attach",
    "prove",
    "command",
    "user",
    "group",
    "groups",
    "umask",
    "nice",
    "main_pid_file",
    "directory",
    "runtime_directory",
    "state_directory",
    "cache_directory",
    "credentials",
    "listen",
    "replicas",
    "replicas_cgroup",
    "ports",
    "unready_wait",
    "rollout",
    "leased",
    "root",
    "mounts",
    "tmpfs",
    "read_only",
    "hostname",
    "hosts",
    "sandbox",
    "private_tmp",
    "read_only_paths",
    "read_write_paths",
    "devices",
    "namespaces",
    "system_calls",
    "network",
    "environment",
    "environment_files",
    "capabilities",
    "rlimits",
    "priority",
    "needs",
    "cgroup",
    "probes",
    "on_ready",
    "on_unready",
    "reload",
    "reload_on",
    "before_start",
    "after_start",
    "before_stop",
    "watch",
    "recovery",
    "start_timeout",
    "stop",
    "logs",
    "commands",
];

/// Any host takes some of it for a start that does not hang.
const SHORTEST_START_TIMEOUT: Duration = Duration::from_secs(1);

/// The capabilities in the kernel's order (capabilities(7)).
pub const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The resources of getrlimit(2): the number, and whether the unit is bytes.
pub(crate) const RLIMITS: [(&str, (u8, bool)); 16] = [
    ("cpu", (0, false)),
    ("fsize", (1, true)),
    ("data", (2, true)),
    ("stack", (3, true)),
    ("core", (4, true)),
    ("rss", (5, true)),
    ("nproc", (6, false)),
    ("nofile", (7, false)),
    ("memlock", (8, true)),
    ("as", (9, true)),
    ("locks", (10, false)),
    ("sigpending", (11, false)),
    ("msgqueue", (12, true)),
    ("nice", (13, false)),
    ("rtprio", (14, false)),
    ("rttime", (15, false)),
];

/// Returns the kernel's number of a capability, which is its place in the list.
#[must_use]
pub fn capability_number(name: &str) -> Option<u8> {
    CAPABILITIES
        .iter()
        .position(|known| *known == name)
        .and_then(|at| u8::try_from(at).ok())
}

/// Returns the kernel's number of a resource (asm-generic, as on x86 and arm64).
#[must_use]
pub fn rlimit_number(name: &str) -> Option<u8> {
    RLIMITS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, (number, _))| *number)
}

impl Reader<'_> {
    pub(super) fn workload(&mut self, node: &Node, mode: Mode, usual: Sandbox) -> WorkloadSpec {
        let fields = self.fields(node, KEYS);
        if fields.get("attach").is_some() {
            return self.attached(node, &fields);
        }
        if let Some(node) = fields.get("prove") {
            let fault = Fault::error(node.span.clone(), "`prove` needs `attach`");
            self.fault(fault.label("loops of the agent's own programs are always proved"));
        }
        let mut spec = WorkloadSpec {
            mode,
            ..WorkloadSpec::default()
        };
        self.set(
            &fields,
            "mode",
            &mut spec.mode,
            one_of(&super::document::MODES),
        );
        match fields.get("command") {
            Some(node) => spec.command = self.command(node).unwrap_or_default(),
            None => self.fault(
                Fault::error(node.span.clone(), "this workload has no `command`")
                    .label("expected a `command`, or `attach`")
                    .help("command: [/path/to/program, argument]"),
            ),
        }
        self.account(node, &fields, &mut spec);
        if let Some(node) = fields.get("main_pid_file") {
            spec.main_pid_file = self.absolute_path(node);
        }
        if let Some(node) = fields.get("directory") {
            spec.directory = self.absolute_path(node);
        }
        for (kind, target) in [
            (DirectoryKind::Runtime, &mut spec.runtime_directory),
            (DirectoryKind::State, &mut spec.state_directory),
            (DirectoryKind::Cache, &mut spec.cache_directory),
        ] {
            *target = fields
                .get(kind.key())
                .and_then(|node| self.directories(node));
        }
        if let Some(node) = fields.get("credentials") {
            spec.credentials = self.credentials(node);
        }
        if let Some(node) = fields.get("listen") {
            spec.listen = self.listen(node);
        }
        self.replicas(&fields, &mut spec);
        self.set(&fields, "leased", &mut spec.leased, super::boolean);
        if let Some(node) = fields
            .get("leased")
            .filter(|_| spec.leased && spec.replicas.is_some())
        {
            let fault = Fault::error(node.span.clone(), "a leased workload has no `replicas`");
            self.fault(fault.label("for a workload that must not run twice"));
        }
        self.ports(&fields, &mut spec);
        self.files(&fields, &mut spec);
        self.sandbox(&fields, usual, &mut spec);
        if let Some(node) = fields.get("environment") {
            spec.environment = self.environment(node);
        }
        if let Some(node) = fields.get("environment_files") {
            spec.environment_files = self.words(node, "a list of files").unwrap_or_default();
        }
        if let Some(node) = fields.get("capabilities") {
            spec.capabilities = self.capabilities(node);
            spec.capabilities_listed = Listed(true);
        }
        if let Some(node) = fields.get("rlimits") {
            spec.rlimits = self.rlimits(node);
        }
        self.priority(&fields, &mut spec);
        if let Some(node) = fields.get("cgroup") {
            spec.limits = self.limits(node, spec.limits);
        }
        if let Some(node) = fields.get("needs") {
            spec.needs = self.needs(node);
        }
        if let Some(node) = fields.get("probes") {
            spec.probes = self.probes(node);
        }
        spec.on_ready = fields.get("on_ready").and_then(|node| self.command(node));
        spec.on_unready = fields.get("on_unready").and_then(|node| self.command(node));
        self.hooks(&fields, &mut spec);
        if let Some(node) = fields.get("watch") {
            spec.watch = self.watch(node);
        }
        if let Some(node) = fields.get("recovery") {
            spec.recovery = self.recovery(node);
        }
        self.set(
            &fields,
            "start_timeout",
            &mut spec.start_timeout,
            |text| match quantity::duration(text)? {
                short if short < SHORTEST_START_TIMEOUT => Err("at least 1s".to_owned()),
                timeout => Ok(timeout),
            },
        );
        if let Some(node) = fields.get("stop") {
            spec.stop = self.stop(node);
        }
        if let Some(node) = fields.get("logs") {
            spec.logs = self.logs(node);
        }
        if let Some(node) = fields.get("commands") {
            spec.commands = self.commands(node);
        }
        spec
    }

    pub(super) fn priority(&mut self, fields: &super::Fields<'_>, spec: &mut WorkloadSpec) {
        self.set(fields, "priority", &mut spec.priority, |text| {
            let priority = quantity::integer(text, 0..=100)?;
            u8::try_from(priority).map_err(|_| "a number from 0 to 100".to_owned())
        });
    }

    pub(super) fn account(
        &mut self,
        node: &Node,
        fields: &super::Fields<'_>,
        spec: &mut WorkloadSpec,
    ) {
        let accounts = self.accounts;
        // Those of a tree are looked up at the start.
        let of_host = fields.get("root").is_none();
        let text = fields
            .get("user")
            .map(|node| (node, self.text(node, "a name or a number")));
        match text {
            None if accounts.agent_is_root() => self.fault(
                Fault::error(node.span.clone(), "this workload has no `user`")
                    .label("it would run as root")
                    .help("name the account it runs as; write `user: root` to mean it"),
            ),
            None | Some((_, None)) => {}
            Some((node, Some(text))) => {
                let (user, group) = match text.split_once(':') {
                    Some((user, group)) => (user, Some(group)),
                    None => (text, None),
                };
                spec.user = self.account_name(node, "user", user, of_host);
                spec.group =
                    group.and_then(|group| self.account_name(node, "group", group, of_host));
            }
        }
        if let Some(node) = fields.get("group") {
            if spec.group.is_some() {
                let fault = Fault::error(node.span.clone(), "the group is named twice");
                self.fault(fault.label("`user` has one behind its colon"));
            }
            let group = self.text(node, "a name or a number");
            spec.group = group.and_then(|group| self.account_name(node, "group", group, of_host));
        }
        let number = spec.user.as_deref().and_then(id);
        if let (Some(number), None, Some((node, _))) = (number, &spec.group, text)
            && of_host
            && !accounts.has_user_of_number(number)
        {
            self.fault(
                Fault::error(
                    node.span.clone(),
                    format!("no account has the number {number}"),
                )
                .label("so its group is not known")
                .help(format!(
                    "name the group as well: `user: \"{number}:{number}\"`"
                )),
            );
        }
        if let Some(node) = fields.get("groups") {
            let names = self.words(node, "a list of groups").unwrap_or_default();
            let named = names
                .iter()
                .filter_map(|name| self.account_name(node, "group", name, of_host));
            spec.groups = named.collect();
        }
        self.set_some(fields, "nice", &mut spec.nice, |text| {
            let nice = text.parse().ok().filter(|nice| (-20..=19).contains(nice));
            nice.ok_or_else(|| "a whole number from -20 to 19".to_owned())
        });
        self.set(fields, "umask", &mut spec.umask, |text| {
            quantity::permissions(text).map(Umask)
        });
    }

    /// Reads the name or the number of a user or a group. The kernel reads the number -1, which is
    /// 4294967295, as "leave it as it is", so it names no one.
    pub(super) fn account_name(
        &mut self,
        node: &Node,
        kind: &str,
        name: &str,
        of_host: bool,
    ) -> Option<String> {
        let accounts = self.accounts;
        let is_numeric = name.strip_prefix(['-', '+']).unwrap_or(name);
        let is_numeric = is_numeric.starts_with(|first: char| first.is_ascii_digit());
        let exists = match kind {
            _ if !of_host => !is_numeric && !name.is_empty() && !name.contains([':', '\0']),
            "user" => accounts.has_user(name),
            _ => accounts.has_group(name),
        };
        if exists || id(name).is_some() {
            return Some(name.to_owned());
        }
        let shown = name.escape_debug();
        let fault = if is_numeric || !of_host {
            Fault::error(
                node.span.clone(),
                format!("`{shown}` is no number of a {kind}"),
            )
            .label("expected a number from 0 to 4294967294, without leading zeros")
        } else {
            let message = format!("there is no {kind} `{shown}` on this host");
            Fault::error(node.span.clone(), message)
                .label(format!("expected the name or the number of a {kind}"))
        };
        self.fault(fault);
        None
    }

    fn environment(&mut self, node: &Node) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        for (name, value) in self.entries(node).iter() {
            if name.is_empty() || name.contains(['=', '\0']) {
                self.fault(
                    Fault::error(
                        value.span.clone(),
                        format!("`{}` is not a variable's name", name.escape_debug()),
                    )
                    .label("a name has no = and no NUL"),
                );
                continue;
            }
            let Some(text) = self.text(value, "a text, in quotes where it is empty") else {
                continue;
            };
            if text.contains('\0') {
                self.fault(Fault::error(
                    value.span.clone(),
                    format!("the value of `{name}` contains a NUL byte"),
                ));
                continue;
            }
            environment.insert(name.to_owned(), text.to_owned());
        }
        environment
    }

    fn capabilities(&mut self, node: &Node) -> Vec<String> {
        let Some(names) = self.words(node, "a list of capabilities") else {
            return Vec::new();
        };
        let Value::Sequence(items) = &node.value else {
            return Vec::new();
        };
        for (name, item) in names.iter().zip(items) {
            if capability_number(name).is_none() {
                let mut fault = super::unknown_key(name, item.span.clone(), &CAPABILITIES);
                fault.message = format!("unknown capability `{name}`");
                fault.help = Some("see capabilities(7)".to_owned());
                self.fault(fault);
            }
        }
        names
    }

    fn rlimits(&mut self, node: &Node) -> BTreeMap<String, Limit<u64>> {
        let known: Vec<&str> = RLIMITS.iter().map(|(name, _)| *name).collect();
        let mut rlimits = BTreeMap::new();
        for (name, value) in self.fields(node, &known).iter() {
            let in_bytes = RLIMITS
                .iter()
                .any(|(known, (_, bytes))| *known == name && *bytes);
            let parse = |text: &str| match text {
                "max" | "unlimited" => Ok(Limit::Max),
                _ if in_bytes => quantity::bytes(text).map(|bytes| Limit::At(bytes.0)),
                _ => quantity::integer(text, 0..=u64::MAX).map(Limit::At),
            };
            if let Some(limit) = self.parsed(value, parse) {
                rlimits.insert(name.to_owned(), limit);
            }
        }
        rlimits
    }
}
