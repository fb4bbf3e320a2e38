//! The maps of the gate, which gives connections to instances that are ready. Whatever their shapes
//! are, they are part of the place where they are pinned, by [`ABI`].

/// Raised with every change of a map's type or of what is in it.
pub const ABI: u32 = 2;

/// The most declared ports of a host.
pub const GATES: u32 = 64;
/// The most replicas behind one port.
pub const REPLICAS: u32 = 16;
/// The most listening sockets of one replica at one port: a server may have one for each thread.
pub const SOCKETS: u32 = 16;
/// The most addresses at which one port is listened to.
pub const ADDRESSES: u32 = 4;

/// The key of `MEMBERS`: a cgroup, and a port that its processes may listen at. With port 0 it is any of
/// its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MemberKey {
    pub cgroup: u64,
    pub port: u32,
    pub zero: u32,
}

/// The value of `MEMBERS`: the replica, and where its sockets are bound in place of what the program says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Membership {
    pub member: Member,
    /// The port that clients connect to.
    pub port: u32,
    /// 1 for every address of the host.
    pub is_any: u32,
}

/// A replica behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Member {
    pub gate: u32,
    pub replica: u32,
}

/// The value of `DOORS`, by gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Door {
    /// Bit n: replica n gets connections.
    pub ready: u32,
    /// Without a ready replica connections are refused. Otherwise they wait.
    pub refuses: u32,
}

/// The value of `OWN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Own {
    pub member: Member,
    /// The time of the entry, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// The time for which an entry of `OWN` holds, in nanoseconds: another client may get the same port
/// later.
pub const OWN_NS: u64 = 30_000_000_000;

/// The key of `OWN`: a connection from this host to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ports {
    pub from: u32,
    pub to: u32,
}

/// The places of `COUNTS` for a gate.
pub const COUNTERS: u32 = REPLICAS + 2;
/// Connections that wait for a replica.
pub const PARKED: u32 = REPLICAS;
/// Connections that were refused.
pub const REFUSED: u32 = REPLICAS + 1;

/// A record of the ring `LISTENS`: a replica has begun to listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Listens {
    pub gate: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// 0, or the negative errno for which the socket is not in the map.
    pub result: i32,
    /// The address is in network byte order. An IPv4 address fills the first four bytes.
    pub address: [u8; 16],
}

const _: () = assert!(size_of::<Listens>() == 28);

impl Listens {
    /// Reads a record from a ring's bytes; `None` if they are of another size.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_ne_bytes(super::field(bytes, at));
        Some(Self {
            gate: word(0),
            family: word(4),
            result: word(8).cast_signed(),
            address: super::field(bytes, 12),
        })
    }
}

impl Membership {
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&words(self.member.gate, self.member.replica));
        bytes[8..].copy_from_slice(&words(self.port, self.is_any));
        bytes
    }

    #[must_use]
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(super::field(bytes, at));
        Self {
            member: Member {
                gate: word(0),
                replica: word(4),
            },
            port: word(8),
            is_any: word(12),
        }
    }
}

impl MemberKey {
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.cgroup.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.port.to_ne_bytes());
        bytes
    }

    #[must_use]
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        Self {
            cgroup: u64::from_ne_bytes(super::field(bytes, 0)),
            port: u32::from_ne_bytes(super::field(bytes, 8)),
            zero: 0,
        }
    }
}

/// Two words, as the values of the maps have them.
#[must_use]
pub fn words(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    bytes
}
