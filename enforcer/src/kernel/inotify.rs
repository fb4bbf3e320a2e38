//! Changes of the workloads' cgroups that somebody makes: kernfs tells writes through
//! its files, and removals, like any file system does (inotify(7)); what the kernel
//! changes by itself is told for `*.events` alone.

use super::cgroupfs::Cgroup;
use enforcer_core::WorkloadName;
use enforcer_core::limits::CONTROLLERS;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Watches of the cgroups of all workloads, and of what they are in.
#[derive(Debug)]
pub(crate) struct TreeWatch {
    inotify: Inotify,
    parent: PathBuf,
    names: Mutex<HashMap<WatchDescriptor, WorkloadName>>,
}

/// Something happened to a workload's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    /// One of its limits, its processes, or all of it.
    Workload(WorkloadName),
    /// There was more than could be told: anything may have happened.
    Everything,
}

/// Others change by themselves, or change nothing that was set.
fn is_ours_to_set(file: &str) -> bool {
    CONTROLLERS.iter().any(|(known, _)| *known == file) || file == "cgroup.procs"
}

impl AsFd for TreeWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl TreeWatch {
    pub(crate) fn new(workloads: &Cgroup) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let removals = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(workloads.path(), removals)?;
        Ok(Self {
            inotify,
            parent: workloads.path().to_owned(),
            names: Mutex::default(),
        })
    }

    fn names(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, WorkloadName>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches one more; its watch goes with its cgroup.
    pub(crate) fn add(&self, workload: &WorkloadName) -> io::Result<()> {
        let modified = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONLYDIR;
        let mut names = self.names();
        let path = self.parent.join(workload.as_str());
        let watch = self.inotify.add_watch(&path, modified)?;
        names.insert(watch, workload.clone());
        // The kernel tells of the last process that leaves only who watches this file
        // itself (`kernfs_notify_workfn` wants its inode).
        let populated = path.join("cgroup.events");
        let watch = self
            .inotify
            .add_watch(&populated, AddWatchFlags::IN_MODIFY)?;
        names.insert(watch, workload.clone());
        Ok(())
    }

    /// What has happened since it was last asked.
    pub(crate) fn read(&self) -> Vec<Touched> {
        let mut touched = Vec::new();
        while let Ok(events) = self.inotify.read_events() {
            let mut names = self.names();
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    touched.push(Touched::Everything);
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    names.remove(&event.wd);
                }
                let file = event.name.as_ref().map(|file| file.to_string_lossy());
                let name = match (file, names.get(&event.wd)) {
                    (Some(file), _) if event.mask.contains(AddWatchFlags::IN_DELETE) => {
                        WorkloadName::parse(&file)
                    }
                    (Some(file), known) => known.filter(|_| is_ours_to_set(&file)).cloned(),
                    (None, known) => known.cloned(),
                };
                touched.extend(name.map(Touched::Workload));
            }
        }
        touched
    }
}
