//! Makes the listening sockets that are passed to programs.

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect,
    getsockname, getsockopt, listen, setsockopt, shutdown, socket, sockopt,
};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, Uid, fchown, fchownat};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

/// Listens at an address, also while connections of the socket before it are still closing.
///
/// # Errors
/// If the address is another socket's, or none of this host's.
pub fn tcp(address: SocketAddr, backlog: u32) -> io::Result<OwnedFd> {
    let listener = TcpListener::bind(address)?;
    listen(&listener, backlog_of(backlog))?;
    Ok(listener.into())
}

/// Listens at an address together with other sockets of this user, as `SO_REUSEPORT` (socket(7)) lets
/// them.
///
/// # Errors
/// If another user has the address.
pub fn shared(
    address: SocketAddr,
    is_v6_only: bool,
    user: Uid,
    backlog: u32,
) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The kernel compares the owners of the sockets.
    fchown(&made, Some(user), None)?;
    setsockopt(&made, sockopt::ReuseAddr, &true)?;
    setsockopt(&made, sockopt::ReusePort, &true)?;
    if address.is_ipv6() {
        setsockopt(&made, sockopt::Ipv6V6Only, &is_v6_only)?;
    }
    bind(made.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&made, backlog_of(backlog))?;
    Ok(made)
}

/// Ends the wait of all connections at a socket: the kernel gives them to another one of its group, or
/// refuses them. The socket listens again.
///
/// # Errors
/// If it cannot listen again.
pub fn flush(made: &OwnedFd, backlog: u32) -> io::Result<()> {
    // It may not listen, if an agent has died in between.
    let _ = shutdown(made.as_raw_fd(), Shutdown::Both);
    Ok(listen(made, backlog_of(backlog))?)
}

/// Listens at a path, whose file gets this mode and owner. A socket at which no process listens is
/// replaced.
///
/// # Errors
/// If another process listens there, or another file is there.
pub fn unix(path: &Path, mode: u32, owner: (Uid, Gid), backlog: u32) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    remove_dead(path)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let made = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind(made.as_raw_fd(), &address)?;
    own(path, mode, owner)?;
    // No client can connect before.
    listen(&made, backlog_of(backlog))?;
    Ok(made)
}

/// Gives a socket's file its owner and mode. The owner of its folder may have put another file there.
fn own(path: &Path, mode: u32, owner: (Uid, Gid)) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    let found = fstat(&file)?;
    if found.st_mode & libc::S_IFMT != libc::S_IFSOCK || found.st_nlink != 1 {
        return Err(io::Error::other(
            "another file has taken the place of the socket",
        ));
    }
    let flags = AtFlags::AT_EMPTY_PATH;
    fchownat(&file, c"", Some(owner.0), Some(owner.1), flags)?;
    let place = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(mode))
}

/// Has a socket listen, if it does not.
///
/// # Errors
/// If it cannot.
pub fn ensure(made: &OwnedFd) -> io::Result<()> {
    if getsockopt(made, sockopt::AcceptConn)? {
        return Ok(());
    }
    Ok(listen(made, backlog_of(u32::MAX))?)
}

/// Returns whether a connection waits at a socket.
#[must_use]
pub fn has_waiting(made: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(made.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1..))
}

/// Returns the address of a socket.
#[must_use]
pub fn address(made: &OwnedFd) -> Option<SocketAddr> {
    let found: SockaddrStorage = getsockname(made.as_raw_fd()).ok()?;
    match (found.as_sockaddr_in(), found.as_sockaddr_in6()) {
        (Some(found), _) => Some(SocketAddr::V4((*found).into())),
        (_, Some(found)) => Some(SocketAddr::V6((*found).into())),
        (None, None) => None,
    }
}

/// Returns the inode of a socket, as sock_diag(7) names it.
#[must_use]
pub fn inode(made: &OwnedFd) -> Option<u32> {
    u32::try_from(fstat(made).ok()?.st_ino).ok()
}

/// The kernel bounds it by `net.core.somaxconn`.
fn backlog_of(backlog: u32) -> Backlog {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    Backlog::new(backlog).unwrap_or(Backlog::MAXCONN)
}

/// Removes the file of a socket at which no process listens.
///
/// # Errors
/// If it cannot be removed.
pub fn remove_dead(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        // bind(2) reports what else is there.
        _ => return Ok(()),
    }
    // A listener whose queue is full would hold a client up that waits.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let client = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(client.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Returns whether a program can use a socket again: it still listens, and clients still find it.
#[must_use]
pub fn is_usable(made: &OwnedFd, path: Option<&Path>) -> bool {
    let listens = getsockopt(made, sockopt::AcceptConn).unwrap_or(false);
    let is_found = path.is_none_or(|path| {
        let found = std::fs::symlink_metadata(path);
        found.is_ok_and(|found| found.file_type().is_socket())
    });
    // The program before may have changed how the socket waits.
    let waits = fcntl(made, FcntlArg::F_SETFL(OFlag::empty())).is_ok();
    listens && is_found && waits
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_tcp_socket_is_connected_to_and_has_its_address_alone() {
        let address = "127.0.0.1:0".parse().expect("an address");
        let first = tcp(address, 16).expect("a socket");
        let first = TcpListener::from(first);
        let bound = first.local_addr().expect("an address");
        TcpStream::connect(bound).expect("a connection");
        let again = tcp(bound, 16).expect_err("the address is taken");
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let folder = std::env::temp_dir().join(format!("listening-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("socket");
        let owner = (Uid::current(), Gid::current());
        let living = unix(&path, 0o666, owner, 1).expect("a socket");
        let mode = std::fs::metadata(&path)
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o666);
        assert!(is_usable(&living, Some(&path)));
        assert!(unix(&path, 0o600, owner, 1).is_err());
        UnixStream::connect(&path).expect("a connection");
        nix::sys::socket::shutdown(living.as_raw_fd(), nix::sys::socket::Shutdown::Both)
            .expect("a shutdown");
        assert!(!is_usable(&living, Some(&path)) || UnixStream::connect(&path).is_err());
        drop(living);
        unix(&path, 0o600, owner, 1).expect("another socket");
        std::fs::remove_file(&path).expect("its file");
        std::fs::write(&path, "kept").expect("another file");
        assert!(unix(&path, 0o600, owner, 1).is_err());
        assert_eq!(std::fs::read(&path).expect("the file"), b"kept");
        std::fs::remove_dir_all(folder).expect("an end");
    }
}
