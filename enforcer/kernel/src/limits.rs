//! Writes limits to the kernel and reads them back, through the cgroup's own descriptor. A limit is
//! applied only if the kernel reports its value afterwards.

use super::cgroupfs::{Cgroup, CgroupError};
use enforcer_model::detail::LimitChange;
use enforcer_model::drift::Drifted;
use enforcer_model::limits::{FileValue, Limits, controller_of, is_in_effect};
use enforcer_model::units::Limit;

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
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
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
            Self::NoController { .. } | Self::NotInEffect { .. } => None,
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
    bring(cgroup, limits.files().into_iter())
}

fn bring(
    cgroup: &Cgroup,
    files: impl Iterator<Item = FileValue>,
) -> Result<Vec<LimitChange>, LimitError> {
    let mut changes = Vec::new();
    for wanted in files {
        let Some(present) = cgroup.read_if_present(wanted.file)? else {
            if wanted.asked {
                return Err(LimitError::NoController {
                    cgroup: cgroup.path().display().to_string(),
                    file: wanted.file,
                    controller: controller_of(wanted.file),
                });
            }
            continue;
        };
        let present = first_line(&present);
        if is_in_effect(wanted.file, &wanted.value, &present) {
            continue;
        }
        changes.push(change(cgroup, &wanted, present)?);
    }
    Ok(changes)
}

/// Writes the limits of a cgroup that was made just now: every file that the limits do not ask for has
/// its default already.
pub fn apply_to_new(cgroup: &Cgroup, limits: &Limits) -> Result<Vec<LimitChange>, LimitError> {
    let asked = limits.files().into_iter().filter(|wanted| wanted.asked);
    bring(cgroup, asked)
}

/// Returns the values that differ from the limits. A missing file does not count.
pub fn drifted(cgroup: &Cgroup, limits: &Limits) -> Vec<Drifted> {
    let differs = |wanted: FileValue| {
        let found = first_line(&cgroup.read_if_present(wanted.file).ok()??);
        let right = is_in_effect(wanted.file, &wanted.value, &found);
        (!right).then(|| Drifted {
            what: wanted.file.to_owned(),
            expected: wanted.value,
            found,
        })
    };
    limits.files().into_iter().filter_map(differs).collect()
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
    write(cgroup, wanted.file, &wanted.value)?;
    let answer = first_line(&cgroup.read(wanted.file)?);
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

/// Returns the first line: `io.weight` has a line for each device after the default.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("").to_owned()
}

fn write(cgroup: &Cgroup, file: &str, value: &str) -> Result<(), CgroupError> {
    // An empty list of CPUs is written as a line: a write of nothing is no write.
    cgroup.write(file, if value.is_empty() { "\n" } else { value })
}
