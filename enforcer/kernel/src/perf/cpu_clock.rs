//! The CPU-clock events, one a CPU, each with the eBPF program behind it. They
//! may be tied to the workloads' parent cgroup (`PERF_FLAG_PID_CGROUP`, Linux
//! 2.6.39; cgroup v2 since 4.6), or stop while there is nothing to see.

use super::{Attributes, IOC_DISABLE, IOC_ENABLE, IOC_SET_BPF, Scope, control};
use crate::cgroupfs::Cgroup;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

/// The scope of the CPU clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleScope {
    /// Every CPU. The eBPF program ignores processes that are in no workload. The clock is off while the workloads use
    /// next to no CPU time.
    Cpu,
    /// The workloads' cgroup alone. A CPU without a workload is never woken, but
    /// each switch between a workload and anything else, idling included, sets or
    /// clears a timer.
    Cgroup,
}

/// The open clocks by CPU. They end when this is dropped.
pub struct CpuClock {
    program: OwnedFd,
    cgroup: OwnedFd,
    attributes: Attributes,
    open: BTreeMap<u32, OwnedFd>,
    scope: SampleScope,
    running: bool,
}

impl CpuClock {
    pub fn open(
        program: BorrowedFd<'_>,
        cgroup: &Cgroup,
        (scope, hz): (SampleScope, u32),
    ) -> io::Result<Self> {
        let mut clock = Self {
            program: program.try_clone_to_owned()?,
            cgroup: cgroup.as_fd().try_clone_to_owned()?,
            attributes: Attributes::cpu_clock(hz),
            open: BTreeMap::new(),
            scope,
            running: true,
        };
        let cpus = super::super::cpus::online()?;
        let first = cpus.first().copied().unwrap_or(0);
        if scope == SampleScope::Cgroup
            && let Err(error) = clock.add(first)
        {
            // One reason is that `perf_event` is on a cgroup v1 hierarchy.
            tracing::warn!("CPU samples can't be tied to a cgroup ({error}); sampling every CPU");
            clock.scope = SampleScope::Cpu;
        }
        clock.reconcile(&cpus)?;
        Ok(clock)
    }

    /// Opens what is missing and drops what is gone.
    pub fn reconcile(&mut self, online: &[u32]) -> io::Result<()> {
        self.open.retain(|cpu, _| online.contains(cpu));
        let missing: Vec<u32> = online
            .iter()
            .copied()
            .filter(|cpu| !self.open.contains_key(cpu))
            .collect();
        // A clock that fails does not keep the others from being opened.
        let mut outcome = Ok(());
        for cpu in missing {
            outcome = outcome.and(self.add(cpu));
        }
        outcome
    }

    /// Has the clock stop or go on; one that is tied to the workloads always goes.
    pub fn run(&mut self, running: bool) -> io::Result<()> {
        let running = running || self.scope == SampleScope::Cgroup;
        if running == self.running {
            return Ok(());
        }
        self.running = running;
        let request = if running { IOC_ENABLE } else { IOC_DISABLE };
        for event in self.open.values() {
            control(event, request, 0)?;
        }
        Ok(())
    }

    /// Closes the event of a CPU that went or came back, because an event does not survive its CPU.
    /// The next [`Self::reconcile`] opens it again.
    pub fn reopen(&mut self, cpu: u32) {
        self.open.remove(&cpu);
    }

    fn add(&mut self, cpu: u32) -> io::Result<()> {
        use std::os::fd::AsFd as _;
        let scope = match self.scope {
            SampleScope::Cgroup => Scope::Cgroup(self.cgroup.as_fd(), cpu),
            SampleScope::Cpu => Scope::Cpu(cpu),
        };
        let event = self.attributes.open(scope)?;
        let program = libc::c_ulong::try_from(self.program.as_raw_fd()).unwrap_or(0);
        control(&event, IOC_SET_BPF, program)?;
        if self.running {
            control(&event, IOC_ENABLE, 0)?;
        }
        self.open.insert(cpu, event);
        Ok(())
    }
}
