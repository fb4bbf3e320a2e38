//! Objects of Kubernetes: what runs pods, and what those refer to in the same files.

mod container;
mod controller;
mod pod;
mod probes;
mod quantity;
mod service;
mod variables;

use crate::compose::{Image, Source};
use crate::output::Yaml;
use crate::values::text;
use crate::{Imported, Line, Refused, Verdict};
use enforcer_manifest::{Node, Value, read_yaml};
use std::collections::{BTreeMap, BTreeSet};

/// What is known beside the files.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The folders with the files of images, by the names of their containers.
    pub images: BTreeMap<String, Image>,
}

/// An object of a file.
struct Object {
    kind: String,
    name: String,
    node: Node,
}

impl Object {
    fn place(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }

    fn is_pod_or_its_controller(&self) -> bool {
        matches!(
            &*self.kind,
            "Pod"
                | "Deployment"
                | "StatefulSet"
                | "DaemonSet"
                | "ReplicaSet"
                | "ReplicationController"
                | "Job"
        )
    }
}

/// What has been imported so far.
#[derive(Default)]
struct Import {
    report: Vec<Line>,
    workloads: Vec<Workload>,
}

/// A workload on its way into the manifest.
struct Workload {
    name: String,
    draft: Yaml,
    /// Where its container is, and the labels of its pods.
    place: String,
    labels: BTreeSet<(String, String)>,
    /// The object that its pods belong to, as `Deployment/web`.
    owner: String,
    /// The declared ports of TCP, with their names.
    ports: Vec<(Option<String>, u16)>,
    /// It runs before the others of its pod, and ends.
    is_init: bool,
}

impl Import {
    fn line(&mut self, place: &str, key: &str, (verdict, note): (Verdict, String)) {
        let dot = if key.is_empty() { "" } else { "." };
        self.report.push(Line {
            key: format!("{place}{dot}{key}"),
            verdict,
            note,
        });
    }

    fn whole(&mut self, object: &Object, verdict: Verdict, note: &str) {
        self.line(&object.place(), "", (verdict, note.to_owned()));
    }
}

/// Turns objects of Kubernetes into a manifest.
///
/// # Errors
/// If a file is no YAML, or a document in it is no object.
pub fn kubernetes(files: &[Source], options: &Options) -> Result<Imported, Refused> {
    let mut objects = Vec::new();
    for file in files {
        read(file, &mut objects)?;
    }
    let mut import = Import::default();
    let values = variables::Values::of(&objects);
    for object in objects.iter().filter(|one| one.is_pod_or_its_controller()) {
        controller::read(&mut import, object, &values, options);
    }
    // What concerns workloads comes after them, wherever it is in the files.
    for object in objects.iter().filter(|one| !one.is_pod_or_its_controller()) {
        match &*object.kind {
            "Service" => service::read(&mut import, object),
            "HorizontalPodAutoscaler" => controller::scaling(&mut import, object),
            kind => {
                let (verdict, note) = other(kind);
                import.whole(object, verdict, note);
            }
        }
    }
    service::share(&mut import);
    let mut workloads = Yaml::map();
    for mut workload in import.workloads {
        workload.draft.sort();
        workloads.put(&[&workload.name], workload.draft);
    }
    let sources: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    Ok(Imported {
        manifest: Yaml::manifest(&workloads, &sources),
        report: import.report,
    })
}

/// Returns what becomes of an object of another kind.
fn other(kind: &str) -> (Verdict, &'static str) {
    match kind {
        "ConfigMap" | "Secret" => (
            Verdict::Exact,
            "its values are where the containers use them",
        ),
        "Namespace" => (Verdict::Exact, "a host has one"),
        "PersistentVolumeClaim" | "PersistentVolume" | "StorageClass" => (
            Verdict::Near,
            "a claim is a folder below /var/lib, without a size of its own",
        ),
        "PodDisruptionBudget" => (
            Verdict::Near,
            "a rollout keeps the replicas but `max_unavailable`; nothing else evicts one",
        ),
        "CronJob" => (
            Verdict::NeedsYou,
            "there are no schedules: import its Job, and call `enforcer start NAME` from cron(8) or a timer",
        ),
        "Ingress" | "IngressClass" | "Gateway" | "HTTPRoute" => (
            Verdict::NeedsYou,
            "there is no proxy: run one as a workload, and have it ask the `ports` of the others",
        ),
        "NetworkPolicy" => (
            Verdict::NeedsYou,
            "write `sandbox: strict` with `network` for what a workload may bind and reach",
        ),
        "ServiceAccount" | "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => {
            (Verdict::Dropped, "there is no API of a cluster to be used")
        }
        "PriorityClass" => (Verdict::NeedsYou, "write `priority`, from 0 to 100"),
        "LimitRange" | "ResourceQuota" => (
            Verdict::NeedsYou,
            "write the limits into `defaults: { cgroup: … }`",
        ),
        _ => (Verdict::Dropped, "objects of this kind run nothing here"),
    }
}

fn refused(file: &Source, at: usize, message: impl Into<String>) -> Refused {
    Refused {
        file: file.name.clone(),
        at,
        message: message.into(),
    }
}

/// Reads the documents of a file.
fn read(file: &Source, objects: &mut Vec<Object>) -> Result<(), Refused> {
    for (at, document) in documents(&file.text) {
        let node = read_yaml(document).map_err(|fault| {
            let message = format!("{}: {}", fault.message, fault.label);
            refused(file, at + fault.span.start, message)
        })?;
        objects_of(file, at, node, objects)?;
    }
    Ok(())
}

fn objects_of(
    file: &Source,
    at: usize,
    node: Node,
    objects: &mut Vec<Object>,
) -> Result<(), Refused> {
    if matches!(node.value, Value::Null) {
        return Ok(());
    }
    let kind = word(&node, &["kind"]).map(str::to_owned);
    let kind = kind.filter(|_| word(&node, &["apiVersion"]).is_some());
    let Some(kind) = kind else {
        let message = "a document has no `apiVersion` and `kind`: it is no object of Kubernetes";
        return Err(refused(file, at + node.span.start, message));
    };
    if kind == "List" {
        for item in items(&node, &["items"]) {
            if word(item, &["kind"]) == Some("List") {
                let message = "a list is in a list";
                return Err(refused(file, at + item.span.start, message));
            }
            objects_of(file, at, item.clone(), objects)?;
        }
        return Ok(());
    }
    let name = word(&node, &["metadata", "name"])
        .or_else(|| word(&node, &["metadata", "generateName"]))
        .unwrap_or("unnamed")
        .trim_end_matches('-')
        .to_owned();
    objects.push(Object { kind, name, node });
    Ok(())
}

/// Returns each document with the byte at which it begins.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut begin, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        let end = at + line.len();
        let is_mark = line.strip_prefix("---");
        if is_mark.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        {
            found.push((begin, text.get(begin..at).unwrap_or_default()));
            // What is behind the mark in its line belongs to the document.
            begin = at + "---".len();
        }
        at = end;
    }
    found.push((begin, text.get(begin..).unwrap_or_default()));
    found
}

/// Returns the value at a path of keys.
fn at<'n>(node: &'n Node, path: &[&str]) -> Option<&'n Node> {
    let [first, rest @ ..] = path else {
        return Some(node);
    };
    let mut pairs = node.value.pairs();
    let (.., next) = pairs.find(|(key, ..)| key == first)?;
    at(next, rest)
}

fn word<'n>(node: &'n Node, path: &[&str]) -> Option<&'n str> {
    text(at(node, path)?)
}

fn items<'n>(node: &'n Node, path: &[&str]) -> &'n [Node] {
    match at(node, path).map(|node| &node.value) {
        Some(Value::Sequence(items)) => items,
        Some(Value::Null | Value::Scalar { .. } | Value::Mapping(_)) | None => &[],
    }
}

fn is_true(node: &Node) -> bool {
    text(node) == Some("true")
}

/// Puts the outcomes of several parts of one key together: the worst, with all notes.
#[derive(Default)]
struct Parts {
    verdict: Option<Verdict>,
    notes: BTreeSet<String>,
}

impl Parts {
    fn add(&mut self, (verdict, note): (Verdict, String)) {
        self.verdict = self.verdict.max(Some(verdict));
        if !note.is_empty() {
            self.notes.insert(note);
        }
    }

    fn whole(self) -> (Verdict, String) {
        let notes: Vec<String> = self.notes.into_iter().collect();
        (self.verdict.unwrap_or(Verdict::Exact), notes.join("; "))
    }
}
