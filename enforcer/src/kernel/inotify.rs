//! Changes that somebody makes (inotify(7)): to the manifest's folder, and to the
//! workloads' cgroups. kernfs tells writes through
//! its files, and removals, like any file system does; what the kernel changes by itself
//! is told for `*.events` alone.

use super::cgroupfs::Cgroup;
use enforcer_core::WorkloadName;
use enforcer_core::limits::CONTROLLERS;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
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

    /// Watches one more, and no more what had its name before.
    pub(crate) fn add(&self, workload: &WorkloadName) -> io::Result<()> {
        let path = self.parent.join(workload.as_str());
        // The kernel tells of the last process that leaves only who watches this file
        // itself (`kernfs_notify_workfn` wants its inode).
        let populated = path.join("cgroup.events");
        let mut names = self.names();
        let watched = [
            self.inotify
                .add_watch(&path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONLYDIR)?,
            self.inotify
                .add_watch(&populated, AddWatchFlags::IN_MODIFY)?,
        ];
        self.forget(&mut names, workload, &watched);
        names.extend(watched.map(|watch| (watch, workload.clone())));
        Ok(())
    }

    /// kernfs lets a watch outlive what it is on.
    pub(crate) fn remove(&self, workload: &WorkloadName) {
        self.forget(&mut self.names(), workload, &[]);
    }

    fn forget(
        &self,
        names: &mut HashMap<WatchDescriptor, WorkloadName>,
        workload: &WorkloadName,
        but: &[WatchDescriptor],
    ) {
        names.retain(|watch, name| {
            let stays = name != workload || but.contains(watch);
            if !stays {
                let _ = self.inotify.rm_watch(*watch);
            }
            stays
        });
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

/// Files of one folder that were written, or came and went.
#[derive(Debug)]
pub(crate) struct FolderWatch(Inotify);

impl AsFd for FolderWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl FolderWatch {
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CREATE;
        inotify.add_watch(folder, changes | AddWatchFlags::IN_ONLYDIR)?;
        Ok(Self(inotify))
    }

    /// The names of those that have changed since it was last asked; one without a name
    /// stands for the folder itself, or for more than could be told.
    pub(crate) fn read(&self) -> Vec<Option<String>> {
        let mut changed = Vec::new();
        while let Ok(events) = self.0.read_events() {
            let names = events.into_iter().map(|event| event.name);
            changed.extend(names.map(|name| Some(name?.to_string_lossy().into_owned())));
        }
        changed
    }
}
