//! Hands alerts over to whom the manifest names: in order, each at least once, and each
//! target at its own pace. What waits is the history itself: its events of the kind
//! `alert`, from a target's cursor on. Which alerts there are is the core's affair.

mod cursor;

use crate::executor::{Errand, Executor};
use crate::kernel::clock::moment_of;
use crate::kernel::own_process;
use crate::probe;
use crate::store::history::History;
use crate::store::record::{Query, Record};
use cursor::Cursor;
pub(crate) use cursor::last_delivered;
use enforcer_core::event::{COMMAND_LIMIT, Event, Seq};
use enforcer_core::host::HostStood;
use enforcer_core::spec::{Target, WorkloadSpec};
use hyper::body::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;

/// Between two tries: doubled each time, up to the second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Alerts that are read at a time.
const PAGE: usize = 500;
/// For a webhook's answer.
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

/// One target's.
struct Courier {
    name: String,
    target: Target,
    host: String,
    cursor: Cursor,
    executor: Arc<Executor>,
    history: Arc<History>,
}

impl Courier {
    /// From where the one before it was.
    async fn begin(mut self, folder: PathBuf) {
        let name = self.name.clone();
        let read = tokio::task::spawn_blocking(move || Cursor::of(&folder, &name));
        self.cursor = match read.await {
            Ok(Ok(cursor)) => cursor,
            Ok(Err((cursor, why))) => {
                self.executor.send(Event::Degraded {
                    what: format!("alerts to {}", self.name),
                    why: format!("{why}; all that the history holds for it is told again"),
                });
                cursor
            }
            // The agent goes.
            Err(_) => return,
        };
        self.run().await;
    }

    async fn run(mut self) {
        // Before the first look: what comes while it looks is looked for again.
        let (_, mut batches) = self.history.follow();
        loop {
            let Some(waiting) = self.waiting().await else {
                // What can't be read now is not passed over.
                let _ = tokio::time::timeout(LONGEST_PAUSE / 60, pending::<()>()).await;
                continue;
            };
            let none = waiting.is_empty();
            for record in waiting {
                let told = message(&record, &self.host);
                let is_ours = told["to"]
                    .as_array()
                    .is_some_and(|to| to.iter().any(|name| *name == *self.name));
                if is_ours {
                    self.hand_over(told).await;
                }
                self = self.advance(record.seq, is_ours).await;
            }
            if !none {
                // There may be another page.
                continue;
            }
            loop {
                match batches.recv().await {
                    Ok(batch) if batch.iter().all(|record| record.kind != "alert") => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }

    /// A disk may hang, and must take nobody else with it.
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
            kind: Some("alert".to_owned()),
            after: Some(self.cursor.delivered().0),
            first: Some(PAGE),
            ..Query::default()
        };
        let found = tokio::task::spawn_blocking(move || history.page(&query)).await;
        found.ok().flatten()
    }

    /// Tries until it is taken.
    async fn hand_over(&self, mut message: Value) {
        if let Some(message) = message.as_object_mut() {
            message.remove("to");
        }
        let mut pause = FIRST_PAUSE;
        while let Err(why) = self.try_once(&message).await {
            // Once may be bad luck.
            if pause == FIRST_PAUSE * 2 {
                self.executor.send(Event::Degraded {
                    what: format!("alerts to {}", self.name),
                    why: format!("{why}; it is tried again, and the others wait in order"),
                });
            }
            let _ = tokio::time::timeout(pause, pending::<()>()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if pause > FIRST_PAUSE {
            tracing::info!("alerts reach {} again", self.name);
        }
    }

    async fn try_once(&self, message: &Value) -> Result<(), String> {
        match &self.target {
            Target::Webhook {
                host,
                port,
                path,
                headers,
            } => {
                let body = Bytes::from(message.to_string());
                probe::post((host, *port), (path, headers), body, PATIENCE).await
            }
            Target::Command(command) => {
                let errand = Errand {
                    workload: None,
                    what: format!("alert-{}", self.name).into(),
                    spec: Arc::new(WorkloadSpec::default()),
                    command: command.clone(),
                    environment: environment(message),
                    limit: COMMAND_LIMIT,
                };
                match self.executor.run_errand(errand).await {
                    Ok(ran) if ran.succeeded() => Ok(()),
                    Ok(ran) => Err(ran.describe()),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// What a target is told: docs/manifest.md has it as a table.
fn message(record: &Record, host: &str) -> Value {
    let details = serde_json::to_value(&record.details).unwrap_or_default();
    let id = details["id"].as_u64().unwrap_or(record.seq.0);
    json!({
        "schema": 1,
        "id": format!("{host}/{id}"),
        "seq": record.seq,
        "host": host,
        "time": record.time,
        "boot_id": record.boot_id,
        "rule": details["rule"],
        "state": details["state"],
        "repeated": details["repeated"],
        "severity": details["severity"],
        "workload": record.workload,
        "text": details["text"],
        "stood_seconds": details["stood_seconds"],
        "to": details["to"],
    })
}

/// The same for a command, whole and in words that a shell can use.
fn environment(message: &Value) -> Vec<(String, String)> {
    let words = [
        "id", "seq", "host", "rule", "state", "severity", "workload", "text",
    ];
    let each = words.iter().map(|key| {
        let value = match &message[*key] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        (format!("ENFORCER_ALERT_{}", key.to_uppercase()), value)
    });
    let whole = ("ENFORCER_ALERT".to_owned(), message.to_string());
    each.chain([whole]).collect()
}

/// What was told and not told to be over, from the history.
pub(crate) fn standing(history: &History) -> Vec<enforcer_core::alert::Standing> {
    let query = Query {
        kind: Some("alert".to_owned()),
        ..Query::default()
    };
    let mut last = BTreeMap::new();
    for record in history.find(&query) {
        let details = serde_json::to_value(&record.details).unwrap_or_default();
        let Some(rule) = details["rule"].as_str().map(str::to_owned) else {
            continue;
        };
        let key = (rule, record.workload.clone());
        if details["state"] == "firing" {
            last.insert(key, (record, details));
        } else {
            last.remove(&key);
        }
    }
    let standing = last
        .into_iter()
        .map(
            |((rule, workload), (record, details))| enforcer_core::alert::Standing {
                rule,
                workload,
                id: Seq(details["id"].as_u64().unwrap_or(record.seq.0)),
                told: moment_of(record.time),
                stood: Duration::try_from_secs_f64(
                    details["stood_seconds"].as_f64().unwrap_or(0.0),
                )
                .unwrap_or_default(),
                text: details["text"].as_str().unwrap_or_default().to_owned(),
                to: audience(&details),
                severity: serde_json::from_value(details["severity"].clone()).unwrap_or_default(),
            },
        );
    standing.collect()
}

/// Who has heard of an alert; agents of before told it to one audience alone.
fn audience(details: &Value) -> Vec<String> {
    let all = details.get("audience").unwrap_or(&details["to"]);
    serde_json::from_value(all.clone()).unwrap_or_default()
}

/// What was last told of the host's levels.
pub(crate) fn host_stood(history: &History) -> HostStood {
    let query = Query {
        kind: Some("host_pressure".to_owned()),
        last: Some(1000),
        ..Query::default()
    };
    let mut stood = HostStood::default();
    for record in history.of_this_boot(&query) {
        let details = serde_json::to_value(&record.details).unwrap_or_default();
        let level = serde_json::from_value(details["level"].clone());
        let (Ok(level), Some(resource)) = (level, details["resource"].as_str()) else {
            continue;
        };
        match resource {
            "memory" => stood.memory = level,
            "cpu" => stood.cpu = level,
            "disk" => stood.disk = level,
            _ => {}
        }
        if details["done"] == "ran" {
            stood.ran = Some(moment_of(record.time));
        }
    }
    stood
}
