//! Kernel modules, for what Debian's kernels don't have built in.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;

/// Loads a module that the VM has brought; one that is there, or built in, is no fault.
///
/// # Panics
/// If the kernel refuses.
pub fn load(name: &str) {
    let path = format!("/lib/modules/{name}.ko");
    let Ok(module) = File::open(&path) else {
        return;
    };
    // MODULE_INIT_COMPRESSED_FILE, include/uapi/linux/module.h
    let compressed = fs::read(&path)
        .unwrap()
        .starts_with(&[0xfd, b'7', b'z', b'X', b'Z']);
    let flags = if compressed { 4 } else { 0 };
    // SAFETY: an open descriptor, an empty argument string and flags.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            module.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    let error = std::io::Error::last_os_error();
    assert!(
        loaded == 0 || error.raw_os_error() == Some(libc::EEXIST),
        "{name}: finit_module: {error}"
    );
}
