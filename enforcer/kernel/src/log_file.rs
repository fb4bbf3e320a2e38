//! A workload's log: one file that grows, and older ones, numbered from the newest. The
//! holder alone writes it, so that its size has a bound whatever the workload does. A file
//! that is full is renamed, which copies nothing and needs no room.

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The bounds of a workload's log files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// The size of one file, in bytes.
    pub max_size: u64,
    /// The number of older files.
    pub keep: u32,
}

/// The number of bytes that could not be written, and why.
#[derive(Debug)]
pub struct Lost {
    pub bytes: u64,
    pub why: io::Error,
}

/// The log of one workload, open for writing.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    bounds: Bounds,
    /// Opened at the first write.
    file: Option<File>,
}

/// A file's identity and its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub inode: u64,
    pub size: u64,
}

impl LogFile {
    pub fn new(path: PathBuf, bounds: Bounds) -> Self {
        Self {
            path,
            bounds,
            file: None,
        }
    }

    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Makes the file, if it is not there.
    ///
    /// # Errors
    /// If it cannot be opened for writing.
    pub fn open(&mut self) -> io::Result<()> {
        self.open_current().map(drop)
    }

    /// Appends all of it, to more than one file if necessary. Before each write it passes to
    /// `before` the offset of the rest in `data`, and the place where the rest is to be written.
    ///
    /// # Errors
    /// If the file system does not take all of it, even after the oldest files were given up.
    pub fn append(
        &mut self,
        data: &[u8],
        mut before: impl FnMut(usize, Place),
    ) -> Result<(), Lost> {
        let mut done = 0;
        while done < data.len() {
            match self.append_some(&data[done..], |place| before(done, place)) {
                Ok(length) => done += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_out_of_room(&error) && self.give_up_oldest() => {}
                Err(why) => {
                    // The next chunk opens the file again.
                    self.file = None;
                    let bytes = u64::try_from(data.len() - done).unwrap_or(u64::MAX);
                    return Err(Lost { bytes, why });
                }
            }
        }
        Ok(())
    }

    fn append_some(&mut self, data: &[u8], before: impl FnOnce(Place)) -> io::Result<usize> {
        let mut place = self.open_current()?;
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let max = self.bounds.max_size.max(1);
        // A chunk that fits into an empty file is not cut in two.
        if place.size > 0 && place.size.saturating_add(length.min(max)) > max {
            self.rotate()?;
            place = self.open_current()?;
        }
        let room = usize::try_from(max.saturating_sub(place.size)).unwrap_or(usize::MAX);
        let part = &data[..data.len().min(room)];
        before(place);
        match &mut self.file {
            Some(file) => file.write(part),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Opens the file. If it was renamed or removed since, opens the new one.
    fn open_current(&mut self) -> io::Result<Place> {
        if let Some(file) = &self.file {
            let own = file.metadata()?;
            let there = std::fs::symlink_metadata(&self.path);
            if there.is_ok_and(|there| (there.ino(), there.dev()) == (own.ino(), own.dev())) {
                return Ok(place_of(&own));
            }
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
            let folder_mode = std::fs::metadata(folder)?.permissions().mode();
            if folder_mode & 0o777 != 0o700 {
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
            }
        }
        let file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits())
            .open(&self.path)?;
        let place = place_of(&file.metadata()?);
        self.file = Some(file);
        Ok(place)
    }

    /// Makes room for a new file: this one becomes the newest of the older ones.
    ///
    /// # Errors
    /// If a file cannot be renamed; then all are there still.
    pub fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let keep = self.bounds.keep;
        // A missing file leaves a gap, and the older ones stay where they are.
        let free = (1..=keep).find(|number| !older(&self.path, *number).exists());
        for number in (1..free.unwrap_or(keep)).rev() {
            rename(&older(&self.path, number), &older(&self.path, number + 1))?;
        }
        match keep {
            0 => std::fs::remove_file(&self.path).or_else(is_absent)?,
            _ => rename(&self.path, &older(&self.path, 1))?,
        }
        // A larger `keep` may have left these files.
        let surplus = (keep.saturating_add(1)..).map(|number| older(&self.path, number));
        for path in surplus.take_while(|path| path.exists()) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Returns the size of the file with this inode. It may have been renamed since.
    pub fn size_of(&self, inode: u64) -> Option<u64> {
        let older = (1..=self.bounds.keep).map(|number| older(&self.path, number));
        let files = std::iter::once(self.path.clone()).chain(older);
        let found = files.filter_map(|path| std::fs::symlink_metadata(path).ok());
        let mut found = found.filter(|file| file.ino() == inode);
        found.next().map(|file| file.size())
    }

    /// Removes the oldest of the older files; false if there is none.
    fn give_up_oldest(&self) -> bool {
        let mut older = (1..=self.bounds.keep).map(|number| older(&self.path, number));
        let oldest = older.rfind(|path| path.exists());
        oldest.is_some_and(|path| std::fs::remove_file(path).is_ok())
    }
}

fn place_of(file: &std::fs::Metadata) -> Place {
    Place {
        inode: file.ino(),
        size: file.size(),
    }
}

fn is_out_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn is_absent(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to).or_else(is_absent)
}

/// Reads what was written, and then what is written next.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    /// The newer files, which are read after this one. The next one is the last.
    before: Vec<File>,
    file: File,
    at: u64,
}

/// Read at once.
const CHUNK: usize = 64 << 10;
/// The most bytes that are searched for the beginning of the last lines.
const MOST_SEARCHED: u64 = 64 << 20;
/// The most older files that are looked for.
const MOST_FILES: u32 = 10_000;

impl Reader {
    /// Opens the log at its last lines, or at the beginning of the current or of the oldest file.
    pub fn open(path: &Path, tail: Option<u64>, previous: bool) -> io::Result<Self> {
        let mut this = Self {
            path: path.to_owned(),
            before: Vec::new(),
            file: open_to_read(path)?,
            at: 0,
        };
        match tail {
            Some(lines) => this.seek_last(lines)?,
            None => {
                if previous {
                    while let Some(older) = this.older_than_known()? {
                        this.step_back(older);
                    }
                }
                this.at = first_byte(&this.file)?;
            }
        }
        Ok(this)
    }

    /// Returns the file before the oldest one that is open.
    fn older_than_known(&self) -> io::Result<Option<File>> {
        let number = u32::try_from(self.before.len()).unwrap_or(MOST_FILES) + 1;
        match open_to_read(&older(&self.path, number)) {
            Ok(file) => Ok(Some(file)),
            Err(error) => is_absent(error).map(|()| None),
        }
    }

    fn step_back(&mut self, older: File) {
        let newer = std::mem::replace(&mut self.file, older);
        self.before.push(newer);
    }

    /// Finds the beginning of the last lines, also in older files.
    fn seek_last(&mut self, lines: u64) -> io::Result<()> {
        let mut left = lines;
        let mut searched = 0;
        let mut at_end = true;
        loop {
            let first = first_byte(&self.file)?;
            let mut at = self.file.metadata()?.size();
            self.at = at;
            if left == 0 {
                return Ok(());
            }
            let mut chunk = vec![0; CHUNK];
            while at > first {
                let wanted = usize::try_from(at - first).unwrap_or(CHUNK).min(CHUNK);
                let from = at - u64::try_from(wanted).unwrap_or(0);
                self.file.read_exact_at(&mut chunk[..wanted], from)?;
                for index in (0..wanted).rev() {
                    // The last line's own end is not the end of one before it.
                    if chunk[index] == b'\n' && !at_end {
                        left -= 1;
                        if left == 0 {
                            self.at = from + u64::try_from(index).unwrap_or(0) + 1;
                            return Ok(());
                        }
                    }
                    at_end = false;
                }
                at = from;
                self.at = at;
                searched += u64::try_from(wanted).unwrap_or(0);
                if searched >= MOST_SEARCHED {
                    return Ok(());
                }
            }
            match self.older_than_known()? {
                Some(older) => self.step_back(older),
                None => return Ok(()),
            }
        }
    }

    /// Reads the next part; it is empty if nothing was written yet.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = self.file.read_at(&mut chunk, self.at)?;
            if length > 0 {
                chunk.truncate(length);
                self.at += u64::try_from(length).unwrap_or(0);
                return Ok(chunk);
            }
            if !self.next_file()? {
                return Ok(Vec::new());
            }
        }
    }

    /// Goes to the next newer file, if there is one.
    fn next_file(&mut self) -> io::Result<bool> {
        if let Some(newer) = self.before.pop() {
            self.at = first_byte(&newer)?;
            self.file = newer;
            return Ok(true);
        }
        let own = self.file.metadata()?;
        if own.size() < self.at {
            // The file was emptied.
            self.at = 0;
            return Ok(own.size() > 0);
        }
        let current = match open_to_read(&self.path) {
            Ok(current) => current,
            Err(error) => return is_absent(error).map(|()| false),
        };
        if current.metadata()?.ino() == own.ino() {
            return Ok(false);
        }
        // The file was renamed, perhaps more than once. Reading goes on with the next newer one.
        let mut newer = vec![current];
        for number in 1..MOST_FILES {
            match open_to_read(&older(&self.path, number)) {
                Ok(file) if file.metadata()?.ino() == own.ino() => {
                    self.before = newer;
                    return self.next_file();
                }
                Ok(file) => newer.push(file),
                Err(_) => break,
            }
        }
        // The file is gone. Reading goes on with the rest.
        self.before = newer;
        self.next_file()
    }
}

fn open_to_read(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).bits())
        .open(path)
}

fn older(path: &Path, number: u32) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
}

/// Returns the offset of the first byte of a file that is in no hole: versions before 0.2 punched a
/// log's head out.
fn first_byte(file: &File) -> io::Result<u64> {
    let data = match nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekData) {
        Ok(offset) => u64::try_from(offset).unwrap_or(0),
        // The rest is a hole, or empty.
        Err(nix::Error::ENXIO) => return Ok(file.metadata()?.size()),
        Err(_) => 0,
    };
    if data == 0 {
        return Ok(0);
    }
    // The hole ends in the middle of a page.
    let mut page = [0; 4096];
    let length = file.read_at(&mut page, data)?;
    let zeros = page[..length].iter().take_while(|byte| **byte == 0).count();
    Ok(data + u64::try_from(zeros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("enforcer-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn log(&self, max_size: u64, keep: u32) -> LogFile {
            LogFile::new(self.path(), Bounds { max_size, keep })
        }

        fn path(&self) -> PathBuf {
            self.0.join("web.log")
        }

        fn text(&self, number: u32) -> String {
            let path = match number {
                0 => self.path(),
                _ => older(&self.path(), number),
            };
            std::fs::read_to_string(path).unwrap_or_else(|error| error.kind().to_string())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("the folder goes");
        }
    }

    fn append(log: &mut LogFile, text: &str) {
        log.append(text.as_bytes(), |_, _| {}).expect("an append");
    }

    fn rest(reader: &mut Reader) -> String {
        let mut all = Vec::new();
        loop {
            let chunk = reader.read().expect("a chunk");
            if chunk.is_empty() {
                return String::from_utf8(all).expect("text");
            }
            all.extend(chunk);
        }
    }

    #[test]
    fn no_file_is_larger_than_its_bound_and_no_byte_is_lost() {
        let folder = Folder::new("log");
        let mut log = folder.log(10, 2);
        append(&mut log, "one\n");
        append(&mut log, "three\n");
        assert_eq!(folder.text(0), "one\nthree\n");
        append(&mut log, "five\n");
        assert_eq!(
            (folder.text(0), folder.text(1)),
            ("five\n".into(), "one\nthree\n".into())
        );
        // More than one file holds.
        append(&mut log, "0123456789ABCDEFGHIJabc");
        assert_eq!(folder.text(0), "abc");
        assert_eq!(folder.text(1), "ABCDEFGHIJ");
        assert_eq!(folder.text(2), "0123456789");
        assert_eq!(folder.text(3), "entity not found");
    }

    #[test]
    fn without_older_files_a_full_one_goes() {
        let folder = Folder::new("log-none");
        let mut log = folder.log(4, 0);
        append(&mut log, "one\n");
        append(&mut log, "two\n");
        assert_eq!(
            (folder.text(0), folder.text(1)),
            ("two\n".into(), "entity not found".into())
        );
    }

    #[test]
    fn a_file_that_is_renamed_or_emptied_is_followed() {
        let folder = Folder::new("log-renamed");
        let mut log = folder.log(100, 2);
        append(&mut log, "one\n");
        std::fs::rename(folder.path(), folder.0.join("elsewhere")).expect("a rename");
        append(&mut log, "two\n");
        assert_eq!(folder.text(0), "two\n");
        File::create(folder.path()).expect("an empty file");
        append(&mut log, "three\n");
        assert_eq!(folder.text(0), "three\n");
    }

    #[test]
    fn a_rotation_that_fails_leaves_all_files() {
        let folder = Folder::new("log-stuck");
        let mut log = folder.log(4, 1);
        append(&mut log, "one\n");
        append(&mut log, "two\n");
        // A folder with something in it cannot be replaced by a file.
        std::fs::remove_file(older(&folder.path(), 1)).expect("no older file");
        std::fs::create_dir_all(older(&folder.path(), 1).join("in")).expect("a folder");
        let lost = log.append(b"three\n", |_, _| {}).expect_err("no room");
        assert_eq!(lost.bytes, 6);
        assert_eq!(folder.text(0), "two\n");
    }

    #[test]
    fn where_a_chunk_went_is_found_again() {
        let folder = Folder::new("log-place");
        let mut log = folder.log(8, 3);
        let mut places = Vec::new();
        log.append(b"12345678abcd", |from, place| places.push((from, place)))
            .expect("an append");
        let parts: Vec<_> = places
            .iter()
            .map(|(from, place)| (*from, place.size))
            .collect();
        assert_eq!(parts, [(0, 0), (8, 0)]);
        assert_eq!(log.size_of(places[0].1.inode), Some(8));
        assert_eq!(log.size_of(places[1].1.inode), Some(4));
    }

    #[test]
    fn a_reader_begins_at_the_given_place_and_goes_on() {
        let folder = Folder::new("tail");
        let mut log = folder.log(16, 3);
        for text in ["zero\none\ntwo\n", "three\nfour\nfive"] {
            append(&mut log, text);
        }
        let read = |tail, previous| {
            rest(&mut Reader::open(&folder.path(), tail, previous).expect("a reader"))
        };
        assert_eq!(read(None, false), "three\nfour\nfive");
        assert_eq!(read(None, true), "zero\none\ntwo\nthree\nfour\nfive");
        for (lines, expected) in [
            (0, ""),
            (1, "five"),
            (2, "four\nfive"),
            (3, "three\nfour\nfive"),
            (4, "two\nthree\nfour\nfive"),
            (9, "zero\none\ntwo\nthree\nfour\nfive"),
        ] {
            assert_eq!(read(Some(lines), false), expected, "{lines}");
        }
    }

    #[test]
    fn a_reader_follows_through_every_rotation() {
        let folder = Folder::new("follow");
        let mut log = folder.log(4, 3);
        append(&mut log, "one\n");
        let mut reader = Reader::open(&folder.path(), Some(0), false).expect("a reader");
        assert_eq!(rest(&mut reader), "");
        for text in ["two\n", "tri\n", "for\n"] {
            append(&mut log, text);
        }
        assert_eq!(rest(&mut reader), "two\ntri\nfor\n");
        // More rotations than files are kept: the reader goes on with the oldest that is left.
        for number in 0..6 {
            append(&mut log, &format!("n{number}\n\n"));
        }
        assert_eq!(rest(&mut reader), "n2\n\nn3\n\nn4\n\nn5\n\n");
        assert_eq!(rest(&mut reader), "");
    }

    #[test]
    fn a_head_that_an_older_version_has_punched_out_is_skipped() {
        let folder = Folder::new("hole");
        std::fs::create_dir_all(&folder.0).expect("a folder");
        let file = File::create(folder.path()).expect("a file");
        file.write_all_at(b"rest\n", 3 * 4096 + 7).expect("a write");
        let mut reader = Reader::open(&folder.path(), None, false).expect("a reader");
        assert_eq!(rest(&mut reader), "rest\n");
        let mut reader = Reader::open(&folder.path(), Some(5), false).expect("a reader");
        assert_eq!(rest(&mut reader), "rest\n");
    }
}
