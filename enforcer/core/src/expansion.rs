//! The workloads that stand for the services a pattern of `attach` has matched.

use crate::WorkloadName;
use crate::spec::{Attach, Manifest};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most services of one pattern.
pub const MOST: usize = 1000;

/// The services that were found for each pattern, by its workload.
pub type Found = BTreeMap<WorkloadName, BTreeSet<Attach>>;

/// Returns the workloads of a manifest that are patterns.
pub fn patterns(manifest: &Manifest) -> impl Iterator<Item = (&WorkloadName, &Attach)> {
    manifest.workloads.iter().filter_map(|(name, spec)| {
        let service = spec.attach.as_ref()?;
        service.is_pattern().then_some((name, service))
    })
}

/// Adds services to those that were found before. One that has ended is looked for, so it is kept. Returns whether there are more now,
/// and the patterns that have too many.
pub fn add(found: &mut Found, more: Found) -> (bool, Vec<WorkloadName>) {
    let (mut has_more, mut too_many) = (false, Vec::new());
    for (name, services) in more {
        let known = found.entry(name.clone()).or_default();
        let before = known.len();
        for service in services {
            if known.len() < MOST {
                known.insert(service);
            } else if !known.contains(&service) {
                too_many.push(name.clone());
                break;
            }
        }
        has_more |= known.len() > before;
    }
    (has_more, too_many)
}

/// Returns the manifest with a workload for each service in place of the patterns, and the services whose workload would have
/// the name of another one. A service that a workload names in full is that one's, and one that several patterns match is the first
/// one's.
#[must_use]
pub fn expand(manifest: &Manifest, found: &Found) -> (Manifest, Vec<(WorkloadName, Attach)>) {
    let mut nameless = Vec::new();
    let is_pattern = |service: &Attach| service.is_pattern();
    let mut expanded = manifest.clone();
    expanded
        .workloads
        .retain(|_, spec| !spec.attach.as_ref().is_some_and(is_pattern));
    let named = expanded.workloads.values();
    let mut taken: BTreeSet<Attach> = named.filter_map(|spec| spec.attach.clone()).collect();
    for (name, pattern) in patterns(manifest) {
        let Some(spec) = manifest.workloads.get(name) else {
            continue;
        };
        for service in found.get(name).into_iter().flatten() {
            let of_service = pattern.matched_name(name, service.parts().1);
            if !taken.insert(service.clone()) {
                continue;
            }
            if expanded.workloads.contains_key(&of_service) {
                nameless.push((of_service, service.clone()));
                continue;
            }
            let mut spec = (**spec).clone();
            spec.attach = Some(service.clone());
            expanded.workloads.insert(of_service, Arc::new(spec));
        }
    }
    (expanded, nameless)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::WorkloadSpec;

    fn name(text: &str) -> WorkloadName {
        WorkloadName::parse(text).expect("a name")
    }

    fn unit(text: &str) -> Attach {
        Attach::Systemd(text.to_owned())
    }

    fn manifest(all: &[(&str, &str)]) -> Manifest {
        let workloads = all.iter().map(|(workload, service)| {
            let spec = WorkloadSpec {
                attach: Some(unit(service)),
                ..WorkloadSpec::default()
            };
            (name(workload), Arc::new(spec))
        });
        Manifest {
            workloads: workloads.collect(),
            ..Manifest::default()
        }
    }

    fn found(all: &[(&str, &[&str])]) -> Found {
        let services = |all: &[&str]| all.iter().map(|text| unit(text)).collect();
        let all = all.iter();
        all.map(|(workload, all)| (name(workload), services(all)))
            .collect()
    }

    fn shown(manifest: &Manifest) -> Vec<String> {
        let all = manifest.workloads.iter();
        let shown = |(name, spec): (&WorkloadName, &Arc<WorkloadSpec>)| {
            let service = spec.attach.as_ref().map(|service| service.parts().1);
            format!("{name} {}", service.unwrap_or_default())
        };
        all.map(shown).collect()
    }

    #[test]
    fn each_service_is_one_workload() {
        let manifest = manifest(&[
            ("any", "*.service"),
            ("shop", "nginx@shop.service"),
            ("web", "nginx@*.service"),
        ]);
        assert_eq!(
            patterns(&manifest)
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>(),
            ["any", "web"]
        );
        let found = found(&[
            ("any", &["cron.service"]),
            (
                "web",
                &["cron.service", "nginx@blue.service", "nginx@shop.service"],
            ),
        ]);
        assert_eq!(
            shown(&expand(&manifest, &found).0),
            [
                "any-cron cron.service",
                "shop nginx@shop.service",
                "web-blue nginx@blue.service"
            ]
        );
        assert_eq!(
            shown(&expand(&manifest, &Found::new()).0),
            ["shop nginx@shop.service"]
        );
    }

    #[test]
    fn a_name_that_another_workload_has_is_reported() {
        let manifest = manifest(&[("web", "nginx@*.service"), ("web-blue", "other.service")]);
        let found = found(&[("web", &["nginx@blue.service"])]);
        let (expanded, nameless) = expand(&manifest, &found);
        assert_eq!(shown(&expanded), ["web-blue other.service"]);
        assert_eq!(nameless, [(name("web-blue"), unit("nginx@blue.service"))]);
    }

    #[test]
    fn what_was_found_stays_and_is_bounded() {
        let mut known = found(&[("web", &["a.service"])]);
        assert_eq!(
            add(&mut known, found(&[("web", &["a.service"])])),
            (false, vec![])
        );
        assert_eq!(
            add(&mut known, found(&[("web", &["b.service"])])),
            (true, vec![])
        );
        assert_eq!(known, found(&[("web", &["a.service", "b.service"])]));
        let many: Vec<String> = (0..2 * MOST)
            .map(|number| format!("u{number}.service"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(
            add(&mut known, found(&[("web", &many)])),
            (true, vec![name("web")])
        );
        assert_eq!(known[&name("web")].len(), MOST);
    }
}
