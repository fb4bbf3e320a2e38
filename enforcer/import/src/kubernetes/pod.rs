//! What a pod says for all of its containers.

use super::{Import, at, is_true, items, quantity, word};
use crate::outcome::{Outcome, dropped, exact, near, needs_you, unread};
use crate::output::Yaml;
use crate::values::{text, texts, workload_name};
use enforcer_manifest::{Node, Value};
use std::collections::BTreeMap;

/// A volume, as a container can mount it.
pub(super) enum Volume {
    /// A folder of the host's that is there.
    Host(String),
    /// A folder below /var/lib that is made.
    State(String),
    /// A folder below /var/cache that is made.
    Cache(String),
    /// In memory, with its size.
    Memory(Option<String>),
    /// It has no meaning here.
    None,
}

/// What the containers of a pod share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) restart: Option<String>,
    pub(super) grace: Option<u64>,
    pub(super) user: Option<u64>,
    pub(super) group: Option<u64>,
    pub(super) groups: Vec<String>,
    pub(super) is_not_root: bool,
    pub(super) hostname: Option<String>,
    pub(super) volumes: BTreeMap<String, Volume>,
}

/// Reads the keys of a pod except its containers.
pub(super) fn read(import: &mut Import, (place, name): (&str, &str), spec: &Node) -> Shared {
    let mut pod = Shared::default();
    for (key, _, value) in spec.value.pairs() {
        let word = text(value).unwrap_or_default();
        let outcome = match key {
            "containers" | "initContainers" => continue,
            "securityContext" => {
                security(import, place, &mut pod, value);
                continue;
            }
            "volumes" => {
                for volume in items(value, &[]) {
                    let volume_name = self::word(volume, &["name"]).unwrap_or_default();
                    let (read, outcome) = self::volume(name, volume_name, volume);
                    pod.volumes.insert(volume_name.to_owned(), read);
                    import.line(place, &format!("volumes.{volume_name}"), outcome);
                }
                continue;
            }
            "restartPolicy" => {
                pod.restart = Some(word.to_owned());
                match word {
                    "Always" | "OnFailure" | "Never" => exact(""),
                    _ => unread(),
                }
            }
            "terminationGracePeriodSeconds" => match word.parse() {
                Ok(grace) => {
                    pod.grace = Some(grace);
                    exact("")
                }
                Err(_) => unread(),
            },
            "hostname" => {
                pod.hostname = Some(word.to_owned());
                exact("")
            }
            "ephemeralContainers" => dropped("they are for looking into a pod"),
            "hostNetwork" => exact("workloads share the host's network"),
            "hostPID" | "hostIPC" | "shareProcessNamespace" | "hostUsers" => {
                near("without `sandbox: strict`, workloads share the host's")
            }
            "nodeName"
            | "nodeSelector"
            | "affinity"
            | "tolerations"
            | "topologySpreadConstraints"
            | "schedulerName"
            | "schedulingGates"
            | "runtimeClassName"
            | "overhead"
            | "preemptionPolicy"
            | "readinessGates"
            | "os" => near("there is one host, and it runs here"),
            "serviceAccountName" | "serviceAccount" | "automountServiceAccountToken" => {
                near("there is no API of a cluster to be used")
            }
            "imagePullSecrets" => near("no image is pulled"),
            "enableServiceLinks" => near("there are no variables of services"),
            "dnsPolicy" | "dnsConfig" => near("names are the host's"),
            "hostAliases" => needs_you("write the names into /etc/hosts"),
            "subdomain" | "setHostnameAsFQDN" => near("names are the host's"),
            "priorityClassName" | "priority" => {
                needs_you("write `priority`, from 0 to 100: what has less gives way first")
            }
            "activeDeadlineSeconds" => needs_you("run the command under timeout(1)"),
            "resources" => needs_you("write `replicas_cgroup`, or limits for each container"),
            _ => dropped("the key is not known"),
        };
        import.line(place, key, outcome);
    }
    pod
}

fn security(import: &mut Import, place: &str, pod: &mut Shared, node: &Node) {
    for (key, _, value) in node.value.pairs() {
        let word = text(value).unwrap_or_default();
        let outcome = match key {
            "runAsUser" => number(word, &mut pod.user),
            "runAsGroup" => number(word, &mut pod.group),
            "runAsNonRoot" => {
                pod.is_not_root = is_true(value);
                exact("")
            }
            "fsGroup" => {
                pod.groups.push(word.to_owned());
                near("a further group; the files of volumes keep theirs")
            }
            "supplementalGroups" => {
                pod.groups.extend(texts(value).unwrap_or_default());
                exact("")
            }
            "fsGroupChangePolicy" | "supplementalGroupsPolicy" => {
                near("the files of volumes keep their groups")
            }
            "seccompProfile" | "appArmorProfile" | "seLinuxOptions" | "seLinuxChangePolicy" => {
                profile()
            }
            "sysctls" => needs_you("kernel settings are the host's: set them in /etc/sysctl.d"),
            _ => dropped("the key is not known"),
        };
        import.line(place, &format!("securityContext.{key}"), outcome);
    }
}

pub(super) fn number(word: &str, to: &mut Option<u64>) -> Outcome {
    match word.parse() {
        Ok(number) => {
            *to = Some(number);
            exact("")
        }
        Err(_) => unread(),
    }
}

pub(super) fn profile() -> Outcome {
    near(
        "`sandbox: default`, and more so `strict`, have filters of their own; root has none by default",
    )
}

fn volume(pod: &str, name: &str, node: &Node) -> (Volume, Outcome) {
    let folder = format!("{}-{}", workload_name(pod), workload_name(name));
    if let Some(empty) = at(node, &["emptyDir"]) {
        if word(empty, &["medium"]) == Some("Memory") {
            let size = word(empty, &["sizeLimit"]).and_then(quantity::memory);
            return (Volume::Memory(size.map(quantity::size)), exact(""));
        }
        let note = format!("it is /var/cache/{folder}, and keeps what is in it");
        return (Volume::Cache(folder), near(note));
    }
    if let Some(path) = word(node, &["hostPath", "path"]) {
        let kind = word(node, &["hostPath", "type"]).unwrap_or_default();
        let outcome = match kind.ends_with("OrCreate") {
            true => near("the place must be there: nothing makes it"),
            false => exact("the place must be there"),
        };
        return (Volume::Host(path.to_owned()), outcome);
    }
    let claim = word(node, &["persistentVolumeClaim", "claimName"]);
    if let Some(claim) = claim {
        let folder = workload_name(claim);
        let note = format!("it is /var/lib/{folder}, without a size of its own");
        return (Volume::State(folder), near(note));
    }
    if at(node, &["ephemeral"]).is_some() {
        let note = format!("it is /var/cache/{folder}, and keeps what is in it");
        return (Volume::Cache(folder), near(note));
    }
    for (key, name_key) in [("configMap", "name"), ("secret", "secretName")] {
        let Some(of) = at(node, &[key]) else {
            continue;
        };
        let source = word(of, &[name_key]).unwrap_or_default();
        let path = format!("/etc/{}/{}", workload_name(pod), workload_name(source));
        let more = match key {
            "secret" => "; `credentials` gives the workload a copy of its own",
            _ => "",
        };
        let note = format!("write its values as files into {path}, which is mounted{more}");
        return (Volume::Host(path), needs_you(note));
    }
    let kind = node.value.pairs().map(|(key, ..)| key);
    let kind = kind.filter(|key| *key != "name").collect::<Vec<_>>();
    let note = format!(
        "`{}` has no meaning here: name a folder in `mounts`",
        kind.join(", ")
    );
    (Volume::None, needs_you(note))
}

/// Adds a volume at its place in a container.
pub(super) fn mount(draft: &mut Lists, volumes: &BTreeMap<String, Volume>, node: &Node) -> Outcome {
    let name = word(node, &["name"]).unwrap_or_default();
    let Some(to) = word(node, &["mountPath"]) else {
        return unread();
    };
    let sub = word(node, &["subPath"]);
    let below = |folder: &str| match sub {
        Some(sub) => format!("{folder}/{sub}"),
        None => folder.to_owned(),
    };
    let from = match volumes.get(name) {
        Some(Volume::Host(path)) => below(path),
        Some(Volume::State(folder)) => {
            Lists::add(&mut draft.states, folder, sub);
            below(&format!("/var/lib/{folder}"))
        }
        Some(Volume::Cache(folder)) => {
            Lists::add(&mut draft.caches, folder, sub);
            below(&format!("/var/cache/{folder}"))
        }
        Some(Volume::Memory(size)) => {
            let mut tmpfs = Yaml::map();
            tmpfs.put(&["path"], Yaml::Text(to.to_owned()));
            if let Some(size) = size {
                tmpfs.put(&["size"], Yaml::word(size));
            }
            draft.tmpfs.push(tmpfs);
            return exact("each container has one of its own");
        }
        Some(Volume::None) => return dropped("its volume has no meaning here"),
        None => return needs_you("the pod has no volume of this name"),
    };
    let mut mount = Yaml::map();
    mount.put(&["from"], Yaml::Text(from));
    mount.put(&["to"], Yaml::Text(to.to_owned()));
    if at(node, &["readOnly"]).is_some_and(is_true) {
        mount.put(&["read_only"], Yaml::word("true"));
    }
    draft.mounts.push(mount);
    match at(node, &["subPathExpr"]) {
        Some(_) => needs_you("`subPathExpr` is left out: write the path into `mounts`"),
        None => exact(""),
    }
}

/// The lists of a workload that several keys add to.
#[derive(Default)]
pub(super) struct Lists {
    pub(super) mounts: Vec<Yaml>,
    pub(super) tmpfs: Vec<Yaml>,
    pub(super) states: Vec<String>,
    pub(super) caches: Vec<String>,
}

impl Lists {
    fn add(list: &mut Vec<String>, folder: &str, sub: Option<&str>) {
        let mut names = vec![folder.to_owned()];
        names.extend(sub.map(|sub| format!("{folder}/{sub}")));
        for name in names {
            if !list.contains(&name) {
                list.push(name);
            }
        }
    }

    pub(super) fn put(self, draft: &mut Yaml) {
        for (key, list) in [("mounts", self.mounts), ("tmpfs", self.tmpfs)] {
            if !list.is_empty() {
                draft.put(&[key], Yaml::List(list));
            }
        }
        for (key, list) in [
            ("state_directory", self.states),
            ("cache_directory", self.caches),
        ] {
            if !list.is_empty() {
                draft.put(&[key], Yaml::texts(list));
            }
        }
    }
}

/// Returns the template of a controller's pods, or the pod itself.
pub(super) fn template<'n>(kind: &str, node: &'n Node) -> Option<&'n Node> {
    let found = match kind {
        "Pod" => Some(node),
        _ => at(node, &["spec", "template"]),
    };
    found.filter(|found| {
        let spec = at(found, &["spec"]);
        spec.is_some_and(|spec| matches!(spec.value, Value::Mapping(_)))
    })
}
