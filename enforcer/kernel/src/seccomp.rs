//! The filters of system calls (seccomp(2)) of a sandbox. They are made before the fork, and the child
//! installs them before it executes its program.

use enforcer_model::spec::{Sandbox, refused_calls, strict_calls};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use syscalls::Sysno;

/// A program of the classic BPF, an instruction each: `struct sock_filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(pub(crate) Vec<u64>);

/// The level of a sandbox, and the exceptions that the manifest makes from the refused calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed<'a> {
    pub level: Sandbox,
    pub calls: &'a [String],
    pub namespaces: bool,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;

/// Makes the filters: what they refuse fails with `EPERM`, or with `ENOSYS` where programs then use an
/// older system call. A call of another architecture kills the process.
///
/// If several filters refuse a call, the caller gets the error of the filter that was installed last.
///
/// # Errors
/// If a filter is longer than the kernel takes.
pub fn filters(allowed: Allowed<'_>) -> Result<Vec<Filter>, BackendError> {
    let mut all = Vec::new();
    if allowed.level == Sandbox::Strict {
        let listed = SeccompFilter::new(
            listed(allowed)?,
            SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            SeccompAction::Allow,
            ARCHITECTURE,
        )?;
        all.push(Filter::of(listed)?);
        all.push(absent_from(FIRST_UNKNOWN));
    }
    if cfg!(target_arch = "x86_64") {
        // The x32 interface has numbers of its own, which no rule names.
        all.push(absent_from(0x4000_0000));
    }
    all.push(compile(refused(allowed)?, libc::EPERM)?);
    all.push(compile(absent(allowed), libc::ENOSYS)?);
    all.retain(|one| !one.0.is_empty());
    Ok(all)
}

/// The number after the last system call that the lists know. What is newer looks absent in `strict`, so
/// that programs use what they used before.
const FIRST_UNKNOWN: u32 = 470;

fn compile(rules: Rules, errno: i32) -> Result<Filter, BackendError> {
    if rules.is_empty() {
        return Ok(Filter(Vec::new()));
    }
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, ARCHITECTURE)?;
    Filter::of(filter)
}

impl Filter {
    fn of(filter: SeccompFilter) -> Result<Self, BackendError> {
        let program: BpfProgram = filter.try_into()?;
        let instructions = program
            .iter()
            .map(|one| instruction(one.code, one.jt, one.jf, one.k));
        Ok(Self(instructions.collect()))
    }
}

/// Returns an instruction in the memory layout of `struct sock_filter`.
fn instruction(code: u16, jump_if: u8, jump_else: u8, value: u32) -> u64 {
    let (code, value) = (code.to_ne_bytes(), value.to_ne_bytes());
    u64::from_ne_bytes([
        code[0], code[1], jump_if, jump_else, value[0], value[1], value[2], value[3],
    ])
}

/// Returns a filter by which the system calls from this number on look absent.
fn absent_from(first: u32) -> Filter {
    // include/uapi/linux/filter.h, bpf_common.h, seccomp.h
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    Filter(vec![
        // The number is the first word of `struct seccomp_data`.
        instruction(LOAD_WORD, 0, 0, 0),
        instruction(JUMP_IF_GREATER_OR_EQUAL, 0, 1, first),
        instruction(RETURN, 0, 0, ERRNO | libc::ENOSYS.unsigned_abs()),
        instruction(RETURN, 0, 0, ALLOW),
    ])
}

/// Returns the calls that `strict` allows.
fn listed(allowed: Allowed<'_>) -> Result<Rules, BackendError> {
    let opened = allowed.calls.iter().map(String::as_str);
    let opened = opened.chain(allowed.namespaces.then_some("setns"));
    let by_arguments = ["socket", "socketpair"];
    let calls = strict_calls().filter(|name| !by_arguments.contains(name));
    let numbers = calls.filter_map(number).chain(opened.filter_map(number));
    let mut rules: Rules = numbers.map(|number| (number, Vec::new())).collect();
    rules.insert(libc::SYS_socket, sockets()?);
    let local = condition(0, SeccompCmpOp::Eq, u64::from(libc::AF_UNIX.unsigned_abs()))?;
    rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(vec![local])?]);
    Ok(rules)
}

/// Returns the sockets of `strict`: local ones, TCP and UDP, whose addresses the filters of the
/// cgroup look at, and netlink's for routes, by which the C library lists addresses. MPTCP and
/// others would pass those filters.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    // include/linux/net.h: the flags SOCK_CLOEXEC and SOCK_NONBLOCK are above these bits.
    const TYPE: u64 = 0xf;
    let is = |argument, value: libc::c_int| {
        condition(argument, SeccompCmpOp::Eq, u64::from(value.unsigned_abs()))
    };
    let of_type = |kind: libc::c_int| {
        let kind = u64::from(kind.unsigned_abs());
        condition(1, SeccompCmpOp::MaskedEq(TYPE), kind)
    };
    let mut all = vec![
        SeccompRule::new(vec![is(0, libc::AF_UNIX)?])?,
        SeccompRule::new(vec![is(0, libc::AF_NETLINK)?, is(2, libc::NETLINK_ROUTE)?])?,
    ];
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol) in [
            (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        ] {
            for protocol in [0, protocol] {
                let conditions = vec![is(0, family)?, of_type(kind)?, is(2, protocol)?];
                all.push(SeccompRule::new(conditions)?);
            }
        }
    }
    Ok(all)
}

/// Returns the calls that look absent. Programs use clone(2) and openat(2) instead, whose arguments a
/// filter can read.
fn absent(allowed: Allowed<'_>) -> Rules {
    let mut rules = Rules::from([(libc::SYS_openat2, Vec::new())]);
    if !allowed.namespaces {
        rules.insert(libc::SYS_clone3, Vec::new());
    }
    rules
}

fn refused(allowed: Allowed<'_>) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    let is_allowed = |name: &str| {
        let own = name == "setns" && allowed.namespaces;
        own || allowed.calls.iter().any(|call| call == name)
    };
    let calls = refused_calls().filter(|name| !is_allowed(name));
    rules.extend(calls.filter_map(number).map(|number| (number, Vec::new())));
    if !allowed.namespaces {
        namespaces(&mut rules)?;
    }
    personality(&mut rules)?;
    set_id(&mut rules)?;
    real_time(&mut rules)?;
    Ok(rules)
}

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// All of these bits are set.
fn has_bits(argument: u8, bits: u32) -> Result<SeccompCondition, BackendError> {
    let bits = u64::from(bits);
    condition(argument, SeccompCmpOp::MaskedEq(bits), bits)
}

/// Refuses new namespaces: they give a user rights that it does not have outside.
fn namespaces(rules: &mut Rules) -> Result<(), BackendError> {
    let kinds = [
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWUTS,
    ];
    // include/uapi/linux/sched.h; unshare(2) alone takes it.
    const CLONE_NEWTIME: u32 = 0x80;
    for call in [libc::SYS_clone, libc::SYS_unshare] {
        for kind in kinds {
            let rule = SeccompRule::new(vec![has_bits(0, kind.unsigned_abs())?])?;
            rules.entry(call).or_default().push(rule);
        }
    }
    let time = SeccompRule::new(vec![has_bits(0, CLONE_NEWTIME)?])?;
    rules.entry(libc::SYS_unshare).or_default().push(time);
    Ok(())
}

/// Refuses another personality(2), which changes how the kernel lays out memory. A program may ask
/// for the present one (`0xffffffff`), and set the usual one.
fn personality(rules: &mut Rules) -> Result<(), BackendError> {
    let conditions = vec![
        condition(0, SeccompCmpOp::Ne, 0)?,
        condition(0, SeccompCmpOp::Ne, u64::from(u32::MAX))?,
    ];
    rules.insert(libc::SYS_personality, vec![SeccompRule::new(conditions)?]);
    Ok(())
}

/// Refuses to set the set-user-ID and set-group-ID bits, and to create device nodes.
fn set_id(rules: &mut Rules) -> Result<(), BackendError> {
    // fchmodat2(2) exists since Linux 6.6; the number is the same on both architectures.
    const FCHMODAT2: i64 = 452;
    let bits = [libc::S_ISUID, libc::S_ISGID];
    let mut modes = vec![
        (libc::SYS_fchmod, 1),
        (libc::SYS_fchmodat, 2),
        (FCHMODAT2, 2),
    ];
    let mut nodes = vec![(libc::SYS_mknodat, 2)];
    let mut opens = vec![(libc::SYS_openat, 2)];
    #[cfg(target_arch = "x86_64")]
    {
        modes.extend([(libc::SYS_chmod, 1), (libc::SYS_creat, 1)]);
        nodes.push((libc::SYS_mknod, 1));
        opens.push((libc::SYS_open, 1));
    }
    for (call, mode) in modes.into_iter().chain(nodes.iter().copied()) {
        for bit in bits {
            let rule = SeccompRule::new(vec![has_bits(mode, bit)?])?;
            rules.entry(call).or_default().push(rule);
        }
    }
    for (call, mode) in nodes {
        for kind in [libc::S_IFCHR, libc::S_IFBLK] {
            let kind_of = SeccompCmpOp::MaskedEq(u64::from(libc::S_IFMT));
            let rule = SeccompRule::new(vec![condition(mode, kind_of, u64::from(kind))?])?;
            rules.entry(call).or_default().push(rule);
        }
    }
    // openat(2) reads the mode only with one of these flags.
    for (call, flags) in opens {
        for flag in [libc::O_CREAT, libc::O_TMPFILE] {
            for bit in bits {
                let conditions = vec![
                    has_bits(flags, flag.unsigned_abs())?,
                    has_bits(flags + 1, bit)?,
                ];
                rules
                    .entry(call)
                    .or_default()
                    .push(SeccompRule::new(conditions)?);
            }
        }
    }
    Ok(())
}

/// Refuses the real-time policies: a process with one may keep a CPU from all others.
fn real_time(rules: &mut Rules) -> Result<(), BackendError> {
    const POLICY: u64 = 0xf;
    const DEADLINE: u64 = 6;
    let policies =
        [libc::SCHED_FIFO, libc::SCHED_RR].map(|policy| u64::from(policy.unsigned_abs()));
    for policy in policies.into_iter().chain([DEADLINE]) {
        let is = condition(1, SeccompCmpOp::MaskedEq(POLICY), policy)?;
        let of = rules.entry(libc::SYS_sched_setscheduler).or_default();
        of.push(SeccompRule::new(vec![is])?);
    }
    // Its policy is behind a pointer.
    rules.insert(libc::SYS_sched_setattr, Vec::new());
    Ok(())
}

/// Returns the number of a system call; `None` if this architecture has none.
fn number(name: &str) -> Option<i64> {
    name.parse::<Sysno>().ok().map(|call| call.id().into())
}

/// Returns the name of a system call.
#[must_use]
pub fn name_of(number: u32) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    Sysno::new(number).map(|call| call.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_model::spec::{REFUSED_BY_LANDLOCK, openable_calls};

    #[test]
    fn every_name_is_one_of_a_system_call() {
        let all = strict_calls().chain(openable_calls(Sandbox::Strict));
        // Those of other architectures, and of kernels before.
        let missing: Vec<&str> = all.filter(|name| number(name).is_none()).collect();
        assert!(
            missing.is_empty() || cfg!(not(target_arch = "x86_64")),
            "{missing:?}"
        );
    }

    /// The lists decide about every system call that has a name, once.
    #[test]
    fn every_system_call_is_in_one_list() {
        // No kernel has them any more, or they are part of another call.
        const NOWHERE: [&str; 10] = [
            "afs_syscall",
            "create_module",
            "epoll_ctl_old",
            "epoll_wait_old",
            "get_kernel_syms",
            "getpmsg",
            "putpmsg",
            "query_module",
            "security",
            "tuxcall",
        ];
        let decided: Vec<&str> = strict_calls()
            .chain(openable_calls(Sandbox::Strict))
            .chain(REFUSED_BY_LANDLOCK)
            .collect();
        for call in Sysno::iter() {
            let times = decided.iter().filter(|name| **name == call.name()).count();
            let is_good = times == 1 || (times == 0 && NOWHERE.contains(&call.name()));
            assert!(is_good, "{}: {times}", call.name());
        }
        assert_eq!(Sysno::last().id().unsigned_abs() + 1, FIRST_UNKNOWN);
    }

    #[test]
    fn filters_are_short_enough_and_smaller_where_something_is_allowed() {
        let lengths = |allowed: Allowed<'_>| -> Vec<usize> {
            let all = filters(allowed).expect("filters");
            all.iter().map(|one| one.0.len()).collect()
        };
        let strict = lengths(Allowed {
            level: Sandbox::Strict,
            ..Allowed::default()
        });
        // BPF_MAXINSNS is 4096 for each.
        assert!(strict.iter().all(|length| *length < 4096), "{strict:?}");
        let all: usize = lengths(Allowed::default()).iter().sum();
        let calls = ["ptrace".to_owned()];
        let fewer = lengths(Allowed {
            calls: &calls,
            namespaces: true,
            ..Allowed::default()
        });
        assert!(fewer.iter().sum::<usize>() < all);
    }
}
