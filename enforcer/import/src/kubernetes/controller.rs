//! Pods, and what makes pods of a template.

use super::container::{self, Context};
use super::variables::{Pod, Values};
use super::{Import, Object, Options, at, is_true, items, pod, word};
use crate::outcome::{Outcome, dropped, exact, near, needs_you, unread};
use crate::output::Yaml;
use crate::values::{text, workload_name};
use enforcer_manifest::Node;
use std::collections::BTreeMap;

/// Reads an object that has pods.
pub(super) fn read(import: &mut Import, object: &Object, values: &Values, options: &Options) {
    let Some(template) = pod::template(&object.kind, &object.node) else {
        import.line(
            &object.place(),
            "",
            needs_you("it has no pod with a `spec`"),
        );
        return;
    };
    let Some(spec) = at(template, &["spec"]) else {
        return;
    };
    let is_pod = object.kind == "Pod";
    let place = match is_pod {
        true => format!("{}.spec", object.place()),
        false => format!("{}.spec.template.spec", object.place()),
    };
    import.line(&object.place(), "apiVersion", exact(""));
    import.line(&object.place(), "kind", exact(""));
    metadata(
        import,
        &format!("{}.metadata", object.place()),
        &object.node,
    );
    if !is_pod {
        metadata(
            import,
            &format!("{}.spec.template.metadata", object.place()),
            template,
        );
        for (key, ..) in template.value.pairs() {
            if !matches!(key, "metadata" | "spec") {
                let key = format!("spec.template.{key}");
                import.line(&object.place(), &key, dropped("the key is not known"));
            }
        }
    }
    for (key, ..) in object.node.value.pairs() {
        if !matches!(key, "apiVersion" | "kind" | "metadata" | "spec") {
            import.line(&object.place(), key, near("it says how things stand"));
        }
    }
    let mut shared = pod::read(import, (&place, &object.name), spec);
    for claim in items(&object.node, &["spec", "volumeClaimTemplates"]) {
        let claim = word(claim, &["metadata", "name"]).unwrap_or_default();
        let folder = format!("{}-{}", workload_name(&object.name), workload_name(claim));
        shared
            .volumes
            .insert(claim.to_owned(), pod::Volume::State(folder));
    }
    let before = import.workloads.len();
    let mut rest = BTreeMap::new();
    if !is_pod {
        rest = settings(import, object);
    }
    if object.kind == "Job" && shared.restart.is_none() {
        shared.restart = Some("OnFailure".to_owned());
    }
    let name = workload_name(&object.name);
    let pod = Pod {
        name: match has_several(object) {
            true => format!("{name}-{{replica}}"),
            false => name,
        },
        object: &object.node,
        template,
    };
    let (main, init) = (
        items(spec, &["containers"]),
        items(spec, &["initContainers"]),
    );
    let context = Context {
        place: &place,
        shared: &shared,
        pod: &pod,
        values,
        options,
        is_alone: main.len() == 1,
    };
    if main.is_empty() {
        import.line(&place, "containers", needs_you("it has none"));
    }
    // The name of the pod is that of its one container; those before it have theirs too.
    let apart = Context {
        is_alone: false,
        ..context
    };
    for node in init {
        let name = word(node, &["name"]).unwrap_or("init");
        container::read(import, &apart, node, (name, true));
    }
    for node in main {
        let name = word(node, &["name"]).unwrap_or("main");
        container::read(import, &context, node, (name, false));
    }
    finish(import, before, &object.kind, &rest);
}

/// Returns whether an object has more than one pod.
fn has_several(object: &Object) -> bool {
    let count = word(&object.node, &["spec", "replicas"]);
    let count = count.and_then(|count| count.parse::<u16>().ok());
    count.is_some_and(|count| count > 1)
}

fn metadata(import: &mut Import, place: &str, node: &Node) {
    let keys = at(node, &["metadata"]).into_iter();
    for (key, ..) in keys.flat_map(|keys| keys.value.pairs()) {
        let outcome = match key {
            "name" | "generateName" => exact(""),
            "labels" => exact("they say which pods belong to a Service"),
            "annotations" => near("nothing here reads them"),
            "namespace" => near("a host has one"),
            _ => near("it says how things stand"),
        };
        import.line(place, key, outcome);
    }
}

/// Reads the keys of a controller beside its template. Returns what goes into each workload.
fn settings(import: &mut Import, object: &Object) -> BTreeMap<&'static str, Yaml> {
    let mut settings = BTreeMap::new();
    let keys = at(&object.node, &["spec"]).into_iter();
    let keys = keys.flat_map(|keys| keys.value.pairs());
    // The strategy may name a share of the replicas.
    let (first, rest): (Vec<_>, Vec<_>) = keys.partition(|(key, ..)| *key == "replicas");
    for (key, _, value) in first.into_iter().chain(rest) {
        let number = text(value).and_then(|text| text.parse::<u64>().ok());
        let place = format!("{}.spec", object.place());
        let outcome = match key {
            "template" => continue,
            "strategy" | "updateStrategy" => {
                strategy(import, (&place, key), value, &mut settings);
                continue;
            }
            "selector" => exact(""),
            "replicas" => match number {
                Some(1) => exact(""),
                Some(count @ 2..=14) => {
                    settings.insert("replicas", Yaml::word(count));
                    exact("")
                }
                Some(0) => needs_you("stop it by `enforcer stop`: a manifest starts what it names"),
                _ => needs_you("expected from 1 to 14 replicas"),
            },
            "minReadySeconds" => time(&mut settings, "min_ready", number),
            "progressDeadlineSeconds" => time(&mut settings, "deadline", number),
            "revisionHistoryLimit" => near("the version before is kept"),
            "paused" if is_true(value) => needs_you("`enforcer rollout pause NAME`"),
            "paused" | "suspend" if !is_true(value) => exact(""),
            "serviceName" => near("names are the host's"),
            "podManagementPolicy" => near("replicas start at once, and are replaced one by one"),
            "ordinals" => needs_you("replicas are numbered from 0"),
            "persistentVolumeClaimRetentionPolicy" => near("nothing removes their folders"),
            "volumeClaimTemplates" => match has_several(object) {
                false => near("each is a folder below /var/lib, without a size of its own"),
                true => needs_you(
                    "replicas share one folder below /var/lib: have each use one of its own, by `{replica}`",
                ),
            },
            "backoffLimit" => match number {
                Some(limit) => {
                    settings.insert("backoff", Yaml::word(limit));
                    near("restarts in 24 h; then the breaker opens, and tries again later")
                }
                None => unread(),
            },
            "completions" | "parallelism" if number == Some(1) => exact(""),
            "completions" | "parallelism" | "completionMode" => {
                needs_you("a job runs once: write a workload for each")
            }
            "activeDeadlineSeconds" => needs_you("run the command under timeout(1)"),
            "ttlSecondsAfterFinished" => near("it is kept until the manifest names it no more"),
            "suspend" => needs_you("`enforcer stop NAME`"),
            "podFailurePolicy"
            | "backoffLimitPerIndex"
            | "maxFailedIndexes"
            | "successPolicy"
            | "podReplacementPolicy"
            | "manualSelector"
            | "managedBy" => dropped("`recovery` decides what follows an end"),
            _ => dropped("the key is not known"),
        };
        import.line(&place, key, outcome);
    }
    settings
}

fn time(
    settings: &mut BTreeMap<&'static str, Yaml>,
    key: &'static str,
    seconds: Option<u64>,
) -> Outcome {
    match seconds {
        Some(seconds) => {
            settings.insert(key, Yaml::word(format!("{seconds}s")));
            exact("")
        }
        None => unread(),
    }
}

fn strategy(
    import: &mut Import,
    (place, name): (&str, &str),
    node: &Node,
    settings: &mut BTreeMap<&'static str, Yaml>,
) {
    let replicas = settings.get("replicas").cloned();
    for (key, _, value) in node.value.pairs() {
        let word = text(value).unwrap_or_default();
        let outcome = match (key, word) {
            ("type", "RollingUpdate") => exact(""),
            ("type", "Recreate") => {
                settings.insert("max_surge", Yaml::word(0));
                settings.insert("max_unavailable", replicas.clone().unwrap_or(Yaml::word(1)));
                exact("all are replaced at once")
            }
            ("type", "OnDelete") => needs_you("`enforcer rollout pause NAME` before an apply"),
            ("rollingUpdate", _) => {
                for (key, _, value) in value.value.pairs() {
                    let word = text(value).unwrap_or_default();
                    let to = match key {
                        "maxSurge" => "max_surge",
                        "maxUnavailable" => "max_unavailable",
                        _ => {
                            let key = format!("{name}.rollingUpdate.{key}");
                            import.line(place, &key, dropped("the key is not known"));
                            continue;
                        }
                    };
                    let outcome = bound(settings, to, word, replicas.as_ref());
                    import.line(place, &format!("{name}.rollingUpdate.{key}"), outcome);
                }
                continue;
            }
            _ => unread(),
        };
        import.line(place, &format!("{name}.{key}"), outcome);
    }
}

/// A number of replicas, or a share of them: Kubernetes rounds a surge up, and what is missing down.
fn bound(
    settings: &mut BTreeMap<&'static str, Yaml>,
    to: &'static str,
    word: &str,
    replicas: Option<&Yaml>,
) -> Outcome {
    let replicas = match replicas {
        Some(Yaml::Word(count)) => count.parse::<u64>().unwrap_or(1),
        Some(Yaml::Text(_) | Yaml::List(_) | Yaml::Map(_)) | None => 1,
    };
    let number = match word.strip_suffix('%') {
        None => word.parse::<u64>().ok(),
        Some(share) => {
            let share = share.parse::<u64>().ok().filter(|share| *share <= 100);
            share.map(|share| match to {
                "max_surge" => (share * replicas).div_ceil(100),
                _ => share * replicas / 100,
            })
        }
    };
    let Some(number) = number else {
        return unread();
    };
    // There may be 15 replicas, with those that a rollout adds.
    let most = match to {
        "max_surge" => 15_u64.saturating_sub(replicas),
        _ => 14,
    };
    let number = number.min(most);
    settings.insert(to, Yaml::word(number));
    match word == number.to_string() {
        true => exact(""),
        false => near(format!("{word} → {number}")),
    }
}

/// Puts the controller's settings into the workloads of its containers, and has them wait for those before
/// them.
fn finish(import: &mut Import, before: usize, kind: &str, settings: &BTreeMap<&'static str, Yaml>) {
    let workloads = import.workloads.get_mut(before..).unwrap_or_default();
    let mut earlier: Option<String> = None;
    for workload in workloads.iter_mut().filter(|one| one.is_init) {
        if let Some(earlier) = earlier.replace(workload.name.clone()) {
            workload
                .draft
                .put(&["needs", &earlier], Yaml::word("completed"));
        }
    }
    for workload in workloads.iter_mut().filter(|one| !one.is_init) {
        if let Some(earlier) = &earlier {
            workload
                .draft
                .put(&["needs", earlier], Yaml::word("completed"));
        }
        if let Some(count) = settings.get("replicas") {
            workload.draft.put(&["replicas"], count.clone());
            for key in ["max_surge", "max_unavailable", "min_ready", "deadline"] {
                if let Some(value) = settings.get(key) {
                    workload.draft.put(&["rollout", key], value.clone());
                }
            }
        }
        if kind == "Job" {
            job(&mut workload.draft, settings.get("backoff"));
        }
    }
}

/// A job is tried again as often as its `backoffLimit` says, whatever the policy of its pods.
fn job(draft: &mut Yaml, limit: Option<&Yaml>) {
    let limit = limit.cloned().unwrap_or(Yaml::word(6));
    if limit == Yaml::word(0) {
        draft.put(&["recovery", "restart"], Yaml::word("never"));
        return;
    }
    draft.put(&["recovery", "restart"], Yaml::word("on-failure"));
    draft.put(&["recovery", "budget", "restarts"], limit);
    draft.put(&["recovery", "budget", "within"], Yaml::word("24h"));
}

/// Reads an object that scales another one.
pub(super) fn scaling(import: &mut Import, object: &Object) {
    let spec = ["spec"];
    let kind = word(&object.node, &["spec", "scaleTargetRef", "kind"]).unwrap_or_default();
    let name = word(&object.node, &["spec", "scaleTargetRef", "name"]).unwrap_or_default();
    let owner = format!("{kind}/{name}");
    let mut bounds = Yaml::map();
    bounds.put(&["min"], Yaml::word(1));
    let mut has_target = false;
    let keys = at(&object.node, &spec).into_iter();
    for (key, _, value) in keys.flat_map(|keys| keys.value.pairs()) {
        let number = text(value).and_then(|text| text.parse::<u64>().ok());
        let outcome = match key {
            "scaleTargetRef" => match import.workloads.iter().any(|one| one.owner == owner) {
                true => exact(""),
                false => needs_you(format!("{owner} is not in the files")),
            },
            "minReplicas" | "maxReplicas" => match number {
                Some(count @ 1..=14) => {
                    let key = if key == "minReplicas" { "min" } else { "max" };
                    bounds.put(&[key], Yaml::word(count));
                    exact("")
                }
                _ => needs_you("expected from 1 to 14 replicas"),
            },
            "targetCPUUtilizationPercentage" => {
                has_target |= number.is_some();
                share(&mut bounds, "cpu", number)
            }
            "metrics" => {
                let mut parts = super::Parts::default();
                for metric in items(value, &[]) {
                    let name = word(metric, &["resource", "name"]);
                    let number = word(metric, &["resource", "target", "averageUtilization"]);
                    let number = number.and_then(|text| text.parse::<u64>().ok());
                    parts.add(match name {
                        Some("cpu") => share(&mut bounds, "cpu", number),
                        Some("memory") => share(&mut bounds, "memory", number),
                        _ => needs_you("replicas follow `cpu` or `memory` alone"),
                    });
                    has_target |= name.is_some() && number.is_some();
                }
                parts.whole()
            }
            "behavior" => near("more are added at once, and fewer are wanted after five minutes"),
            _ => dropped("the key is not known"),
        };
        import.line(&object.place(), &format!("spec.{key}"), outcome);
    }
    if !has_target || bounds.get(&["max"]).is_none() {
        import.line(
            &object.place(),
            "",
            needs_you("write `replicas: { min, max, cpu }`"),
        );
        return;
    }
    for workload in &mut import.workloads {
        if workload.owner == owner && !workload.is_init {
            workload.draft.put(&["replicas"], bounds.clone());
        }
    }
}

fn share(bounds: &mut Yaml, key: &str, number: Option<u64>) -> Outcome {
    match number {
        Some(share @ 1..=100) => {
            bounds.put(&[key], Yaml::word(format!("{share}%")));
            near("a share of the limit, where Kubernetes takes the request")
        }
        _ => needs_you("expected a share from 1 to 100"),
    }
}
