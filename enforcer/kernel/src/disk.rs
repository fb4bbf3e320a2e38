//! From a path to the disk that holds it, as `io.max` names disks.

use nix::sys::stat::{major, minor};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("find the disk of {path}")]
    Io { path: String, source: io::Error },
    #[error(
        "find the disk of {path}: its file system is on no block device; name the device itself, such as /dev/sda"
    )]
    NoDevice { path: String },
}

/// Returns the number of the disk, such as `8:0`: of a block device, or of the file system that a file
/// is on. The kernel limits whole disks, so a partition stands for its disk (`blkcg_conf_open_bdev`).
pub fn number_of(path: &str) -> Result<String, DiskError> {
    let failed = |source: io::Error| DiskError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    let device = match metadata.file_type().is_block_device() {
        true => metadata.rdev(),
        false => metadata.dev(),
    };
    // Such as of tmpfs, overlayfs and btrfs.
    if major(device) == 0 {
        return Err(DiskError::NoDevice {
            path: path.to_owned(),
        });
    }
    let number = format!("{}:{}", major(device), minor(device));
    let known = format!("/sys/dev/block/{number}");
    if fs::exists(format!("{known}/partition")).map_err(failed)? {
        // The link leads to the partition's folder, which is in that of its disk.
        let disk = fs::read_to_string(format!("{known}/../dev")).map_err(failed)?;
        return Ok(disk.trim().to_owned());
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_in_memory_has_no_disk() {
        let error = number_of("/proc/self").expect_err("procfs is no disk");
        assert!(error.to_string().contains("on no block device"), "{error}");
        assert!(matches!(
            number_of("/nonexistent"),
            Err(DiskError::Io { .. })
        ));
    }
}
