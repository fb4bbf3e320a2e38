//! Sees which system calls the processes of a cgroup make, and which addresses they bind and connect to.
//!
//! While this lasts, every system call of the host takes a little longer: the kernel has one
//! tracepoint for all. Calls that a seccomp filter refuses come before it, and are not seen.

use super::assembly::{Assembly, Condition, Register};
use super::btf::{BtfError, KernelTypes};
use super::calls::{self, Hook, Kind, PROTOCOL, Refused, Shape, USER_IP4, USER_IP6, USER_PORT};
use crate::cgroupfs::Cgroup;
use crate::seccomp;
use enforcer_model::spec::Protocol;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

/// More than any architecture has.
const CALLS: u32 = 1024;
const ADDRESSES: u32 = 1024;

#[derive(Debug, thiserror::Error)]
pub enum LearningError {
    #[error(transparent)]
    Types(#[from] BtfError),
    #[error("create a map")]
    Map(#[source] io::Error),
    #[error("load `{program}`")]
    Load {
        program: &'static str,
        source: Refused,
    },
    #[error("attach `{program}`")]
    Attach {
        program: &'static str,
        source: io::Error,
    },
    #[error("read what was seen")]
    Read(#[source] io::Error),
}

/// A watch over the processes of a cgroup, which ends when this is dropped.
pub struct Learning {
    calls: OwnedFd,
    addresses: OwnedFd,
    /// They end the programs when they are closed.
    _links: Vec<OwnedFd>,
}

/// An address that a process has bound, or connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub is_bound: bool,
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: u16,
}

const HOOKS: [(Hook, &str); 6] = [
    (Hook::Bind4, "learn_bind4"),
    (Hook::Bind6, "learn_bind6"),
    (Hook::Connect4, "learn_conn4"),
    (Hook::Connect6, "learn_conn6"),
    (Hook::Send4, "learn_send4"),
    (Hook::Send6, "learn_send6"),
];

impl Learning {
    /// The most addresses that are kept. Those after them are not seen.
    pub const MOST_ADDRESSES: usize = ADDRESSES as usize;

    /// Begins to look at a cgroup and those below it. What a process of the agent's does there before it
    /// executes its program is none of the workload's.
    ///
    /// # Errors
    /// If the kernel refuses a map or a program, or does not say where a field is.
    pub fn begin(cgroup: &Cgroup, agent: u32) -> Result<Self, LearningError> {
        let calls = map("CALLS", ARRAY, (4, CALLS), 1, 0)?;
        let addresses = map("ADDRESSES", HASH, (KEY, 4), ADDRESSES, NO_PREALLOC)?;
        let target = map("TARGET", CGROUP_ARRAY, (4, 4), 1, 0)?;
        let number = cgroup.as_fd().as_raw_fd();
        calls::update(target.as_fd(), &0_u32.to_ne_bytes(), &number.to_ne_bytes())
            .map_err(LearningError::Map)?;
        let mut links = vec![attach_to_calls(target.as_fd(), calls.as_fd(), agent)?];
        for (hook, name) in HOOKS {
            let program = of_addresses(hook, addresses.as_fd());
            let program = load(name, Kind::CgroupAddress(hook), program)?;
            let link =
                calls::link_to_cgroup(program.as_fd(), cgroup.as_fd(), Kind::CgroupAddress(hook));
            links.push(link.map_err(|source| LearningError::Attach {
                program: name,
                source,
            })?);
        }
        Ok(Self {
            calls,
            addresses,
            _links: links,
        })
    }

    /// Returns the names of the system calls so far.
    ///
    /// # Errors
    /// If the kernel does not give the map's value.
    pub fn system_calls(&self) -> Result<BTreeSet<&'static str>, LearningError> {
        let mut seen = [0; CALLS as usize];
        calls::look_up(self.calls.as_fd(), &0_u32.to_ne_bytes(), &mut seen)
            .map_err(LearningError::Read)?;
        let numbers = (0..).zip(seen).filter(|(_, is_seen)| *is_seen != 0);
        Ok(numbers
            .filter_map(|(number, _)| seccomp::name_of(number))
            .collect())
    }

    /// Returns the addresses so far.
    ///
    /// # Errors
    /// If the kernel does not give the map's keys.
    pub fn addresses(&self) -> Result<BTreeSet<Seen>, LearningError> {
        let keys = calls::keys::<{ KEY as usize }>(self.addresses.as_fd(), ADDRESSES);
        let keys = keys.map_err(LearningError::Read)?;
        Ok(keys.iter().filter_map(Seen::of).collect())
    }
}

impl Seen {
    /// Reads a key of the map: hook, protocol, port, and the four words of an address.
    fn of(key: &[u8; KEY as usize]) -> Option<Self> {
        let word = |index: usize| {
            let bytes = key.get(index * 4..index * 4 + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let (hook, protocol, port) = (word(0)?, word(1)?, word(2)?);
        let is_v6 = [Hook::Bind6, Hook::Connect6, Hook::Send6]
            .iter()
            .any(|of| *of as u32 == hook);
        let address: IpAddr = match is_v6 {
            false => Ipv4Addr::from_bits(u32::from_be(word(3)?)).into(),
            true => {
                let octets: [u8; 16] = key.get(12..28)?.try_into().ok()?;
                Ipv6Addr::from(octets).to_canonical()
            }
        };
        let protocol = match i32::try_from(protocol).ok()? {
            libc::IPPROTO_TCP => Protocol::Tcp,
            libc::IPPROTO_UDP => Protocol::Udp,
            _ => return None,
        };
        Some(Self {
            is_bound: hook == Hook::Bind4 as u32 || hook == Hook::Bind6 as u32,
            protocol,
            address,
            // In network byte order, in the first two bytes.
            port: u16::from_be(u16::try_from(port).ok()?),
        })
    }
}

// include/uapi/linux/bpf.h
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const CGROUP_ARRAY: u32 = 8;
const NO_PREALLOC: u32 = 1;
const UPDATE_ELEMENT: i32 = 2;
const CURRENT_TASK: i32 = 35;
const TASK_UNDER_CGROUP: i32 = 37;
const PROBE_READ_KERNEL: i32 = 113;
/// `PF_FORKNOEXEC`: the process has not executed a program since it was forked.
const IS_FORKED: u32 = 0x40;
/// The size of a key of the addresses.
const KEY: u32 = 28;
/// The register that points to the end of the stack.
const FRAME: Register = 10;

fn map(
    name: &str,
    kind: u32,
    (key_size, value_size): (u32, u32),
    max_entries: u32,
    flags: u32,
) -> Result<OwnedFd, LearningError> {
    let shape = Shape {
        kind,
        key_size,
        value_size,
        max_entries,
        flags,
    };
    calls::create_map(name, shape).map_err(LearningError::Map)
}

fn load(program: &'static str, kind: Kind, assembly: Assembly) -> Result<OwnedFd, LearningError> {
    let loaded = calls::load_program(program, kind, &assembly.finish(), c"Dual MIT/GPL");
    loaded.map_err(|source| LearningError::Load { program, source })
}

/// Marks the number of each system call of the cgroup's processes.
fn attach_to_calls(
    cgroup: BorrowedFd<'_>,
    seen: BorrowedFd<'_>,
    agent: u32,
) -> Result<OwnedFd, LearningError> {
    const CONTEXT: Register = 6;
    const TASK: Register = 7;
    const VALUE: Register = 8;
    /// The second argument of the tracepoint, which is the number.
    const NUMBER: i16 = 8;
    const TRACEPOINT: &str = "sys_enter";
    let types = KernelTypes::of_running_kernel()?;
    let offset = |member: &str| {
        types
            .member("task_struct", member)
            .map(|found| found.offset)
    };
    let (flags, parent, process) = (offset("flags")?, offset("real_parent")?, offset("tgid")?);
    let is = |mask, value| Condition {
        register: VALUE,
        mask,
        value,
    };
    let mut ignore = Assembly::default();
    ignore.exit(0);
    let mut of_forked = Assembly::default();
    read_word(&mut of_forked, TASK, parent, true);
    of_forked.load_long(VALUE, FRAME, -8);
    read_word(&mut of_forked, VALUE, process, false);
    of_forked
        .load_word(VALUE, FRAME, -8)
        .if_all(&[is(u32::MAX, agent)], &ignore);
    let mut mark = Assembly::default();
    mark.value_of(1, seen).sum(1, 2).store_byte(1, 1);
    let mut of_cgroup = Assembly::default();
    of_cgroup.call(CURRENT_TASK).copy(TASK, 0);
    read_word(&mut of_cgroup, TASK, flags, false);
    of_cgroup
        .load_word(VALUE, FRAME, -8)
        .if_all(&[is(IS_FORKED, IS_FORKED)], &of_forked)
        .load_long(2, CONTEXT, NUMBER)
        .if_below(2, CALLS.cast_signed(), mark);
    let mut program = Assembly::default();
    let is_in = Condition {
        register: 0,
        mask: u32::MAX,
        value: 1,
    };
    program
        .copy(CONTEXT, 1)
        .map(1, cgroup)
        .set(2, 0)
        .call(TASK_UNDER_CGROUP)
        .if_all(&[is_in], &of_cgroup)
        .exit(0);
    let program = load("learn_calls", Kind::RawTracepoint, program)?;
    calls::attach_raw(program.as_fd(), TRACEPOINT).map_err(|source| LearningError::Attach {
        program: TRACEPOINT,
        source,
    })
}

/// Reads a field of a structure of the kernel's into the first word of the stack, or the first two.
fn read_word(program: &mut Assembly, structure: Register, offset: u64, is_pointer: bool) {
    program
        .copy(1, FRAME)
        .increase(1, -8)
        .set(2, if is_pointer { 8 } else { 4 })
        .copy(3, structure)
        .increase(3, i32::try_from(offset).unwrap_or(i32::MAX))
        .call(PROBE_READ_KERNEL);
}

/// Keeps each address, and allows it.
fn of_addresses(hook: Hook, seen: BorrowedFd<'_>) -> Assembly {
    const CONTEXT: Register = 6;
    const KEY_AT: i16 = -28;
    const VALUE_AT: i16 = -32;
    let is_v6 = hook.is_v6();
    let mut program = Assembly::default();
    program
        .copy(CONTEXT, 1)
        .set(1, (hook as u32).cast_signed())
        .store_word(FRAME, KEY_AT, 1)
        .store_word(FRAME, VALUE_AT, 1);
    let fields = [(1, PROTOCOL), (2, USER_PORT)];
    let address: [Option<i16>; 4] = match is_v6 {
        true => [0, 4, 8, 12].map(|word| Some(USER_IP6 + word)),
        false => [Some(USER_IP4), None, None, None],
    };
    for (index, field) in fields {
        program
            .load_word(1, CONTEXT, field)
            .store_word(FRAME, KEY_AT + index * 4, 1);
    }
    for (index, field) in (3..).zip(address) {
        match field {
            Some(field) => program.load_word(1, CONTEXT, field),
            None => program.set(1, 0),
        };
        program.store_word(FRAME, KEY_AT + index * 4, 1);
    }
    program
        .map(1, seen)
        .copy(2, FRAME)
        .increase(2, KEY_AT.into())
        .copy(3, FRAME)
        .increase(3, VALUE_AT.into())
        .set(4, 0)
        .call(UPDATE_ELEMENT)
        .exit(1);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_an_address() {
        let key = |hook: Hook, protocol: i32, port: u16, address: [u8; 16]| {
            let mut key = [0; KEY as usize];
            key[..4].copy_from_slice(&(hook as u32).to_ne_bytes());
            key[4..8].copy_from_slice(&protocol.to_ne_bytes());
            key[8..10].copy_from_slice(&port.to_be_bytes());
            key[12..].copy_from_slice(&address);
            Seen::of(&key)
        };
        let mut v4 = [0; 16];
        v4[..4].copy_from_slice(&[10, 0, 0, 1]);
        let expected = Seen {
            is_bound: false,
            protocol: Protocol::Tcp,
            address: "10.0.0.1".parse().expect("an address"),
            port: 5432,
        };
        assert_eq!(
            key(Hook::Connect4, libc::IPPROTO_TCP, 5432, v4),
            Some(expected)
        );
        let mapped = "::ffff:10.0.0.1".parse::<Ipv6Addr>().expect("an address");
        let v6 = key(Hook::Connect6, libc::IPPROTO_TCP, 5432, mapped.octets());
        assert_eq!(v6, Some(expected));
        assert_eq!(key(Hook::Bind4, libc::IPPROTO_ICMP, 0, v4), None);
    }
}
