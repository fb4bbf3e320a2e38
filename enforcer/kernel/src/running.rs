//! Lists what runs on this host beside enforcer: services, and programs that belong to no service.

use crate::account;
use crate::attached::{self, AttachError};
use crate::cgroupfs::{Cgroup, MOUNT_POINT};
use crate::counters::field;
use enforcer_model::spec::Attach;
use enforcer_model::units::Bytes;
use nix::unistd::Uid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The number of clock ticks in a second, which the kernel shows to programs (`USER_HZ`).
const TICKS: u64 = 100;

/// What something has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    pub cpu: Duration,
    /// The memory without the page cache that could be dropped at once.
    pub memory: Bytes,
    /// Processes and threads.
    pub tasks: u64,
}

/// A program that belongs to no service.
#[derive(Clone, Debug)]
pub struct Program {
    pub pid: u32,
    pub command: Vec<String>,
    /// The name of its user, or the number.
    pub user: String,
    pub directory: Option<String>,
}

/// Returns the services that run, with their cgroups: those of systemd, Docker and Podman.
///
/// # Errors
/// If a file of an engine's cannot be read.
pub fn services() -> Result<Vec<(Attach, PathBuf)>, AttachError> {
    let mut all = attached::containers()?;
    let mut units = Vec::new();
    collect_units(Path::new(MOUNT_POINT), &mut units);
    units.sort();
    all.extend(units.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?.to_owned();
        Some((Attach::Systemd(name), path))
    }));
    all.retain(|(_, path)| attached::is_in_use(path));
    Ok(all)
}

/// Finds the services of the system's manager: they lie below slices alone.
fn collect_units(folder: &Path, units: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = path.extension().and_then(|kind| kind.to_str());
        match kind {
            Some("service") => units.push(path),
            Some("slice") => collect_units(&path, units),
            _ => {}
        }
    }
}

/// Returns what a service has used.
#[must_use]
pub fn used_by_service(path: &Path) -> Used {
    let Ok(cgroup) = Cgroup::open_foreign(path) else {
        return Used::default();
    };
    let number = |file: &str| {
        let text = cgroup.read(file).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let stat = cgroup.read("memory.stat").unwrap_or_default();
    let current = number("memory.current").unwrap_or(0);
    Used {
        cpu: Duration::from_micros(field(
            &cgroup.read("cpu.stat").unwrap_or_default(),
            "usage_usec",
        )),
        memory: Bytes(current.saturating_sub(field(&stat, "inactive_file"))),
        tasks: number("pids.current").unwrap_or(0),
    }
}

/// Returns the programs that run in none of these cgroups, and are neither the kernel's nor this process or
/// one above it.
#[must_use]
pub fn programs(services: &[(Attach, PathBuf)]) -> Vec<Program> {
    let places: Vec<String> = services
        .iter()
        .filter_map(|(_, path)| path.strip_prefix(MOUNT_POINT).ok())
        .map(|path| format!("/{}", path.display()))
        .collect();
    let own = own_line();
    let all = procfs::process::all_processes().into_iter().flatten();
    let found = all.flatten().filter_map(|process| {
        let pid = u32::try_from(process.pid).ok()?;
        let command = process.cmdline().ok().filter(|words| !words.is_empty())?;
        let place = crate::process::cgroup_of(pid)?;
        let is_of_service = places
            .iter()
            .any(|home| crate::process::is_home(&place, home));
        // A service that is none of those, such as the manager of a user.
        let is_managed = place.split('/').any(|part| part.ends_with(".service"));
        if is_of_service || is_managed || own.contains(&pid) || pid == 1 {
            return None;
        }
        let uid = process.uid().ok()?;
        let program = process.exe().ok()?;
        let mut command = command;
        // The name may be a relative one, and the kernel knows the file.
        if let (Some(first), Some(path)) = (command.first_mut(), program.to_str())
            && !first.starts_with('/')
        {
            path.clone_into(first);
        }
        Some(Program {
            pid,
            command,
            user: account::name_on_host(Uid::from_raw(uid)).unwrap_or_else(|| uid.to_string()),
            directory: process
                .cwd()
                .ok()
                .and_then(|path| path.to_str().map(str::to_owned)),
        })
    });
    found.collect()
}

/// Returns this process and all above it.
fn own_line() -> Vec<u32> {
    let mut line = vec![std::process::id()];
    while let Some(last) = line.last().copied() {
        let parent = i32::try_from(last)
            .ok()
            .and_then(|pid| procfs::process::Process::new(pid).ok())
            .and_then(|process| process.stat().ok())
            .and_then(|stat| u32::try_from(stat.ppid).ok());
        match parent {
            Some(parent) if parent > 0 && !line.contains(&parent) => line.push(parent),
            _ => break,
        }
    }
    line
}

/// Returns what a program has used. Its memory is the most that it had so far.
#[must_use]
pub fn used_by_program(pid: u32) -> Used {
    let process = i32::try_from(pid)
        .ok()
        .and_then(|pid| procfs::process::Process::new(pid).ok());
    let Some(process) = process else {
        return Used::default();
    };
    let stat = process.stat().ok();
    let status = process.status().ok();
    let ticks = stat.map_or(0, |stat| stat.utime + stat.stime);
    let peak = status.as_ref().and_then(|status| status.vmhwm);
    Used {
        cpu: Duration::from_millis(ticks.saturating_mul(1000 / TICKS)),
        memory: Bytes(peak.unwrap_or(0).saturating_mul(1024)),
        tasks: status.map_or(0, |status| status.threads),
    }
}
