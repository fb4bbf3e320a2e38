//! The replicas of a fleet as the host's agent shows them.

use crate::fleet::{Health, Replica, Time, WorkloadName};
use crate::node::Seen;
use crate::record::EndpointRecord;
use crate::store::Revision;
use enforcer_model::WorkloadState;
use enforcer_model::spec::{PortOf, Replicas, WorkloadSpec};
use enforcer_model::views::{ProbeStatus, WorkloadView};
use std::collections::BTreeMap;
use std::time::Duration;

/// The state of one workload of the fleet.
#[derive(Clone, Debug)]
pub struct Look {
    /// All of its replicas have the version that was applied last.
    pub is_current: bool,
    pub replicas: BTreeMap<u32, (WorkloadView, Vec<ProbeStatus>)>,
}

fn time_of(timestamp: jiff::Timestamp) -> Time {
    Time(Duration::try_from(timestamp.as_duration()).unwrap_or_default())
}

/// Returns whether the agent cannot heal it.
fn is_failing(view: &WorkloadView) -> bool {
    match view.state {
        WorkloadState::BreakerOpen | WorkloadState::BackingOff | WorkloadState::Failed => true,
        WorkloadState::Running => view.health == enforcer_model::health::Health::Unhealthy,
        WorkloadState::Pending
        | WorkloadState::Starting
        | WorkloadState::Stopping
        | WorkloadState::Stopped => false,
    }
}

/// Returns what the node writes about a replica.
pub(super) fn seen(
    (view, probes): &(WorkloadView, Vec<ProbeStatus>),
    revision: Revision,
    endpoints: BTreeMap<WorkloadName, EndpointRecord>,
    health: Health,
) -> Seen {
    let answered = probes.iter().filter_map(|probe| probe.last.as_ref());
    Seen {
        health,
        consecutive_failures: (probes.iter())
            .map(|probe| probe.consecutive_failures)
            .max()
            .unwrap_or(0),
        restarts: view.restarts,
        breaker_open: view.state == WorkloadState::BreakerOpen,
        revision,
        endpoints,
        last_check: answered.map(|last| time_of(last.time)).max(),
    }
}

/// Returns the health of a replica. `known` is that of the look before: a failure ends when the replica is ready again.
pub(super) fn health(view: &WorkloadView, known: Option<Health>, now: Time) -> Health {
    let runs = view.state == WorkloadState::Running;
    match known {
        _ if view.ready => Health::Ready,
        Some(failing @ Health::Failing { .. }) => failing,
        _ if is_failing(view) => Health::Failing {
            since: time_of(view.since),
        },
        Some(unready @ Health::Unready { since: Some(_) }) if runs => unready,
        _ => Health::Unready {
            since: runs.then_some(now),
        },
    }
}

/// Returns the services at which a replica answers: the workload's name, or `NAME-PORT` if it has several ports.
pub(super) fn endpoints(
    replica: &Replica,
    spec: &WorkloadSpec,
    address: &str,
) -> BTreeMap<WorkloadName, EndpointRecord> {
    let place = replica.index % u32::from(Replicas::MOST);
    let place = u16::try_from(place).unwrap_or_default();
    let services = spec.ports.iter().filter_map(|(name, port)| {
        let service = match spec.ports.len() {
            1 => replica.workload.clone(),
            _ => WorkloadName::parse(&format!("{}-{name}", replica.workload))?,
        };
        let endpoint = EndpointRecord {
            address: address.to_owned(),
            port: match port.to {
                PortOf::Any => port.port,
                PortOf::Each => port.port.saturating_add(place),
            },
        };
        Some((service, endpoint))
    });
    services.collect()
}
