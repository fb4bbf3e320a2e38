//! The command line.

mod changes;
mod endpoints;
mod views;

use crate::agent::Agent;
use crate::drive::Clock;
use crate::etcd::Client;
use crate::metrics::{self, Metrics};
use crate::{config, node, scheduler};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use enforcer_client::Fault;
use enforcer_fleet_core::fleet::WorkloadName;
use enforcer_fleet_core::store::{Answer, Got, Keys, Operation, Request, StoreError, Transaction};
use enforcer_fleet_core::view::View;
use enforcer_fleet_core::{NodeId, Time};
use enforcer_kernel::account;
use enforcer_manifest::FleetConfig;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Run workloads on many hosts, with etcd between them
#[derive(Debug, Parser)]
#[command(name = "enforcer-fleet", version, arg_required_else_help = true)]
struct Arguments {
    /// The settings of this host
    #[arg(
        long,
        global = true,
        env = "ENFORCER_FLEET_CONFIG",
        value_name = "FILE",
        default_value = "/etc/enforcer/fleet.yaml"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this host's part of the fleet, beside its agent
    Node {
        /// The agent's Unix socket
        #[arg(
            long,
            env = "ENFORCER_SOCKET",
            default_value = "/run/enforcer/enforcer.sock"
        )]
        agent: PathBuf,
        /// The address for metrics, such as 127.0.0.1:9989
        #[arg(long, env = "ENFORCER_FLEET_LISTEN", value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
    },
    /// Decide where workloads run; of several schedulers, one leads
    Schedule {
        /// The address for metrics, such as 127.0.0.1:9990
        #[arg(long, env = "ENFORCER_FLEET_LISTEN", value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
    },
    /// Have the fleet run what a file has
    Apply {
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Show what `apply` would change
    Plan {
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Take a workload out of the fleet
    Remove { workload: String },
    /// List the replicas
    Ps {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// List the nodes
    Nodes {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Say how the fleet is: 0 if all is as it should be, 3 if not
    Status {
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Explain where the replicas of a workload are, and why
    Why { workload: String },
    /// List the last changes of places
    Events {
        /// Go on with what changes from now on
        #[arg(short, long)]
        follow: bool,
    },
    /// Move everything off a node, and place nothing there
    Drain {
        node: String,
        /// The reason, for others
        #[arg(long, default_value = "")]
        why: String,
    },
    /// End a drain
    Uncordon { node: String },
    /// Forget a node that is lost and does not come back
    Forget { node: String },
    /// List where a service answers
    Endpoints(endpoints::Wanted),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man { folder: PathBuf },
    /// Print what completes the command line in a shell
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => Err(Fault::Failed(format!("failed to start: {error}"))),
    };
    match done {
        Ok(code) => code,
        Err(fault) => {
            fault.print();
            fault.exit_code()
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, Fault> {
    match &arguments.command {
        Command::Man { folder } => {
            return clap_mangen::generate_to(Arguments::command(), folder)
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| Fault::Failed(format!("failed to write the pages: {error}")));
        }
        Command::Completions { shell } => {
            let mut out = std::io::stdout();
            clap_complete::generate(
                *shell,
                &mut Arguments::command(),
                "enforcer-fleet",
                &mut out,
            );
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let config = config::read(&arguments.config)?;
    let client = config::client(&config.etcd)?;
    let done = ExitCode::SUCCESS;
    match arguments.command {
        Command::Node { agent, listen } => {
            let metrics = Metrics::new()?;
            if let Some(address) = listen {
                metrics::serve(address, metrics.clone()).await?;
            }
            let user = own_name();
            let agent = Agent {
                socket: agent,
                user,
            };
            node::run(config, client, agent, metrics).await?;
            return Ok(done);
        }
        Command::Schedule { listen } => {
            let metrics = Metrics::new()?;
            if let Some(address) = listen {
                metrics::serve(address, metrics.clone()).await?;
            }
            scheduler::run(config.etcd, client, metrics).await?;
            return Ok(done);
        }
        _ => {}
    }
    let fleet = Fleet { config, client };
    match arguments.command {
        Command::Node { .. }
        | Command::Schedule { .. }
        | Command::Man { .. }
        | Command::Completions { .. } => {}
        Command::Apply { file } => changes::apply(&fleet, &file).await?,
        Command::Plan { file } => changes::plan(&fleet, &file).await?,
        Command::Remove { workload } => changes::remove(&fleet, &name(&workload)?).await?,
        Command::Ps { output } => views::ps(&fleet, output).await?,
        Command::Nodes { output } => views::nodes(&fleet, output).await?,
        Command::Status { output } => return views::status(&fleet, output).await,
        Command::Why { workload } => views::why(&fleet, &name(&workload)?).await?,
        Command::Events { follow } => views::events(&fleet, follow).await?,
        Command::Drain { node, why } => changes::drain(&fleet, &node_id(&node)?, why).await?,
        Command::Uncordon { node } => changes::uncordon(&fleet, &node_id(&node)?).await?,
        Command::Forget { node } => changes::forget(&fleet, &node_id(&node)?).await?,
        Command::Endpoints(wanted) => endpoints::show(&fleet, wanted).await?,
    }
    Ok(done)
}

/// Prints a line, or several. A reader that has gone ends the program, as it would end any other.
fn say(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let said = writeln!(out, "{text}").and_then(|()| out.flush());
    if said.is_err() {
        std::process::exit(0);
    }
}

/// Returns the name of the user that this program is, as the agent knows it.
fn own_name() -> String {
    let uid = nix::unistd::geteuid();
    account::name_on_host(uid).unwrap_or_else(|| uid.to_string())
}

fn name(text: &str) -> Result<WorkloadName, Fault> {
    WorkloadName::parse(text)
        .ok_or_else(|| Fault::Usage(format!("`{text}` is not a workload's name")))
}

fn node_id(text: &str) -> Result<NodeId, Fault> {
    NodeId::parse(text)
        .ok_or_else(|| Fault::Usage(format!("`{text}` is no name of a node: {}", NodeId::RULE)))
}

/// The fleet, for one command.
struct Fleet {
    config: FleetConfig,
    client: Client,
}

/// Returns what a person can do about a failure of etcd.
fn failed(error: &StoreError) -> Fault {
    match error {
        StoreError::Unavailable(_) => Fault::NoAgent(error.to_string()),
        StoreError::Denied(_) => Fault::NotPermitted(error.to_string()),
        _ => Fault::Failed(error.to_string()),
    }
}

impl Fleet {
    fn prefix(&self) -> &str {
        &self.config.etcd.prefix
    }

    /// The wall clock: the records of other programs have its time.
    fn now() -> Time {
        Clock::default().now()
    }

    async fn all(&self) -> Result<(View, Got), Fault> {
        let keys = Keys::Prefix(self.prefix().to_owned());
        let answer = self.client.call(&Request::Get { keys, at: None }).await;
        match answer.map_err(|error| failed(&error))? {
            Answer::Got(got) => {
                let mut view = View::default();
                for entry in &got.entries {
                    view.put(self.prefix(), entry);
                }
                Ok((view, got))
            }
            _ => Err(Fault::Failed(
                "etcd: another answer was expected".to_owned(),
            )),
        }
    }

    /// Carries out a transaction. Returns whether its conditions were met.
    async fn transact(&self, transaction: Transaction) -> Result<bool, Fault> {
        let answer = self.client.call(&Request::Transact(transaction)).await;
        match answer.map_err(|error| failed(&error))? {
            Answer::Transacted { succeeded, .. } => Ok(succeeded),
            _ => Err(Fault::Failed(
                "etcd: another answer was expected".to_owned(),
            )),
        }
    }

    fn key(&self, key: &enforcer_fleet_core::record::Key) -> String {
        format!("{}{key}", self.prefix())
    }

    fn delete(&self, key: &enforcer_fleet_core::record::Key) -> Operation {
        Operation::Delete(Keys::One(self.key(key)))
    }
}
