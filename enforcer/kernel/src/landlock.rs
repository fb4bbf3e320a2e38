//! The rules for paths of Landlock (landlock(7)), which hold whatever rights the user has. They are made
//! before the fork; the child restricts itself with them.

use landlock::{ABI, AccessFs, BitFlags};
use std::ffi::CString;
use std::io;

/// The rights of a workload below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Read, and execute programs.
    Execute,
    /// Read, change, create and remove, but not execute.
    Change,
    /// Read and write what is there: devices, and settings of its own processes.
    Use,
}

/// The rules of one process. What no rule allows is refused with `EACCES`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The rights that the kernel looks at (`LANDLOCK_ACCESS_FS_…`).
    pub(crate) handled: u64,
    /// Those of them that a file may have, and not a folder alone.
    pub(crate) of_files: u64,
    /// The restrictions towards other processes (`LANDLOCK_SCOPE_…`).
    pub(crate) scopes: u64,
    /// A path that is missing, or that the user cannot reach, is left out.
    pub(crate) rules: Vec<(CString, u64)>,
}

/// The newest version that is used, of Linux 6.12: what a later kernel can refuse as well is no promise.
const NEWEST: i32 = 6;
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET` and `LANDLOCK_SCOPE_SIGNAL`, since Linux 6.12.
const SOCKETS: u64 = 1;
const SIGNALS: u64 = 2;

/// The rules that every process has: it reads all files that it sees, and uses the kernel's interfaces
/// and devices.
const ALWAYS: [(&str, Access); 4] = [
    ("/", Access::Read),
    ("/proc", Access::Use),
    ("/dev", Access::Use),
    ("/dev/shm", Access::Change),
];

impl Ruleset {
    /// Makes the rules for the running kernel: these, and reading. A process that does not signal
    /// others than its own children `keeps_signals` to itself, since Linux 6.12.
    ///
    /// # Errors
    /// If the kernel has no Landlock, or a path has a NUL byte.
    pub fn new<'p>(
        rules: impl IntoIterator<Item = (&'p str, Access)>,
        keeps_signals: bool,
    ) -> io::Result<Self> {
        let version = version()?;
        let abi = ABI::from(version);
        let scopes = match (version >= NEWEST, keeps_signals) {
            (false, _) => 0,
            (true, false) => SOCKETS,
            (true, true) => SOCKETS | SIGNALS,
        };
        let rules = ALWAYS.into_iter().chain(rules);
        let rules =
            rules.map(|(path, access)| Ok((CString::new(path)?, rights(access, abi).bits())));
        Ok(Self {
            handled: all(abi).bits(),
            of_files: AccessFs::from_file(abi).bits(),
            scopes,
            rules: rules.collect::<io::Result<_>>()?,
        })
    }
}

fn all(abi: ABI) -> BitFlags<AccessFs> {
    AccessFs::from_read(abi) | AccessFs::from_write(abi)
}

fn rights(access: Access, abi: ABI) -> BitFlags<AccessFs> {
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock;
    let rights = match access {
        Access::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Access::Execute => AccessFs::from_read(abi),
        Access::Change => all(abi) & !(devices | AccessFs::Execute),
        Access::Use => {
            AccessFs::ReadFile
                | AccessFs::ReadDir
                | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::IoctlDev
        }
    };
    rights & all(abi)
}

/// Returns the version of the kernel's Landlock, and at most the newest that is used.
fn version() -> io::Result<i32> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag, neither attributes nor their size are read.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            VERSION,
        )
    };
    match i32::try_from(version) {
        Ok(version) if version >= 1 => Ok(version.min(NEWEST)),
        _ => Err(io::Error::other(
            "the kernel has no Landlock: it needs Linux 5.13 with CONFIG_SECURITY_LANDLOCK, and `landlock` \
             among the security modules (`lsm=` of the kernel's command line)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_changed_cannot_be_executed() {
        for version in 1..=NEWEST {
            let abi = ABI::from(version);
            let of = |access| rights(access, abi);
            assert!(!of(Access::Change).contains(AccessFs::Execute), "{version}");
            assert!(
                !of(Access::Change).contains(AccessFs::MakeBlock),
                "{version}"
            );
            assert!(of(Access::Change).contains(AccessFs::MakeSock), "{version}");
            for access in [Access::Read, Access::Execute] {
                assert!(
                    !of(access).intersects(AccessFs::from_write(abi)),
                    "{version}"
                );
            }
            assert!(all(abi).contains(of(Access::Use)), "{version}");
        }
    }
}
