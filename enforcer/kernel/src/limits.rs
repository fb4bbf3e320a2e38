//! Writes limits to the kernel and reads them back, through the cgroup's own descriptor. A limit is
//! applied only if the kernel reports its value afterwards.

use super::cgroupfs::{Cgroup, CgroupError};
use super::disk::{self, DiskError};
use enforcer_model::detail::LimitChange;
use enforcer_model::drift::Drifted;
use enforcer_model::limits::{
    DiskRates, FileValue, Limits, controller_of, is_in_effect, missing_with, parse_io_max,
};
use enforcer_model::units::Limit;
use std::collections::BTreeMap;

/// It has a line for each disk that has a limit.
const IO_MAX: &str = "io.max";

#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error(
        "set {file} of {cgroup}: the file is not there, because the controller `{controller}` is not enabled; \
         see {cgroup}/cgroup.controllers"
    )]
    NoController {
        cgroup: String,
        file: &'static str,
        controller: &'static str,
    },
    #[error("set {file} of {cgroup}: this kernel does not have the file; it takes {needs}")]
    NoFile {
        cgroup: String,
        file: &'static str,
        needs: &'static str,
    },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("set io.max: {first} and {second} are on the same disk {disk}")]
    OneDisk {
        first: String,
        second: String,
        disk: String,
    },
    #[error("set {path} to `{requested}`: the kernel kept `{answer}`")]
    NotInEffect {
        path: String,
        requested: String,
        answer: String,
    },
}

impl LimitError {
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Cgroup(error) => error.errno(),
            Self::Disk(DiskError::Io { source, .. }) => source.raw_os_error(),
            Self::NoController { .. }
            | Self::NoFile { .. }
            | Self::NotInEffect { .. }
            | Self::Disk(DiskError::NoDevice { .. })
            | Self::OneDisk { .. } => None,
        }
    }
}

/// Returns whether swap can be limited. A kernel without swap has no such file.
pub fn knows_swap(cgroup: &Cgroup) -> bool {
    cgroup.has_file("memory.swap.max")
}

/// Brings every file to what the limits say, defaults included, and reads each
/// back. Returns what was changed; files that are right already are not written.
pub fn apply(cgroup: &Cgroup, limits: &Limits) -> Result<Vec<LimitChange>, LimitError> {
    bring(cgroup, files_of(limits)?.into_iter())
}

/// Returns the files with the disks as the kernel names them.
fn files_of(limits: &Limits) -> Result<Vec<FileValue>, LimitError> {
    let mut files = limits.files();
    if limits.io_max.is_empty() {
        return Ok(files);
    }
    let mut lines: BTreeMap<String, (&str, String)> = BTreeMap::new();
    for (path, rates) in &limits.io_max {
        let disk = disk::number_of(path)?;
        if let Some((first, _)) = lines.get(&disk) {
            return Err(LimitError::OneDisk {
                first: (*first).to_owned(),
                second: path.clone(),
                disk,
            });
        }
        let line = rates.line(&disk);
        lines.insert(disk, (path, line));
    }
    let lines: Vec<String> = lines.into_values().map(|(_, line)| line).collect();
    for entry in files.iter_mut().filter(|entry| entry.file == IO_MAX) {
        entry.value = lines.join("\n");
    }
    Ok(files)
}

fn bring(
    cgroup: &Cgroup,
    files: impl Iterator<Item = FileValue>,
) -> Result<Vec<LimitChange>, LimitError> {
    let mut changes = Vec::new();
    for wanted in files {
        let Some(present) = cgroup.read_if_present(wanted.file)? else {
            if wanted.asked {
                return Err(missing(cgroup, wanted.file));
            }
            continue;
        };
        let present = shown(wanted.file, &present);
        if is_in_effect(wanted.file, &wanted.value, &present) {
            continue;
        }
        changes.push(change(cgroup, &wanted, present)?);
    }
    Ok(changes)
}

/// Returns why a cgroup does not have a file.
fn missing(cgroup: &Cgroup, file: &'static str) -> LimitError {
    let controller = controller_of(file);
    let path = cgroup.path().display().to_string();
    let enabled = cgroup.read("cgroup.controllers").unwrap_or_default();
    if enabled.split_whitespace().any(|name| name == controller) {
        LimitError::NoFile {
            cgroup: path,
            file,
            needs: missing_with(file),
        }
    } else {
        LimitError::NoController {
            cgroup: path,
            file,
            controller,
        }
    }
}

/// Writes the limits of a cgroup that was made just now: every file that the limits do not ask for has
/// its default already.
pub fn apply_to_new(cgroup: &Cgroup, limits: &Limits) -> Result<Vec<LimitChange>, LimitError> {
    let asked = files_of(limits)?.into_iter().filter(|wanted| wanted.asked);
    bring(cgroup, asked)
}

/// Returns the values that differ from the limits. A missing file does not count.
pub fn drifted(cgroup: &Cgroup, limits: &Limits) -> Vec<Drifted> {
    let differs = |wanted: FileValue| {
        let found = shown(wanted.file, &cgroup.read_if_present(wanted.file).ok()??);
        let right = is_in_effect(wanted.file, &wanted.value, &found);
        (!right).then(|| Drifted {
            what: wanted.file.to_owned(),
            expected: wanted.value,
            found,
        })
    };
    // Without its disk a limit of it cannot be compared.
    let files = files_of(limits).unwrap_or_else(|_| {
        let files = limits.files().into_iter();
        files.filter(|entry| entry.file != IO_MAX).collect()
    });
    files.into_iter().filter_map(differs).collect()
}

/// Returns the value of a file as it would be written; `None` if the kernel has no such file here. The weight of
/// an idle cgroup is `idle`.
pub fn present(cgroup: &Cgroup, file: &str) -> Option<String> {
    if file == "cpu.weight" {
        let idle = cgroup.read_if_present("cpu.idle").ok().flatten();
        if idle.is_some_and(|idle| idle.trim() == "1") {
            return Some("idle".to_owned());
        }
    }
    let text = cgroup.read_if_present(file).ok()??;
    Some(shown(file, &text))
}

/// Returns the protections that a cgroup above this one lacks: the kernel protects no more than
/// each of them does (`mm/memcontrol.c`, `effective_protection`).
pub fn unprotected(above: &[Cgroup], limits: &Limits) -> Vec<String> {
    let mut found = Vec::new();
    for (file, asked) in [
        ("memory.low", limits.memory_low),
        ("memory.min", limits.memory_min),
    ] {
        let Some(asked) = asked else {
            continue;
        };
        let lacking = above.iter().filter_map(|cgroup| {
            let text = first_line(&cgroup.read(file).ok()?);
            let short = match (asked, text.parse::<u64>()) {
                (Limit::At(asked), Ok(has)) => has < asked.0,
                (Limit::Max, Ok(_)) => true,
                // `max`
                (_, Err(_)) => false,
            };
            let path = cgroup.path().display();
            short.then(|| format!("{file} of {path} is {text}, and its workloads ask for {asked}"))
        });
        found.extend(lacking);
    }
    found
}

fn change(cgroup: &Cgroup, wanted: &FileValue, present: String) -> Result<LimitChange, LimitError> {
    if wanted.file == "cpu.max" && cgroup.has_file("cpu.max.burst") {
        // A quota below the present burst would be EINVAL; the burst comes next.
        cgroup.write("cpu.max.burst", "0")?;
    }
    if wanted.file == IO_MAX {
        write_io_max(cgroup, &wanted.value, &present)?;
    } else {
        write(cgroup, wanted.file, &wanted.value)?;
    }
    let answer = shown(wanted.file, &cgroup.read(wanted.file)?);
    if !is_in_effect(wanted.file, &wanted.value, &answer) {
        return Err(LimitError::NotInEffect {
            path: cgroup.path().join(wanted.file).display().to_string(),
            requested: wanted.value.clone(),
            answer,
        });
    }
    Ok(LimitChange {
        file: wanted.file.to_owned(),
        from: present,
        to: answer,
    })
}

/// Writes a line at a time, which is what the kernel takes, and lifts the limits of other disks.
fn write_io_max(cgroup: &Cgroup, wanted: &str, present: &str) -> Result<(), CgroupError> {
    let (kept, known) = (parse_io_max(wanted), parse_io_max(present));
    for disk in known.keys().filter(|disk| !kept.contains_key(*disk)) {
        cgroup.write(IO_MAX, &DiskRates::default().line(disk))?;
    }
    wanted
        .lines()
        .try_for_each(|line| cgroup.write(IO_MAX, line))
}

/// Returns the part of a file that is compared.
fn shown(file: &str, text: &str) -> String {
    match file {
        IO_MAX => text.trim_end().to_owned(),
        _ => first_line(text),
    }
}

/// Returns the first line: `io.weight` has a line for each device after the default.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("").to_owned()
}

fn write(cgroup: &Cgroup, file: &str, value: &str) -> Result<(), CgroupError> {
    // An empty list of CPUs is written as a line: a write of nothing is no write.
    cgroup.write(file, if value.is_empty() { "\n" } else { value })
}
