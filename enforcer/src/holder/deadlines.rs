//! The deadlines of leased workloads. The agent stops and kills in time; what it leaves, because it does not run, the holder kills.

use enforcer_core::ReplicaId;
use enforcer_core::units::MonoTime;
use enforcer_kernel::alarm::Alarm;
use enforcer_kernel::cgroupfs::{Cgroup, CgroupError};
use enforcer_kernel::clock;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

/// The time by which the agent is ahead.
const LATER: Duration = Duration::from_secs(2);

/// The moment at which nothing of a workload may run any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) workload: ReplicaId,
    pub(crate) cgroup: PathBuf,
    pub(crate) at: MonoTime,
}

#[derive(Debug)]
pub(super) struct Deadlines {
    ends: Vec<End>,
    alarm: Alarm,
}

impl Deadlines {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            ends: Vec::new(),
            alarm: Alarm::new()?,
        })
    }

    /// Takes these in place of those before.
    pub(super) fn replace(&mut self, ends: Vec<End>) -> io::Result<()> {
        self.ends = ends;
        self.set_alarm()
    }

    fn set_alarm(&self) -> io::Result<()> {
        let next = self.ends.iter().map(|end| end.at.after(LATER)).min();
        self.alarm.set(next)
    }

    pub(super) fn all(&self) -> Vec<End> {
        self.ends.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Kills what is over. One that the agent has ended has no cgroup, or no process in it.
    pub(super) fn kill_what_is_over(&mut self) {
        let now = clock::now();
        let is_over = |end: &End| end.at.after(LATER) <= now;
        for end in self.ends.iter().filter(|end| is_over(end)) {
            match Cgroup::open(&end.cgroup).and_then(|cgroup| kill(&cgroup)) {
                Ok(false) | Err(CgroupError::Open { .. }) => {}
                Ok(true) => tracing::warn!(
                    "{}: its deadline has passed, and no agent has stopped it: killed",
                    end.workload
                ),
                Err(error) => tracing::error!(
                    "{}: its deadline has passed, and it could not be killed: {error}",
                    end.workload
                ),
            }
        }
        self.ends.retain(|end| !is_over(end));
        if let Err(error) = self.set_alarm() {
            tracing::error!("the next deadline is not seen: {error}");
        }
    }
}

/// Returns whether there was something to kill.
fn kill(cgroup: &Cgroup) -> Result<bool, CgroupError> {
    let is_populated = cgroup.is_populated()?;
    if is_populated {
        cgroup.kill()?;
    }
    Ok(is_populated)
}

impl AsFd for Deadlines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.alarm.as_fd()
    }
}
