//! Restricts what the child may do with files. As in all of the child, nothing here allocates,
//! locks or panics.

use super::child::{Stage, Step, check, system_call};
use crate::landlock::Ruleset;
use libc::c_int;

/// Restricts the process with its rules for paths (landlock_restrict_self(2)). The paths are opened
/// as its user.
pub(super) fn restrict(paths: Option<&Ruleset>) -> Step {
    /// `struct landlock_ruleset_attr` of Linux 6.12. An older kernel takes it while what it does
    /// not know is zero.
    #[repr(C)]
    struct Attributes {
        handled: u64,
        ports: u64,
        scopes: u64,
    }
    let Some(paths) = paths else {
        return Ok(());
    };
    let attributes = Attributes {
        handled: paths.handled,
        ports: 0,
        scopes: paths.scopes,
    };
    // SAFETY: the structure outlives the call, and has the size that is passed; the paths end with
    // NUL, and the descriptors were opened right here.
    unsafe {
        let created = libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size_of::<Attributes>(),
            0,
        );
        check(system_call(created), Stage::Paths)?;
        for (path, rights) in &paths.rules {
            let file = libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
            if file < 0 {
                // Without a rule, the process can do less.
                continue;
            }
            let added = allow(created, file, *rights, paths.of_files);
            libc::close(file);
            check(added, Stage::Paths)?;
        }
        let restricted = libc::syscall(libc::SYS_landlock_restrict_self, created, 0);
        check(system_call(restricted), Stage::Paths)?;
        check(
            system_call(libc::syscall(libc::SYS_close, created)),
            Stage::Paths,
        )
    }
}

/// Adds a rule for what is below an open file.
fn allow(ruleset: libc::c_long, file: c_int, rights: u64, of_files: u64) -> c_int {
    const BENEATH: c_int = 1;
    /// `struct landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct Beneath {
        rights: u64,
        file: c_int,
    }
    // SAFETY: all of its fields are integers, for which zero is valid, and the kernel fills it.
    let is_folder = unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        libc::fstat(file, &raw mut found) == 0 && found.st_mode & libc::S_IFMT == libc::S_IFDIR
    };
    let rule = Beneath {
        rights: if is_folder { rights } else { rights & of_files },
        file,
    };
    // SAFETY: the structure outlives the call.
    let added = unsafe {
        let call = libc::SYS_landlock_add_rule;
        libc::syscall(call, ruleset, BENEATH, &raw const rule, 0)
    };
    system_call(added)
}
