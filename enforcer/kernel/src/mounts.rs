//! Mounts by descriptor: fsopen(2), fsconfig(2), fsmount(2), open_tree(2) and move_mount(2) (Linux 5.2),
//! openat2(2) (Linux 5.6) and mount_setattr(2) (Linux 5.12). A file system or a copy of a tree is made
//! first, and attached by a descriptor of its place, so that nothing can be put in between.
//!
//! A child calls these between its fork and execve(2): nothing here allocates, locks or panics.

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
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
/// A descriptor is passed in place of a path.
const EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH.unsigned_abs();

/// `MOUNT_ATTR_NOSUID`: set-user-ID bits have no effect.
pub(crate) const NO_SUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`: device nodes cannot be opened.
pub(crate) const NO_DEVICES: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`: no file can be executed.
pub(crate) const NO_EXEC: u64 = 0x8;

/// An option of a file system: a flag has no value.
pub(crate) type MountOption<'a> = (&'a CStr, Option<&'a CStr>);

/// Makes a file system of this kind, which is attached nowhere.
///
/// # Errors
/// `EINVAL` if the kernel does not know an option.
pub(crate) fn make(
    kind: &CStr,
    options: &[MountOption<'_>],
    attributes: u64,
) -> io::Result<OwnedFd> {
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
    // SAFETY: no pointers are passed.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, number, FSMOUNT_CLOEXEC, attributes) })
}

/// Makes a copy of what is mounted at a path and below it, which is attached nowhere. It follows
/// symbolic links, but no magic links of `/proc`.
pub(crate) fn copy_of(path: &CStr) -> io::Result<OwnedFd> {
    copy(&open(libc::AT_FDCWD, path, 0, libc::RESOLVE_NO_MAGICLINKS)?)
}

/// Makes a copy of what is in a folder under this name; no link leads out of the folder.
pub(crate) fn copy_in(folder: &impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    copy(&open_below(folder, name, 0)?)
}

/// Makes a copy of what is mounted at a place and below it.
pub(crate) fn copy(place: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: the path ends with NUL.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            place.as_raw_fd(),
            c"".as_ptr(),
            OPEN_TREE_CLONE | AT_RECURSIVE | EMPTY_PATH | libc::O_CLOEXEC.unsigned_abs(),
        )
    })
}

/// Opens a folder of the host's, by its path.
pub(crate) fn folder(path: &CStr) -> io::Result<OwnedFd> {
    open(
        libc::AT_FDCWD,
        path,
        libc::O_DIRECTORY,
        libc::RESOLVE_NO_MAGICLINKS,
    )
}

/// Opens a place below a folder. Links and `..` resolve as if the folder were the root.
pub(crate) fn open_below(folder: &impl AsFd, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    open(folder.as_fd().as_raw_fd(), path, flags, resolve)
}

/// Opens a place, and not what is there (`O_PATH`).
fn open(folder: i32, path: &CStr, flags: i32, resolve: u64) -> io::Result<OwnedFd> {
    // SAFETY: all of its fields are integers, for which zero is valid and means "not used".
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((libc::O_PATH | libc::O_CLOEXEC | flags).unsigned_abs());
    how.resolve = resolve;
    loop {
        // SAFETY: the path ends with NUL, and the structure has the size that is passed.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                folder,
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match descriptor(opened) {
            // Something was renamed on the way.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            opened => return opened,
        }
    }
}

/// Attaches a file system, or a copy of a tree, to a place.
pub(crate) fn attach(mount: &impl AsFd, place: &impl AsFd) -> io::Result<()> {
    // SAFETY: both paths end with NUL.
    succeeded(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            place.as_fd().as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
}

/// Makes a mount read-only, attached or not, and those below it if that is asked for. What is mounted on
/// the host later does not appear in it: that would not be read-only.
///
/// # Errors
/// `EBUSY` if a file there is open for writing.
pub(crate) fn make_read_only(mount: &impl AsFd, with_those_below: bool) -> io::Result<()> {
    let below = if with_those_below { AT_RECURSIVE } else { 0 };
    set_attributes(mount, below, libc::MS_PRIVATE, MOUNT_ATTR_RDONLY)
}

/// Sees that nothing in a mount and those below it can be executed.
pub(crate) fn make_no_exec(mount: &impl AsFd) -> io::Result<()> {
    set_attributes(mount, AT_RECURSIVE, 0, NO_EXEC)
}

/// Makes a mount and those below it read-only. They still follow the host's.
pub(crate) fn make_tree_read_only(mount: &impl AsFd) -> io::Result<()> {
    set_attributes(mount, AT_RECURSIVE, 0, MOUNT_ATTR_RDONLY)
}

fn set_attributes(
    mount: &impl AsFd,
    below: libc::c_uint,
    propagation: u64,
    set: u64,
) -> io::Result<()> {
    /// `struct mount_attr`.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = Attributes {
        set,
        clear: 0,
        propagation,
        user_namespace: 0,
    };
    // SAFETY: the path ends with NUL, and the structure has the size that is passed.
    succeeded(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            EMPTY_PATH | below,
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
    // SAFETY: the kernel has just made this descriptor for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(result).unwrap_or(-1)) })
}
