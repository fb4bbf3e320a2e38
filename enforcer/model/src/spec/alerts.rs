//! The rules of alerts, and the targets that receive them.

pub use crate::level::{Resource, Severity};

use crate::detail::Kind;
use crate::health::Health;
use crate::name::WorkloadName;
use crate::settings::{Setting, displayed, words_are_settings};
use crate::shapes;
use crate::state::WorkloadState;
use crate::units::Percent;
use crate::words::words;
use schemars::JsonSchema;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// The manifest's `alerts` section. Rules and targets have names as workloads do.
#[derive(Clone, Debug, PartialEq, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Alerts {
    /// The time after which a firing alert is sent again, or `off`.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::OrOff<shapes::Time>")]
    pub repeat: Option<Duration>,
    /// The receivers of alerts, by name.
    #[schemars(with = "shapes::Named<shapes::Target>")]
    pub targets: BTreeMap<String, Target>,
    /// The conditions of alerts, by name. Each rule has one condition.
    #[schemars(with = "shapes::Named<Rule>")]
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

#[derive(Clone, Debug, PartialEq, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Rule {
    #[schemars(flatten, with = "shapes::Condition")]
    pub when: When,
    /// The time for which the condition must hold, without a break, before the alert fires, and be
    /// false before it is resolved.
    #[schemars(rename = "for", with = "shapes::Time")]
    pub held: Duration,
    /// The severity that the message has.
    #[schemars(with = "shapes::Severity")]
    pub severity: Severity,
    /// The workloads that the rule is about. The default is all.
    #[schemars(with = "shapes::Texts")]
    pub workloads: Option<BTreeSet<WorkloadName>>,
    /// The names of targets. The default is all.
    #[schemars(with = "shapes::Texts")]
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

displayed!(When);
words_are_settings!(Preset);

/// The key and the value of the manifest.
impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(share) => write!(f, "memory {share}"),
            Self::State(state) => write!(f, "state {state}"),
            Self::Health(health) => write!(f, "health {}", health.as_str()),
            Self::Event(kind) => write!(f, "event {kind}"),
            Self::Host(resource, share) => write!(f, "host {resource} {share}"),
        }
    }
}

words! {
    /// The form of a message that a receiver expects.
    pub enum Preset {
        Slack = "slack",
        Discord = "discord",
        Ntfy = "ntfy",
        PagerDuty = "pagerduty",
    }
}

#[derive(Clone, Debug, PartialEq, Setting)]
#[setting(inherit)]
pub enum Target {
    /// A POST, of JSON unless the preset says otherwise.
    Webhook {
        tls: bool,
        host: String,
        port: u16,
        preset: Option<Preset>,
        /// The key of an integration of PagerDuty.
        #[setting(secret)]
        routing_key: Option<String>,
        /// A PEM file with the certificates that are accepted. The default is what the host trusts.
        ca_file: Option<String>,
        /// The path, with its query.
        #[setting(secret)]
        path: String,
        #[setting(secret)]
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
