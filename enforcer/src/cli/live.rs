//! The live lines of `run`: what was decided at one moment, in one line for each
//! workload.

use super::sentence;
use crate::store::history::{Batch, History};
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;

/// Prints until the history ends.
pub(crate) async fn print(history: &History, color: bool) {
    let (_, mut batches) = history.follow();
    loop {
        match batches.recv().await {
            Ok(batch) => print_batch(&batch, color),
            Err(RecvError::Lagged(missed)) => {
                println!("({missed} lines were not shown; see `enforcer events`)")
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// What happened to one workload at one moment reads as one sentence.
fn print_batch(batch: &Batch, color: bool) {
    // That nothing is known any more says nothing beside whatever made it so.
    let quiet = |event: &Value| event["kind"] == "health" && event["details"]["to"] == "unknown";
    let mut rest: Vec<Value> = batch
        .iter()
        .filter_map(|record| serde_json::to_value(record).ok())
        .filter(|event| !quiet(event))
        .collect();
    while let Some(first) = rest.first() {
        let workload = first["workload"].clone();
        let (same, others) = rest
            .into_iter()
            .partition(|event| event["workload"] == workload);
        let same: Vec<Value> = same;
        println!("{}", sentence::line(&same, color));
        rest = others;
    }
}
