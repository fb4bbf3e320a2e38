//! Makes a first manifest from what runs on a host. It attaches services, and gives each program limits
//! from what the program has used.

use crate::values::workload_name;
use enforcer_model::spec::Attach;
use enforcer_model::units::Bytes;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A service or a program, and its use while it was watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    pub what: What,
    /// The CPU time, as a share of one CPU in percent.
    pub cpu_percent: f64,
    /// The most memory.
    pub peak: Bytes,
    /// The most processes and threads.
    pub tasks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A service that another program has started.
    Service(Attach),
    /// A program that belongs to no service.
    Program {
        pid: u32,
        command: Vec<String>,
        user: String,
        directory: Option<String>,
    },
}

impl Running {
    /// Returns the name under which it is shown and chosen.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.what {
            What::Service(service) => service.parts().1.to_owned(),
            What::Program { command, pid, .. } => {
                let program = command.first().map_or("", String::as_str);
                let base = program.rsplit('/').next().unwrap_or(program);
                match base.is_empty() {
                    true => pid.to_string(),
                    false => base.to_owned(),
                }
            }
        }
    }
}

/// The least that is suggested as a limit.
const LEAST_MEMORY: u64 = 16 << 20;
const LEAST_TASKS: u64 = 32;
/// A limit is a multiple of this.
const STEP: u64 = 8 << 20;

/// Returns a limit with half as much again as was used.
fn memory_limit(peak: Bytes) -> Bytes {
    let wanted = (peak.0.saturating_add(peak.0 / 2)).max(LEAST_MEMORY);
    Bytes(wanted.div_ceil(STEP).saturating_mul(STEP))
}

/// Returns a limit with twice as much as was used.
fn tasks_limit(peak: u64) -> u64 {
    peak.saturating_mul(2).max(LEAST_TASKS)
}

/// Returns a manifest of what was picked. `watched` is the time for which it was watched, in words.
#[must_use]
pub fn manifest(picked: &[Running], watched: &str) -> String {
    let mut text = "version: 2\nworkloads:\n".to_owned();
    let mut names = BTreeSet::new();
    for one in picked {
        let name = free_name(&one.name(), &mut names);
        let (memory, tasks) = (memory_limit(one.peak), tasks_limit(one.tasks));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name}:");
        let _ = writeln!(
            text,
            "    # In {watched}: {:.1} % of a CPU, at most {} of memory and {} tasks.",
            one.cpu_percent, one.peak, one.tasks
        );
        text.push_str(&match &one.what {
            What::Service(service) => of_service(service, memory, tasks),
            What::Program {
                pid,
                command,
                user,
                directory,
            } => {
                let directory = directory.as_ref().filter(|path| *path != "/");
                let directory = directory.map_or_else(String::new, |path| {
                    format!("    directory: {}\n", quoted(path))
                });
                let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
                format!(
                    "    # It runs as process {pid}: end that one before this manifest is applied.\n    \
                     command: [{}]\n    user: {}\n{directory}    \
                     cgroup: {{ memory.max: {memory}, pids.max: {tasks} }}\n",
                    words.join(", "),
                    quoted(user)
                )
            }
        });
    }
    if picked.is_empty() {
        text = "version: 2\nworkloads: {}\n".to_owned();
    }
    text
}

/// Returns the lines of a service, with its owner's own command for limits.
fn of_service(service: &Attach, memory: Bytes, tasks: u64) -> String {
    let (owner, name) = service.parts();
    let mebibytes = memory.0 >> 20;
    let limits = match service {
        Attach::Systemd(unit) => Some((
            "systemd",
            format!("systemctl set-property {unit} MemoryMax={memory} TasksMax={tasks}"),
        )),
        Attach::Docker(name) => Some((
            "Docker",
            format!("docker update --memory {mebibytes}m --pids-limit {tasks} {name}"),
        )),
        Attach::Podman(name) => Some((
            "Podman",
            format!("podman update --memory {mebibytes}m --pids-limit {tasks} {name}"),
        )),
        Attach::Cgroup(_) => None,
    };
    let limits = limits.map_or_else(String::new, |(owner, command)| {
        format!("    # Its limits are {owner}'s: {command}\n")
    });
    format!("{limits}    attach: {{ {owner}: {} }}\n", quoted(name))
}

/// Returns a name of a workload that no other one has.
fn free_name(of: &str, names: &mut BTreeSet<String>) -> String {
    let stem = of.strip_suffix(".service").unwrap_or(of);
    let name = workload_name(stem);
    let short: String = name.chars().take(58).collect();
    let short = short.trim_end_matches('-');
    let numbered = (2..).map(|number| format!("{short}-{number}"));
    let mut all = std::iter::once(name.clone()).chain(numbered);
    let free = all.find(|name| names.insert(name.clone()));
    free.unwrap_or(name)
}

/// Writes a text for YAML. It quotes a text that YAML could read as something else.
fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.-@".contains(&byte);
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/');
    let words = ["true", "false", "null", "yes", "no", "on", "off"];
    let is_word = words.contains(&text.to_ascii_lowercase().as_str());
    match begins && !is_word && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => serde_json::Value::from(text).to_string(),
    }
}
