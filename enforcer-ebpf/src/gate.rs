//! The gate: it gives the connections to a declared port to instances that are ready.
//!
//! ```text
//! bind(2) of a member to its port    gate_bind4, gate_bind6 force SO_REUSEPORT and remember the socket
//! listen(2) of such a socket         gate_sockets puts it into SOCKETS and tells the agent
//! a new connection, or one whose     gate_select picks a ready replica, or else the socket where
//!   listener has closed                connections wait
//! connect(2) of a member             gate_connect4 or 6 and gate_sockets have it reach its own
//!   to its own port                    replica
//! socket(2) of a member with MPTCP   gate_create refuses it: no map takes such a socket
//! ```
//!
//! All sockets of a port are in one reuseport group of the kernel, to which `gate_select` is attached. So the kernel
//! itself matches addresses, and no other group is touched. A member is found by its cgroup or one above it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

use aya_ebpf::EbpfContext as _;
use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_NOEXIST, bpf_hdr_start_off, bpf_sock, bpf_sock_addr, sk_action, sk_reuseport_md,
};
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_ktime_get_ns, bpf_setsockopt, bpf_sk_select_reuseport,
    bpf_skb_load_bytes, bpf_skb_load_bytes_relative,
};
use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_socket_cookie};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, map, sk_reuseport, sock_ops};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockMap};
use aya_ebpf::programs::{SkReuseportContext, SockAddrContext, SockContext, SockOpsContext};
use enforcer_common::gate::{
    ADDRESSES, COUNTERS, Door, GATES, Listens, Member, MemberKey, Membership, OWN_NS, Own, PARKED,
    Ports, REFUSED, REPLICAS, SOCKETS as SOCKETS_OF_ONE,
};

/// The cgroups whose processes may listen at each declared port.
#[map]
static MEMBERS: HashMap<MemberKey, Membership> = HashMap::with_max_entries(4096, 0);

/// The declared ports. The value means nothing.
#[map]
static PORTS: HashMap<u32, u32> = HashMap::with_max_entries(GATES, 0);

/// The sockets that are bound and do not listen yet, by their cookie.
#[map]
static BOUND: LruHashMap<u64, Member> = LruHashMap::with_max_entries(4096, 0);

/// The listening sockets of the replicas. The kernel takes one out when it closes.
#[map]
static SOCKETS: SockMap = SockMap::with_max_entries(GATES * REPLICAS * SOCKETS_OF_ONE, 0);

/// For each replica, the number of places in `SOCKETS` that it has used.
#[map]
static USED: Array<u32> = Array::with_max_entries(GATES * REPLICAS, 0);

/// The sockets where connections wait.
#[map]
static WAITING: SockMap = SockMap::with_max_entries(GATES * ADDRESSES, 0);

#[map]
static DOORS: Array<Door> = Array::with_max_entries(GATES, 0);

/// The sockets of members that connect to their own port, by their cookie.
#[map]
static DIALS: LruHashMap<u64, Member> = LruHashMap::with_max_entries(4096, 0);

/// The connections that are for a certain replica, ready or not: those of its own processes, and
/// the agent's probes.
#[map]
static OWN: LruHashMap<Ports, Own> = LruHashMap::with_max_entries(4096, 0);

#[map]
static LISTENS: RingBuf = RingBuf::with_byte_size(16 * 1024, 0);

#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(GATES * COUNTERS, 0);

/// The gate of this copy of `gate_select`.
#[unsafe(no_mangle)]
static GATE: Global<u32> = Global::new(0);

/// The most replicas that are tried for one connection.
const TRIES: u32 = 3;

/// The most cgroups above a process that are looked up.
const DEPTH: i32 = 9;

/// The kernel carries the call out.
const ALLOW: i32 = 1;
/// The kernel carries a bind(2) out without asking for `CAP_NET_BIND_SERVICE`
/// (`BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE`, Linux 5.12).
const ALLOW_ANY_PORT: i32 = 3;

const AF_INET: u32 = 2;
const SOCK_STREAM: u32 = 1;
const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const SO_REUSEPORT: i32 = 15;
/// `IPPROTO_MPTCP`.
const MPTCP: u32 = 262;
const ETH_P_IP: u32 = 0x0800;
/// The first byte of 127.0.0.0/8.
const LOOPBACK: u8 = 127;

/// `BPF_SOCK_OPS_TCP_CONNECT_CB` and `BPF_SOCK_OPS_TCP_LISTEN_CB`.
const CONNECTS: u32 = 3;
const LISTENS_NOW: u32 = 11;

/// Returns the member that the running process is part of, by its port.
#[inline(always)]
fn member(port: u32) -> Option<Membership> {
    // SAFETY: the helper has no arguments.
    let own = unsafe { bpf_get_current_cgroup_id() };
    if let Some(found) = member_of(own, port) {
        return Some(found);
    }
    for level in 1..DEPTH {
        // SAFETY: the helper takes any level.
        let above = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if above == 0 {
            return None;
        }
        if let Some(found) = member_of(above, port) {
            return Some(found);
        }
    }
    None
}

#[inline(always)]
fn member_of(cgroup: u64, port: u32) -> Option<Membership> {
    let key = MemberKey {
        cgroup,
        port,
        zero: 0,
    };
    // SAFETY: a copy of a value that is written whole.
    unsafe { MEMBERS.get(key) }.copied()
}

#[inline(always)]
fn is_declared(port: u32) -> bool {
    PORTS.get_ptr(port).is_some()
}

/// Returns the port of a call as a number.
#[inline(always)]
fn port_of(address: *mut bpf_sock_addr) -> u32 {
    // SAFETY: the kernel passes a valid context.
    let port = unsafe { (*address).user_port };
    // The low half has it in network byte order.
    (port & 0xff) << 8 | port >> 8 & 0xff
}

/// Returns the member that a call is from, if it is about a TCP port of the member's own.
#[inline(always)]
fn member_at(context: &SockAddrContext) -> Option<Membership> {
    // SAFETY: the kernel passes a valid context.
    let kind = unsafe { (*context.sock_addr).type_ };
    let port = port_of(context.sock_addr);
    match kind == SOCK_STREAM && is_declared(port) {
        true => member(port),
        false => None,
    }
}

/// Sets an option of the socket that is about to be bound.
#[inline(always)]
fn set(address: *mut bpf_sock_addr, option: i32) -> bool {
    let mut one = 1_i32;
    // SAFETY: the option is an integer of this size.
    let set = unsafe {
        bpf_setsockopt(
            address.cast(),
            SOL_SOCKET,
            option,
            core::ptr::from_mut(&mut one).cast(),
            4,
        )
    };
    set == 0
}

#[inline(always)]
fn bind(context: &SockAddrContext, set_any: impl Fn(*mut bpf_sock_addr)) -> i32 {
    let Some(Membership {
        member,
        port,
        is_any,
    }) = member_at(context)
    else {
        return ALLOW;
    };
    set_port(context.sock_addr, port);
    if is_any != 0 {
        set_any(context.sock_addr);
    }
    // With SO_REUSEADDR a connection that is still closing does not keep another socket from the port.
    set(context.sock_addr, SO_REUSEADDR);
    if set(context.sock_addr, SO_REUSEPORT) {
        // SAFETY: the context is the kernel's.
        let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
        let _ = BOUND.insert(cookie, member, 0);
    }
    // The manifest has given it this port, also below 1024.
    ALLOW_ANY_PORT
}

/// Puts a port into a call in place of the program's.
#[inline(always)]
fn set_port(address: *mut bpf_sock_addr, port: u32) {
    // The low half has it in network byte order.
    let swapped = (port & 0xff) << 8 | port >> 8 & 0xff;
    // SAFETY: the kernel lets a program write this field.
    unsafe { core::ptr::write_volatile(&raw mut (*address).user_port, swapped) };
}

/// Has a socket be bound to every address of the host. The kernel lets a program of a family use the
/// address of that family alone.
#[inline(always)]
fn set_any4(address: *mut bpf_sock_addr) {
    // SAFETY: the kernel lets a program write this field.
    unsafe { core::ptr::write_volatile(&raw mut (*address).user_ip4, 0) };
}

#[inline(always)]
fn set_any6(address: *mut bpf_sock_addr) {
    // SAFETY: the kernel lets a program write these fields, word by word and at fixed places.
    unsafe {
        core::ptr::write_volatile(&raw mut (*address).user_ip6[0], 0);
        core::ptr::write_volatile(&raw mut (*address).user_ip6[1], 0);
        core::ptr::write_volatile(&raw mut (*address).user_ip6[2], 0);
        core::ptr::write_volatile(&raw mut (*address).user_ip6[3], 0);
    }
}

/// Returns whether a call is about an address of the loopback device.
#[inline(always)]
fn is_loopback4(address: *mut bpf_sock_addr) -> bool {
    // SAFETY: the kernel lets a program read this field.
    let ip = unsafe { core::ptr::read_volatile(&raw const (*address).user_ip4) };
    ip & 0xff == u32::from(LOOPBACK)
}

#[inline(always)]
fn is_loopback6(address: *mut bpf_sock_addr) -> bool {
    // SAFETY: the kernel lets a program read these fields, word by word and at fixed places.
    let [a, b, c, d] = unsafe {
        [
            core::ptr::read_volatile(&raw const (*address).user_ip6[0]),
            core::ptr::read_volatile(&raw const (*address).user_ip6[1]),
            core::ptr::read_volatile(&raw const (*address).user_ip6[2]),
            core::ptr::read_volatile(&raw const (*address).user_ip6[3]),
        ]
    };
    a | b | c == 0 && d == 1_u32.to_be()
}

#[cgroup_sock_addr(bind4)]
pub(crate) fn gate_bind4(context: SockAddrContext) -> i32 {
    bind(&context, set_any4)
}

#[cgroup_sock_addr(bind6)]
pub(crate) fn gate_bind6(context: SockAddrContext) -> i32 {
    bind(&context, set_any6)
}

#[inline(always)]
fn connect(context: &SockAddrContext, is_loopback: impl Fn(*mut bpf_sock_addr) -> bool) -> i32 {
    if let Some(Membership { member, port, .. }) = member_at(context) {
        // The program may bind another port than the one that clients connect to.
        if port != port_of(context.sock_addr) && is_loopback(context.sock_addr) {
            set_port(context.sock_addr, port);
        }
        // SAFETY: the context is the kernel's.
        let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
        let _ = DIALS.insert(cookie, member, 0);
    }
    1
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn gate_connect4(context: SockAddrContext) -> i32 {
    connect(&context, is_loopback4)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn gate_connect6(context: SockAddrContext) -> i32 {
    connect(&context, is_loopback6)
}

#[cgroup_sock(sock_create)]
pub(crate) fn gate_create(context: SockContext) -> i32 {
    let socket: *mut bpf_sock = context.as_ptr().cast();
    // SAFETY: the kernel passes a valid socket.
    let is_mptcp = unsafe { (*socket).protocol } == MPTCP;
    // The program uses TCP then, as it does on a kernel without MPTCP.
    i32::from(!is_mptcp || member(0).is_none())
}

#[sock_ops]
pub(crate) fn gate_sockets(context: SockOpsContext) -> u32 {
    // No value of the kernel's is another one for this program.
    context.set_reply(u32::MAX);
    match context.op() {
        LISTENS_NOW => listen(&context),
        CONNECTS => dial(&context),
        _ => {}
    }
    1
}

#[inline(always)]
fn listen(context: &SockOpsContext) {
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    // SAFETY: a copy of a value that is written whole.
    let Some(Member { gate, replica }) = (unsafe { BOUND.get(cookie) }).copied() else {
        return;
    };
    let index = gate % GATES * REPLICAS + replica % REPLICAS;
    let mut result = -1;
    for place in 0..SOCKETS_OF_ONE {
        let key = index * SOCKETS_OF_ONE + place;
        // SAFETY: the context is the kernel's.
        match unsafe { SOCKETS.update(key, context.ops, u64::from(BPF_NOEXIST)) } {
            Ok(()) => {
                note_used(index, place + 1);
                result = 0;
                break;
            }
            Err(error) => result = error,
        }
    }
    let mut record = Listens {
        gate,
        family: context.family(),
        result,
        address: [0; 16],
    };
    if record.family == AF_INET {
        record.address[..4].copy_from_slice(&context.local_ip4().to_ne_bytes());
    } else {
        // Word by word: the verifier takes no pointer into the context.
        let word = |index: usize| {
            // SAFETY: the context is the kernel's, and the index is below 4.
            unsafe { core::ptr::read_volatile(&raw const (*context.ops).local_ip6[index]) }
        };
        record.address[..4].copy_from_slice(&word(0).to_ne_bytes());
        record.address[4..8].copy_from_slice(&word(1).to_ne_bytes());
        record.address[8..12].copy_from_slice(&word(2).to_ne_bytes());
        record.address[12..].copy_from_slice(&word(3).to_ne_bytes());
    }
    if let Some(mut entry) = LISTENS.reserve::<Listens>(0) {
        entry.write(record);
        entry.submit(0);
    }
}

#[inline(always)]
fn note_used(index: u32, places: u32) {
    if let Some(used) = USED.get_ptr_mut(index) {
        // SAFETY: a word, which two sockets at once may only set to one of two right values.
        unsafe {
            if *used < places {
                *used = places;
            }
        }
    }
}

/// Notes the ports of a connection that is about to begin.
#[inline(always)]
fn dial(context: &SockOpsContext) {
    // SAFETY: the context is the kernel's.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    // SAFETY: a copy of a value that is written whole.
    let Some(member) = (unsafe { DIALS.get(cookie) }).copied() else {
        return;
    };
    let ports = Ports {
        from: context.local_port(),
        // In network byte order, as a number of 32 bits.
        to: u32::from_be(context.remote_port()),
    };
    let own = Own {
        member,
        // SAFETY: the helper has no arguments.
        at_ns: unsafe { bpf_ktime_get_ns() },
    };
    let _ = OWN.insert(ports, own, 0);
}

/// Counts a connection.
#[inline(always)]
fn count(gate: u32, place: u32) {
    if let Some(count) = COUNTS.get_ptr_mut(gate % GATES * COUNTERS + place) {
        // SAFETY: a per-CPU slot; programs of this kind do not preempt each other on one CPU.
        unsafe { *count += 1 };
    }
}

/// Chooses one socket; false if it is not there or not of this group.
#[inline(always)]
fn select(context: &SkReuseportContext, map: &SockMap, mut place: u32) -> bool {
    // SAFETY: the kernel checks the map and the key.
    let chosen = unsafe {
        bpf_sk_select_reuseport(
            context.md,
            core::ptr::from_ref(map).cast_mut().cast(),
            core::ptr::from_mut(&mut place).cast(),
            0,
        )
    };
    chosen == 0
}

/// Chooses a socket of a replica.
#[inline(always)]
fn give(context: &SkReuseportContext, gate: u32, replica: u32) -> bool {
    let index = gate % GATES * REPLICAS + replica % REPLICAS;
    let used = USED.get(index).copied().unwrap_or(0);
    if used == 0 {
        return false;
    }
    let start = context.hash() % used;
    // The first one is there, unless a socket of several has just closed.
    for turn in 0..SOCKETS_OF_ONE {
        let place = (start + turn) % SOCKETS_OF_ONE;
        if select(context, &SOCKETS, index * SOCKETS_OF_ONE + place) {
            return true;
        }
    }
    false
}

/// Returns one of the bits that are set, each as likely as the others.
#[inline(always)]
fn one_of(bits: u32, hash: u32) -> u32 {
    let mut skipped = hash % bits.count_ones();
    let mut found = 0;
    for bit in 0..REPLICAS {
        if bits >> bit & 1 == 1 {
            if skipped == 0 {
                found = bit;
                break;
            }
            skipped -= 1;
        }
    }
    found
}

/// Returns the replica that this connection of the host to itself is for.
#[inline(always)]
fn own(context: &SkReuseportContext) -> Option<Member> {
    let mut ports = [0_u8; 4];
    load(context.md, 0, &mut ports)?;
    let [from_high, from_low, to_high, to_low] = ports.map(u32::from);
    let ports = Ports {
        from: from_high << 8 | from_low,
        to: to_high << 8 | to_low,
    };
    // SAFETY: a copy of a value that is written whole.
    let own = (unsafe { OWN.get(ports) }).copied()?;
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if now.wrapping_sub(own.at_ns) > OWN_NS {
        return None;
    }
    // Another host may use the same port. A connection of this host to itself has one address twice, or
    // two of its loopback device.
    let is_own = if context.eth_protocol() == ETH_P_IP.to_be() >> 16 {
        let mut both = [0_u8; 8];
        load_header(context.md, 12, &mut both)?;
        both[..4] == both[4..] || (both[0] == LOOPBACK && both[4] == LOOPBACK)
    } else {
        let mut both = [0_u8; 32];
        load_header(context.md, 8, &mut both)?;
        both[..16] == both[16..]
    };
    is_own.then_some(own.member)
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
fn load<const N: usize>(context: *mut sk_reuseport_md, at: u32, to: &mut [u8; N]) -> Option<()> {
    // SAFETY: the kernel writes N bytes at most.
    let loaded =
        unsafe { bpf_skb_load_bytes(context.cast(), at, to.as_mut_ptr().cast(), N as u32) };
    (loaded == 0).then_some(())
}

/// Reads from the header of the network layer.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
fn load_header<const N: usize>(
    context: *mut sk_reuseport_md,
    at: u32,
    to: &mut [u8; N],
) -> Option<()> {
    // SAFETY: the kernel writes N bytes at most.
    let loaded = unsafe {
        bpf_skb_load_bytes_relative(
            context.cast(),
            at,
            to.as_mut_ptr().cast(),
            N as u32,
            bpf_hdr_start_off::BPF_HDR_START_NET,
        )
    };
    (loaded == 0).then_some(())
}

#[sk_reuseport(migrate)]
pub(crate) fn gate_select(context: SkReuseportContext) -> u32 {
    let gate = GATE.load();
    let Some(door) = DOORS.get(gate) else {
        return sk_action::SK_DROP;
    };
    let (ready, refuses) = (door.ready, door.refuses);
    // SAFETY: the kernel passes a valid context.
    let is_new = unsafe { (*context.md).__bindgen_anon_4.migrating_sk.is_null() };
    if is_new && let Some(member) = own(&context) {
        return match give(&context, gate, member.replica) {
            true => sk_action::SK_PASS,
            false => sk_action::SK_DROP,
        };
    }
    let mut left = ready & ((1 << REPLICAS) - 1);
    for _ in 0..TRIES {
        if left == 0 {
            break;
        }
        let replica = one_of(left, context.hash());
        if give(&context, gate, replica) {
            count(gate, replica);
            return sk_action::SK_PASS;
        }
        // It has just ended.
        left &= !(1 << replica);
    }
    if refuses == 0 {
        for address in 0..ADDRESSES {
            if select(&context, &WAITING, gate % GATES * ADDRESSES + address) {
                count(gate, PARKED);
                return sk_action::SK_PASS;
            }
        }
    }
    count(gate, REFUSED);
    sk_action::SK_DROP
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel's helpers are GPL-only; this is what it reads to allow them.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
