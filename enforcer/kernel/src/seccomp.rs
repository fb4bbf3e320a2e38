//! The filters of system calls (seccomp(2)) of a sandbox. They are made before the fork, and the child
//! installs them before it executes its program.

use enforcer_model::spec::refused_calls;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// A program of the classic BPF, an instruction each: `struct sock_filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(pub(crate) Vec<u64>);

/// The exceptions that the manifest makes from the refused calls.
#[derive(Clone, Debug, Default)]
pub struct Allowed<'a> {
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
/// # Errors
/// If a filter is longer than the kernel takes.
pub fn filters(allowed: &Allowed<'_>) -> Result<Vec<Filter>, BackendError> {
    let refused = compile(refused(allowed)?, libc::EPERM)?;
    let absent = compile(absent(allowed), libc::ENOSYS)?;
    let all = [x32_filter(), refused, absent];
    Ok(all.into_iter().filter(|one| !one.0.is_empty()).collect())
}

fn compile(rules: Rules, errno: i32) -> Result<Filter, BackendError> {
    if rules.is_empty() {
        return Ok(Filter(Vec::new()));
    }
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, ARCHITECTURE)?;
    let program: BpfProgram = filter.try_into()?;
    let instructions = program
        .iter()
        .map(|one| instruction(one.code, one.jt, one.jf, one.k));
    Ok(Filter(instructions.collect()))
}

/// Returns an instruction in the memory layout of `struct sock_filter`.
fn instruction(code: u16, jump_if: u8, jump_else: u8, value: u32) -> u64 {
    let (code, value) = (code.to_ne_bytes(), value.to_ne_bytes());
    u64::from_ne_bytes([
        code[0], code[1], jump_if, jump_else, value[0], value[1], value[2], value[3],
    ])
}

/// Returns the filter that refuses the system calls of the x32 interface of x86-64: they have numbers of
/// their own, which no rule names.
fn x32_filter() -> Filter {
    // include/uapi/linux/filter.h, bpf_common.h, seccomp.h
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    const X32: u32 = 0x4000_0000;
    if cfg!(not(target_arch = "x86_64")) {
        return Filter(Vec::new());
    }
    Filter(vec![
        // The number is the first word of `struct seccomp_data`.
        instruction(LOAD_WORD, 0, 0, 0),
        instruction(JUMP_IF_GREATER_OR_EQUAL, 0, 1, X32),
        instruction(RETURN, 0, 0, ERRNO | libc::ENOSYS.unsigned_abs()),
        instruction(RETURN, 0, 0, ALLOW),
    ])
}

/// Returns the calls that look absent. Programs use clone(2) and openat(2) instead, whose arguments a
/// filter can read.
fn absent(allowed: &Allowed<'_>) -> Rules {
    let mut rules = Rules::from([(libc::SYS_openat2, Vec::new())]);
    if !allowed.namespaces {
        rules.insert(libc::SYS_clone3, Vec::new());
    }
    rules
}

fn refused(allowed: &Allowed<'_>) -> Result<Rules, BackendError> {
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

/// Refuses another personality(2), which changes how the kernel lays out memory. A program may ask for the
/// present one (`0xffffffff`), and set the usual one.
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
    Some(match name {
        "acct" => libc::SYS_acct,
        "add_key" => libc::SYS_add_key,
        "adjtimex" => libc::SYS_adjtimex,
        "bpf" => libc::SYS_bpf,
        "chroot" => libc::SYS_chroot,
        "clock_adjtime" => libc::SYS_clock_adjtime,
        "clock_settime" => libc::SYS_clock_settime,
        "delete_module" => libc::SYS_delete_module,
        "finit_module" => libc::SYS_finit_module,
        "fsconfig" => libc::SYS_fsconfig,
        "fsmount" => libc::SYS_fsmount,
        "fsopen" => libc::SYS_fsopen,
        "fspick" => libc::SYS_fspick,
        "init_module" => libc::SYS_init_module,
        "io_uring_enter" => libc::SYS_io_uring_enter,
        "io_uring_register" => libc::SYS_io_uring_register,
        "io_uring_setup" => libc::SYS_io_uring_setup,
        "kcmp" => libc::SYS_kcmp,
        "kexec_file_load" => libc::SYS_kexec_file_load,
        "kexec_load" => libc::SYS_kexec_load,
        "keyctl" => libc::SYS_keyctl,
        "mount" => libc::SYS_mount,
        "mount_setattr" => libc::SYS_mount_setattr,
        "move_mount" => libc::SYS_move_mount,
        "open_by_handle_at" => libc::SYS_open_by_handle_at,
        "open_tree" => libc::SYS_open_tree,
        // Since Linux 6.15; the number is the same on both architectures.
        "open_tree_attr" => 467,
        "perf_event_open" => libc::SYS_perf_event_open,
        "pidfd_getfd" => libc::SYS_pidfd_getfd,
        "pivot_root" => libc::SYS_pivot_root,
        "process_vm_readv" => libc::SYS_process_vm_readv,
        "process_vm_writev" => libc::SYS_process_vm_writev,
        "ptrace" => libc::SYS_ptrace,
        "quotactl" => libc::SYS_quotactl,
        "quotactl_fd" => libc::SYS_quotactl_fd,
        "reboot" => libc::SYS_reboot,
        "request_key" => libc::SYS_request_key,
        "setdomainname" => libc::SYS_setdomainname,
        "sethostname" => libc::SYS_sethostname,
        "setns" => libc::SYS_setns,
        "settimeofday" => libc::SYS_settimeofday,
        "swapoff" => libc::SYS_swapoff,
        "swapon" => libc::SYS_swapon,
        "syslog" => libc::SYS_syslog,
        "umount2" => libc::SYS_umount2,
        "userfaultfd" => libc::SYS_userfaultfd,
        "vhangup" => libc::SYS_vhangup,
        _ => return number_on_x86_64(name),
    })
}

#[cfg(target_arch = "x86_64")]
fn number_on_x86_64(name: &str) -> Option<i64> {
    Some(match name {
        "ioperm" => libc::SYS_ioperm,
        "iopl" => libc::SYS_iopl,
        "modify_ldt" => libc::SYS_modify_ldt,
        "sysfs" => libc::SYS_sysfs,
        "uselib" => libc::SYS_uselib,
        "ustat" => libc::SYS_ustat,
        _ => return None,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn number_on_x86_64(_name: &str) -> Option<i64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refused_call_has_a_number() {
        for name in refused_calls() {
            let is_missing = number(name).is_none();
            assert!(!is_missing || cfg!(not(target_arch = "x86_64")), "{name}");
        }
    }

    #[test]
    fn filters_are_short_enough_and_smaller_where_something_is_allowed() {
        let length = |allowed: &Allowed<'_>| {
            let all = filters(allowed).expect("filters");
            all.iter().map(|one| one.0.len()).sum::<usize>()
        };
        let all = length(&Allowed::default());
        // BPF_MAXINSNS is 4096 for each.
        assert!(all < 4096, "{all}");
        let calls = ["ptrace".to_owned()];
        let fewer = length(&Allowed {
            calls: &calls,
            namespaces: true,
        });
        assert!(fewer < all);
    }
}
