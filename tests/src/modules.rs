//! Kernel modules, for what Debian's kernels don't have built in.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;

/// Loads every module that the VM has brought.
///
/// # Panics
/// If the kernel refuses one.
pub fn load_all() {
    let entries = fs::read_dir("/lib/modules").unwrap().flatten();
    let files: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let names: Vec<&str> = files
        .iter()
        .filter_map(|file| file.strip_suffix(".ko"))
        .collect();
    load(&names);
}

/// Loads modules that the VM has brought, in whatever order they need each other; one that
/// is there, or built in, is no fault.
///
/// # Panics
/// If the kernel refuses.
pub fn load(names: &[&str]) {
    let mut left: Vec<&str> = names.to_vec();
    while !left.is_empty() {
        let before = left.len();
        let mut refused = String::new();
        left.retain(|name| match load_one(name) {
            Ok(()) => false,
            Err(error) => {
                refused.push_str(&format!("{name}: {error}; "));
                true
            }
        });
        assert!(left.len() < before, "finit_module: {refused}");
    }
}

fn load_one(name: &str) -> std::io::Result<()> {
    let path = format!("/lib/modules/{name}.ko");
    let Ok(module) = File::open(&path) else {
        return Ok(());
    };
    // MODULE_INIT_COMPRESSED_FILE, include/uapi/linux/module.h
    let compressed = fs::read(&path)?.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']);
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
    match error.raw_os_error() {
        _ if loaded == 0 => Ok(()),
        Some(libc::EEXIST) => Ok(()),
        _ => Err(error),
    }
}
