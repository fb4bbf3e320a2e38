//! Judges the workloads of a fleet for a host: by its rules, the names that it has already, and what its agent has refused.

use super::{MARGIN, file};
use crate::fleet::WorkloadName;
use crate::node::{Asked, Local, Rules};
use crate::store::Revision;
use enforcer_manifest::Allowed;
use enforcer_model::spec::WorkloadSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

type Verdict = Result<Arc<WorkloadSpec>, String>;

#[derive(Debug)]
pub struct Judge {
    rules: Allowed,
    /// The time to live of the node's lease.
    grace: Duration,
    /// The verdict on each version.
    known: BTreeMap<WorkloadName, (Revision, Verdict)>,
    taken: BTreeSet<WorkloadName>,
    by_agent: BTreeMap<WorkloadName, (Revision, String)>,
}

impl Judge {
    #[must_use]
    pub fn new(rules: Allowed, grace: Duration) -> Self {
        Self {
            rules,
            grace,
            known: BTreeMap::new(),
            taken: BTreeSet::new(),
            by_agent: BTreeMap::new(),
        }
    }

    /// Takes the names of the host's own workloads.
    pub fn take(&mut self, names: BTreeSet<WorkloadName>) {
        self.taken = names;
    }

    /// Takes what the agent has refused.
    pub fn refuse(&mut self, refused: BTreeMap<WorkloadName, (Revision, String)>) {
        self.by_agent = refused;
    }

    fn verdict(&mut self, name: &WorkloadName, asked: &Asked<'_>) -> Verdict {
        if let Some((of, verdict)) = self.known.get(name)
            && *of == asked.revision
        {
            return verdict.clone();
        }
        let local = Local {
            revision: asked.revision,
            workload: asked.desired.workload.clone(),
            singleton: asked.desired.scheduling.singleton,
            replicas: [(0, asked.revision)].into(),
        };
        let verdict = file::spec_of(name, &local).and_then(|spec| {
            self.rules.check(name, &spec)?;
            match local.singleton {
                true => self.check_grace(&spec).map(|()| spec),
                false => Ok(spec),
            }
        });
        self.known
            .insert(name.clone(), (asked.revision, verdict.clone()));
        verdict
    }

    /// A singleton needs a lease that outlasts a renewal that fails, and its own end.
    fn check_grace(&self, spec: &WorkloadSpec) -> Result<(), String> {
        let needed = (spec.stop.grace + MARGIN + MARGIN) * 3 / 2;
        match needed <= self.grace {
            true => Ok(()),
            false => Err(format!(
                "a singleton with `stop: {{ grace: {} s }}` needs a lease of {} s, and `grace` is {} s",
                spec.stop.grace.as_secs(),
                needed.as_secs(),
                self.grace.as_secs()
            )),
        }
    }
}

impl Rules for Judge {
    fn refused(
        &mut self,
        asked: &BTreeMap<&WorkloadName, Asked<'_>>,
    ) -> BTreeMap<WorkloadName, String> {
        self.known.retain(|name, _| asked.contains_key(name));
        let mut refused = BTreeMap::new();
        let mut together = self.rules.together();
        for (&name, asked) in asked {
            let by_agent = self.by_agent.get(name);
            let by_agent = by_agent.filter(|(of, _)| *of == asked.revision);
            if let Some((_, why)) = by_agent {
                refused.insert(name.clone(), why.clone());
                continue;
            }
            if self.taken.contains(name) {
                let why = "the host has a workload of this name".to_owned();
                refused.insert(name.clone(), why);
                continue;
            }
            let spec = match self.verdict(name, asked) {
                Ok(spec) => spec,
                Err(why) => {
                    refused.insert(name.clone(), why);
                    continue;
                }
            };
            if let Err(why) = together.add(&spec, asked.replicas) {
                refused.insert(name.clone(), why);
            }
        }
        refused
    }
}
