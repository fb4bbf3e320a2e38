//! The TCP sockets of this network namespace at a port, by sock_diag(7).
//!
//! The id of a socket's cgroup comes since Linux 5.9 (`INET_DIAG_CGROUP_ID`). Where the kernel has no
//! sock_diag(7) for TCP, and cannot load its module, `/proc/net/tcp` says less.

use enforcer_model::ids::CgroupId;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

/// `SOCK_DIAG_BY_FAMILY`, a message of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
const HEADER: usize = 16;
/// The length of `struct inet_diag_msg`.
const SOCKET: usize = 72;
/// `INET_DIAG_SKV6ONLY` and `INET_DIAG_CGROUP_ID`.
const V6_ONLY: u16 = 11;
const CGROUP: u16 = 21;

/// The states of net/tcp_states.h that are asked for.
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

/// A socket, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalSocket {
    pub address: IpAddr,
    pub port: u16,
    /// The other end of a connection.
    pub remote: SocketAddr,
    /// It does not take connections of IPv4.
    pub is_v6_only: bool,
    pub uid: u32,
    /// 0 for a connection that the program has not accepted yet.
    pub inode: u32,
    /// The cgroup of the process that has made it, or of the listening socket behind it.
    pub cgroup: Option<CgroupId>,
    /// The connections that wait to be accepted, of one that listens.
    pub queued: u32,
}

/// Returns the sockets that listen at a port.
///
/// # Errors
/// If the kernel does not list them.
pub fn listening(port: u16) -> io::Result<Vec<LocalSocket>> {
    list(End::Local(port), &[LISTEN])
}

/// Returns the connections at a local port that a program may still write to.
///
/// # Errors
/// If the kernel does not list them.
pub fn open(port: u16) -> io::Result<Vec<LocalSocket>> {
    list(End::Local(port), &[ESTABLISHED, CLOSE_WAIT])
}

/// Returns the connections whose other end is at a port.
///
/// # Errors
/// If the kernel does not list them.
pub fn towards(port: u16) -> io::Result<Vec<LocalSocket>> {
    list(End::Remote(port), &[ESTABLISHED, CLOSE_WAIT])
}

/// The end of a connection that is at a port.
#[derive(Clone, Copy, Debug)]
enum End {
    Local(u16),
    Remote(u16),
}

fn list(end: End, states: &[u8]) -> io::Result<Vec<LocalSocket>> {
    match list_by_diag(end, states) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => list_by_proc(end, states),
        listed => listed,
    }
    .map(each_once)
}

/// The kernel lists in several steps, and may repeat a connection when others come and go between two of them.
fn each_once(mut all: Vec<LocalSocket>) -> Vec<LocalSocket> {
    let mut seen = HashSet::new();
    all.retain(|one| one.remote.port() == 0 || seen.insert((one.address, one.port, one.remote)));
    all
}

/// The same without cgroups, and without what only an IPv6 socket has.
fn list_by_proc(end: End, states: &[u8]) -> io::Result<Vec<LocalSocket>> {
    let read = [procfs::net::tcp(), procfs::net::tcp6()];
    let mut all = Vec::new();
    for entries in read {
        let found = entries.map_err(io::Error::other)?.into_iter();
        let found = found.filter(|one| {
            let is_at = match end {
                End::Local(port) => one.local_address.port() == port,
                End::Remote(port) => one.remote_address.port() == port,
            };
            is_at && states.contains(&one.state.to_u8())
        });
        all.extend(found.map(|one| LocalSocket {
            address: one.local_address.ip(),
            port: one.local_address.port(),
            remote: one.remote_address,
            is_v6_only: false,
            uid: one.uid,
            inode: u32::try_from(one.inode).unwrap_or_default(),
            cgroup: None,
            queued: one.rx_queue,
        }));
    }
    Ok(all)
}

fn list_by_diag(end: End, states: &[u8]) -> io::Result<Vec<LocalSocket>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or_default();
        let request = request(family, end, states);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(netlink.as_raw_fd(), &request, &kernel, MsgFlags::empty())?;
        receive(&netlink, &mut all)?;
    }
    Ok(all)
}

fn request(family: u8, end: End, states: &[u8]) -> Vec<u8> {
    const LENGTH: u32 = 72;
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or_default();
    let mut bytes = Vec::new();
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    // `struct inet_diag_req_v2`: family, protocol, no extensions, padding, states, ports, addresses.
    let tcp = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    bytes.extend([family, tcp, 0, 0]);
    let mask = states.iter().fold(0_u32, |mask, state| mask | 1 << state);
    bytes.extend(mask.to_ne_bytes());
    let (local, remote) = match end {
        End::Local(port) => (port, 0),
        End::Remote(port) => (0, port),
    };
    bytes.extend(local.to_be_bytes());
    bytes.extend(remote.to_be_bytes());
    bytes.resize(LENGTH as usize, 0);
    bytes
}

/// Receives the answer to one request.
fn receive(netlink: &OwnedFd, all: &mut Vec<LocalSocket>) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = match recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(nix::Error::EINTR) => continue,
            received => received?,
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &buffer[..length];
        while let Some((kind, body, behind)) = message(rest) {
            rest = behind;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let errno = body
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-errno));
                }
                _ => all.extend(parse(body)),
            }
        }
    }
}

/// Returns the type and the body of the first message, and what is behind it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((
        kind,
        body,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// Reads a `struct inet_diag_msg` with its attributes.
fn parse(body: &[u8]) -> Option<LocalSocket> {
    let word = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk()?));
    let is_v6 = i32::from(*body.first()?) == libc::AF_INET6;
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let address = |at: usize| {
        let bytes = body.get(at..)?;
        Some(match is_v6 {
            true => IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
            false => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
        })
    };
    let mut found = LocalSocket {
        address: address(8)?,
        port: port(4)?,
        remote: SocketAddr::new(address(24)?, port(6)?),
        is_v6_only: false,
        uid: word(64)?,
        inode: word(68)?,
        cgroup: None,
        queued: word(56)?,
    };
    let mut rest = body.get(SOCKET..)?;
    while let (Some(length), Some(kind)) = (
        rest.first_chunk()
            .map(|bytes| usize::from(u16::from_ne_bytes(*bytes))),
        rest.get(2..)
            .and_then(|rest| rest.first_chunk())
            .map(|bytes| u16::from_ne_bytes(*bytes)),
    ) {
        let Some(value) = rest.get(4..length) else {
            break;
        };
        match kind {
            V6_ONLY => found.is_v6_only = value.first().is_some_and(|byte| *byte != 0),
            CGROUP => {
                let id = value.first_chunk().map(|id| u64::from_ne_bytes(*id));
                found.cgroup = id.map(CgroupId);
            }
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(found)
}

/// Returns a process that has a socket open: its number and its command. The first one is enough.
pub fn holder_of(inode: u32) -> Option<(u32, String)> {
    let link = format!("socket:[{inode}]");
    let processes = procfs::process::all_processes().ok()?.flatten();
    processes.into_iter().find_map(|process| {
        let folder = format!("/proc/{}/fd", process.pid);
        let mut open = std::fs::read_dir(folder).ok()?.flatten();
        let has_it = open.any(|entry| {
            std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link.as_str())
        });
        let pid = u32::try_from(process.pid).ok().filter(|_| has_it)?;
        Some((
            pid,
            process.stat().map(|stat| stat.comm).unwrap_or_default(),
        ))
    })
}

/// Returns the inodes of the sockets that a process has open.
#[must_use]
pub fn sockets_of_process(pid: u32) -> Vec<u32> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let open = open.into_iter().flatten().flatten();
    let inodes = open.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let inode = target
            .to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?;
        inode.parse().ok()
    });
    inodes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn sockets_are_listed_by_their_port() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let found = listening(address.port()).expect("a list");
        let [one] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!((one.address, one.port), (address.ip(), address.port()));
        assert_eq!(one.uid, nix::unistd::getuid().as_raw());
        let (pid, _) = holder_of(one.inode).expect("this process");
        assert_eq!(pid, std::process::id());
        assert_eq!(open(address.port()).expect("a list"), []);
        let client = TcpStream::connect(address).expect("a connection");
        let waiting = open(address.port()).expect("a list");
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].inode, 0, "it is not accepted yet");
        assert_eq!(listening(address.port()).expect("a list")[0].queued, 1);
        let ends = towards(address.port()).expect("a list");
        let own = client.local_addr().expect("its address");
        assert_eq!((ends.len(), waiting[0].remote), (1, own));
        assert_eq!((ends[0].port, ends[0].remote), (own.port(), address));
        let accepted = listener.accept().expect("a connection");
        let accepted_now = open(address.port()).expect("a list");
        assert_ne!(accepted_now[0].inode, 0);
        drop((client, accepted));
    }

    #[test]
    fn both_lists_agree() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = listener.local_addr().expect("its address").port();
        let client = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        for states in [&[LISTEN][..], &[ESTABLISHED, CLOSE_WAIT]] {
            let less = list_by_proc(End::Local(port), states).map(each_once);
            let less = less.expect("a list");
            let more = list(End::Local(port), states).expect("a list");
            let without_cgroup = more.into_iter().map(|one| LocalSocket {
                cgroup: None,
                ..one
            });
            assert_eq!(less, without_cgroup.collect::<Vec<_>>());
            assert_eq!(less.len(), 1);
        }
        drop(client);
    }

    #[test]
    fn half_an_answer_is_none() {
        assert_eq!(parse(&[0; 71]), None);
        assert!(message(&[16, 0, 0]).is_none());
        assert!(message(&[200, 0, 0, 0, 3, 0, 0, 0]).is_none());
    }
}
