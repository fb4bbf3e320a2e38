//! Watches files by their paths, whatever is put in their places: a new version by a rename, or a
//! link that leads elsewhere. The folders along each path are watched (inotify(7)); whether a file
//! has changed is read from its metadata then.

use enforcer_model::ReplicaId;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Two versions of a file differ in one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Version {
    /// Returns the version that has the path now; `None` without one.
    fn of(path: &str) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// A file, and the version that its workload has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It was named, and not looked at yet.
    NotYet,
    Version(Option<Version>),
}

/// The files of all workloads.
#[derive(Debug)]
pub struct FileWatch {
    inotify: Inotify,
    files: Mutex<BTreeMap<ReplicaId, BTreeMap<String, Seen>>>,
    watched: Mutex<HashSet<WatchDescriptor>>,
}

impl AsFd for FileWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl FileWatch {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?,
            files: Mutex::default(),
            watched: Mutex::default(),
        })
    }

    /// Names the files of a workload, in place of those that it had. With `is_new`, its program has
    /// just been started, and reads the versions of now. Returns whether anything is to be looked
    /// at. No file is touched: its file system may hang.
    pub fn set(&self, workload: &ReplicaId, paths: &[String], is_new: bool) -> bool {
        let mut files = self.files.lock();
        if paths.is_empty() {
            return files.remove(workload).is_some();
        }
        let before = files.get(workload).filter(|_| !is_new);
        let seen = |path: &String| before.and_then(|before| before.get(path)).copied();
        let now = paths
            .iter()
            .map(|path| (path.clone(), seen(path).unwrap_or(Seen::NotYet)));
        let now: BTreeMap<_, _> = now.collect();
        let is_other = before != Some(&now);
        files.insert(workload.clone(), now);
        is_other
    }

    /// Looks at every file, and returns those that are not what they were.
    pub fn look(&self) -> Vec<(ReplicaId, String)> {
        while self.inotify.read_events().is_ok() {}
        let all: Vec<(ReplicaId, String)> = {
            let files = self.files.lock();
            let of = |(name, paths): (&ReplicaId, &BTreeMap<String, Seen>)| {
                let paths: Vec<String> = paths.keys().cloned().collect();
                paths.into_iter().map({
                    let name = name.clone();
                    move |path| (name.clone(), path)
                })
            };
            files.iter().flat_map(of).collect()
        };
        self.watch(all.iter().map(|(_, path)| path.as_str()));
        // A change from here on wakes the watch.
        let mut changed = Vec::new();
        for (workload, path) in all {
            let version = Version::of(&path);
            let mut files = self.files.lock();
            let known = files.get_mut(&workload);
            let Some(seen) = known.and_then(|known| known.get_mut(&path)) else {
                continue;
            };
            let before = std::mem::replace(seen, Seen::Version(version));
            if !matches!(before, Seen::NotYet) && before != Seen::Version(version) {
                changed.push((workload, path));
            }
        }
        changed
    }

    /// Watches the folders that lead to these files, and no others.
    fn watch<'p>(&self, paths: impl Iterator<Item = &'p str>) {
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        let mut now = HashSet::new();
        let mut add = |path: &Path| {
            for folder in path.ancestors().skip(1) {
                now.extend(self.inotify.add_watch(folder, changes));
            }
        };
        for path in paths {
            add(Path::new(path));
            // The path may lead over links.
            if let Ok(real) = std::fs::canonicalize(path) {
                add(&real);
            }
        }
        let mut watched = self.watched.lock();
        for gone in watched.difference(&now) {
            // The kernel has removed it if its folder is gone.
            let _ = self.inotify.rm_watch(*gone);
        }
        *watched = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_watched_by_its_path() {
        let place = std::env::temp_dir().join(format!("file-watch-{}", std::process::id()));
        for folder in ["one", "two", "far"] {
            fs::create_dir_all(place.join(folder)).expect("a folder");
            fs::write(place.join(folder).join("conf"), folder).expect("a file");
        }
        symlink("one", place.join("now")).expect("a link");
        let at = |path: &str| place.join(path).to_str().expect("a path").to_owned();
        let web = ReplicaId::parse("web").expect("a name");
        let watch = FileWatch::new().expect("a watch");
        let paths = [at("now/conf"), at("absent"), at("link")];
        let changed = |path: &str| vec![(web.clone(), at(path))];

        assert!(watch.set(&web, &paths, true));
        assert_eq!(watch.look(), [], "they are what they are");
        assert!(!watch.set(&web, &paths, false));
        fs::write(at("one/conf"), "other").expect("a file");
        assert_eq!(watch.look(), changed("now/conf"));
        assert_eq!(watch.look(), []);
        symlink("two", place.join("next")).expect("a link");
        fs::rename(place.join("next"), place.join("now")).expect("a link in its place");
        assert_eq!(watch.look(), changed("now/conf"), "another folder");
        fs::write(at("absent"), "x").expect("a file");
        assert_eq!(watch.look(), changed("absent"));
        fs::remove_file(at("absent")).expect("no file");
        assert_eq!(watch.look(), changed("absent"));
        symlink("far/conf", place.join("link")).expect("a link");
        assert_eq!(watch.look(), changed("link"));
        // The folder that a link leads to is watched too. Others may use the folders above.
        while watch.inotify.read_events().is_ok() {}
        fs::write(at("far/conf"), "nearer").expect("a file");
        let events = watch.inotify.read_events().expect("events");
        let names = |event: &nix::sys::inotify::InotifyEvent| {
            event.name.as_deref() == Some("conf".as_ref())
        };
        assert!(events.iter().any(names), "{events:?}");
        assert_eq!(watch.look(), changed("link"));
        // A start takes what there is.
        fs::write(at("far/conf"), "nearest of all").expect("a file");
        assert!(watch.set(&web, &paths, true));
        assert_eq!(watch.look(), []);
        assert!(watch.set(&web, &[], false) && !watch.set(&web, &[], false));
        assert_eq!(watch.look(), []);
        fs::remove_dir_all(place).expect("nothing");
    }
}
