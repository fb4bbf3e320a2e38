//! One service of Compose, key by key.

use super::places::{Ports, tmpfs};
use super::{Image, Options, health, resources};
use crate::Line;
use crate::outcome::{ADDED, Outcome, dropped, exact, near, needs_you, unread};
use crate::output::Yaml;
use crate::values::{capabilities, duration, program, text, texts, words, workload_name};
use enforcer_manifest::{Node, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A service on its way into a workload.
pub(super) struct Service<'o> {
    pub(super) name: &'o str,
    /// Where it is in its source.
    pub(super) place: String,
    pub(super) names: &'o BTreeSet<&'o str>,
    /// The files of secrets and configs.
    pub(super) files: &'o BTreeMap<String, String>,
    pub(super) options: &'o Options,
    pub(super) draft: Yaml,
    pub(super) report: Vec<Line>,
    entrypoint: Option<Vec<String>>,
    command: Option<Vec<String>>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) mounts: Vec<Yaml>,
    pub(super) tmpfs: Vec<Yaml>,
    pub(super) states: Vec<String>,
    directory: Option<String>,
    user: Option<String>,
    restart: Option<Node>,
    added: Vec<String>,
    removed: Vec<String>,
    is_privileged: bool,
    pub(super) deploys_restart: bool,
    /// The port that clients connect to, and the one that the program binds.
    pub(super) ports: Ports,
    /// The ports at which it says to listen.
    listens: Vec<u16>,
    pub(super) memory: Option<u64>,
}

impl<'o> Service<'o> {
    pub(super) fn new(
        name: &'o str,
        (names, files): (&'o BTreeSet<&'o str>, &'o BTreeMap<String, String>),
        options: &'o Options,
    ) -> Self {
        Self {
            name,
            place: format!("services.{name}"),
            names,
            files,
            options,
            draft: Yaml::map(),
            report: Vec::new(),
            entrypoint: None,
            command: None,
            environment: Vec::new(),
            mounts: Vec::new(),
            tmpfs: Vec::new(),
            states: Vec::new(),
            directory: None,
            user: None,
            restart: None,
            added: Vec::new(),
            removed: Vec::new(),
            is_privileged: false,
            deploys_restart: false,
            ports: Vec::new(),
            listens: Vec::new(),
            memory: None,
        }
    }

    pub(super) fn line(&mut self, key: &str, (verdict, note): Outcome) {
        let dot = if key.is_empty() { "" } else { "." };
        self.report.push(Line {
            key: format!("{}{dot}{key}", self.place),
            verdict,
            note,
        });
    }

    pub(super) fn put(&mut self, path: &[&str], value: Yaml) {
        self.draft.put(path, value);
    }

    pub(super) fn read(&mut self, node: &Node) {
        if workload_name(self.name) != self.name {
            let note = format!("it is called `{}` here", workload_name(self.name));
            self.line("", near(note));
        }
        // `memswap_limit` means something beside the limit of the memory alone.
        let is_swap = |key: &str| key == "memswap_limit";
        let first = node.value.pairs().filter(|(key, ..)| !is_swap(key));
        let last = node.value.pairs().filter(|(key, ..)| is_swap(key));
        for (key, _, value) in first.chain(last) {
            if key == "deploy" {
                resources::deploy(self, value);
                continue;
            }
            let outcome = self.known(key, value);
            self.line(key, outcome);
        }
    }

    pub(super) fn known(&mut self, key: &str, value: &Node) -> Outcome {
        match key {
            "blkio_config" => resources::blkio(self, value),
            "healthcheck" => health::read(self, value),
            _ => self.key(key, value),
        }
    }

    fn key(&mut self, key: &str, value: &Node) -> Outcome {
        if let Some(outcome) = resources::key(self, key, value) {
            return outcome;
        }
        match key {
            "image" => self.image(value),
            "build" => needs_you("build the image, and import its files with `--image`"),
            "command" => match argument_list(value) {
                Some(words) => {
                    self.command = Some(words);
                    exact("")
                }
                None => unread(),
            },
            "entrypoint" => match argument_list(value) {
                Some(words) => {
                    self.entrypoint = Some(words);
                    exact("")
                }
                None => unread(),
            },
            "working_dir" => match text(value) {
                Some(path) => {
                    self.directory = Some(path.to_owned());
                    exact("")
                }
                None => unread(),
            },
            "user" => match text(value) {
                Some(user) => {
                    self.user = Some(user.to_owned());
                    exact("")
                }
                None => unread(),
            },
            "group_add" => self.texts("groups", value),
            "environment" => self.variables(value),
            "env_file" => self.environment_files(value),
            "restart" => {
                self.restart = Some(value.clone());
                restart_note(value)
            }
            "depends_on" => self.needs(value),
            "ports" => self.published(value),
            "expose" => {
                let ports = texts(value).unwrap_or_default();
                let ports = ports
                    .iter()
                    .filter_map(|port| port.trim_end_matches("/tcp").parse::<u16>().ok());
                self.listens.extend(ports);
                exact("workloads share the host's network")
            }
            "volumes" => self.volumes(value),
            "tmpfs" => {
                let paths = texts(value).unwrap_or_default();
                let paths = paths.iter().map(|path| tmpfs(path));
                self.tmpfs.extend(paths);
                exact("")
            }
            "read_only" if is_true(value) => {
                self.put(&["read_only"], Yaml::word("true"));
                exact("it needs a `root`")
            }
            "hostname" => match text(value) {
                Some(name) => {
                    self.put(&["hostname"], Yaml::Text(name.to_owned()));
                    exact("")
                }
                None => unread(),
            },
            "stop_signal" => match text(value) {
                Some(signal) => {
                    self.put(&["stop", "signal"], Yaml::Text(signal.to_owned()));
                    exact("")
                }
                None => unread(),
            },
            "stop_grace_period" => match text(value).and_then(duration) {
                Some(grace) => {
                    self.put(&["stop", "grace"], Yaml::Word(grace));
                    exact("")
                }
                None => unread(),
            },
            "cap_add" | "cap_drop" => {
                let names = texts(value).unwrap_or_default();
                match key {
                    "cap_add" => {
                        self.added = names;
                        near(ADDED)
                    }
                    _ => {
                        self.removed = names;
                        exact("")
                    }
                }
            }
            "privileged" if is_true(value) => {
                self.is_privileged = true;
                near(
                    "without a sandbox there is nothing to be privileged in; root has all capabilities",
                )
            }
            "security_opt" => self.security(value),
            "logging" => self.logging(value),
            "network_mode" => match text(value) {
                Some("host") => exact("workloads share the host's network"),
                Some("none") => dropped("use `sandbox: strict` with `network: {}`"),
                _ => near("workloads share the host's network"),
            },
            "networks" if self.has_image() => near(
                "workloads share the host's network, and `hosts` has the names of the services",
            ),
            "networks" => {
                near("workloads share the host's network: other services are at 127.0.0.1")
            }
            "extra_hosts" => self.extra_hosts(value),
            "links" | "external_links" if self.has_image() => {
                near("`hosts` has the names of all services")
            }
            "links" | "external_links" | "dns" | "dns_search" | "dns_opt" | "domainname" => {
                dropped("names are the host's: use 127.0.0.1, or /etc/hosts")
            }
            "init" => exact("a workload's processes have an init above them"),
            "container_name" => near("the workload has the name of its service"),
            "labels" | "label_file" | "annotations" | "attach" => {
                dropped("it has no effect on the program")
            }
            "platform" | "pull_policy" | "pull_refresh_after" => dropped("there are no images"),
            "stdin_open" | "tty" => match is_true(value) {
                true => dropped("standard input is /dev/null"),
                false => exact(""),
            },
            "profiles" => exact("it was chosen"),
            "extends" => exact("what it extends lies under it"),
            "pid" | "ipc" | "uts" | "userns_mode" | "cgroup" => match text(value) {
                Some("host") => exact("workloads share the host's"),
                _ => near("workloads share the host's"),
            },
            "cgroup_parent" | "runtime" | "isolation" | "mac_address" | "credential_spec" => {
                dropped("there is no container engine")
            }
            "sysctls" => dropped("kernel settings are the host's: set them in /etc/sysctl.d"),
            "devices" => near("without a sandbox the user's permissions decide about devices"),
            "device_cgroup_rules" => {
                dropped("without a sandbox the user's permissions decide about devices")
            }
            "secrets" => self.kept_files("secrets", "/run/secrets/", value),
            "configs" => self.kept_files("configs", "/", value),
            "post_start" => self.hooks("after_start", value),
            "pre_stop" => self.hooks("before_stop", value),
            "scale" => resources::replicas(self, value),
            "develop" => dropped("it is for development"),
            "volumes_from" => needs_you("repeat the volumes of the other service"),
            "storage_opt" | "use_api_socket" | "models" | "provider" => {
                dropped("there is no container engine")
            }
            "read_only" | "privileged" => exact(""),
            _ if key.starts_with("x-") => exact("an extension, which is for the file alone"),
            _ => dropped("the key is not known"),
        }
    }

    /// Puts together what several keys decide. `taken` has the ports of the services before.
    pub(super) fn finish(&mut self, taken: &mut BTreeMap<u16, String>) {
        let image = self.options.images.get(self.name).cloned();
        let image = image.unwrap_or_default();
        self.command_line(&image);
        let user = self.user.clone().or(image.user);
        let is_root = user
            .as_deref()
            .is_none_or(|user| matches!(user.split(':').next(), Some("0" | "root")));
        if !self.is_privileged
            && let Some(list) = capabilities(&self.added, &self.removed, is_root)
        {
            self.put(&["capabilities"], Yaml::texts(list));
        }
        match user {
            Some(user) => self.put(&["user"], Yaml::Text(user)),
            None => {
                self.put(&["user"], Yaml::Text("root".to_owned()));
                let note = "it runs as root, as in the container: name another account in `user`";
                self.line("", near(note));
            }
        }
        if let Some(directory) = self.directory.clone().or(image.directory) {
            self.put(&["directory"], Yaml::Text(directory));
        }
        let mut environment = image.environment;
        environment.append(&mut self.environment);
        for (name, value) in environment {
            self.put(&["environment", &name], Yaml::Text(value));
        }
        for (key, list) in [("mounts", &mut self.mounts), ("tmpfs", &mut self.tmpfs)] {
            let list = std::mem::take(list);
            if !list.is_empty() {
                self.draft.put(&[key], Yaml::List(list));
            }
        }
        if !self.states.is_empty() {
            let states = std::mem::take(&mut self.states);
            self.put(&["state_directory"], Yaml::texts(states));
        }
        if self.has_image() {
            // All services are at the host's own address.
            for name in self.names.iter().filter(|name| **name != self.name) {
                let path = ["hosts", name];
                if self.draft.get(&path).is_none() {
                    self.draft.put(&path, Yaml::word("127.0.0.1"));
                }
            }
        }
        self.restarts();
        for port in std::mem::take(&mut self.listens) {
            // The socket of a published port is bound to that one.
            if self.ports.iter().any(|(_, bound)| *bound == port) {
                continue;
            }
            if let Some(other) = taken.insert(port, self.name.to_owned()) {
                let note = format!(
                    "`{other}` listens at the port {port} as well: `ports: {{ http: {{ port: OTHER, target: {port} }} }}` \
                     moves one of them"
                );
                self.line("", needs_you(note));
            }
        }
        for (published, bound) in std::mem::take(&mut self.ports) {
            if let Some(other) = taken.insert(published, self.name.to_owned()) {
                let note = format!("`{other}` publishes {published} as well");
                self.line("", needs_you(note));
                continue;
            }
            let name = format!("p{published}");
            self.put(&["ports", &name, "port"], Yaml::word(published));
            if bound != published {
                self.put(&["ports", &name, "target"], Yaml::word(bound));
                self.ask_at(bound, published);
            }
        }
        self.draft.sort();
    }

    /// Has a probe ask the port that clients connect to: the program's socket is there.
    fn ask_at(&mut self, bound: u16, published: u16) {
        for probe in ["liveness", "readiness"] {
            for kind in ["http", "https", "tcp"] {
                let path = ["probes", probe, kind, "port"];
                if self.draft.get(&path) == Some(&Yaml::word(bound)) {
                    self.put(&path, Yaml::word(published));
                }
            }
        }
    }

    /// Has the service be restarted if its policy does not say when.
    pub(super) fn restart_by_default(&mut self) {
        let policy = self.restart.as_ref().and_then(text).unwrap_or("no");
        if policy == "no" {
            self.put(&["recovery", "restart"], Yaml::word("always"));
            self.deploys_restart = true;
        }
    }

    fn command_line(&mut self, image: &Image) {
        let mut arguments = Vec::new();
        match (&self.entrypoint, &self.command) {
            (None, None) => arguments.extend(image.arguments.iter().cloned()),
            (entrypoint, command) => {
                arguments.extend(entrypoint.iter().flatten().cloned());
                arguments.extend(command.iter().flatten().cloned());
            }
        }
        if self.entrypoint.is_none() && self.command.is_some() && !image.arguments.is_empty() {
            let note =
                "the image's entrypoint is not known apart from its command: check `command`";
            self.line("", needs_you(note));
        }
        if arguments.is_empty() {
            let note = "its program is in the image: write `command`, or import with `--image`";
            self.line("", needs_you(note));
            return;
        }
        self.put(&["command"], Yaml::texts(program(arguments)));
    }

    fn restarts(&mut self) {
        if self.deploys_restart {
            return;
        }
        let policy = self.restart.take();
        let policy = policy.as_ref().and_then(text).unwrap_or("no");
        let (word, count) = match policy.split_once(':') {
            Some((word, count)) => (word, count.parse::<u32>().ok()),
            None => (policy, None),
        };
        let restart = match word {
            "always" | "unless-stopped" => "always",
            "on-failure" => "on-failure",
            _ => "never",
        };
        self.put(&["recovery", "restart"], Yaml::word(restart));
        if let Some(count) = count {
            self.put(
                &["recovery", "budget", "restarts"],
                Yaml::word(count.max(1)),
            );
            self.put(&["recovery", "budget", "within"], Yaml::word("1h"));
        }
    }
}

fn restart_note(value: &Node) -> Outcome {
    match text(value).unwrap_or("no") {
        "no" | "always" | "on-failure" | "false" => exact(""),
        "unless-stopped" => near("a workload that was stopped by hand starts again with the host"),
        text if text.starts_with("on-failure:") => near(
            "the restarts are counted in an hour; then the breaker opens, and tries again later",
        ),
        _ => unread(),
    }
}

/// Returns the words of a command: a list, or a text that is split as a shell does.
pub(super) fn argument_list(node: &Node) -> Option<Vec<String>> {
    match &node.value {
        Value::Scalar { text, .. } => words(text).ok(),
        Value::Sequence(_) => texts(node),
        Value::Null => Some(Vec::new()),
        Value::Mapping(_) => None,
    }
}

fn is_true(node: &Node) -> bool {
    text(node).is_some_and(|text| text.eq_ignore_ascii_case("true"))
}
