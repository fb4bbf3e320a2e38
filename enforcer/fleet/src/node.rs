//! Runs the node of this host: etcd at one side, the agent at the other.

use crate::agent::Agent;
use crate::config;
use crate::drive::{Clock, Driver, ForHost};
use crate::etcd::Client;
use crate::metrics::Metrics;
use enforcer_client::Fault;
use enforcer_fleet_core::host::{Host, Input, Judge, Output};
use enforcer_fleet_core::node::Node;
use enforcer_fleet_core::record::{Mode, NodeRecord, Pressure};
use enforcer_manifest::FleetConfig;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

struct Running {
    driver: Driver<Node<Judge>>,
    host: Host,
    agent: Agent,
    clock: Clock,
    jobs: JoinSet<Input>,
    metrics: Arc<Metrics>,
    /// The agent's version and the host's pressure, as they were at the last look.
    described: Arc<Mutex<Described>>,
}

type Described = (Option<String>, Option<Pressure>);

/// Runs until it is told to end. What the host runs goes on.
///
/// # Errors
/// If the settings make no sense.
pub async fn run(
    config: FleetConfig,
    client: Client,
    agent: Agent,
    metrics: Arc<Metrics>,
) -> Result<(), Fault> {
    let id = config::node_id(&config.node)?;
    let about = NodeRecord {
        capacity: config::capacity(&config),
        labels: config.node.labels.clone(),
        mode: match config.node.is_observed {
            true => Mode::Observe,
            false => Mode::Enforce,
        },
        fleet_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..NodeRecord::default()
    };
    let address = config::address(&config);
    eprintln!(
        "node {id} at {address}, lease {} s",
        config.etcd.grace.as_secs()
    );
    let judge = Judge::new(config.allow, config.etcd.grace);
    let node = Node::new(config.etcd.prefix, id, config.etcd.grace, about, judge);
    let driver = Driver::new(node, Arc::new(client));
    let (send, mut changed) = mpsc::channel(1);
    agent.follow(send);
    let mut running = Running {
        clock: driver.clock(),
        driver,
        host: Host::new(address, config.node.is_observed),
        described: Arc::default(),
        agent,
        jobs: JoinSet::new(),
        metrics,
    };
    running.take(Input::Woken);
    let mut ends = crate::Ends::new()?;
    loop {
        let wake = running.host.wake();
        let wait = wake.map(|at| at.since(running.clock.now()));
        let alarm = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = running.driver.next() => {
                for one in news {
                    running.heard(one);
                }
            }
            Some(()) = changed.recv() => running.take(Input::Changed),
            Some(done) = running.jobs.join_next() => match done {
                Ok(input) => {
                    let (version, pressure) = running.described.lock().clone();
                    running.driver.machine().describe(version, pressure);
                    running.take(input);
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            () = alarm => running.take(Input::Woken),
            () = ends.wait() => return Ok(()),
        }
    }
}

impl Running {
    fn heard(&mut self, news: ForHost) {
        match news {
            ForHost::Run(run) => {
                self.metrics.wants(&run);
                self.take(Input::Run(run));
            }
            ForHost::LeaseUntil(until) => {
                self.metrics.lease_until(until);
                self.take(Input::LeaseUntil(until));
            }
            ForHost::Failed(error) => {
                if self.metrics.failed(self.clock.now()) {
                    eprintln!("{error}");
                }
            }
        }
    }

    /// Has the machine of the host decide, and begins what it asks for.
    fn take(&mut self, input: Input) {
        for output in self.host.handle(self.clock.now(), input) {
            let agent = self.agent.clone();
            match output {
                Output::Read => {
                    self.jobs.spawn_blocking(move || Input::Read(agent.read()));
                }
                Output::Look(names) => {
                    let described = Arc::clone(&self.described);
                    self.jobs.spawn_blocking(move || {
                        *described.lock() = agent.describe();
                        Input::Looked(agent.look(&names))
                    });
                }
                Output::Apply(text) => {
                    self.jobs
                        .spawn_blocking(move || Input::Applied(agent.apply(text)));
                }
                Output::Plan(name, text) => {
                    self.jobs
                        .spawn_blocking(move || Input::Planned(name, agent.plan(text)));
                }
                Output::Deadline(name, at) => {
                    let boot = self.clock.boot_of(at);
                    self.jobs.spawn_blocking(move || {
                        if let Err(why) = agent.set_deadline(&name, boot) {
                            eprintln!("{name}: its deadline was not moved: {why}");
                        }
                        Input::Changed
                    });
                }
                Output::Seen(seen) => {
                    self.metrics.seen(&seen);
                    self.driver.host(seen);
                }
                Output::Refused(refused) => {
                    for (name, (_, why)) in &refused {
                        eprintln!("{name}: the agent refuses it: {why}");
                    }
                    self.driver.machine().rules().refuse(refused);
                }
                Output::Forgiven(name) => self.driver.machine().forgive(&name),
                Output::Taken(names) => self.driver.machine().rules().take(names),
                Output::Trouble(why) => eprintln!("the agent: {why}"),
            }
        }
    }
}
