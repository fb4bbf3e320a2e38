//! Wraps bpf(2): it creates maps, loads programs, attaches them and pins all of them.
//!
//! Each call passes only the fields of `union bpf_attr` that its command has. The kernel takes the
//! others as zero.

use aya_obj::generated::bpf_insn;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const MAP_FREEZE: libc::c_int = 22;
const LINK_CREATE: libc::c_int = 28;

/// `BPF_CGROUP_INET_SOCK_CREATE` and `BPF_CGROUP_SOCK_OPS` of `enum bpf_attach_type`.
const CREATE_SOCKET: u32 = 2;
const SOCKET_OPERATIONS: u32 = 3;
/// `BPF_SK_REUSEPORT_SELECT_OR_MIGRATE` of `enum bpf_attach_type`.
const SELECT_OR_MIGRATE: u32 = 40;
/// `BPF_PERF_EVENT` of `enum bpf_attach_type`.
const PERF_EVENT: u32 = 41;
/// The log that the verifier writes about a program that it refuses.
const LOG_BYTES: usize = 64 << 10;

/// The kind of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tracepoint,
    PerfEvent,
    RawTracepoint,
    /// Looks at an address before a socket of a cgroup uses it.
    CgroupAddress(Hook),
    /// Looks at a new socket of a cgroup.
    CgroupSocket,
    /// Follows the TCP sockets of a cgroup.
    SocketOperations,
    /// Chooses among the sockets of a reuseport group, also for connections whose socket has closed
    /// (Linux 5.14).
    Reuseport,
}

impl Kind {
    /// Returns `enum bpf_prog_type`, and `enum bpf_attach_type` for those that are made for one.
    const fn numbers(self) -> (u32, u32) {
        match self {
            Self::Tracepoint => (5, 0),
            Self::PerfEvent => (7, 0),
            Self::RawTracepoint => (17, 0),
            Self::CgroupAddress(hook) => (18, hook as u32),
            Self::CgroupSocket => (9, CREATE_SOCKET),
            Self::SocketOperations => (13, SOCKET_OPERATIONS),
            Self::Reuseport => (21, SELECT_OR_MIGRATE),
        }
    }
}

/// The hooks of a cgroup, as `enum bpf_attach_type` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Hook {
    Bind4 = 8,
    Bind6 = 9,
    Connect4 = 10,
    Connect6 = 11,
    /// Datagrams of sockets that are not connected.
    Send4 = 14,
    Send6 = 15,
}

impl Hook {
    /// Returns whether the addresses are those of IPv6.
    pub(super) const fn is_v6(self) -> bool {
        matches!(self, Self::Bind6 | Self::Connect6 | Self::Send6)
    }
}

/// The offsets of the fields of `struct bpf_sock_addr`, which a program of a hook gets.
pub(super) const USER_IP4: i16 = 4;
pub(super) const USER_IP6: i16 = 8;
pub(super) const USER_PORT: i16 = 24;
pub(super) const PROTOCOL: i16 = 36;
pub(super) const SOCKET: i16 = 64;

/// The shape of a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[derive(Default)]
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Default)]
#[repr(C)]
struct ProgLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[derive(Default)]
#[repr(C)]
struct Pin {
    path: u64,
    descriptor: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct InfoByFd {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// The first fields of `struct bpf_prog_info`.
#[derive(Default)]
#[repr(C)]
pub(super) struct ProgInfo {
    kind: u32,
    pub(super) id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    loaded: u64,
    user: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
}

impl ProgInfo {
    /// Returns whether the program was loaded with this name.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == short(name)
    }
}

/// The attributes of BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[derive(Default)]
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    attach_flags_of_each: u64,
    links: u64,
    attach_flags_of_links: u64,
    revision: u64,
}

// Linux 6.17 to 7.1 write the revision whatever size was passed.
const _: () = assert!(size_of::<Query>() == 64);

#[derive(Default)]
#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct RawTracepoint {
    name: u64,
    program: u32,
    padding: u32,
}

#[derive(Default)]
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// A program that the kernel refuses.
#[derive(Debug)]
pub struct Refused {
    pub source: io::Error,
    /// The verifier's log. It is empty if the verifier did not refuse the program.
    pub log: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.source.fmt(f)?;
        let said: Vec<&str> = self.log.lines().rev().take(4).collect();
        for line in said.into_iter().rev() {
            write!(f, "; {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// Makes one call.
///
/// # Safety
/// The attributes must be those of the command, and each address in them must be valid for it.
unsafe fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller answers for the attributes, whose size is passed with them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes one call that returns a new descriptor. The kernel sets close-on-exec on it.
///
/// # Safety
/// The attributes must fulfil the conditions of [`call`].
unsafe fn open<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller answers for the attributes.
    let descriptor = unsafe { call(command, attributes) }?;
    // SAFETY: the descriptor is new, and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

fn address<T: ?Sized>(of: &T) -> u64 {
    std::ptr::from_ref(of).cast::<u8>().addr() as u64
}

/// Returns a name as the kernel takes it: at most 15 bytes, and a NUL.
fn short(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    short
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Creates a map.
pub(super) fn create_map(name: &str, shape: Shape) -> io::Result<OwnedFd> {
    let mut attributes = MapCreate {
        kind: shape.kind,
        key_size: shape.key_size,
        value_size: shape.value_size,
        max_entries: shape.max_entries,
        flags: shape.flags,
        name: short(name),
        ..MapCreate::default()
    };
    // SAFETY: these are the attributes of BPF_MAP_CREATE, without addresses.
    unsafe { open(MAP_CREATE, &mut attributes) }
}

/// Writes the one value of a map of globals, and freezes the map: no process can write to it again.
pub(super) fn fill_and_freeze(map: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let key = 0_u32;
    let mut element = Element {
        map: number(map),
        key: address(&key),
        value: address(value),
        ..Element::default()
    };
    // SAFETY: these are the attributes of BPF_MAP_UPDATE_ELEM. The map's value is as long as its
    // section, which `value` is.
    unsafe { call(MAP_UPDATE_ELEM, &mut element) }?;
    let mut frozen = number(map);
    // SAFETY: the only attribute of BPF_MAP_FREEZE is the map.
    unsafe { call(MAP_FREEZE, &mut frozen) }.map(drop)
}

/// Sets a value of a map. Both must have the sizes of the map.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut element = Element {
        map: number(map),
        key: address(key),
        value: address(value),
        ..Element::default()
    };
    // SAFETY: these are the attributes of BPF_MAP_UPDATE_ELEM, with addresses that outlive the call.
    unsafe { call(MAP_UPDATE_ELEM, &mut element) }.map(drop)
}

/// Reads a value of a map. Both must have the sizes of the map.
pub(super) fn look_up(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let mut element = Element {
        map: number(map),
        key: address(key),
        value: value.as_mut_ptr().addr() as u64,
        ..Element::default()
    };
    // SAFETY: these are the attributes of BPF_MAP_LOOKUP_ELEM, with addresses that outlive the call.
    unsafe { call(MAP_LOOKUP_ELEM, &mut element) }.map(drop)
}

/// Removes a value of a map. The key must have the size of the map's.
pub(super) fn remove(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut element = Element {
        map: number(map),
        key: address(key),
        ..Element::default()
    };
    // SAFETY: these are the attributes of BPF_MAP_DELETE_ELEM; the key outlives the call.
    unsafe { call(MAP_DELETE_ELEM, &mut element) }.map(drop)
}

/// Returns the keys of a map, and at most this many. `N` must be the size of the map's keys.
pub(super) fn keys<const N: usize>(map: BorrowedFd<'_>, most: u32) -> io::Result<Vec<[u8; N]>> {
    let mut keys: Vec<[u8; N]> = Vec::new();
    for _ in 0..most {
        let before = keys.last();
        let mut next = [0; N];
        let mut element = Element {
            map: number(map),
            key: before.map_or(0, address),
            value: next.as_mut_ptr().addr() as u64,
            ..Element::default()
        };
        // SAFETY: these are the attributes of BPF_MAP_GET_NEXT_KEY, with addresses that outlive the
        // call; no key stands for the first one.
        match unsafe { call(MAP_GET_NEXT_KEY, &mut element) } {
            Ok(_) => keys.push(next),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(keys)
}

/// Loads a program.
pub(super) fn load_program(
    name: &str,
    kind: Kind,
    instructions: &[bpf_insn],
    license: &CStr,
) -> Result<OwnedFd, Refused> {
    let (kind, attach_type) = kind.numbers();
    let mut attributes = ProgLoad {
        kind,
        instruction_count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: address(instructions),
        license: address(license.to_bytes_with_nul()),
        name: short(name),
        attach_type,
        ..ProgLoad::default()
    };
    // SAFETY: these are the attributes of BPF_PROG_LOAD; the instructions and the license outlive
    // the call.
    let source = match unsafe { open(PROG_LOAD, &mut attributes) } {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // The program is loaded once more with a log, which gives the reason. The first attempt has no log,
    // because the verifier is much slower when it writes one.
    let mut log = vec![0_u8; LOG_BYTES];
    attributes.log_level = 1;
    attributes.log_size = u32::try_from(log.len()).unwrap_or(0);
    attributes.log = log.as_mut_ptr().addr() as u64;
    // SAFETY: as before, and the log has the size that is passed.
    if let Ok(program) = unsafe { open(PROG_LOAD, &mut attributes) } {
        return Ok(program);
    }
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    Err(Refused {
        source,
        log: String::from_utf8_lossy(&log[..end]).trim().to_owned(),
    })
}

/// Attaches a program to a raw tracepoint (Linux 4.17). The link ends with its descriptor, unless
/// it is pinned.
pub(super) fn attach_raw(program: BorrowedFd<'_>, tracepoint: &str) -> io::Result<OwnedFd> {
    let name = CString::new(tracepoint)?;
    let mut attributes = RawTracepoint {
        name: address(name.as_bytes_with_nul()),
        program: number(program),
        padding: 0,
    };
    // SAFETY: these are the attributes of BPF_RAW_TRACEPOINT_OPEN; the name outlives the call.
    unsafe { open(RAW_TRACEPOINT_OPEN, &mut attributes) }
}

/// Attaches a program to a perf event (Linux 5.15). The link ends with its descriptor, unless it is
/// pinned.
pub(super) fn attach_event(program: BorrowedFd<'_>, event: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate {
        program: number(program),
        target: number(event),
        attach_type: PERF_EVENT,
        flags: 0,
    };
    // SAFETY: these are the attributes of BPF_LINK_CREATE, without addresses.
    unsafe { open(LINK_CREATE, &mut attributes) }
}

/// Pins a map, a program or a link below a bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = text(path)?;
    let mut attributes = Pin {
        path: address(path.as_bytes_with_nul()),
        descriptor: number(object),
        flags: 0,
    };
    // SAFETY: these are the attributes of BPF_OBJ_PIN; the path outlives the call.
    unsafe { call(OBJ_PIN, &mut attributes) }.map(drop)
}

/// Opens what is pinned.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = text(path)?;
    let mut attributes = Pin {
        path: address(path.as_bytes_with_nul()),
        ..Pin::default()
    };
    // SAFETY: these are the attributes of BPF_OBJ_GET; the path outlives the call.
    unsafe { open(OBJ_GET, &mut attributes) }
}

/// Returns what the kernel says about a program.
pub(super) fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    let mut info = ProgInfo::default();
    let mut attributes = InfoByFd {
        descriptor: number(program),
        length: u32::try_from(size_of::<ProgInfo>()).unwrap_or(0),
        info: std::ptr::from_mut(&mut info).addr() as u64,
    };
    // SAFETY: these are the attributes of BPF_OBJ_GET_INFO_BY_FD. The kernel writes at most `length`
    // bytes, which is the size of `info`.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info)
}

/// Attaches a program to a cgroup, beside others. It is detached with the cgroup.
pub(super) fn attach_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    hook: Hook,
) -> io::Result<()> {
    const ALLOW_MULTI: u32 = 2;
    let mut attributes = Attach {
        target: number(cgroup),
        program: number(program),
        attach_type: hook as u32,
        flags: ALLOW_MULTI,
    };
    // SAFETY: these are the attributes of BPF_PROG_ATTACH, without addresses.
    unsafe { call(PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Attaches a program to a cgroup for as long as the link is open (Linux 5.7).
pub(super) fn link_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    kind: Kind,
) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate {
        program: number(program),
        target: number(cgroup),
        attach_type: kind.numbers().1,
        flags: 0,
    };
    // SAFETY: these are the attributes of BPF_LINK_CREATE, without addresses.
    unsafe { open(LINK_CREATE, &mut attributes) }
}

pub(super) fn detach_from_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    hook: Hook,
) -> io::Result<()> {
    let mut attributes = Attach {
        target: number(cgroup),
        program: number(program),
        attach_type: hook as u32,
        flags: 0,
    };
    // SAFETY: these are the attributes of BPF_PROG_DETACH, without addresses.
    unsafe { call(PROG_DETACH, &mut attributes) }.map(drop)
}

/// Returns the kernel's numbers of the programs that are attached to a cgroup itself.
pub(super) fn attached(cgroup: BorrowedFd<'_>, hook: Hook) -> io::Result<Vec<u32>> {
    // The kernel takes 64 at most (BPF_CGROUP_MAX_PROGS).
    let mut ids = [0_u32; 64];
    let mut attributes = Query {
        target: number(cgroup),
        attach_type: hook as u32,
        ids: ids.as_mut_ptr().addr() as u64,
        count: u32::try_from(ids.len()).unwrap_or(0),
        ..Query::default()
    };
    // SAFETY: these are the attributes of BPF_PROG_QUERY, with all fields that the kernel writes.
    // It writes at most `count` numbers.
    unsafe { call(PROG_QUERY, &mut attributes) }?;
    let count = usize::try_from(attributes.count).unwrap_or(0);
    Ok(ids[..count.min(ids.len())].to_vec())
}

/// Opens a program by the kernel's number.
pub(super) fn program_of(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = ById {
        id,
        ..ById::default()
    };
    // SAFETY: these are the attributes of BPF_PROG_GET_FD_BY_ID, without addresses.
    unsafe { open(PROG_GET_FD_BY_ID, &mut attributes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_to_what_the_kernel_takes() {
        assert_eq!(&short("EVENTS")[..7], b"EVENTS\0");
        assert_eq!(&short("mark_victim_task"), b"mark_victim_tas\0");
    }

    #[test]
    fn a_refusal_ends_with_the_verifiers_last_words() {
        let refused = Refused {
            source: io::Error::from_raw_os_error(libc::EACCES),
            log: "1\n2\n3\n4\nR1 type=scalar".to_owned(),
        };
        let expected = "Permission denied (os error 13); 2; 3; 4; R1 type=scalar";
        assert_eq!(refused.to_string(), expected);
    }
}
