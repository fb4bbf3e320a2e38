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
        let hole = match File::open(path) {
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

fn older(path: &Path, number: u32) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
}

/// The first byte that was not punched out: after the hole, and after the zeros
/// of the last page that the hole covers in part.
fn first_byte(file: &mut File) -> io::Result<u64> {
    let data = match nix::unistd::lseek(&*file, 0, nix::unistd::Whence::SeekData) {
        Ok(offset) => u64::try_from(offset).unwrap_or(0),
        // Nothing but a hole, or nothing at all.
        Err(nix::Error::ENXIO) => return file.seek(SeekFrom::End(0)),
        Err(_) => 0,
    };
    if data == 0 {
        return Ok(0);
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
}
