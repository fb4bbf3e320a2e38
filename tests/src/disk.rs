//! A file system on a disk of its own, in memory, that can be made to hang.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = 16 << 20;
const DEVICE: &str = "/dev/loop1";
const IMAGE: &str = "/disk";
const LOOP_SET_FD: libc::c_ulong = 0x4C00;
const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const FIFREEZE: libc::c_ulong = 0xC004_5877;
const FITHAW: libc::c_ulong = 0xC004_5878;

/// An ext4 that is mounted until this is dropped.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
    device: File,
}

/// Whoever writes to the disk waits until this is dropped.
#[derive(Debug)]
pub struct Frozen(File);

fn control(file: &File, request: libc::c_ulong, argument: i32) {
    // SAFETY: an open descriptor, and a number as the argument.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    assert_eq!(
        done,
        0,
        "ioctl {request:#x}: {}",
        std::io::Error::last_os_error()
    );
}

impl Disk {
    /// Makes and mounts it.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn mounted_at(place: &Path) -> Self {
        crate::modules::load(&["loop", "ext4"]);
        crate::wait_for("the loop device", || {
            Path::new(DEVICE).exists().then_some(())
        });
        let both = || File::options().read(true).write(true).clone();
        let image = both().create(true).truncate(true).open(IMAGE).unwrap();
        image.set_len(SIZE).unwrap();
        let device = both().open(DEVICE).unwrap();
        control(&device, LOOP_SET_FD, image.as_raw_fd());
        let made = Command::new("/usr/sbin/mke2fs")
            .args(["-q", "-t", "ext4", DEVICE])
            .status();
        assert!(made.unwrap().success());
        fs::create_dir_all(place).unwrap();
        let none = None::<&str>;
        mount(Some(DEVICE), place, Some("ext4"), MsFlags::empty(), none).unwrap();
        let place = place.to_owned();
        Self { place, device }
    }

    /// Has everybody who writes to it wait.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        let root = File::open(&self.place).unwrap();
        control(&root, FIFREEZE, 0);
        Frozen(root)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        control(&self.0, FITHAW, 0);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
        // The device goes with its last user. SAFETY: the descriptor is open.
        unsafe { libc::ioctl(self.device.as_raw_fd(), LOOP_CLR_FD as _, 0) };
        let _ = fs::remove_file(IMAGE);
    }
}
