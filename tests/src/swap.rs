//! Swap for a VM that has no disk: a file in memory behind a loop device.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

const SIZE: usize = 64 << 20;
const PAGE: usize = 4096;
const DEVICE: &std::ffi::CStr = c"/dev/loop0";

/// Swap, until it is dropped: a host that is short of memory must not swap into
/// memory.
#[derive(Debug)]
pub struct Swap {
    device: File,
}

impl Swap {
    /// Turns it on.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn on() -> Self {
        const LOOP_SET_FD: libc::c_ulong = 0x4C00;
        crate::modules::load(&["loop"]);
        crate::wait_for("the loop device", || {
            std::path::Path::new("/dev/loop0").exists().then_some(())
        });
        let file = swap_file();
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/loop0")
            .unwrap();
        // SAFETY: two open descriptors; the device keeps its own reference.
        let set = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD as _, file.as_raw_fd()) };
        assert_eq!(set, 0, "LOOP_SET_FD: {}", std::io::Error::last_os_error());
        // SAFETY: the path ends with NUL.
        let on = unsafe { libc::swapon(DEVICE.as_ptr(), 0) };
        assert_eq!(on, 0, "swapon: {}", std::io::Error::last_os_error());
        Self { device }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
        // SAFETY: the path ends with NUL, and the descriptor is open.
        unsafe {
            libc::swapoff(DEVICE.as_ptr());
            libc::ioctl(self.device.as_raw_fd(), LOOP_CLR_FD as _, 0);
        }
        let _ = fs::remove_file("/swap");
    }
}

/// Every page exists before it is needed: swapping out must not allocate any.
fn swap_file() -> File {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open("/swap")
        .unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..SIZE / zeros.len() {
        file.write_all(&zeros).unwrap();
    }
    // The header of version 1: include/linux/swap.h, `union swap_header`.
    let mut header = vec![0; PAGE];
    header[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
    header[1028..1032].copy_from_slice(&u32::try_from(SIZE / PAGE - 1).unwrap().to_ne_bytes());
    header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    file.write_all_at(&header, 0).unwrap();
    file
}
