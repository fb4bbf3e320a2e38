//! The ring of marks and the maps beside it, as the agent sees them.

use super::BpfError;
use aya::maps::{HashMap, Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use enforcer_common::{EXITED, LIVES, Record, Watch};
use enforcer_model::ids::{CgroupId, ExitStatus, ProcessId};
use parking_lot::Mutex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An exit that happened while no agent waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastExit {
    /// The process had executed a program.
    pub ran: bool,
    pub status: ExitStatus,
}

/// The ring of marks, and the maps beside it.
pub struct EventRing {
    ring: Mutex<RingBuf<MapData>>,
    descriptor: OwnedFd,
    lost: Lost,
    watched: Mutex<HashMap<MapData, u32, [u8; 16]>>,
    moved: Mutex<HashMap<MapData, u32, u32>>,
    groups: Mutex<HashMap<MapData, u64, u32>>,
    attached: Mutex<HashMap<MapData, u64, u32>>,
}

/// The counts by CPU: in the first slot the records that found the ring full, in the second those
/// that an agent has reported.
pub(super) struct Lost(pub(super) Mutex<PerCpuArray<MapData, u64>>);

impl Lost {
    pub(super) fn newly(&self) -> u64 {
        let mut lost = self.0.lock();
        let Ok(seen) = lost.get(&0, 0) else {
            return 0;
        };
        let Ok(reported) = lost.get(&1, 0) else {
            return 0;
        };
        let mut reported = reported.to_vec();
        let total: u64 = seen.iter().sum();
        let newly = total.saturating_sub(reported.iter().sum());
        if let (true, Some(first)) = (newly > 0, reported.first_mut()) {
            *first += newly;
            let kept = PerCpuValues::try_from(reported).map(|reported| lost.set(1, reported, 0));
            if !matches!(kept, Ok(Ok(()))) {
                tracing::debug!("lost records may be reported again");
            }
        }
        newly
    }
}

impl std::fmt::Debug for EventRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventRing")
            .field("descriptor", &self.descriptor)
            .finish_non_exhaustive()
    }
}

impl AsFd for EventRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl EventRing {
    /// Hands every waiting record to `take`, in order, and holds the ring
    /// meanwhile: two drainers never interleave.
    pub fn drain(&self, mut take: impl FnMut(Record)) {
        let mut ring = self.ring.lock();
        while let Some(bytes) = ring.next() {
            match Record::from_bytes(&bytes) {
                Some(record) => take(record),
                None => {
                    tracing::warn!("an eBPF record of {} bytes is not one of ours", bytes.len())
                }
            }
        }
    }

    /// Records that were lost since the last call.
    pub fn newly_lost(&self) -> u64 {
        self.lost.newly()
    }

    /// Asks for the exit of a process to be kept until it was read.
    pub fn watch(&self, process: ProcessId) {
        let ProcessId { pid, start_ticks } = process;
        let watch = Watch {
            start_ticks,
            ..Watch::default()
        };
        if let Err(error) = self.watched.lock().insert(pid, watch.to_bytes(), 0) {
            tracing::debug!("eBPF will not report the exit of {pid}: {error}");
        }
    }

    /// Watches a process that an earlier agent may already watch. Its exit may already be in the
    /// map.
    pub fn watch_on(&self, process: ProcessId) {
        // An earlier agent may have died between the record of a move and its look.
        self.take_move(process.pid);
        let known = self.watched.lock().get(&process.pid, 0);
        let known = known.map(Watch::from_bytes);
        if known.is_ok_and(|watch| watch.start_ticks == process.start_ticks) {
            return;
        }
        self.watch(process);
    }

    /// Notes that the workloads of a cgroup are the replicas in it.
    pub fn has_replicas(&self, group: CgroupId) {
        if let Err(error) = self.groups.lock().insert(group.0, 1, 0) {
            tracing::warn!("a kill or a loop of a replica will not be known by its name: {error}");
        }
    }

    /// Forgets a cgroup of replicas that is gone.
    pub fn has_no_replicas(&self, group: CgroupId) {
        // Nobody may have noted it.
        let _ = self.groups.lock().remove(&group.0);
    }

    /// Has kills and loops in the cgroup of an attached service reported.
    pub fn attach(&self, cgroup: CgroupId) {
        if let Err(error) = self.attached.lock().insert(cgroup.0, 1, 0) {
            tracing::warn!("a kill or a loop of an attached service will not be known: {error}");
        }
    }

    /// Undoes [`attach`](Self::attach).
    pub fn detach(&self, cgroup: CgroupId) {
        let _ = self.attached.lock().remove(&cgroup.0);
    }

    /// Undoes [`attach`](Self::attach) for all cgroups but those that are known.
    pub fn detach_unless(&self, is_known: impl Fn(CgroupId) -> bool) {
        let mut attached = self.attached.lock();
        let all: Vec<u64> = attached.keys().flatten().collect();
        for cgroup in all.into_iter().filter(|id| !is_known(CgroupId(*id))) {
            let _ = attached.remove(&cgroup);
        }
    }

    /// Returns the exit of a watched process; `None` if it lives or was not watched.
    pub fn exit_of(&self, process: ProcessId) -> Option<PastExit> {
        let ProcessId { pid, start_ticks } = process;
        let bytes = self.watched.lock().get(&pid, 0).ok()?;
        let watch = Watch::from_bytes(bytes);
        if watch.start_ticks != start_ticks || watch.state == LIVES {
            return None;
        }
        // The form of waitpid(2): a signal in the low bits, or a code above them.
        let signal = i32::try_from(watch.status & 0x7f).unwrap_or(0);
        let code = i32::try_from(watch.status >> 8 & 0xff).unwrap_or(0);
        Some(PastExit {
            ran: watch.state == EXITED,
            status: match signal {
                0 => ExitStatus::Code(code),
                signal => ExitStatus::Signal(signal),
            },
        })
    }

    /// Has the next move of a process reported again. Called before the agent looks where it is.
    pub fn take_move(&self, pid: u32) {
        let _ = self.moved.lock().remove(&pid);
    }

    /// Removes the exit of a process that was read or is no longer needed.
    pub fn forget(&self, process: ProcessId) {
        let ProcessId { pid, start_ticks } = process;
        let mut watched = self.watched.lock();
        let known = watched.get(&pid, 0).map(Watch::from_bytes);
        // The number may be another one's by now.
        if known.is_ok_and(|watch| watch.start_ticks == start_ticks) {
            let _ = watched.remove(&pid);
            self.take_move(pid);
        }
    }
}

pub(super) fn open_ring(
    take: &mut impl FnMut(&'static str) -> Result<Map, BpfError>,
) -> Result<EventRing, BpfError> {
    let failed = |map| move |source| BpfError::Map { map, source };
    let ring: RingBuf<MapData> = take("EVENTS")?.try_into().map_err(failed("EVENTS"))?;
    let lost: PerCpuArray<MapData, u64> = take("LOST")?.try_into().map_err(failed("LOST"))?;
    let watched: HashMap<MapData, u32, [u8; 16]> =
        take("WATCHED")?.try_into().map_err(failed("WATCHED"))?;
    let moved: HashMap<MapData, u32, u32> = take("MOVED")?.try_into().map_err(failed("MOVED"))?;
    let groups: HashMap<MapData, u64, u32> =
        take("GROUPS")?.try_into().map_err(failed("GROUPS"))?;
    let attached: HashMap<MapData, u64, u32> =
        take("ATTACHED")?.try_into().map_err(failed("ATTACHED"))?;
    Ok(EventRing {
        descriptor: ring
            .as_fd()
            .try_clone_to_owned()
            .map_err(BpfError::Duplicate)?,
        ring: Mutex::new(ring),
        lost: Lost(Mutex::new(lost)),
        watched: Mutex::new(watched),
        moved: Mutex::new(moved),
        groups: Mutex::new(groups),
        attached: Mutex::new(attached),
    })
}
