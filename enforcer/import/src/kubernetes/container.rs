//! One container, key by key.

use super::pod::{self, Lists, Shared};
use super::variables::{Pod, Values, Variables};
use super::{Import, Options, Workload, at, is_true, items, probes, quantity, word};
use crate::outcome::{ADDED, Outcome, dropped, exact, near, needs_you, unread};
use crate::output::Yaml;
use crate::values::{capabilities, program, text, texts, weight, workload_name};
use enforcer_manifest::Node;

/// What a container is read with.
pub(super) struct Context<'c> {
    pub(super) place: &'c str,
    pub(super) shared: &'c Shared,
    pub(super) pod: &'c Pod<'c>,
    pub(super) values: &'c Values,
    pub(super) options: &'c Options,
    /// The pod has no other container.
    pub(super) is_alone: bool,
}

struct Container<'c> {
    context: &'c Context<'c>,
    node: &'c Node,
    name: &'c str,
    draft: Yaml,
    lists: Lists,
    variables: Variables,
    user: Option<u64>,
    group: Option<u64>,
    added: Vec<String>,
    removed: Vec<String>,
    is_privileged: bool,
    /// The thousandths of a CPU that are asked for, and those that are allowed.
    cpu: (Option<u64>, Option<u64>),
}

/// Reads a container into a workload.
pub(super) fn read(
    import: &mut Import,
    context: &Context<'_>,
    node: &Node,
    (name, is_init): (&str, bool),
) {
    let list = if is_init {
        "initContainers"
    } else {
        "containers"
    };
    let place = format!("{}.{list}.{name}", context.place);
    let mut container = Container {
        context,
        node,
        name,
        draft: Yaml::map(),
        lists: Lists::default(),
        variables: Variables::default(),
        user: context.shared.user,
        group: context.shared.group,
        added: Vec::new(),
        removed: Vec::new(),
        is_privileged: false,
        cpu: (None, None),
    };
    let of = |key: &str| at(node, &[key]);
    // `env` lies over `envFrom`, and both are needed for what follows.
    for key in ["envFrom", "env"] {
        if let Some(value) = of(key) {
            let outcome = match key {
                "env" => container.variables.read(value, context.values, context.pod),
                _ => container.variables.read_all(value, context.values),
            };
            import.line(&place, key, outcome);
        }
    }
    container.command(import, &place);
    for (key, _, value) in node.value.pairs() {
        match key {
            "env" | "envFrom" | "command" | "args" => {}
            "resources" => container.resources(import, &place, value),
            "securityContext" => container.security(import, &place, value),
            "lifecycle" => container.lifecycle(import, &place, value),
            _ => {
                let outcome = container.key(key, value);
                import.line(&place, key, outcome);
            }
        }
    }
    container.finish(import, &place);
    let is_sidecar = is_init && word(node, &["restartPolicy"]) == Some("Always");
    let is_init = is_init && !is_sidecar;
    let restart = match context.shared.restart.as_deref() {
        // What must complete cannot be restarted for ever.
        _ if is_sidecar => "always",
        Some("Never") => "never",
        Some("OnFailure") => "on-failure",
        _ if is_init => "on-failure",
        _ => "always",
    };
    container
        .draft
        .put(&["recovery", "restart"], Yaml::word(restart));
    let grace = context.shared.grace.unwrap_or(30);
    container
        .draft
        .put(&["stop", "grace"], Yaml::word(format!("{grace}s")));
    let (workload, ports) = (container.workload(), container.ports());
    let whole = &container.context.pod.template;
    let labels = at(whole, &["metadata", "labels"]).into_iter();
    let labels = labels.flat_map(|labels| labels.value.pairs());
    let labels =
        labels.filter_map(|(key, _, value)| Some((key.to_owned(), text(value)?.to_owned())));
    if import.workloads.iter().any(|other| other.name == workload) {
        let note = format!("another workload is called `{workload}`: it is left out");
        import.line(&place, "", needs_you(note));
        return;
    }
    import.workloads.push(Workload {
        name: workload,
        labels: labels.collect(),
        draft: container.draft,
        place,
        owner: context
            .place
            .split('.')
            .next()
            .unwrap_or_default()
            .to_owned(),
        ports,
        is_init,
    });
}

/// Returns the declared ports of TCP.
fn ports(node: &Node) -> impl Iterator<Item = (Option<&str>, u16, Option<u16>)> {
    items(node, &["ports"]).iter().filter_map(|port| {
        let protocol = word(port, &["protocol"]).unwrap_or("TCP");
        let number = word(port, &["containerPort"])?.parse().ok()?;
        let host = word(port, &["hostPort"]).and_then(|host| host.parse().ok());
        (protocol == "TCP").then_some((word(port, &["name"]), number, host))
    })
}

impl Container<'_> {
    fn workload(&self) -> String {
        let pod = word(self.context.pod.object, &["metadata", "name"]).unwrap_or("pod");
        match self.context.is_alone {
            true => workload_name(pod),
            false => workload_name(&format!("{pod}-{}", self.name)),
        }
    }

    /// Returns the ports at which it says to listen, and those that its probes ask.
    fn ports(&self) -> Vec<(Option<String>, u16)> {
        let all = ports(self.node).map(|(name, number, _)| (name.map(str::to_owned), number));
        let mut all: Vec<(Option<String>, u16)> = all.collect();
        for kind in ["liveness", "readiness", "startup"] {
            for check in ["http", "https", "tcp", "grpc"] {
                let asked = self.draft.get(&["probes", kind, check, "port"]);
                if let Some(Yaml::Word(port)) = asked
                    && let Ok(port) = port.parse()
                    && !all.iter().any(|(_, known)| *known == port)
                {
                    all.push((None, port));
                }
            }
        }
        all
    }

    fn command(&mut self, import: &mut Import, place: &str) {
        let mut words = Vec::new();
        for key in ["command", "args"] {
            let Some(value) = at(self.node, &[key]) else {
                continue;
            };
            let outcome = match texts(value) {
                Some(all) => {
                    words.extend(all.iter().map(|word| self.variables.expand(word)));
                    exact("")
                }
                None => unread(),
            };
            import.line(place, key, outcome);
        }
        let image = self.context.options.images.get(self.name);
        let has_command = at(self.node, &["command"]).is_some();
        if !has_command {
            let known = image
                .map(|image| image.arguments.clone())
                .unwrap_or_default();
            let note = match (known.is_empty(), words.is_empty()) {
                (true, _) => {
                    "its program is in the image: write `command`, or import with `--image`"
                }
                (false, true) => "",
                (false, false) => {
                    "the image's entrypoint is not known apart from its command: check `command`"
                }
            };
            if !note.is_empty() {
                import.line(place, "", needs_you(note));
            }
            if words.is_empty() {
                words = known;
            } else if known.is_empty() {
                // Arguments alone are no command.
                return;
            } else {
                words.splice(0..0, known);
            }
        }
        if !words.is_empty() {
            self.draft.put(&["command"], Yaml::texts(program(words)));
        }
    }

    fn key(&mut self, key: &str, value: &Node) -> Outcome {
        let word = text(value).unwrap_or_default();
        match key {
            "name" => exact(""),
            "image" => match self.context.options.images.get(self.name) {
                Some(image) => {
                    self.draft.put(&["root"], Yaml::Text(image.root.clone()));
                    exact(format!("its files are in {}", image.root))
                }
                None => needs_you(format!(
                    "unpack it, and import with `--image {name}=DIR`: skopeo copy docker://{word} \
                     oci:{name}:latest && umoci unpack --image {name}:latest DIR",
                    name = self.name
                )),
            },
            "imagePullPolicy" => near("no image is pulled"),
            "workingDir" => {
                self.draft.put(&["directory"], Yaml::Text(word.to_owned()));
                exact("")
            }
            "ports" => {
                let mut is_udp = false;
                for port in items(value, &[]) {
                    is_udp |= super::word(port, &["protocol"]).is_some_and(|kind| kind != "TCP");
                }
                for (name, number, host) in ports(self.node) {
                    let Some(host) = host else {
                        continue;
                    };
                    let name = name.map_or_else(|| format!("p{host}"), workload_name);
                    self.draft.put(&["ports", &name, "port"], Yaml::word(host));
                    if host != number {
                        self.draft
                            .put(&["ports", &name, "target"], Yaml::word(number));
                    }
                }
                match is_udp {
                    true => near(
                        "workloads share the host's network; a port of UDP is the program's own",
                    ),
                    false => exact("workloads share the host's network"),
                }
            }
            "volumeMounts" => {
                let mut parts = super::Parts::default();
                for mount in items(value, &[]) {
                    let outcome = pod::mount(&mut self.lists, &self.context.shared.volumes, mount);
                    parts.add(outcome);
                }
                parts.whole()
            }
            "livenessProbe" => self.probe("liveness", value),
            "readinessProbe" => self.probe("readiness", value),
            "startupProbe" => self.probe("startup", value),
            "restartPolicy" if word == "Always" => exact("it runs beside the others"),
            "restartPolicy" | "restartPolicyRules" => needs_you("write `recovery: { restart: … }`"),
            "stdin" | "stdinOnce" | "tty" => match is_true(value) {
                true => dropped("standard input is /dev/null"),
                false => exact(""),
            },
            "terminationMessagePath" | "terminationMessagePolicy" => {
                near("`enforcer why` shows the last lines of the log")
            }
            "volumeDevices" => needs_you("write the device into `devices`"),
            "resizePolicy" => near("limits change while the program runs"),
            _ => dropped("the key is not known"),
        }
    }

    fn probe(&mut self, kind: &str, value: &Node) -> Outcome {
        let port = |text: &str| {
            text.parse().ok().or_else(|| {
                let mut all = ports(self.node);
                all.find(|(name, ..)| *name == Some(text))
                    .map(|(_, number, _)| number)
            })
        };
        let (probe, outcome) = probes::probe(value, &port);
        if let Some(probe) = probe {
            self.draft.put(&["probes", kind], probe);
        }
        outcome
    }

    fn resources(&mut self, import: &mut Import, place: &str, node: &Node) {
        for (side, _, values) in node.value.pairs() {
            for (key, _, value) in values.value.pairs() {
                let outcome = self.resource(side, key, text(value).unwrap_or_default());
                import.line(place, &format!("resources.{side}.{key}"), outcome);
            }
        }
    }

    fn resource(&mut self, side: &str, key: &str, word: &str) -> Outcome {
        match (side, key) {
            ("limits", "memory") => match quantity::memory(word) {
                Some(bytes) => {
                    let size = quantity::size(bytes);
                    let note = format!("memory.max {size}, and no swap");
                    self.draft.put(&["cgroup", "memory.max"], Yaml::word(size));
                    self.draft
                        .put(&["cgroup", "memory.swap.max"], Yaml::word(0));
                    exact(note)
                }
                None => unread(),
            },
            ("requests", "memory") => match quantity::memory(word) {
                Some(bytes) => {
                    let size = quantity::size(bytes);
                    self.draft.put(&["cgroup", "memory.low"], Yaml::word(size));
                    near("it protects from reclaim, and places nothing")
                }
                None => unread(),
            },
            ("limits", "cpu") => match quantity::cpu(word) {
                Some(thousandths) => {
                    self.cpu.1 = Some(thousandths);
                    let quota = quantity::quota(thousandths);
                    let note = format!("{word} CPUs → {quota}");
                    let quota = match quota.contains(' ') {
                        true => Yaml::Text(quota),
                        false => Yaml::Word(quota),
                    };
                    self.draft.put(&["cgroup", "cpu.max"], quota);
                    exact(note)
                }
                None => unread(),
            },
            ("requests", "cpu") => match quantity::cpu(word) {
                Some(thousandths) => {
                    self.cpu.0 = Some(thousandths);
                    let weight = weight(quantity::shares(thousandths));
                    near(format!("{word} CPUs → weight {weight}, and places nothing"))
                }
                None => unread(),
            },
            ("limits", "hugepages-2Mi" | "hugepages-1Gi") => match quantity::memory(word) {
                Some(bytes) => {
                    let file = match key {
                        "hugepages-2Mi" => "hugetlb.2MB.max",
                        _ => "hugetlb.1GB.max",
                    };
                    let size = Yaml::word(quantity::size(bytes));
                    self.draft.put(&["cgroup", file], size);
                    exact("")
                }
                None => unread(),
            },
            ("requests", "hugepages-2Mi" | "hugepages-1Gi") => exact("as the limit"),
            (_, "ephemeral-storage") => dropped("there is no limit for the use of a disk"),
            ("limits" | "requests", _) => {
                dropped("devices are the host's: write `devices` in a sandbox")
            }
            _ => dropped("the key is not known"),
        }
    }

    fn security(&mut self, import: &mut Import, place: &str, node: &Node) {
        for (key, _, value) in node.value.pairs() {
            let word = text(value).unwrap_or_default();
            let outcome = match key {
                "runAsUser" => pod::number(word, &mut self.user),
                "runAsGroup" => pod::number(word, &mut self.group),
                "runAsNonRoot" if is_true(value) => match self.user() {
                    Some(user) if user != 0 => exact(""),
                    _ => needs_you("name an account in `user`"),
                },
                "runAsNonRoot" => exact(""),
                "readOnlyRootFilesystem" if is_true(value) => {
                    if self.context.options.images.contains_key(self.name) {
                        self.draft.put(&["read_only"], Yaml::word("true"));
                        exact("")
                    } else {
                        near(
                            "`read_only` needs a `root`; `sandbox: default` keeps /usr and /etc from change",
                        )
                    }
                }
                "readOnlyRootFilesystem" => exact(""),
                "allowPrivilegeEscalation" => match is_true(value) {
                    true => near("every user but root has `no_new_privs`"),
                    false => exact("every user but root has `no_new_privs`"),
                },
                "privileged" => {
                    self.is_privileged = is_true(value);
                    match self.is_privileged {
                        true => near("root has all capabilities, and no sandbox by default"),
                        false => exact(""),
                    }
                }
                "capabilities" => {
                    self.added = at(value, &["add"]).and_then(texts).unwrap_or_default();
                    self.removed = at(value, &["drop"]).and_then(texts).unwrap_or_default();
                    match self.added.is_empty() {
                        true => exact(""),
                        false => near(ADDED),
                    }
                }
                "seccompProfile" | "appArmorProfile" | "seLinuxOptions" => pod::profile(),
                "procMount" => near("/proc is the host's, without other users' processes"),
                _ => dropped("the key is not known"),
            };
            import.line(place, &format!("securityContext.{key}"), outcome);
        }
    }

    /// The user of the container, of its pod, or of its image.
    fn user(&self) -> Option<u64> {
        let own = word(self.node, &["securityContext", "runAsUser"]);
        let own = own.and_then(|user| user.parse().ok());
        own.or(self.user).or_else(|| {
            let image = self.context.options.images.get(self.name)?;
            let (user, _) = image.user.as_deref()?.split_once(':')?;
            user.parse().ok()
        })
    }

    fn lifecycle(&mut self, import: &mut Import, place: &str, node: &Node) {
        for (key, _, value) in node.value.pairs() {
            let outcome = match key {
                "postStart" => self.hook("after_start", value),
                "preStop" => self.hook("before_stop", value),
                "stopSignal" => {
                    let signal = text(value).unwrap_or_default();
                    self.draft
                        .put(&["stop", "signal"], Yaml::Text(signal.to_owned()));
                    exact("")
                }
                _ => dropped("the key is not known"),
            };
            import.line(place, &format!("lifecycle.{key}"), outcome);
        }
    }

    fn hook(&mut self, key: &str, node: &Node) -> Outcome {
        let command = at(node, &["exec", "command"]).and_then(texts);
        if let Some(command) = command {
            let command = Yaml::texts(program(command));
            self.draft.put(&[key], Yaml::List(vec![command]));
            return near("it has 60 s at most");
        }
        let seconds = word(node, &["sleep", "seconds"]).and_then(|text| text.parse::<u64>().ok());
        match seconds {
            Some(seconds) if key == "before_stop" => {
                self.draft
                    .put(&["rollout", "drain"], Yaml::word(format!("{seconds}s")));
                near(
                    "`rollout: { drain }`: a stop waits until the connections to its `ports` have ended",
                )
            }
            _ => needs_you("write a command"),
        }
    }

    /// Puts together what several keys decide.
    fn finish(&mut self, import: &mut Import, place: &str) {
        let image = self.context.options.images.get(self.name);
        let of_image = image.and_then(|image| image.user.clone());
        let user = match (self.user, of_image) {
            (Some(user), _) => Some(format!("{user}:{}", self.group.unwrap_or(0))),
            (None, Some(user)) => Some(user),
            (None, None) => None,
        };
        let is_root = user.as_ref().is_none_or(|user| user.starts_with("0:"));
        if user.is_none() {
            let note = match self.context.shared.is_not_root {
                true => needs_you("it must not run as root: name an account in `user`"),
                false => {
                    near("it runs as root, unless its image names another account: write `user`")
                }
            };
            import.line(place, "user", note);
        }
        let user = user.unwrap_or_else(|| "root".to_owned());
        self.draft.put(&["user"], Yaml::Text(user));
        if !self.context.shared.groups.is_empty() {
            let groups = self.context.shared.groups.iter().map(String::as_str);
            self.draft.put(&["groups"], Yaml::texts(groups));
        }
        if let Some(image) = image {
            for (name, value) in &image.environment {
                self.draft
                    .put(&["environment", name], Yaml::Text(value.clone()));
            }
            if let (Some(folder), true) =
                (&image.directory, self.draft.get(&["directory"]).is_none())
            {
                self.draft.put(&["directory"], Yaml::Text(folder.clone()));
            }
        }
        for (name, value) in std::mem::take(&mut self.variables.all) {
            self.draft.put(&["environment", &name], Yaml::Text(value));
        }
        if let Some(name) = &self.context.shared.hostname {
            self.draft.put(&["hostname"], Yaml::Text(name.clone()));
        }
        if !self.is_privileged
            && let Some(list) = capabilities(&self.added, &self.removed, is_root)
        {
            self.draft.put(&["capabilities"], Yaml::texts(list));
        }
        // Without a request, the limit is one.
        if let Some(thousandths) = self.cpu.0.or(self.cpu.1) {
            let weight = weight(quantity::shares(thousandths));
            self.draft
                .put(&["cgroup", "cpu.weight"], Yaml::word(weight));
        }
        std::mem::take(&mut self.lists).put(&mut self.draft);
    }
}
