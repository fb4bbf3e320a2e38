//! Makes the listening sockets that are passed to programs.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockname, listen,
    socket,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
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

/// Listens at a path, whose file gets this mode and owner. A socket at which no process listens is
/// replaced.
///
/// # Errors
/// If another process listens there, or another file is there.
pub fn unix(path: &Path, mode: u32, owner: (Uid, Gid), backlog: u32) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    remove_dead(path, &address)?;
    let made = local()?;
    // The file of a socket gets the mode that the socket has when it is bound (unix_bind), less the
    // mask.
    fchmod(&made, Mode::from_bits_truncate(mode))?;
    bind(made.as_raw_fd(), &address)?;
    std::os::unix::fs::lchown(path, Some(owner.0.as_raw()), Some(owner.1.as_raw()))?;
    // No client can connect before.
    listen(&made, backlog_of(backlog))?;
    Ok(made)
}

fn local() -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// The kernel bounds it by `net.core.somaxconn`.
fn backlog_of(backlog: u32) -> Backlog {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    Backlog::new(backlog).unwrap_or(Backlog::MAXCONN)
}

/// Removes the file of a socket at which no process listens.
fn remove_dead(path: &Path, address: &UnixAddr) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        // bind(2) reports what else is there.
        _ => return Ok(()),
    }
    match connect(local()?.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Removes the file of a Unix socket.
pub fn remove_file_of(made: &OwnedFd) {
    let bound = getsockname::<UnixAddr>(made.as_raw_fd());
    let Ok(Some(path)) = bound.as_ref().map(UnixAddr::path) else {
        return;
    };
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        // It may have been replaced or removed meanwhile.
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt as _;
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
        let living = unix(&path, 0o600, owner, 1).expect("a socket");
        let mode = std::fs::metadata(&path)
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(unix(&path, 0o600, owner, 1).is_err());
        UnixStream::connect(&path).expect("a connection");
        drop(living);
        unix(&path, 0o600, owner, 1).expect("another socket");
        std::fs::remove_file(&path).expect("its file");
        std::fs::write(&path, "kept").expect("another file");
        assert!(unix(&path, 0o600, owner, 1).is_err());
        assert_eq!(std::fs::read(&path).expect("the file"), b"kept");
        std::fs::remove_dir_all(folder).expect("an end");
    }
}
