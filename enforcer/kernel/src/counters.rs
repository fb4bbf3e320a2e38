//! Reads what the core reconciles: `memory.events` of a workload, of its ancestors and of the
//! cgroups below it, with the limits that were met.

use super::cgroupfs::{Cgroup, CgroupError};
use enforcer_model::oom::{CgroupCounters, Counters};
use enforcer_model::units::Bytes;
use nix::fcntl::OFlag;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Reads the counters of one workload. It keeps its last answer: while the kernel counts no further
/// kill, it reads one file instead of a dozen.
#[derive(Debug)]
pub struct CounterReader {
    cgroup: Arc<Cgroup>,
    ancestors: Arc<Vec<Cgroup>>,
    last: Option<Counters>,
}

impl CounterReader {
    /// Makes a reader. `ancestors` are the cgroups whose limits also hold for this one, nearest
    /// first.
    pub fn new(cgroup: Arc<Cgroup>, ancestors: Arc<Vec<Cgroup>>) -> Self {
        Self {
            cgroup,
            ancestors,
            last: None,
        }
    }

    pub fn read(&mut self) -> Result<Counters, CgroupError> {
        let events = match self.cgroup.is_foreign() {
            false => self.cgroup.read("memory.events")?,
            // Its owner may have removed it, with all counts, or may not count its memory.
            true => match (self.cgroup.read_if_present("memory.events")?, &self.last) {
                (Some(events), _) => events,
                (None, Some(last)) => return Ok(last.clone()),
                (None, None) => return Ok(Counters::default()),
            },
        };
        let oom_kill = field(&events, "oom_kill");
        if let Some(last) = &self.last
            && last.oom_kill == oom_kill
        {
            return Ok(last.clone());
        }
        let mut counters = Counters {
            oom_kill,
            oom_group_kill: field(&events, "oom_group_kill"),
            own_oom: own_ooms(&self.cgroup),
            subtree_oom: field(&events, "oom"),
            descendants: descendants(&self.cgroup),
            ancestors: Vec::new(),
            limit: limit(&self.cgroup)?,
            peak: size(self.cgroup.read_if_present("memory.peak")?),
        };
        for ancestor in self.ancestors.iter() {
            counters.ancestors.push(CgroupCounters {
                path: ancestor.path().display().to_string(),
                id: ancestor.id().unwrap_or_default(),
                oom: field(&ancestor.read("memory.events.local")?, "oom"),
                limit: limit(ancestor)?,
            });
        }
        self.last = Some(counters.clone());
        Ok(counters)
    }
}

/// `memory.events`, held open to be polled.
#[derive(Debug)]
pub struct EventsFile(File);

impl AsFd for EventsFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl EventsFile {
    pub fn open(cgroup: &Cgroup) -> io::Result<Self> {
        cgroup.open_file("memory.events", OFlag::O_RDONLY).map(Self)
    }

    /// Takes note of what it says now: the next change raises POLLPRI again.
    pub fn rearm(&self) -> io::Result<()> {
        let mut buffer = [0; 256];
        self.0.read_at(&mut buffer, 0).map(drop)
    }
}

fn limit(cgroup: &Cgroup) -> Result<Option<Bytes>, CgroupError> {
    Ok(size(cgroup.read_if_present("memory.max")?))
}

/// `None` for `max`.
fn size(text: Option<String>) -> Option<Bytes> {
    text.and_then(|text| text.trim().parse().ok()).map(Bytes)
}

/// The most cgroups of a workload's own that are read.
const MOST_DESCENDANTS: usize = 64;

/// Returns the counters and limits of the cgroups below this one, nearest first,
/// [`MOST_DESCENDANTS`] at most.
fn descendants(cgroup: &Cgroup) -> Vec<CgroupCounters> {
    let mut found = Vec::new();
    let mut folders = VecDeque::from([cgroup.path().to_owned()]);
    while let Some(folder) = folders.pop_front() {
        // A cgroup that disappears meanwhile has no counters.
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for entry in inner.take(MOST_DESCENDANTS) {
            if found.len() == MOST_DESCENDANTS {
                return found;
            }
            let Ok(inner) = Cgroup::open(&entry.path()) else {
                continue;
            };
            found.push(CgroupCounters {
                path: inner.path().display().to_string(),
                id: inner.id().unwrap_or_default(),
                oom: own_ooms(&inner),
                limit: limit(&inner).unwrap_or_default(),
            });
            folders.push_back(entry.path());
        }
    }
    found
}

/// Returns the number of OOM kills in a cgroup and below it, at whichever limit; 0 if it cannot be
/// read.
pub fn oom_kills(cgroup: &Cgroup) -> u64 {
    let events = cgroup.read_if_present("memory.events").ok().flatten();
    events.map_or(0, |events| field(&events, "oom_kill"))
}

/// Returns the number of times that a cgroup met its own limit, and not one below it; 0 if that
/// cannot be read.
pub fn own_ooms(cgroup: &Cgroup) -> u64 {
    let events = cgroup.read_if_present("memory.events.local").ok().flatten();
    events.map_or(0, |events| field(&events, "oom"))
}

/// Returns a number of a flat keyed file; 0 if the kernel has no such key.
pub fn field(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "low 0\nhigh 12\nmax 3\noom 2\noom_kill 7\noom_group_kill 1\n";
        assert_eq!(
            [
                field(text, "oom"),
                field(text, "oom_kill"),
                field(text, "kill")
            ],
            [2, 7, 0]
        );
    }
}
