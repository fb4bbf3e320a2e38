//! `hold`: the process that keeps what must outlive every agent (`crate::holder`). Under
//! systemd it is the main process of the unit that owns the workloads' cgroup: systemd cannot
//! put a process into a cgroup that hands controllers down, so the agent, which is restarted,
//! has a unit of its own.

use super::workload;
use crate::fault::Fault;
use crate::holder::{Options, Server};
use crate::service;
use crate::settings::Settings;
use enforcer_kernel::{capabilities, cgroupfs::Cgroup, hierarchy, own_process, signal};
use std::path::PathBuf;
use std::time::Duration;

/// The grace of what is left without an agent: the holder does not know the manifest's graces. It
/// is the manifest's default too.
const GRACE: Duration = Duration::from_secs(10);

/// The options of `hold`, which an agent or a service manager sets.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// An agent has started it
    #[arg(long)]
    beside_agent: bool,
    /// The holder's cgroup [default: the one it was started in]
    #[arg(long, value_name = "PATH", requires = "beside_agent")]
    cgroup: Option<PathBuf>,
    /// The folder of the logs [default: STATE_DIR/logs]
    #[arg(long, value_name = "PATH")]
    logs: Option<PathBuf>,
    /// The process before this program was the holder already
    #[arg(long)]
    succeed: bool,
}

pub(super) fn hold(settings: &Settings, wanted: Wanted) -> Result<(), Fault> {
    let failed = |error: &dyn std::error::Error| {
        Fault::Failed(format!("failed to {}", crate::report::error_chain(error)))
    };
    let serving =
        |error: &std::io::Error| Fault::Failed(format!("failed to keep the outputs: {error}"));
    // A successor is named after its descriptor by some kernels.
    own_process::rename(c"enforcer");
    own_process::raise_descriptor_limit();
    let ends = signal::hold_ends().map_err(|error| failed(&error))?;
    let is_unit = !wanted.beside_agent;
    match &wanted.cgroup {
        _ if wanted.succeed => {}
        None if is_unit => hierarchy::make_room().map_err(|error| failed(&error))?,
        None => {}
        Some(cgroup) => {
            let own = std::process::id();
            let placed = Cgroup::open(cgroup).and_then(|cgroup| cgroup.take_in(own));
            placed.map_err(|error| failed(&error))?;
        }
    }
    // The folders may belong to another user, and the holder of a unit ends what is left in its
    // cgroup.
    let mut needed = vec!["CAP_DAC_OVERRIDE", "CAP_FOWNER"];
    if is_unit {
        needed.push("CAP_KILL");
    }
    capabilities::keep_only(&needed).map_err(|error| failed(&error))?;
    let server = Server::open(Options {
        logs: wanted
            .logs
            .unwrap_or_else(|| settings.state_dir().join("logs")),
        runtime_dir: settings.runtime_dir(),
        is_unit,
        succeeds: wanted.succeed,
    });
    let server = server.map_err(|error| serving(&error))?;
    if !is_unit {
        // The agent has read what went wrong until here; it may be gone from now on.
        own_process::silence().map_err(|error| serving(&error))?;
        return server.run().map_err(|error| serving(&error));
    }
    let stop = server.stopper();
    if !wanted.succeed {
        service::ready();
    }
    let settings = settings.clone();
    let ending = std::thread::spawn(move || {
        let ended = ends.wait();
        stop.begin();
        // The server still writes the output of the workloads while they end.
        let ended = ended
            .map_err(|error| failed(&error))
            .and_then(|_| end_workloads(&settings));
        stop.finish();
        ended
    });
    server.run().map_err(|error| serving(&error))?;
    let ended = ending.join();
    ended.unwrap_or_else(|_| Err(Fault::Failed("failed to end the workloads".to_owned())))
}

/// Ends the workloads: a stop of this unit is meant for its contents. A holder that is killed
/// changes nothing.
fn end_workloads(settings: &Settings) -> Result<(), Fault> {
    if let Err(fault) = workload::shutdown(settings, true) {
        fault.print();
        eprintln!(
            "what runs gets {} s, because no agent runs that knows the grace of each",
            GRACE.as_secs()
        );
    }
    // An agent may have been killed, or stopped by itself, while it was at it.
    hierarchy::end_what_is_left(GRACE)
        .map_err(|error| Fault::Failed(format!("failed to {}", crate::report::error_chain(&error))))
}
