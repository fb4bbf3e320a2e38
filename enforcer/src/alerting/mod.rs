//! Delivers alerts to the targets of the manifest: in order, each at least once, and to each target
//! at its own pace. The queue is the history itself: its events of the kind `alert`, from a
//! target's cursor on. The core decides which alerts there are.

mod cursor;
mod presets;

use crate::executor::{Executor, ShortCommand};
use crate::probe;
use crate::store::history::History;
use crate::store::query::Query;
use crate::tls::Trust;
use cursor::Cursor;
pub(crate) use cursor::last_delivered;
use enforcer_core::alert::Standing;
use enforcer_core::event::{
    AgentEvent, AlertChange, AlertState, COMMAND_LIMIT, Detail, Event, Kind, PressureAnswer, Seq,
};
use enforcer_core::host::HostStood;
use enforcer_core::spec::{Resource, Target, WorkloadSpec};
use enforcer_kernel::clock::moment_of;
use enforcer_kernel::own_process;
use enforcer_model::requests::AlertMessage;
use enforcer_model::{Record, ReplicaId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;

/// The first pause between two tries. Each further one is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Alerts that are read at a time.
const PAGE: usize = 500;
/// The longest wait for a webhook's answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Delivers for as long as the agent lives; `folder` keeps how far each target is.
pub(crate) async fn deliver(executor: Arc<Executor>, history: Arc<History>, folder: PathBuf) {
    let mut alerts = executor.alerts.subscribe();
    let mut couriers: BTreeMap<String, (Target, AbortHandle)> = BTreeMap::new();
    loop {
        let targets = alerts.borrow_and_update().targets.clone();
        couriers.retain(|name, (target, courier)| {
            let stays = targets.get(name) == Some(target);
            if !stays {
                courier.abort();
            }
            stays
        });
        for (name, target) in targets {
            if couriers.contains_key(&name) {
                continue;
            }
            let courier = Courier {
                cursor: Cursor::default(),
                name: name.clone(),
                target: target.clone(),
                host: own_process::host_name(),
                executor: Arc::clone(&executor),
                history: Arc::clone(&history),
            };
            let running = tokio::spawn(courier.begin(folder.clone())).abort_handle();
            couriers.insert(name, (target, running));
        }
        if alerts.changed().await.is_err() {
            return;
        }
    }
}

/// The courier of one target.
struct Courier {
    name: String,
    target: Target,
    host: String,
    cursor: Cursor,
    executor: Arc<Executor>,
    history: Arc<History>,
}

impl Courier {
    /// Begins at the position that the courier before this one reached.
    async fn begin(mut self, folder: PathBuf) {
        let name = self.name.clone();
        let read = tokio::task::spawn_blocking(move || Cursor::of(&folder, &name));
        self.cursor = match read.await {
            Ok(Ok(cursor)) => cursor,
            Ok(Err((cursor, why))) => {
                self.executor.send(Event::Agent(AgentEvent::Degraded {
                    what: format!("alerts to {}", self.name),
                    why: format!("{why}; it gets every alert in the history again"),
                }));
                cursor
            }
            // The agent goes.
            Err(_) => return,
        };
        self.run().await;
    }

    async fn run(mut self) {
        // This comes before the first search, so that an event that comes meanwhile leads to
        // another search.
        let (_, mut batches) = self.history.follow();
        loop {
            let Some(waiting) = self.waiting().await else {
                // An event that cannot be read now is not skipped.
                tokio::time::sleep(LONGEST_PAUSE / 60).await;
                continue;
            };
            let none = waiting.is_empty();
            for record in waiting {
                let is_ours = self.hand_over(&record).await;
                self = self.advance(record.seq, is_ours).await;
            }
            if !none {
                // There may be more events than this search returned.
                continue;
            }
            loop {
                match batches.recv().await {
                    Ok(batch) if !batch.iter().any(|record| is_alert(record)) => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }

    /// Moves the cursor past an event. The file is written on a thread for blocking work: a disk
    /// may hang, and must not delay anything else.
    async fn advance(mut self, seq: Seq, keep: bool) -> Self {
        if !keep {
            self.cursor.advance(seq, false);
            return self;
        }
        let mut cursor = self.cursor.clone();
        let kept = tokio::task::spawn_blocking(move || {
            cursor.advance(seq, true);
            cursor
        });
        match kept.await {
            Ok(cursor) => self.cursor = cursor,
            Err(_) => self.cursor.advance(seq, false),
        }
        self
    }

    async fn waiting(&self) -> Option<Vec<Arc<Record>>> {
        let history = Arc::clone(&self.history);
        let query = Query {
            kind: Some(Kind::Alert.to_string()),
            after: Some(self.cursor.delivered().0),
            first: Some(PAGE),
            ..Query::default()
        };
        let found = tokio::task::spawn_blocking(move || history.page(&query)).await;
        found.ok().flatten()
    }

    /// Sends an alert until the target takes it. Returns false if the alert is not for this
    /// target.
    async fn hand_over(&self, record: &Record) -> bool {
        let Detail::Alert(alert) = &record.detail else {
            return false;
        };
        if !alert.to.contains(&self.name) {
            return false;
        }
        let message = message(record, alert, &self.host);
        let mut pause = FIRST_PAUSE;
        while let Err(why) = self.try_once(&message).await {
            // Once may be bad luck.
            if pause == FIRST_PAUSE * 2 {
                self.executor.send(Event::Agent(AgentEvent::Degraded {
                    what: format!("alerts to {}", self.name),
                    why: format!("{why}; it is tried again, and the others wait in order"),
                }));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if pause > FIRST_PAUSE {
            tracing::info!("alerts reach {} again", self.name);
        }
        true
    }

    async fn try_once(&self, message: &AlertMessage) -> Result<(), String> {
        match &self.target {
            Target::Webhook {
                tls,
                host,
                port,
                preset,
                routing_key,
                ca_file,
                path,
                headers,
            } => {
                let target = match tls {
                    true => probe::Target::Tls {
                        host,
                        pass: probe::Pass::default(),
                        port: *port,
                        name: host,
                        trust: ca_file.clone().map_or(Trust::Host, Trust::File),
                    },
                    false => probe::Target::Tcp {
                        host,
                        port: *port,
                        pass: probe::Pass::default(),
                    },
                };
                let letter = presets::letter(*preset, message, routing_key.as_deref());
                let mut all = headers.clone();
                for (name, value) in letter.headers {
                    if !all.keys().any(|given| given.eq_ignore_ascii_case(&name)) {
                        all.insert(name, value);
                    }
                }
                probe::post(&target, (path, &all), letter.body, PATIENCE).await
            }
            Target::Command(command) => {
                let command = ShortCommand {
                    workload: None,
                    what: format!("alert-{}", self.name).into(),
                    spec: Arc::new(WorkloadSpec::default()),
                    command: command.clone(),
                    environment: environment(message),
                    limit: COMMAND_LIMIT,
                };
                match self.executor.run_command(command).await {
                    Ok(ran) if ran.succeeded() => Ok(()),
                    Ok(ran) => Err(ran.describe()),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

fn is_alert(record: &Record) -> bool {
    record.detail.known_kind() == Some(Kind::Alert)
}

fn message(record: &Record, alert: &AlertChange, host: &str) -> AlertMessage {
    AlertMessage {
        schema: 1,
        id: format!("{host}/{}", alert.id.0),
        seq: record.seq,
        host: host.to_owned(),
        time: record.time,
        boot_id: Arc::clone(&record.boot_id),
        rule: alert.rule.clone(),
        state: alert.state,
        repeated: alert.repeated,
        severity: alert.severity,
        workload: record.workload.clone(),
        text: alert.text.clone(),
        stood: alert.stood,
    }
}

fn as_json(message: &AlertMessage) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

/// Returns the message as a command gets it: whole, and the words that a shell can use.
fn environment(message: &AlertMessage) -> Vec<(String, String)> {
    let workload = message.workload.as_ref().map(ReplicaId::to_string);
    let words = [
        ("ID", message.id.clone()),
        ("SEQ", message.seq.0.to_string()),
        ("HOST", message.host.clone()),
        ("RULE", message.rule.clone()),
        ("STATE", message.state.to_string()),
        ("SEVERITY", message.severity.to_string()),
        ("WORKLOAD", workload.unwrap_or_default()),
        ("TEXT", message.text.clone()),
    ];
    let words = words.map(|(key, value)| (format!("ENFORCER_ALERT_{key}"), value));
    let whole = ("ENFORCER_ALERT".to_owned(), as_json(message));
    words.into_iter().chain([whole]).collect()
}

/// Returns the alerts of the history that have not ended.
pub(crate) fn standing(history: &History) -> Vec<Standing> {
    let query = Query {
        kind: Some(Kind::Alert.to_string()),
        ..Query::default()
    };
    let mut standing = BTreeMap::new();
    for record in history.find(&query) {
        let Detail::Alert(alert) = &record.detail else {
            continue;
        };
        let key = (alert.rule.clone(), record.workload.clone());
        match alert.state {
            AlertState::Firing => {
                let found = Standing {
                    rule: alert.rule.clone(),
                    workload: record.workload.clone(),
                    id: alert.id,
                    reported: moment_of(record.time),
                    stood: alert.stood,
                    text: alert.text.clone(),
                    to: alert.audience.clone(),
                    severity: alert.severity,
                };
                standing.insert(key, found);
            }
            AlertState::Resolved => drop(standing.remove(&key)),
        }
    }
    standing.into_values().collect()
}

/// Returns the host's levels as the history last reported them in this boot.
pub(crate) fn host_stood(history: &History) -> HostStood {
    let query = Query {
        kind: Some(Kind::HostPressure.to_string()),
        last: Some(1000),
        ..Query::default()
    };
    let mut stood = HostStood::default();
    for record in history.of_this_boot(&query) {
        let Detail::HostPressure(pressure) = &record.detail else {
            continue;
        };
        match pressure.resource {
            Resource::Memory => stood.memory = pressure.level,
            Resource::Cpu => stood.cpu = pressure.level,
            Resource::Disk => stood.disk = pressure.level,
        }
        if pressure.done == PressureAnswer::Ran {
            stood.ran = Some(moment_of(record.time));
        }
    }
    stood
}
