//! The rules of alerts, and the targets that receive them.

pub use crate::level::{Resource, Severity};

use crate::detail::Kind;
use crate::health::Health;
use crate::name::WorkloadName;
use crate::state::WorkloadState;
use crate::units::Percent;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The manifest's `alerts` section. Rules and targets have names as workloads do.
#[derive(Clone, Debug, PartialEq)]
pub struct Alerts {
    /// The time after which a firing alert is sent again; `None` for never.
    pub repeat: Option<Duration>,
    pub targets: BTreeMap<String, Target>,
    pub rules: BTreeMap<String, Rule>,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            repeat: Some(Duration::from_secs(4 * 60 * 60)),
            targets: BTreeMap::new(),
            rules: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub when: When,
    /// The time for which the condition must hold, without a break, before the alert fires, and be
    /// false before it is resolved.
    pub held: Duration,
    pub severity: Severity,
    /// `None` for all.
    pub workloads: Option<BTreeSet<WorkloadName>>,
    /// Names of targets; `None` for all.
    pub to: Option<BTreeSet<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The working set, as a share of `memory.max`.
    Memory(Percent),
    State(WorkloadState),
    Health(Health),
    /// A kind of event.
    Event(Kind),
    Host(Resource, Percent),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A POST of JSON, without TLS.
    Webhook {
        host: String,
        port: u16,
        /// The path, with its query.
        path: String,
        headers: BTreeMap<String, String>,
    },
    /// Run as the agent itself, with the alert in its environment.
    Command(Vec<String>),
}

impl Alerts {
    /// Returns the lowest share of this workload's `memory.max` that a rule watches.
    #[must_use]
    pub fn least_memory(&self, workload: &WorkloadName) -> Option<Percent> {
        let about = |rule: &&Rule| {
            let named = rule.workloads.as_ref();
            named.is_none_or(|named| named.contains(workload))
        };
        let rules = self.rules.values().filter(about);
        let shares = rules.filter_map(|rule| match rule.when {
            When::Memory(share) => Some(share),
            When::State(_) | When::Health(_) | When::Event(_) | When::Host(..) => None,
        });
        shares.min()
    }

    /// Returns whether a rule watches this resource of the host.
    #[must_use]
    pub fn watches(&self, resource: Resource) -> bool {
        let mut rules = self.rules.values();
        rules.any(|rule| matches!(rule.when, When::Host(of, _) if of == resource))
    }
}
