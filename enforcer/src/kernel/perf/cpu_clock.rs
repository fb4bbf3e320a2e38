//! The workloads' CPU-clock events, one a CPU, each with the eBPF program behind
//! it. Scoped to the workloads' parent cgroup (`PERF_FLAG_PID_CGROUP`, Linux
//! 2.6.39; cgroup v2 since 4.4), so a CPU that runs no workload is not woken.

use super::{Attributes, IOC_ENABLE, IOC_SET_BPF, Scope, control};
use crate::kernel::cgroupfs::Cgroup;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

/// What is open, by CPU; it ends when this goes.
pub(crate) struct CpuClock {
    program: OwnedFd,
    cgroup: OwnedFd,
    attributes: Attributes,
    open: BTreeMap<u32, OwnedFd>,
    /// By cgroup, unless this kernel has `perf_event` on a cgroup v1 hierarchy:
    /// then by CPU, and the program sorts out what is none of ours.
    by_cgroup: bool,
}

impl CpuClock {
    pub(crate) fn open(program: BorrowedFd<'_>, cgroup: &Cgroup, hz: u32) -> io::Result<Self> {
        let mut clock = Self {
            program: program.try_clone_to_owned()?,
            cgroup: cgroup.as_fd().try_clone_to_owned()?,
            attributes: Attributes::cpu_clock(hz),
            open: BTreeMap::new(),
            by_cgroup: true,
        };
        let cpus = super::super::cpus::online()?;
        let first = cpus.first().copied().unwrap_or(0);
        if let Err(error) = clock.add(first) {
            tracing::info!(
                "CPU samples can't be scoped to a cgroup ({error}); sampling all and sorting out"
            );
            clock.by_cgroup = false;
        }
        clock.reconcile(&cpus)?;
        Ok(clock)
    }

    /// Opens what is missing and drops what is gone.
    pub(crate) fn reconcile(&mut self, online: &[u32]) -> io::Result<()> {
        self.open.retain(|cpu, _| online.contains(cpu));
        for cpu in online {
            if !self.open.contains_key(cpu) {
                self.add(*cpu)?;
            }
        }
        Ok(())
    }

    /// An event doesn't survive its CPU: after it went and came it is opened anew.
    pub(crate) fn reopen(&mut self, cpu: u32) {
        self.open.remove(&cpu);
    }

    fn add(&mut self, cpu: u32) -> io::Result<()> {
        use std::os::fd::AsFd as _;
        let scope = if self.by_cgroup {
            Scope::Cgroup(self.cgroup.as_fd(), cpu)
        } else {
            Scope::Cpu(cpu)
        };
        let event = self.attributes.open(scope)?;
        let program = libc::c_ulong::try_from(self.program.as_raw_fd()).unwrap_or(0);
        control(&event, IOC_SET_BPF, program)?;
        control(&event, IOC_ENABLE, 0)?;
        self.open.insert(cpu, event);
        Ok(())
    }
}
