//! File systems that are made by descriptor and attached nowhere yet: fsopen(2), fsconfig(2),
//! fsmount(2) (Linux 5.2) and mount_setattr(2) (Linux 5.12).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

// include/uapi/linux/mount.h
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// An option of a file system: a flag has no value.
pub(crate) type MountOption<'a> = (&'a CStr, Option<&'a CStr>);

/// Makes a file system of this kind, in which nothing is executed, no device is opened, and no file
/// gives another user's rights.
///
/// # Errors
/// `EINVAL` if the kernel does not know an option.
pub(crate) fn make(kind: &CStr, options: &[MountOption<'_>]) -> io::Result<OwnedFd> {
    // SAFETY: the name ends with NUL.
    let opened = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) };
    let context = descriptor(opened)?;
    let number = context.as_raw_fd();
    let configure = |command: u32, key: *const libc::c_char, value: *const libc::c_char| {
        // SAFETY: both strings end with NUL, or are null where the command takes none.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, number, command, key, value, 0) };
        succeeded(done)
    };
    let nothing = std::ptr::null;
    for (key, value) in options {
        match value {
            Some(value) => configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?,
            None => configure(FSCONFIG_SET_FLAG, key.as_ptr(), nothing())?,
        }
    }
    configure(FSCONFIG_CMD_CREATE, nothing(), nothing())?;
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    // SAFETY: no pointers are passed.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, number, FSMOUNT_CLOEXEC, attributes) })
}

/// Makes a mount read-only. It stays attached where it is, or nowhere.
///
/// # Errors
/// `EBUSY` if a file there is open for writing.
pub(crate) fn make_read_only(mount: &impl AsFd) -> io::Result<()> {
    /// `struct mount_attr`.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = Attributes {
        set: MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: the path ends with NUL, and the structure has the size that is passed.
    succeeded(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    })
}

fn succeeded(result: libc::c_long) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    succeeded(result)?;
    let number = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
