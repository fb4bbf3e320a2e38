//! The live lines of `run`: what was decided at one moment, in one line for each
//! workload.

use crate::sentence;
use crate::store::history::{Batch, History};
use enforcer_model::Record;
use enforcer_model::detail::Detail;
use enforcer_model::health::Health;
use tokio::sync::broadcast::error::RecvError;

/// Prints until the history ends.
pub(super) async fn print(history: &History, color: bool) {
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

/// Prints the events of one moment, in one line for each workload.
fn print_batch(batch: &Batch, color: bool) {
    // An unknown health follows from another event, which says more.
    let is_quiet = |record: &Record| matches!(&record.detail, Detail::Health(change) if change.to == Health::Unknown);
    let records = batch.iter().map(|record| &**record);
    let mut rest: Vec<&Record> = records.filter(|record| !is_quiet(record)).collect();
    while let Some(first) = rest.first() {
        let workload = first.workload.clone();
        let (same, others): (Vec<&Record>, Vec<&Record>) = rest
            .into_iter()
            .partition(|record| record.workload == workload);
        println!("{}", sentence::line(&same, color));
        rest = others;
    }
}
