//! Replaces a file in one step: a reader sees the old contents or the new ones.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The events that a replaced file survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// The death of this process. This is enough on tmpfs.
    Process,
    /// A power cut as well: the file and its folder are synced.
    PowerCut,
}

/// Writes a draft beside the file, and renames it over the file. The new file has this mode. Calls
/// for one path must not overlap.
///
/// # Errors
/// If a step fails. Then the old file is as it was, unless only the sync of the folder failed.
pub fn replace(path: &Path, contents: &[u8], mode: u32, survives: Survives) -> io::Result<()> {
    let draft = path.with_extension("new");
    let create = || {
        let mut options = File::options();
        options.write(true).create_new(true).mode(mode).open(&draft)
    };
    let created = match create() {
        // The draft of a process that died. A link in its place is removed, and not followed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&draft).and_then(|()| create())
        }
        created => created,
    };
    let written = created
        .and_then(|file| write(file, contents, survives))
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // The first error says more than a second one.
        let _ = fs::remove_file(&draft);
        return written;
    }
    if survives == Survives::PowerCut
        && let Some(folder) = path.parent()
    {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn write(mut file: File, contents: &[u8], survives: Survives) -> io::Result<()> {
    file.write_all(contents)?;
    match survives {
        Survives::Process => Ok(()),
        Survives::PowerCut => file.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_through_no_link() {
        let folder = std::env::temp_dir().join(format!("replacement-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (path, other) = (folder.join("web.yaml"), folder.join("other"));
        fs::write(&other, "untouched").expect("a file");
        symlink(&other, folder.join("web.new")).expect("a link");
        for (text, survives) in [("one", Survives::Process), ("two", Survives::PowerCut)] {
            replace(&path, text.as_bytes(), 0o640, survives).expect("a new file");
            assert_eq!(fs::read_to_string(&path).expect("the file"), text);
        }
        let found = fs::metadata(&path).expect("the file");
        assert_eq!(found.mode() & 0o037, 0, "{:o}", found.mode());
        assert_eq!(fs::read_to_string(&other).expect("the file"), "untouched");
        assert!(!folder.join("web.new").exists());
        // A folder in the file's place cannot be replaced, and no draft stays behind.
        let occupied = folder.join("occupied");
        fs::create_dir_all(occupied.join("inside")).expect("a folder");
        assert!(replace(&occupied, b"text", 0o600, Survives::Process).is_err());
        assert!(!folder.join("occupied.new").exists());
        let missing = folder.join("missing/web.yaml");
        assert!(replace(&missing, b"", 0o600, Survives::Process).is_err());
        fs::remove_dir_all(folder).expect("the folder goes");
    }
}
