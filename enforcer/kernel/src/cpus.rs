//! The CPUs that are online, and a notice when one comes or goes.

use enforcer_model::limits::parse_cpu_list;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

pub fn online() -> io::Result<Vec<u32>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    parse_cpu_list(text.trim())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a list of CPUs"))
}

/// The kernel's own announcements (`NETLINK_KOBJECT_UEVENT`, group 1).
pub struct Announcements(OwnedFd);

impl AsFd for Announcements {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Announcements {
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Takes all announcements that wait. Returns the CPUs that they name
    /// (`online@/devices/system/cpu/cpu1`), or `None` if some announcements were lost.
    pub fn take(&self) -> Option<Vec<u32>> {
        let mut cpus = Vec::new();
        let mut lost = false;
        let mut buffer = [0; 4096];
        loop {
            match recv(
                self.0.as_raw_fd(),
                &mut buffer,
                nix::sys::socket::MsgFlags::empty(),
            ) {
                Ok(length) => cpus.extend(cpu_of(&buffer[..length])),
                Err(nix::errno::Errno::ENOBUFS) => lost = true,
                Err(_) => break,
            }
        }
        (!lost).then_some(cpus)
    }
}

fn cpu_of(message: &[u8]) -> Option<u32> {
    let header = message.split(|byte| *byte == 0).next()?;
    let path = std::str::from_utf8(header).ok()?.split_once('@')?.1;
    path.strip_prefix("/devices/system/cpu/cpu")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::cpu_of;

    #[test]
    fn only_cpus_are_listened_to() {
        assert_eq!(
            cpu_of(b"online@/devices/system/cpu/cpu12\0ACTION=online\0"),
            Some(12)
        );
        assert_eq!(cpu_of(b"add@/devices/virtual/block/loop0\0"), None);
        assert_eq!(cpu_of(b"add@/devices/system/cpu/cpu1/cache\0"), None);
        assert_eq!(cpu_of(b"\xff\xff"), None);
    }
}
