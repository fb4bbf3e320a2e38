//! Watches changes by others (inotify(7)): of the manifest's folder, and of the workloads' cgroups.
//! Like any file system, kernfs reports writes to its files and removals. Of changes by the kernel
//! itself it reports only those of `*.events`.

use super::cgroupfs::Cgroup;
use enforcer_model::limits::CONTROLLERS;
use enforcer_model::{ReplicaId, WorkloadName};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Watches of the cgroups of all workloads, and of what they are in.
#[derive(Debug)]
pub struct TreeWatch {
    inotify: Inotify,
    parent: PathBuf,
    names: Mutex<HashMap<WatchDescriptor, ReplicaId>>,
    /// The cgroups above replicas.
    groups: Mutex<HashMap<WatchDescriptor, WorkloadName>>,
}

/// Something happened to a workload's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// A change of one workload's limits, processes or cgroup.
    Workload(ReplicaId),
    /// The kernel has dropped events: anything may have changed.
    Everything,
}

/// Returns whether the agent sets this file. Others change by themselves, or have no effect on what
/// was set.
fn is_ours_to_set(file: &str) -> bool {
    CONTROLLERS.iter().any(|(known, _)| *known == file) || file == "cgroup.procs"
}

impl AsFd for TreeWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl TreeWatch {
    pub fn new(workloads: &Cgroup) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let removals = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(workloads.path(), removals)?;
        Ok(Self {
            inotify,
            parent: workloads.path().to_owned(),
            names: Mutex::default(),
            groups: Mutex::default(),
        })
    }

    fn names(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, ReplicaId>> {
        self.names.lock()
    }

    /// Watches one more workload. An earlier cgroup of its name is no longer watched.
    pub fn add(&self, workload: &ReplicaId) -> io::Result<()> {
        let path = self.parent.join(workload.cgroup_path());
        if let (Some(_), Some(above)) = (workload.index(), path.parent()) {
            let removals = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
            let watch = self.inotify.add_watch(above, removals)?;
            let mut groups = self.groups.lock();
            groups.insert(watch, workload.workload().clone());
        }
        // The kernel reports the last process that leaves only to watchers of this file itself
        // (`kernfs_notify_workfn` needs its inode).
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

    /// Removes the watch of a workload: in kernfs a watch outlives its cgroup.
    pub fn remove(&self, workload: &ReplicaId) {
        self.forget(&mut self.names(), workload, &[]);
    }

    fn forget(
        &self,
        names: &mut HashMap<WatchDescriptor, ReplicaId>,
        workload: &ReplicaId,
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

    /// Returns the changes since the last call.
    pub fn read(&self) -> Vec<Touched> {
        let mut touched = Vec::new();
        while let Ok(events) = self.inotify.read_events() {
            let mut names = self.names();
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    touched.push(Touched::Everything);
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    names.remove(&event.wd);
                    self.groups.lock().remove(&event.wd);
                }
                let file = event.name.as_ref().map(|file| file.to_string_lossy());
                let name = match (file, names.get(&event.wd)) {
                    (Some(file), _) if event.mask.contains(AddWatchFlags::IN_DELETE) => {
                        match self.groups.lock().get(&event.wd) {
                            Some(workload) => {
                                let index = file.parse().ok();
                                index.map(|index| ReplicaId::new(workload.clone(), Some(index)))
                            }
                            None => WorkloadName::parse(&file).map(ReplicaId::from),
                        }
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

/// Files of one folder that were written, or came and went, and whatever else gets the
/// folder's name: a link may be made to lead elsewhere.
#[derive(Debug)]
pub struct FolderWatch {
    inotify: Inotify,
    folder: PathBuf,
    /// The folder that had the name at the last check.
    own: WatchDescriptor,
    /// The folder that it is in, where that can be watched.
    above: Option<WatchDescriptor>,
}

impl AsFd for FolderWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl FolderWatch {
    pub fn new(folder: &Path) -> io::Result<Self> {
        let folder = std::path::absolute(folder)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self {
            own: watch_folder(&inotify, &folder)?,
            above: watch_above(&inotify, &folder),
            inotify,
            folder,
        })
    }

    /// Returns the names of the files that have changed since the last call. An entry without a
    /// name stands for the folder itself, or for dropped events.
    pub fn read(&mut self) -> Vec<Option<String>> {
        let mut changed = Vec::new();
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                let above = Some(event.wd) == self.above;
                let overflow = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                if !above && event.wd != self.own && !overflow {
                    // This event is of the folder that had the name before.
                    continue;
                }
                let renamed = above && event.name.as_deref() == self.folder.file_name();
                if renamed || event.name.is_none() {
                    self.look_again();
                    changed.push(None);
                } else if !above {
                    changed.push(event.name.map(|name| name.to_string_lossy().into_owned()));
                }
            }
        }
        changed
    }

    /// Watches the folder that has the name now, and returns whether it is another one than before.
    /// A change of a folder further up is not reported otherwise.
    pub fn look_again(&mut self) -> bool {
        let Ok(now) = watch_folder(&self.inotify, &self.folder) else {
            return false;
        };
        let is_other = now != self.own;
        if is_other {
            // The watch is already gone if its folder is.
            let _ = self.inotify.rm_watch(self.own);
            self.own = now;
            let above = watch_above(&self.inotify, &self.folder);
            if let Some(before) = self.above.filter(|before| Some(*before) != above) {
                let _ = self.inotify.rm_watch(before);
            }
            self.above = above;
        }
        is_other
    }
}

fn watch_above(inotify: &Inotify, folder: &Path) -> Option<WatchDescriptor> {
    let names = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    let above = folder.parent()?;
    let watched = inotify.add_watch(above, names | AddWatchFlags::IN_ONLYDIR);
    watched.ok()
}

fn watch_folder(inotify: &Inotify, folder: &Path) -> nix::Result<WatchDescriptor> {
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    inotify.add_watch(folder, changes | AddWatchFlags::IN_ONLYDIR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// As tools do that put a new version in place: beside the old one, and then a link.
    #[test]
    fn a_folder_is_watched_by_its_name() {
        let place = std::env::temp_dir().join(format!("folder-watch-{}", std::process::id()));
        for version in ["one", "two"] {
            fs::create_dir_all(place.join(version)).expect("a folder");
        }
        let name = place.join("current");
        symlink("one", &name).expect("a link");
        let mut watch = FolderWatch::new(&name).expect("a watch");
        let write = |file: &str| fs::write(place.join(file), "x").expect("a file");
        let web = Some("web.yaml".to_owned());

        write("one/web.yaml");
        assert!(watch.read().contains(&web));
        write("beside");
        assert_eq!(watch.read(), []);
        symlink("two", place.join("next")).expect("a link");
        fs::rename(place.join("next"), &name).expect("a link in its place");
        assert!(watch.read().contains(&None));
        write("two/web.yaml");
        assert!(watch.read().contains(&web));
        watch.read();
        write("one/web.yaml");
        assert_eq!(watch.read(), []);

        // What a link leads to may be another one's without the link being touched.
        fs::rename(place.join("two"), place.join("old")).expect("another name");
        fs::create_dir(place.join("two")).expect("a folder");
        assert!(watch.read().contains(&None));
        write("two/web.yaml");
        assert!(watch.read().contains(&web));

        // A folder further up may be replaced as well. The kernel does not report that.
        fs::create_dir_all(place.join("up/one/current")).expect("a folder");
        fs::create_dir_all(place.join("up/two/current")).expect("a folder");
        symlink("one", place.join("up/now")).expect("a link");
        let mut deep = FolderWatch::new(&place.join("up/now/current")).expect("a watch");
        fs::remove_file(place.join("up/now")).expect("no link");
        symlink("two", place.join("up/now")).expect("a link");
        assert!(deep.look_again() && !deep.look_again());
        write("up/two/current/web.yaml");
        assert!(deep.read().contains(&web));

        fs::remove_file(&name).expect("no link");
        fs::create_dir(&name).expect("a folder");
        assert!(watch.read().contains(&None));
        write("current/web.yaml");
        assert!(watch.read().contains(&web));
        fs::remove_dir_all(place).expect("nothing");
    }
}
