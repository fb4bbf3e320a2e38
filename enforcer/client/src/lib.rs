//! Asks the agent over its Unix socket. The program of this crate is the installed command `enforcer`:
//! it answers the commands of [`short`] itself, and executes the full program for all others, which is
//! the agent with its whole command line.
//!
//! It exists for the time that a command takes. Before its first instruction, the full program pays for
//! its size: a static program that may be loaded anywhere has the addresses in its data written at each
//! start. `docs/benchmarks.md` has the figures.
#![forbid(unsafe_code)]

mod fault;
pub mod http;
pub mod request;
pub mod short;

pub use fault::Fault;
use std::path::{Path, PathBuf};

/// Returns the folder for files of this boot: the named one, or the default.
pub fn runtime_dir(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| {
        let user =
            std::env::var_os("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("enforcer"));
        let root = nix::unistd::geteuid().is_root();
        user.filter(|_| !root)
            .unwrap_or_else(|| PathBuf::from("/run/enforcer"))
    })
}

/// Returns the agent's socket in this folder.
pub fn socket_in(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("enforcer.sock")
}
