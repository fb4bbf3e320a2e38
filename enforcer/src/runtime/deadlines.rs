//! The deadlines of leased workloads, as the holder has to know them. The core decides by the boot clock, so a timer of that clock wakes it:
//! the time for which a host was suspended counts.

use crate::executor::Executor;
use crate::holder::End;
use enforcer_core::Checkpoint;
use enforcer_core::ReplicaId;
use enforcer_core::units::MonoTime;
use enforcer_kernel::alarm::Alarm;
use enforcer_kernel::{clock, ready};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The deadline of a workload, and the time at which nothing of it may run any more.
type Times = (MonoTime, MonoTime);

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    of: BTreeMap<ReplicaId, Times>,
    /// `None` until a workload has a deadline.
    alarm: Option<(Alarm, AsyncFd<OwnedFd>)>,
}

impl Deadlines {
    /// Takes the checkpoints of a decision, before it is carried out.
    pub(super) fn take(
        &mut self,
        checkpoints: &[(ReplicaId, Option<Checkpoint>)],
        executor: &Executor,
    ) {
        let mut changed = false;
        for (name, checkpoint) in checkpoints {
            let times = checkpoint.as_ref().and_then(Checkpoint::lease);
            changed |= self.of.get(name) != times.as_ref();
            match times {
                Some(times) => drop(self.of.insert(name.clone(), times)),
                None => drop(self.of.remove(name)),
            }
        }
        if !changed {
            return;
        }
        let ends = self.of.iter().map(|(name, (_, at))| End {
            workload: name.clone(),
            cgroup: executor.tree.path_of(name),
            at: *at,
        });
        executor.keep_deadlines(ends.collect());
        if let Err(error) = self.set_alarm() {
            tracing::error!(
                "deadlines are late after a suspension of the host: failed to set a timer: {error}"
            );
        }
    }

    fn set_alarm(&mut self) -> io::Result<()> {
        let now = clock::now();
        let times = self.of.values().flat_map(|(until, end)| [*until, *end]);
        let next = times.filter(|at| *at > now).min();
        if self.alarm.is_none() && next.is_some() {
            let alarm = Alarm::new()?;
            let polled = ready::watch(&alarm, Interest::READABLE)?;
            self.alarm = Some((alarm, polled));
        }
        match &self.alarm {
            Some((alarm, _)) => alarm.set(next),
            None => Ok(()),
        }
    }

    /// Waits until a deadline passes.
    pub(super) async fn passed(&mut self) {
        if let Some((_, polled)) = &self.alarm
            && let Ok(mut readable) = polled.readable().await
        {
            readable.clear_ready();
            if let Err(error) = self.set_alarm() {
                tracing::error!("the next deadline may be late: {error}");
            }
            return;
        }
        std::future::pending().await
    }
}
