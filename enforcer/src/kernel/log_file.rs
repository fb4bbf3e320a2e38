//! A workload's output: a file that outlives the agent, opened for appending by
//! the workload itself. It is bounded by moving its head away: copied to an
//! older file, then punched out, so that no line is lost and no writer has to
//! reopen anything. While the agent is dead, nothing bounds it.

use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// One workload's output.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    /// Where the part begins that was not moved away yet.
    start: u64,
}

impl LogFile {
    /// Opens the file for appending; an earlier one goes on.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        }
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits())
            .open(path)?;
        let start = first_byte(&mut file)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            start,
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Makes room for a new file: this one becomes the newest of the older ones. Only
    /// where nobody writes to it any more.
    pub(crate) fn set_aside(path: &Path, keep: u32) -> io::Result<()> {
        let older = |number: u32| older(path, number);
        for number in (1..keep).rev() {
            match std::fs::rename(older(number), older(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let hole = match open_to_read(path) {
            Ok(mut file) => first_byte(&mut file)? > 0,
            Err(_) => false,
        };
        if keep > 0 && hole {
            // Its head was moved away already: what is left is not to begin with zeros.
            let log = Self::open(path)?;
            log.copy_to(&older(1), log.file.metadata()?.size())?;
        }
        let moved = match keep {
            0 => std::fs::remove_file(path),
            _ if hole => std::fs::remove_file(path),
            _ => std::fs::rename(path, older(1)),
        };
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Moves everything written so far into an older file, if it is more than
    /// `max` bytes; keeps `keep` older ones.
    pub(crate) fn bound(&mut self, max: u64, keep: u32) -> io::Result<()> {
        let end = self.file.metadata()?.size();
        if end.saturating_sub(self.start) < max {
            return Ok(());
        }
        if keep > 0 {
            for older in (1..keep).rev() {
                let from = self.older(older);
                if from.exists() {
                    std::fs::rename(from, self.older(older + 1))?;
                }
            }
            self.copy_to(&self.older(1), end)?;
        }
        let length = i64::try_from(end).map_err(io::Error::other)?;
        // Even where this file system can't punch holes, the head was copied once.
        self.start = end;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, flags, 0, length)?;
        Ok(())
    }

    fn older(&self, number: u32) -> PathBuf {
        older(&self.path, number)
    }

    fn copy_to(&self, path: &Path, end: u64) -> io::Result<()> {
        let copy = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        let mut buffer = vec![0; 64 << 10];
        let (mut at, mut written) = (self.start, 0);
        while at < end {
            let wanted = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let length = self.file.read_at(&mut buffer[..wanted], at)?;
            if length == 0 {
                break;
            }
            copy.write_all_at(&buffer[..length], written)?;
            at += u64::try_from(length).unwrap_or(0);
            written += u64::try_from(length).unwrap_or(0);
        }
        Ok(())
    }
}

/// Where what is written is lost.
pub(crate) fn nowhere() -> io::Result<File> {
    File::options().write(true).open("/dev/null")
}

/// Reads what was written, and then what is written next.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    /// Older files that come first, the next one last.
    before: Vec<PathBuf>,
    file: File,
    at: u64,
}

/// Read at once.
const CHUNK: usize = 64 << 10;

impl Reader {
    /// From the last so many lines on, or from the oldest file.
    pub(crate) fn open(path: &Path, tail: Option<u64>, previous: bool) -> io::Result<Self> {
        let mut file = open_to_read(path)?;
        let at = match tail {
            Some(lines) => start_of_last(&mut file, lines)?,
            None => first_byte(&mut file)?,
        };
        let mut this = Self {
            path: path.to_owned(),
            before: Vec::new(),
            file,
            at,
        };
        if previous && tail.is_none() {
            let numbered = (1..).map(|number| older(path, number));
            this.before = numbered.take_while(|older| older.exists()).collect();
            this.next_file()?;
        }
        Ok(this)
    }

    /// What comes next; empty where nothing was written yet.
    pub(crate) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut chunk = vec![0; CHUNK];
        let mut length = self.file.read_at(&mut chunk, self.at)?;
        if chunk[..length].first() == Some(&0) {
            // What was here has been moved away since: on with what is left.
            self.at = first_byte_from(&mut self.file, self.at)?;
            length = self.file.read_at(&mut chunk, self.at)?;
        }
        chunk.truncate(length);
        self.at += u64::try_from(length).unwrap_or(0);
        if length == 0 && self.next_file()? {
            return self.read();
        }
        Ok(chunk)
    }

    /// The end of this file: there may be another one, if it was set aside.
    fn next_file(&mut self) -> io::Result<bool> {
        if let Some(older) = self.before.pop() {
            self.before.retain(|path| path.exists());
            (self.file, self.at) = (open_to_read(&older)?, 0);
            return Ok(true);
        }
        let mut current = match open_to_read(&self.path) {
            Ok(current) => current,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if current.metadata()?.ino() == self.file.metadata()?.ino() {
            return Ok(false);
        }
        self.at = first_byte(&mut current)?;
        self.file = current;
        Ok(true)
    }
}

fn open_to_read(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits())
        .open(path)
}

/// Where the last so many lines begin.
fn start_of_last(file: &mut File, lines: u64) -> io::Result<u64> {
    let first = first_byte(file)?;
    let mut at = file.metadata()?.size();
    if lines == 0 {
        return Ok(at);
    }
    let mut left = lines;
    let mut chunk = vec![0; CHUNK];
    let mut end_of_file = true;
    while at > first {
        let wanted = usize::try_from(at - first).unwrap_or(CHUNK).min(CHUNK);
        let from = at - u64::try_from(wanted).unwrap_or(0);
        file.read_exact_at(&mut chunk[..wanted], from)?;
        for index in (0..wanted).rev() {
            // The last line's own end is not the end of one before it.
            if chunk[index] == b'\n' && !std::mem::take(&mut end_of_file) {
                left = left.saturating_sub(1);
                if left == 0 {
                    return Ok(from + u64::try_from(index).unwrap_or(0) + 1);
                }
            }
            end_of_file = false;
        }
        at = from;
    }
    Ok(first)
}

fn older(path: &Path, number: u32) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
}

/// The first byte that was not punched out: after the hole, and after the zeros
/// of the last page that the hole covers in part.
fn first_byte(file: &mut File) -> io::Result<u64> {
    first_byte_from(file, 0)
}

/// The same, of what follows this place; nothing was punched out if that is data.
fn first_byte_from(file: &mut File, from: u64) -> io::Result<u64> {
    let start = i64::try_from(from).map_err(io::Error::other)?;
    let data = match nix::unistd::lseek(&*file, start, nix::unistd::Whence::SeekData) {
        Ok(offset) => u64::try_from(offset).unwrap_or(from),
        // Nothing but a hole, or nothing at all.
        Err(nix::Error::ENXIO) => return file.seek(SeekFrom::End(0)),
        Err(_) => from,
    };
    if data == from {
        return Ok(from);
    }
    let mut page = [0; 4096];
    let length = file.read_at(&mut page, data)?;
    let zeros = page[..length].iter().take_while(|byte| **byte == 0).count();
    Ok(data + u64::try_from(zeros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_head_moves_away_and_no_byte_is_lost() {
        let folder = std::env::temp_dir().join(format!("enforcer-log-{}", std::process::id()));
        let path = folder.join("web.log");
        let mut log = LogFile::open(&path).expect("a log file");
        let line = [b'x'; 99];
        for round in 0..3u8 {
            for _ in 0..100 {
                let mut writer = log.file();
                writer
                    .write_all(&[&[b'0' + round], &line[..]].concat())
                    .expect("a write");
            }
            log.bound(5000, 2).expect("a bound log");
        }
        let older = |number| std::fs::read(log.older(number)).expect("an older file");
        assert_eq!((older(1).len(), older(2).len()), (10_000, 10_000));
        assert_eq!((older(1)[0], older(2)[0]), (b'2', b'1'));
        assert!(!log.older(3).exists());
        // A new opener finds the place where the old one left off.
        log.file().write_all(b"next").expect("a write");
        let again = LogFile::open(&path).expect("a log file");
        assert_eq!(again.start, 30_000);
        std::fs::remove_dir_all(folder).expect("the folder goes");
    }

    #[test]
    fn a_reader_begins_where_it_is_told_to_and_goes_on() {
        let folder = std::env::temp_dir().join(format!("enforcer-tail-{}", std::process::id()));
        let path = folder.join("web.log");
        let mut log = LogFile::open(&path).expect("a log file");
        let read = |tail, previous| {
            let mut reader = Reader::open(&path, tail, previous).expect("a reader");
            let mut all = Vec::new();
            loop {
                let chunk = reader.read().expect("a chunk");
                if chunk.is_empty() {
                    return String::from_utf8(all).expect("text");
                }
                all.extend(chunk);
            }
        };
        // Whole pages, which are what can be punched out.
        let old = "1234567\n".repeat(1024);
        log.file().write_all(old.as_bytes()).expect("a write");
        log.bound(1, 2).expect("a bound log");
        log.file().write_all(b"three\nfour\nfive").expect("a write");
        assert_eq!(read(None, false), "three\nfour\nfive");
        assert_eq!(read(None, true), format!("{old}three\nfour\nfive"));
        for (lines, expected) in [
            (0, ""),
            (1, "five"),
            (2, "four\nfive"),
            (9, "three\nfour\nfive"),
        ] {
            assert_eq!(read(Some(lines), false), expected, "{lines}");
        }
        log.file().write_all(b"\n").expect("a write");
        assert_eq!(read(Some(1), false), "five\n");
        let mut reader = Reader::open(&path, Some(0), false).expect("a reader");
        assert_eq!(reader.read().expect("nothing"), b"");
        LogFile::set_aside(&path, 2).expect("room");
        let log = LogFile::open(&path).expect("a new file");
        log.file().write_all(b"six\n").expect("a write");
        assert_eq!(reader.read().expect("the new file"), b"six\n");
        std::fs::remove_dir_all(folder).expect("the folder goes");
    }
}
