//! Runs a scheduler. Of several, one leads.

use crate::drive::Driver;
use crate::etcd::Client;
use crate::metrics::Metrics;
use enforcer_client::Fault;
use enforcer_fleet_core::scheduler::{News, Scheduler};
use enforcer_fleet_core::{Settings, Time};
use enforcer_manifest::EtcdConfig;
use std::sync::Arc;
use std::time::Duration;

/// The shortest time between two counts of a fleet that changes.
const COUNT: Duration = Duration::from_secs(1);
/// The shortest time between two counts of a fleet in which nothing happens that matters to a decision.
const RECOUNT: Duration = Duration::from_secs(15);
/// The time that a scheduler has to give up its place.
const RESIGN: Duration = Duration::from_secs(2);

/// Runs until it is told to end.
///
/// # Errors
/// If signals cannot be waited for.
pub async fn run(etcd: EtcdConfig, client: Client, metrics: Arc<Metrics>) -> Result<(), Fault> {
    let settings = Settings {
        grace: etcd.grace,
        ..Settings::default()
    };
    let scheduler = Scheduler::new(etcd.prefix, settings);
    let client = Arc::new(client);
    let mut driver = Driver::new(scheduler, Arc::clone(&client));
    let mut ends = crate::Ends::new()?;
    let (mut counted, mut known) = (Time::default(), 0);
    loop {
        let now = driver.clock().now();
        let changes = driver.machine().changes();
        let pause = match changes == known {
            true => RECOUNT,
            false => COUNT,
        };
        if now.since(counted) >= pause
            && let Some(view) = driver.machine().view()
        {
            metrics.fleet(view, now);
            (counted, known) = (now, changes);
        }
        let news = tokio::select! {
            news = driver.next() => news,
            () = ends.wait() => {
                if let Some(request) = driver.machine().resign() {
                    // Without an answer another one leads when this lease has ended.
                    let _ = tokio::time::timeout(RESIGN, client.call(&request)).await;
                }
                return Ok(());
            }
        };
        for one in news {
            match one {
                News::Leads => {
                    metrics.leads(true);
                    eprintln!("leads the fleet");
                }
                News::Follows => {
                    metrics.leads(false);
                    eprintln!("another scheduler leads");
                }
                News::Failed(error) => {
                    if metrics.failed(now) {
                        eprintln!("{error}");
                    }
                }
                News::Unreadable(key, error) => {
                    eprintln!("{key}: {error}; it and what it is about stay as they are");
                }
                News::Decided(decision) => {
                    metrics.decided(&decision);
                    for change in &decision.changes {
                        eprintln!(
                            "{}: {}",
                            change.replica,
                            enforcer_fleet_core::report::told(change)
                        );
                    }
                    if !decision.mass_loss.is_empty() {
                        let nodes: Vec<String> =
                            decision.mass_loss.iter().map(ToString::to_string).collect();
                        eprintln!(
                            "lost at once: {}; nothing of them is placed elsewhere until they are back, or removed",
                            nodes.join(", ")
                        );
                    }
                }
            }
        }
    }
}
