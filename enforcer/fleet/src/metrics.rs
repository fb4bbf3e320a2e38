//! The metrics of both roles, for Prometheus.

use enforcer_client::Fault;
use enforcer_fleet_core::fleet::{Health, NodeState, Replica, Time};
use enforcer_fleet_core::node::{Run, Seen};
use enforcer_fleet_core::record::Mode;
use enforcer_fleet_core::schedule::Decision;
use enforcer_fleet_core::view::View;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus::{Encoder as _, IntCounter, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// The connections at a time.
const CONNECTIONS: usize = 16;
/// The shortest time between two lines about failures.
const PAUSE: Duration = Duration::from_secs(30);
/// The longest life of a connection.
const LIFETIME: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    failures: IntCounter,
    /// The time of the last failure that was told.
    told: Mutex<Option<Time>>,
    lease_until: IntGauge,
    assigned: IntGauge,
    replicas: IntGaugeVec,
    leads: IntGauge,
    nodes: IntGaugeVec,
    wanted: IntGauge,
    changes: IntCounter,
    waiting: IntGauge,
    mass_loss: IntGauge,
}

fn as_count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Metrics {
    /// # Errors
    /// If two metrics had one name.
    pub fn new() -> Result<Arc<Self>, Fault> {
        let failed = |error: prometheus::Error| Fault::Failed(format!("metrics: {error}"));
        let registry = Registry::new();
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("enforcer_fleet_{name}"), help).map_err(failed)?;
            registry.register(Box::new(gauge.clone())).map_err(failed)?;
            Ok::<_, Fault>(gauge)
        };
        let labelled = |name: &str, help: &str, label: &str| {
            let opts = Opts::new(format!("enforcer_fleet_{name}"), help);
            let gauge = IntGaugeVec::new(opts, &[label]).map_err(failed)?;
            registry.register(Box::new(gauge.clone())).map_err(failed)?;
            Ok::<_, Fault>(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter =
                IntCounter::new(format!("enforcer_fleet_{name}"), help).map_err(failed)?;
            registry
                .register(Box::new(counter.clone()))
                .map_err(failed)?;
            Ok::<_, Fault>(counter)
        };
        Ok(Arc::new(Self {
            failures: counter(
                "etcd_failures_total",
                "Calls to etcd that it refused, or did not answer",
            )?,
            told: Mutex::default(),
            lease_until: gauge(
                "lease_until_seconds",
                "The time until which the node's lease surely lasts",
            )?,
            assigned: gauge("replicas_assigned", "Replicas that this node should run")?,
            replicas: labelled(
                "replicas",
                "Replicas of this node, or for a leading scheduler of the fleet, by health",
                "health",
            )?,
            leads: gauge("leader", "1 if this scheduler leads")?,
            nodes: labelled("nodes", "Nodes of the fleet, by state", "state")?,
            wanted: gauge("replicas_wanted", "Replicas that the fleet should run")?,
            changes: counter("changes_total", "Changes of replicas' places")?,
            waiting: gauge(
                "replicas_waiting",
                "Replicas that are not where they should be",
            )?,
            mass_loss: gauge(
                "mass_loss_nodes",
                "Nodes that are lost at once, so that nothing of them is placed elsewhere",
            )?,
            registry,
        }))
    }

    /// Counts a failure. Returns whether it is worth a line: the first one, and one of many.
    pub fn failed(&self, now: Time) -> bool {
        self.failures.inc();
        let mut told = self.told.lock();
        let is_due = told.is_none_or(|at| now.since(at) >= PAUSE);
        if is_due {
            *told = Some(now);
        }
        is_due
    }

    pub(crate) fn lease_until(&self, until: Time) {
        let seconds = i64::try_from(until.0.as_secs()).unwrap_or(i64::MAX);
        self.lease_until.set(seconds);
    }

    pub(crate) fn wants(&self, run: &Run) {
        let all = run.wanted.values().map(|local| local.replicas.len());
        self.assigned
            .set(as_count(all.sum::<usize>() + run.untouched.len()));
    }

    pub(crate) fn seen(&self, seen: &BTreeMap<Replica, Seen>) {
        self.count_health(seen.values().map(|seen| seen.health));
    }

    fn count_health(&self, all: impl Iterator<Item = Health>) {
        let mut counts = [("ready", 0), ("unready", 0), ("failing", 0), ("unknown", 0)];
        for health in all {
            let place = match health {
                Health::Ready => 0,
                Health::Unready { .. } => 1,
                Health::Failing { .. } => 2,
                Health::Unknown => 3,
            };
            counts[place].1 += 1;
        }
        for (health, count) in counts {
            self.replicas.with_label_values(&[health]).set(count);
        }
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    pub(crate) fn decided(&self, decision: &Decision) {
        let changes = u64::try_from(decision.changes.len());
        self.changes.inc_by(changes.unwrap_or(0));
        self.mass_loss.set(as_count(decision.mass_loss.len()));
    }

    /// Counts the fleet as a leader knows it.
    pub(crate) fn fleet(&self, view: &View, now: Time) {
        let waiting = view.history.values();
        let waiting = waiting.filter(|kept| kept.record.waits.is_some());
        self.waiting.set(as_count(waiting.count()));
        let fleet = view.fleet(now, &[Mode::Enforce], &[Mode::Enforce]);
        let mut counts = [("up", 0), ("draining", 0), ("lost", 0), ("observed", 0)];
        for node in fleet.nodes.values() {
            let place = match node.state {
                NodeState::Up => 0,
                NodeState::Draining => 1,
                NodeState::Lost { .. } => 2,
                NodeState::Observed => 3,
            };
            counts[place].1 += 1;
        }
        for (state, count) in counts {
            self.nodes.with_label_values(&[state]).set(count);
        }
        let wanted = fleet.desired.values().map(|desired| desired.replicas);
        self.wanted.set(wanted.map(i64::from).sum());
        let health = fleet.assigned.keys().map(|replica| fleet.health(replica));
        self.count_health(health);
    }

    fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // A vector takes everything.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

/// Answers scrapes at this address, for as long as the program lives.
///
/// # Errors
/// If the address cannot be used.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> Result<(), Fault> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Fault::Failed(format!("failed to listen at {address}: {error}")))?;
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // One too many is hung up on.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let metrics = Arc::clone(&metrics);
            tokio::spawn(async move {
                let service = service_fn(|request| answer(request, Arc::clone(&metrics)));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = tokio::time::timeout(LIFETIME, connection).await;
                drop(place);
            });
        }
    });
    Ok(())
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    metrics: Arc<Metrics>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, metrics.text()),
        "/health" => (StatusCode::OK, b"ok\n".to_vec()),
        _ => (StatusCode::NOT_FOUND, b"/metrics and /health\n".to_vec()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    Ok(response)
}
