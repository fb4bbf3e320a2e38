//! The capabilities of the agent (capabilities(7)). It needs these sixteen, and makes all others
//! ineffective when it begins. It keeps them permitted, because a manifest may give any of them to
//! a workload (`capabilities:`), and a workload of root gets them all.

use std::io;

/// A capability and its use.
#[derive(Debug)]
pub(crate) struct Needed {
    number: u32,
    pub name: &'static str,
}

const fn needed(number: u32, name: &'static str) -> Needed {
    Needed { number, name }
}

/// The needed capabilities by their numbers in include/uapi/linux/capability.h. docs/operating.md
/// says what each is for.
pub(crate) const NEEDED: [Needed; 16] = [
    needed(0, "CAP_CHOWN"),
    needed(1, "CAP_DAC_OVERRIDE"),
    needed(3, "CAP_FOWNER"),
    needed(5, "CAP_KILL"),
    needed(6, "CAP_SETGID"),
    needed(7, "CAP_SETUID"),
    needed(8, "CAP_SETPCAP"),
    needed(10, "CAP_NET_BIND_SERVICE"),
    needed(12, "CAP_NET_ADMIN"),
    needed(18, "CAP_SYS_CHROOT"),
    needed(19, "CAP_SYS_PTRACE"),
    needed(21, "CAP_SYS_ADMIN"),
    needed(23, "CAP_SYS_NICE"),
    needed(24, "CAP_SYS_RESOURCE"),
    // These exist since Linux 5.8. CAP_SYS_ADMIN includes both.
    needed(38, "CAP_PERFMON"),
    needed(39, "CAP_BPF"),
];

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// The header that means the calling thread.
const OWN: Header = Header {
    // _LINUX_CAPABILITY_VERSION_3
    version: 0x2008_0522,
    pid: 0,
};

/// Effective, permitted and inheritable, the low halves first.
type Words = [u32; 6];

fn read() -> io::Result<Words> {
    let (mut header, mut words): (_, Words) = (OWN, [0; 6]);
    // SAFETY: version 3 writes two sets of three words each.
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    match read {
        0 => Ok(words),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the calling thread, and all that it starts from now on, the use of what the
/// agent needs and of nothing else. A process of root that is executed has all again.
pub fn give_up_the_others() -> io::Result<()> {
    let (mut header, mut words) = (OWN, read()?);
    let mask = NEEDED.iter().fold(0u64, |mask, one| mask | 1 << one.number);
    for (half, word) in [(0, mask & 0xffff_ffff), (3, mask >> 32)] {
        words[half] &= u32::try_from(word).unwrap_or(0);
    }
    // SAFETY: version 3 reads two sets of three words each.
    let written = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
    match written {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the calling thread these, by name, and no way to get another one back: neither
/// now nor by executing a program.
///
/// # Errors
/// If the kernel refuses.
pub fn keep_only(names: &[&str]) -> io::Result<()> {
    let kept = NEEDED.iter().filter(|one| names.contains(&one.name));
    let mask = kept.fold(0u64, |mask, one| mask | 1 << one.number);
    for number in 0..64u64 {
        // SAFETY: no pointers are passed. A process without root's rights has none to lose.
        let dropped = || unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        if mask & 1 << number == 0 && dropped() < 0 {
            break;
        }
    }
    let (mut header, mut words) = (OWN, read()?);
    let halves = [mask & 0xffff_ffff, mask >> 32];
    for (index, word) in words.iter_mut().enumerate() {
        *word &= u32::try_from(halves[index / 3]).unwrap_or(0);
    }
    // SAFETY: version 3 reads two sets of three words each.
    let written = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
    match written {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns the needed capabilities that this process lacks.
pub fn missing() -> Vec<&'static str> {
    let words = read().unwrap_or_default();
    let effective = u64::from(words[0]) | u64::from(words[3]) << 32;
    let missing = NEEDED.iter().filter(|one| effective & 1 << one.number == 0);
    missing.map(|one| one.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_alone_is_kept_and_nothing_else() {
        let before = read().expect("the sets");
        let inside = std::thread::spawn(|| {
            keep_only(&["CAP_KILL"]).expect("to keep one");
            read().expect("the sets")
        });
        let inside = inside.join().expect("the thread");
        let kill = before[0] & 1 << 5;
        assert_eq!(inside[..2], [kill, kill]);
        assert_eq!(inside[3..], [0; 3]);
    }

    #[test]
    fn what_is_given_up_is_given_up_by_this_thread_alone() {
        let before = read().expect("the sets");
        let inside = std::thread::spawn(|| {
            give_up_the_others().expect("to give up");
            read().expect("the sets")
        });
        let inside = inside.join().expect("the thread");
        // CAP_SYS_TIME (25), which the agent has no use for.
        assert_eq!(inside[0] & 1 << 25, 0);
        assert_eq!((inside[1], inside[4]), (before[1], before[4]));
        assert_eq!(read().expect("the sets"), before);
    }
}
