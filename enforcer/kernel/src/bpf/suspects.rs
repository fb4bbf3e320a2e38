//! The sampler's maps: threads that don't sleep come out of one, and into
//! another goes how much CPU time each workload's threads may use between sleeps.

use super::BpfError;
use super::events::Lost;
use aya::maps::{HashMap, MapData, MapError, RingBuf};
use enforcer_common::Suspect;
use enforcer_model::ids::CgroupId;
use parking_lot::Mutex;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A `Streak` of the eBPF program, in bytes.
const STREAK: usize = 32;

pub struct SuspectRing {
    ring: Mutex<RingBuf<MapData>>,
    descriptor: OwnedFd,
    budgets: Mutex<HashMap<MapData, u64, u64>>,
    streaks: Mutex<HashMap<MapData, u32, [u8; STREAK]>>,
    lost: Lost,
}

impl std::fmt::Debug for SuspectRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SuspectRing")
            .field("descriptor", &self.descriptor)
            .finish_non_exhaustive()
    }
}

impl AsFd for SuspectRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl SuspectRing {
    pub(super) fn take(attached: &mut super::Attached) -> Result<Self, BpfError> {
        let failed = |map| move |source: MapError| BpfError::Map { map, source };
        let mut take = |map| attached.take_map(map);
        let ring: RingBuf<MapData> = take("SUSPECTS")?.try_into().map_err(failed("SUSPECTS"))?;
        let budgets = take("BUDGETS")?.try_into().map_err(failed("BUDGETS"))?;
        let lost = take("SUSPECTS_LOST")?
            .try_into()
            .map_err(failed("SUSPECTS_LOST"))?;
        // A suspect that was reported to an agent that died may not have been examined. It is
        // reported again, as if its streak began now.
        let mut streaks: HashMap<MapData, u32, [u8; STREAK]> =
            take("STREAKS")?.try_into().map_err(failed("STREAKS"))?;
        let spinning: Vec<u32> = streaks.keys().filter_map(Result::ok).collect();
        for thread in spinning {
            let _ = streaks.remove(&thread);
        }
        let descriptor = ring.as_fd().try_clone_to_owned();
        Ok(Self {
            descriptor: descriptor.map_err(BpfError::Duplicate)?,
            ring: Mutex::new(ring),
            budgets: Mutex::new(budgets),
            streaks: Mutex::new(streaks),
            lost: Lost(Mutex::new(lost)),
        })
    }

    /// Hands every waiting record to `take`.
    pub fn drain(&self, mut take: impl FnMut(Suspect)) {
        let mut ring = self.ring.lock();
        while let Some(bytes) = ring.next() {
            match Suspect::from_bytes(&bytes) {
                Some(suspect) => take(suspect),
                None => tracing::warn!("a record of {} bytes is no suspect", bytes.len()),
            }
        }
    }

    /// Returns the number of records that found the ring full since the last call. Their threads
    /// are reported again at their next sample.
    pub fn newly_lost(&self) -> u64 {
        self.lost.newly()
    }

    /// Forgets the streaks of threads, so that they are reported again as if they began now.
    pub fn forget(&self, threads: impl Iterator<Item = u32>) {
        let mut streaks = self.streaks.lock();
        for thread in threads {
            // Most have none.
            let _ = streaks.remove(&thread);
        }
    }

    /// Watches a workload's threads with this budget. Without one, they are no longer watched.
    /// Returns whether they are watched now and were not before.
    pub fn set_budget(&self, cgroup: CgroupId, budget: Option<Duration>) -> bool {
        let mut budgets = self.budgets.lock();
        let begins = budget.is_some() && budgets.get(&cgroup.0, 0).is_err();
        let done = match budget {
            Some(budget) => {
                let nanos = u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX);
                budgets.insert(cgroup.0, nanos, 0)
            }
            None => match budgets.remove(&cgroup.0) {
                Err(MapError::KeyNotFound) => Ok(()),
                Err(MapError::SyscallError(error))
                    if error.io_error.kind() == std::io::ErrorKind::NotFound =>
                {
                    Ok(())
                }
                removed => removed,
            },
        };
        if let Err(error) = done {
            tracing::warn!(
                cgroup = cgroup.0,
                "CPU loops are not watched as asked: {error}"
            );
        }
        begins
    }
}
