//! Puts the child into the namespaces that its orders name. As in all of the child, nothing here
//! allocates, locks or panics.
//!
//! The order matters. What is mounted is found first, in the host's files. Then the root is attached to
//! a folder of the agent's, and each mount to its place below that root, which is opened with
//! `RESOLVE_IN_ROOT`: no link in the tree leads out of it, and what its owner changes meanwhile makes a
//! start fail at most. Nothing is created in the tree; only below a file system in memory, which is the
//! child's own, are folders made. The last step is pivot_root(2), which leaves nothing of the host's.

use super::child::{Failed, Stage, Step, check, system_call};
use super::view::{MOST_MOUNTS, MountOrder, OwnOrders, Root, SourceOrder, ViewOrders};
use crate::mounts;
use libc::c_int;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// The devices without access to hardware.
const DEVICES: [&CStr; 6] = [c"null", c"zero", c"full", c"random", c"urandom", c"tty"];
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

/// Enters what these orders say; the descriptors are those of the view.
pub(super) fn enter(orders: &ViewOrders, descriptors: &[c_int]) -> Step {
    match orders {
        ViewOrders::Hosts => Ok(()),
        ViewOrders::Another => join(descriptors),
        ViewOrders::Own(own) => make(own, descriptors),
    }
}

/// Joins the namespaces of a process (setns(2) with a pidfd, Linux 5.8).
fn join(descriptors: &[c_int]) -> Step {
    let process = descriptors.first().copied().unwrap_or(-1);
    // SAFETY: a descriptor and flags.
    let joined = unsafe { libc::setns(process, libc::CLONE_NEWNS | libc::CLONE_NEWUTS) };
    check(joined, Stage::Join)
}

fn make(own: &OwnOrders, given: &[c_int]) -> Step {
    new_namespaces(own)?;
    // SAFETY: no preconditions, and it always succeeds. The program's own mask is set later.
    unsafe { libc::umask(0o022) };
    let devices = mounts::folder(c"/dev");
    let folder = own
        .root
        .as_ref()
        .map_or(c"/", |root| root.folder.as_c_str());
    let folder = mounts::folder(folder).map_err(|error| failed(Stage::Root, 0, &error))?;
    let mut given = given.iter().copied();
    let mut sources = [const { None }; MOST_MOUNTS];
    for (index, (mount, found)) in own.mounts.iter().zip(&mut sources).enumerate() {
        *found = match source(&mount.source, &folder, &mut given) {
            Ok(source) => source,
            Err(error) if may_be_missing(mount, &error) => None,
            Err(error) => return Err(failed(Stage::Source, index, &error)),
        };
        if let (true, Some(source)) = (mount.no_exec, &*found) {
            let made = mounts::make_no_exec(source);
            made.map_err(|error| failed(Stage::Source, index, &error))?;
        }
    }
    if own.read_only {
        // What is to be changed has been copied before.
        let made = mounts::make_tree_read_only(&folder);
        made.map_err(|error| failed(Stage::Root, 0, &error))?;
    }
    let root = match &own.root {
        Some(root) => stage(root, &folder),
        None => Ok(folder),
    };
    let root = root.map_err(|error| failed(Stage::Root, 0, &error))?;
    for (index, mount) in own.mounts.iter().enumerate() {
        let place = match place(&root, mount, &sources, index) {
            Ok(place) => place,
            Err(error) if mount.is_optional && is_missing(&error) => {
                // Nothing can be mounted below it.
                sources[index] = None;
                continue;
            }
            Err(error) => return Err(failed(Stage::Mount, index, &error)),
        };
        let attached = match (&sources[index], &mount.source) {
            (Some(source), SourceOrder::Devices) => mounts::attach(source, &place)
                .and_then(|()| fill_devices(source, devices.as_ref().ok())),
            (Some(source), _) => mounts::attach(source, &place),
            (None, SourceOrder::ReadOnly) => make_read_only(&place),
            (None, _) => Ok(()),
        };
        attached.map_err(|error| failed(Stage::Mount, index, &error))?;
    }
    // Only now: mount points had to be created in them first.
    for (index, (mount, source)) in own.mounts.iter().zip(&sources).enumerate() {
        if let (
            Some(source),
            SourceOrder::Memory {
                read_only: true, ..
            },
        ) = (source, &mount.source)
        {
            let made = mounts::make_read_only(source, false);
            made.map_err(|error| failed(Stage::Mount, index, &error))?;
        }
    }
    match &own.root {
        Some(_) => change_root(&root),
        None => Ok(()),
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}

/// Returns whether a mount is left out because there is nothing to mount. What hides something is never
/// left out.
fn may_be_missing(mount: &MountOrder, error: &io::Error) -> bool {
    let is_of_files = matches!(
        mount.source,
        SourceOrder::Hosts { .. } | SourceOrder::Own { .. }
    );
    mount.is_optional && is_of_files && is_missing(error)
}

fn make_read_only(place: &OwnedFd) -> io::Result<()> {
    let copy = mounts::copy(place)?;
    mounts::make_read_only(&copy, true)?;
    mounts::attach(&copy, place)
}

/// Makes the namespaces. Later mounts of the host appear in the new one, and its own do not appear
/// on the host.
fn new_namespaces(own: &OwnOrders) -> Step {
    let (nothing, root) = (std::ptr::null(), c"/".as_ptr());
    let of_name = match own.hostname {
        Some(_) => libc::CLONE_NEWUTS,
        None => 0,
    };
    // SAFETY: all paths end with NUL, and the name has the length that is passed.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS | of_name), Stage::Namespace)?;
        let flags = libc::MS_REC | libc::MS_SLAVE;
        let slave = libc::mount(nothing, root, nothing, flags, nothing.cast());
        check(slave, Stage::Namespace)?;
        if let Some(name) = &own.hostname {
            let set = libc::sethostname(name.as_ptr(), name.as_bytes().len());
            check(set, Stage::Hostname)?;
        }
    }
    Ok(())
}

/// Returns `None` if the source is opened when it is attached.
fn source(
    order: &SourceOrder,
    root: &OwnedFd,
    given: &mut impl Iterator<Item = c_int>,
) -> io::Result<Option<OwnedFd>> {
    let found = match order {
        SourceOrder::Given => {
            let number = given.next().unwrap_or(-1);
            match number {
                // SAFETY: it came with the orders, and nothing else in this process closes it.
                0.. => unsafe { OwnedFd::from_raw_fd(number) },
                _ => return Err(io::ErrorKind::NotFound.into()),
            }
        }
        SourceOrder::Hosts { path, read_only } => copy(mounts::copy_of(path)?, *read_only)?,
        SourceOrder::Own { path, read_only } => copy(mounts::copy_in(root, path)?, *read_only)?,
        SourceOrder::ReadOnly => return Ok(None),
        SourceOrder::Memory { options, .. } => memory(options)?,
        SourceOrder::Processes => {
            // Members of this group see all processes. The default is root's; nobody has this one.
            let options = [
                (c"hidepid", Some(c"invisible")),
                (c"gid", Some(c"4294967294")),
            ];
            let attributes = mounts::NO_SUID | mounts::NO_DEVICES | mounts::NO_EXEC;
            mounts::make(c"proc", &options, attributes)?
        }
        SourceOrder::Devices => {
            let options = [(c"mode", Some(c"0755")), (c"size", Some(c"64k"))];
            mounts::make(c"tmpfs", &options, mounts::NO_SUID | mounts::NO_EXEC)?
        }
    };
    Ok(Some(found))
}

fn copy(of: OwnedFd, read_only: bool) -> io::Result<OwnedFd> {
    if read_only {
        mounts::make_read_only(&of, true)?;
    }
    Ok(of)
}

fn memory(options: &[(CString, CString)]) -> io::Result<OwnedFd> {
    const MOST_OPTIONS: usize = 8;
    let mut all: [mounts::MountOption<'_>; MOST_OPTIONS] = [(c"", None); MOST_OPTIONS];
    for ((key, value), one) in options.iter().zip(&mut all) {
        *one = (key, Some(value));
    }
    let all = &all[..options.len().min(MOST_OPTIONS)];
    mounts::make(c"tmpfs", all, mounts::NO_SUID | mounts::NO_DEVICES)
}

/// Attaches the tree of the root to the agent's folder, where its mounts are put together.
fn stage(root: &Root, folder: &OwnedFd) -> io::Result<OwnedFd> {
    let tree = copy(mounts::copy(folder)?, root.read_only)?;
    mounts::attach(&tree, &mounts::folder(&root.stage)?)?;
    Ok(tree)
}

/// Opens the place of a mount: in the files of the root, or in the file system in memory that it is
/// below, where missing folders are created.
fn place(
    root: &OwnedFd,
    mount: &MountOrder,
    sources: &[Option<OwnedFd>; MOST_MOUNTS],
    index: usize,
) -> io::Result<OwnedFd> {
    let missing = || io::Error::from_raw_os_error(libc::ENOENT);
    let Some((above, parts)) = &mount.below else {
        return mounts::open_below(root, &mount.at, 0);
    };
    // By its descriptor: the owner of the tree may have put another folder at its path.
    let above = sources.get(*above).and_then(Option::as_ref);
    let above = above.ok_or_else(missing)?;
    let source = sources[index].as_ref().ok_or_else(missing)?;
    let is_folder = is_folder(source)?;
    let mut parts = parts.iter().peekable();
    let mut place = mounts::open_below(above, c".", libc::O_DIRECTORY)?;
    while let Some(part) = parts.next() {
        place = make_in(&place, part, is_folder || parts.peek().is_some())?;
    }
    Ok(place)
}

/// Makes a folder or an empty file, if it is missing, and returns its place.
fn make_in(folder: &OwnedFd, name: &CStr, is_folder: bool) -> io::Result<OwnedFd> {
    let number = folder.as_raw_fd();
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the name ends with NUL, and the descriptor is closed where it was opened.
    unsafe {
        if is_folder {
            libc::mkdirat(number, name.as_ptr(), 0o755);
        } else {
            let file = libc::openat(number, name.as_ptr(), flags, 0o644);
            libc::close(file);
        }
    }
    // Errors are ignored: this call reports a missing file.
    mounts::open_below(folder, name, libc::O_NOFOLLOW)
}

fn is_folder(source: &OwnedFd) -> io::Result<bool> {
    // SAFETY: all of its fields are integers, for which zero is valid, and the kernel fills it.
    unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        match libc::fstat(source.as_raw_fd(), &raw mut found) {
            0 => Ok(found.st_mode & libc::S_IFMT == libc::S_IFDIR),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Fills a folder as `/dev`.
fn fill_devices(folder: &OwnedFd, of_host: Option<&OwnedFd>) -> io::Result<()> {
    let Some(of_host) = of_host else {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    };
    for name in DEVICES {
        let device = mounts::copy_in(of_host, name)?;
        mounts::attach(&device, &make_in(folder, name, false)?)?;
    }
    for (target, name) in LINKS {
        // SAFETY: both strings end with NUL.
        let made = unsafe { libc::symlinkat(target.as_ptr(), folder.as_raw_fd(), name.as_ptr()) };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    link_log(folder, of_host)?;
    let options = [
        (c"ptmxmode", Some(c"0666")),
        (c"mode", Some(c"0620")),
        (c"gid", Some(c"5")),
    ];
    let terminals = mounts::make(c"devpts", &options, mounts::NO_SUID | mounts::NO_EXEC)?;
    mounts::attach(&terminals, &make_in(folder, c"pts", true)?)?;
    let attributes = mounts::NO_SUID | mounts::NO_DEVICES | mounts::NO_EXEC;
    let shared = mounts::make(c"tmpfs", &[(c"mode", Some(c"1777"))], attributes)?;
    mounts::attach(&shared, &make_in(folder, c"shm", true)?)
}

/// Gives a folder the socket of syslog(3), if the host has one: the same link, or the socket itself.
fn link_log(folder: &OwnedFd, of_host: &OwnedFd) -> io::Result<()> {
    let mut target = [0u8; 256];
    // SAFETY: both names end with NUL; one byte of the buffer stays zero, so the target does as well.
    unsafe {
        let (name, length) = (c"log".as_ptr(), target.len() - 1);
        let read = libc::readlinkat(
            of_host.as_raw_fd(),
            name,
            target.as_mut_ptr().cast(),
            length,
        );
        if read >= 0 {
            return match libc::symlinkat(target.as_ptr().cast(), folder.as_raw_fd(), name) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            };
        }
    }
    match mounts::copy_in(of_host, c"log") {
        Ok(log) => mounts::attach(&log, &make_in(folder, c"log", false)?),
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the staged tree the root, and lets go of the host's (pivot_root(2), "pivot_root(".", ".")").
fn change_root(root: &OwnedFd) -> Step {
    let here = c".".as_ptr();
    // SAFETY: all paths end with NUL.
    unsafe {
        check(libc::fchdir(root.as_raw_fd()), Stage::Pivot)?;
        let moved = libc::syscall(libc::SYS_pivot_root, here, here);
        check(system_call(moved), Stage::Pivot)?;
        check(libc::umount2(here, libc::MNT_DETACH), Stage::Pivot)?;
        check(libc::chdir(c"/".as_ptr()), Stage::Pivot)
    }
}

/// Sets errno again, because another call may have changed it.
fn failed(stage: Stage, index: usize, error: &io::Error) -> Failed {
    let number = error.raw_os_error().unwrap_or(libc::EIO);
    nix::Error::from_raw(number).set();
    Failed {
        stage,
        index: u8::try_from(index).unwrap_or(u8::MAX),
    }
}
