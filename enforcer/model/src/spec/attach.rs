//! Attached services: another program has started them, and enforcer looks after them.

use crate::name::WorkloadName;
use crate::settings::displayed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The characters of a pattern that stand for others.
const WILD: [char; 2] = ['*', '?'];
/// The longest name of a workload.
const LONGEST_NAME: usize = 63;

/// A service that another program has started, by its name there; also a pattern, which stands for several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attach {
    /// A unit of the host's systemd, such as `nginx.service`; `alice/app.service` is one of a user's own systemd.
    Systemd(String),
    /// A container of Docker's, by its name or its id.
    Docker(String),
    /// A container of root's Podman, by its name or its id; `alice/web` is one of a user's own Podman.
    Podman(String),
    /// A cgroup, by its path below `/sys/fs/cgroup`, such as `/system.slice/nginx.service`.
    Cgroup(String),
}

displayed!(Attach);

impl Attach {
    /// The keys of the manifest.
    pub const KEYS: [&str; 4] = ["systemd", "docker", "podman", "cgroup"];

    /// Returns the service of this key; `None` if there is no such key.
    #[must_use]
    pub fn new(key: &str, name: String) -> Option<Self> {
        match key {
            "systemd" => Some(Self::Systemd(name)),
            "docker" => Some(Self::Docker(name)),
            "podman" => Some(Self::Podman(name)),
            "cgroup" => Some(Self::Cgroup(name)),
            _ => None,
        }
    }

    /// Returns the user whose systemd or Podman it belongs to; `None` if it is the host's.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        let (user, _) = self.user_and_name();
        user
    }

    /// Returns the name without the user.
    #[must_use]
    pub fn own_name(&self) -> &str {
        let (_, name) = self.user_and_name();
        name
    }

    fn user_and_name(&self) -> (Option<&str>, &str) {
        match self {
            Self::Systemd(name) | Self::Podman(name) => match name.split_once('/') {
                Some((user, name)) => (Some(user), name),
                None => (None, name),
            },
            Self::Docker(name) | Self::Cgroup(name) => (None, name),
        }
    }

    /// Returns the command by which the owner restarts it; `None` if it has none. Podman is a program and no service: what it
    /// starts has the restrictions of whoever has called it. So systemd calls it where it can.
    #[must_use]
    pub fn restart(&self, has_systemd: bool) -> Option<Vec<String>> {
        let (user, name) = self.user_and_name();
        // A unit's stop may take longer than a command here.
        let words: &[&str] = match self {
            Self::Systemd(_) if !name.ends_with(".service") => return None,
            Self::Systemd(_) if user.is_some() => {
                &["/usr/bin/systemctl", "--user", "--no-block", "restart"]
            }
            Self::Systemd(_) => &["/usr/bin/systemctl", "--no-block", "restart"],
            Self::Docker(_) => &["/usr/bin/docker", "restart"],
            Self::Podman(_) if has_systemd => {
                let run: &[&str] = match user {
                    Some(_) => &["/usr/bin/systemd-run", "--user"],
                    None => &["/usr/bin/systemd-run"],
                };
                let options = ["--quiet", "--collect", "--", "/usr/bin/podman", "restart"];
                &[run, &options].concat()
            }
            Self::Podman(_) => &["/usr/bin/podman", "restart"],
            Self::Cgroup(_) => return None,
        };
        let words = words.iter().copied().chain(["--", name]);
        Some(words.map(str::to_owned).collect())
    }

    /// The limits that systemd sets at run time (systemd.resource-control(5)), and its names for them.
    pub const OF_SYSTEMD: [(&str, &str); 9] = [
        ("cpu.weight", "CPUWeight"),
        ("cpu.max", "CPUQuota"),
        ("memory.min", "MemoryMin"),
        ("memory.low", "MemoryLow"),
        ("memory.high", "MemoryHigh"),
        ("memory.max", "MemoryMax"),
        ("memory.swap.max", "MemorySwapMax"),
        ("pids.max", "TasksMax"),
        ("io.weight", "IOWeight"),
    ];
    /// The limits that `docker update` and `podman update` set to the very number. They turn CPU shares into a weight, in a way
    /// that depends on their version.
    pub const OF_ENGINES: [&str; 3] = ["cpu.max", "memory.max", "pids.max"];

    /// Returns the limits that the owner can set, by the names of the kernel's files.
    #[must_use]
    pub fn limits(&self) -> Vec<&'static str> {
        match self {
            Self::Systemd(_) => Self::OF_SYSTEMD.iter().map(|(file, _)| *file).collect(),
            Self::Docker(_) | Self::Podman(_) => Self::OF_ENGINES.to_vec(),
            Self::Cgroup(_) => Vec::new(),
        }
    }

    /// Returns whether the owner can bound the CPU time.
    #[must_use]
    pub fn takes_quota(&self) -> bool {
        self.limits().contains(&"cpu.max")
    }

    /// Returns the command by which the owner sets limits; `None` if it cannot. The values are those of the kernel's
    /// files, and `idle` for the weight of an idle cgroup.
    #[must_use]
    pub fn set_limits(
        &self,
        values: &BTreeMap<String, String>,
        container: Container,
    ) -> Option<Vec<String>> {
        let (user, name) = self.user_and_name();
        let (words, options): (&[&str], Vec<String>) = match self {
            Self::Systemd(_) => {
                let options = values
                    .iter()
                    .filter_map(|(file, value)| of_systemd(file, value));
                let words: &[&str] = match user {
                    Some(_) => &["/usr/bin/systemctl", "--user", "set-property", "--runtime"],
                    None => &["/usr/bin/systemctl", "set-property", "--runtime"],
                };
                return Some(command(
                    &[words, &["--", name]].concat(),
                    options.flatten().collect(),
                ));
            }
            Self::Docker(_) => (
                &["/usr/bin/docker", "update"],
                of_engine(values, container, "-1"),
            ),
            Self::Podman(_) => (
                &["/usr/bin/podman", "update"],
                of_engine(values, container, UNBOUND_QUOTA),
            ),
            Self::Cgroup(_) => return None,
        };
        let mut words = command(words, options);
        words.extend(["--".to_owned(), name.to_owned()]);
        Some(words)
    }

    /// Returns the command by which the owner shows its output; `None` if nobody keeps that.
    #[must_use]
    pub fn logs(&self) -> Option<String> {
        let (user, name) = self.user_and_name();
        let command = match self {
            Self::Systemd(_) if user.is_some() => format!("journalctl --user -u {name}"),
            Self::Systemd(_) => format!("journalctl -u {name}"),
            Self::Docker(_) => format!("docker logs {name}"),
            Self::Podman(_) => format!("podman logs {name}"),
            Self::Cgroup(_) => return None,
        };
        Some(match user {
            Some(user) => format!("{command}, as {user}"),
            None => command,
        })
    }

    /// Returns whether the host, or enforcer itself, depends on it: it is never restarted.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        let Self::Systemd(_) = self else {
            return false;
        };
        let unit = self.own_name();
        let stem = unit.strip_suffix(".service").unwrap_or(unit);
        let begins = ["systemd-", "dbus", "ssh", "enforcer", "user@", "getty@"];
        let names = ["docker", "containerd", "podman", "crio", "init.scope"];
        begins.iter().any(|begin| stem.starts_with(begin)) || names.contains(&stem)
    }

    /// Returns whether it stands for all services whose names match.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.parts().1.contains(WILD)
    }

    /// Returns whether a pattern stands for this name. `*` is any text and `?` any character; neither is a slash.
    #[must_use]
    pub fn has_match(&self, name: &str) -> bool {
        matches(self.parts().1, name)
    }

    /// Returns the name of the workload for a service that the pattern of this workload has matched: what the pattern leaves
    /// open stands behind the workload's own name. A name that would say less than the service's has a hash at its end.
    #[must_use]
    pub fn matched_name(&self, workload: &WorkloadName, service: &str) -> WorkloadName {
        let pattern = self.parts().1;
        let first = pattern.find(WILD).unwrap_or(0);
        let last = pattern.rfind(WILD).map_or(0, |at| pattern.len() - at - 1);
        let open = service.get(first..service.len().saturating_sub(last));
        let open = open.filter(|open| !open.is_empty()).unwrap_or(service);
        let is_good = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        let words: Vec<&str> = open
            .split(|letter| !is_good(letter))
            .filter(|word| !word.is_empty())
            .collect();
        let words = words.join("-");
        let whole = format!("{workload}-{words}");
        let known = WorkloadName::parse(&whole).filter(|_| words == open);
        known.unwrap_or_else(|| {
            // FNV-1a: the same name in each life of the agent.
            let hash = service.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
            let hash = format!("{hash:08x}");
            let room = LONGEST_NAME - hash.len() - 1;
            let begin: String = whole.chars().take(room).collect();
            let hashed = format!("{}-{hash}", begin.trim_end_matches('-'));
            WorkloadName::parse(&hashed).unwrap_or_else(|| workload.clone())
        })
    }

    /// Returns whose it is, and its name there.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Systemd(name) => ("systemd", name),
            Self::Docker(name) => ("docker", name),
            Self::Podman(name) => ("podman", name),
            Self::Cgroup(path) => ("cgroup", path),
        }
    }
}

/// What a container's engine is told beside the limits that change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// The present limit of swap, in bytes; `None` if there is none. An engine takes memory and swap together.
    pub swap: Option<u64>,
    /// It was made with `--cpus`. Docker then refuses a quota.
    pub has_cpus: bool,
}

/// Matches from the left. After a mismatch, the last star takes one character more.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut of_name) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&letter) = name.get(of_name) {
        match pattern.get(at) {
            Some('*') => {
                at += 1;
                star = Some((at, of_name));
            }
            Some('?') if letter != '/' => (at, of_name) = (at + 1, of_name + 1),
            Some(&expected) if expected == letter => (at, of_name) = (at + 1, of_name + 1),
            _ => {
                let Some((after, taken)) = star.filter(|(_, taken)| name.get(*taken) != Some(&'/'))
                else {
                    return false;
                };
                star = Some((after, taken + 1));
                (at, of_name) = (after, taken + 1);
            }
        }
    }
    pattern
        .get(at..)
        .is_none_or(|rest| rest.iter().all(|letter| *letter == '*'))
}

fn command(words: &[&str], options: Vec<String>) -> Vec<String> {
    let words = words.iter().map(|word| (*word).to_owned());
    words.chain(options).collect()
}

/// Returns the settings of a unit that stand for a file's value; `None` if there are none.
fn of_systemd(file: &str, value: &str) -> Option<Vec<String>> {
    let (_, key) = Attach::OF_SYSTEMD
        .iter()
        .find(|(known, _)| *known == file)?;
    let value = value.trim();
    let of_weight = value.strip_prefix("default ").unwrap_or(value);
    Some(match file {
        "cpu.max" => match quota(value) {
            Some((time, period)) => {
                let hundredths = u128::from(time) * 10_000 / u128::from(period.max(1));
                let (whole, rest) = (hundredths / 100, hundredths % 100);
                vec![
                    format!("{key}={whole}.{rest:02}%"),
                    format!("CPUQuotaPeriodSec={period}us"),
                ]
            }
            None => vec![format!("{key}="), "CPUQuotaPeriodSec=".to_owned()],
        },
        _ if value == "max" => vec![format!("{key}=infinity")],
        _ => vec![format!("{key}={of_weight}")],
    })
}

/// The engines know no `max` for memory, and read a number as a float: it is the greatest multiple of 1,024 below
/// 2^63, which the kernel shows as `max` again (`mm/page_counter.c`, `page_counter_memparse`).
const NO_LIMIT: u64 = (1 << 63) - 1024;

/// Podman leaves a quota that is not above 0 as it was (tried with 5.4.2), and so cannot take one away. This is the time of ten
/// million CPUs.
const UNBOUND_QUOTA: &str = "1000000000000";

fn of_engine(
    values: &BTreeMap<String, String>,
    container: Container,
    no_quota: &str,
) -> Vec<String> {
    let mut options = Vec::new();
    for (file, value) in values {
        match file.as_str() {
            "memory.max" => {
                let memory: Option<u64> = value.trim().parse().ok();
                options.push(format!("--memory={}", memory.unwrap_or(NO_LIMIT)));
                let both = memory.zip(container.swap);
                let both = both.and_then(|(memory, swap)| memory.checked_add(swap));
                options.push(match both {
                    Some(both) => format!("--memory-swap={both}"),
                    None => "--memory-swap=-1".to_owned(),
                });
            }
            "pids.max" => {
                let count = if value.trim() == "max" { "-1" } else { value };
                options.push(format!("--pids-limit={count}"));
            }
            "cpu.max" => match quota(value) {
                Some((time, period)) if container.has_cpus => {
                    let billionths = u128::from(time) * 1_000_000_000 / u128::from(period.max(1));
                    let (whole, rest) = (billionths / 1_000_000_000, billionths % 1_000_000_000);
                    options.push(format!("--cpus={whole}.{rest:09}"));
                }
                Some((time, period)) => {
                    options.push(format!("--cpu-period={period}"));
                    options.push(format!("--cpu-quota={time}"));
                }
                None => {
                    let period = value.split_whitespace().nth(1).unwrap_or("100000");
                    options.push(format!("--cpu-period={period}"));
                    options.push(format!("--cpu-quota={no_quota}"));
                }
            },
            _ => {}
        }
    }
    options
}

/// Reads `cpu.max`: the time and the period in microseconds; `None` without a limit.
fn quota(value: &str) -> Option<(u64, u64)> {
    let (time, period) = value.trim().split_once(' ')?;
    Some((time.parse().ok()?, period.parse().ok()?))
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (owner, name) = self.parts();
        write!(f, "{owner} {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(service: &Attach, values: &[(&str, &str)], container: Container) -> String {
        let values = values.iter();
        let values = values.map(|(file, value)| ((*file).to_owned(), (*value).to_owned()));
        let words = service.set_limits(&values.collect(), container);
        words.map_or_else(|| "nothing".to_owned(), |words| words.join(" "))
    }

    #[test]
    fn systemd_gets_the_kernels_values_under_its_own_names() {
        let unit = Attach::Systemd("shop.service".to_owned());
        let set = |values: &[(&str, &str)]| set(&unit, values, Container::default());
        let begin = "/usr/bin/systemctl set-property --runtime -- shop.service";
        let limited = [
            ("cpu.max", "33333 100000"),
            ("cpu.weight", "59"),
            ("io.weight", "default 50"),
            ("memory.max", "52428800"),
            ("pids.max", "max"),
        ];
        assert_eq!(
            set(&limited),
            format!(
                "{begin} CPUQuota=33.33% CPUQuotaPeriodSec=100000us CPUWeight=59 IOWeight=50 \
                 MemoryMax=52428800 TasksMax=infinity"
            )
        );
        assert_eq!(
            set(&[("cpu.max", "max 100000"), ("cpu.weight", "idle")]),
            format!("{begin} CPUQuota= CPUQuotaPeriodSec= CPUWeight=idle")
        );
        for file in unit.limits() {
            let words = of_systemd(file, "1");
            assert!(words.is_some(), "{file}");
        }
    }

    #[test]
    fn a_users_own_service_is_asked_for_as_that_user() {
        let unit = Attach::Systemd("alice/app.service".to_owned());
        assert_eq!(
            (unit.user(), unit.own_name()),
            (Some("alice"), "app.service")
        );
        let joined = |words: Option<Vec<String>>| words.map(|words| words.join(" "));
        assert_eq!(
            joined(unit.restart(true)).as_deref(),
            Some("/usr/bin/systemctl --user --no-block restart -- app.service")
        );
        assert_eq!(
            set(&unit, &[("memory.max", "4096")], Container::default()),
            "/usr/bin/systemctl --user set-property --runtime -- app.service MemoryMax=4096"
        );
        assert_eq!(
            unit.logs().as_deref(),
            Some("journalctl --user -u app.service, as alice")
        );
        let container = Attach::Podman("alice/web".to_owned());
        assert_eq!(
            joined(container.restart(true)).as_deref(),
            Some("/usr/bin/systemd-run --user --quiet --collect -- /usr/bin/podman restart -- web")
        );
        let of_root = Attach::Podman("web".to_owned());
        assert_eq!(
            joined(of_root.restart(false)).as_deref(),
            Some("/usr/bin/podman restart -- web")
        );
        assert_eq!(Attach::Cgroup("/a/b".to_owned()).user(), None);
    }

    #[test]
    fn a_pattern_stands_for_names() {
        let unit = |text: &str| Attach::Systemd(text.to_owned());
        assert!(!unit("nginx.service").is_pattern());
        let pattern = unit("nginx@*.service");
        assert!(pattern.is_pattern());
        for (pattern, name, expected) in [
            ("nginx@*.service", "nginx@blue.service", true),
            ("nginx@*.service", "nginx@.service", true),
            ("nginx@*.service", "nginx.service", false),
            ("*", "web", true),
            ("**", "a/b", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("web-?", "web-1", true),
            ("web-?", "web-12", false),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        let web = WorkloadName::parse("web").expect("a name");
        let named = |service: &str| pattern.matched_name(&web, service).to_string();
        assert_eq!(named("nginx@blue.service"), "web-blue");
        assert_eq!(named("nginx@blue-2.service"), "web-blue-2");
        let other = named("nginx@Blue.service");
        assert!(
            other.starts_with("web-lue-") && other.len() == 16,
            "{other}"
        );
        assert_ne!(other, named("nginx@-lue.service"));
        let long = format!("nginx@{}.service", "a".repeat(100));
        assert_eq!(named(&long).len(), LONGEST_NAME);
    }

    #[test]
    fn an_engine_takes_memory_and_swap_together() {
        let docker = Attach::Docker("web".to_owned());
        let limited = [
            ("cpu.max", "50000 100000"),
            ("memory.max", "52428800"),
            ("pids.max", "100"),
        ];
        let swapless = Container {
            swap: Some(0),
            has_cpus: true,
        };
        assert_eq!(
            set(&docker, &limited, swapless),
            "/usr/bin/docker update --cpus=0.500000000 --memory=52428800 --memory-swap=52428800 \
             --pids-limit=100 -- web"
        );
        let open = [
            ("cpu.max", "max 100000"),
            ("memory.max", "max"),
            ("pids.max", "max"),
        ];
        let podman = Attach::Podman("web".to_owned());
        assert_eq!(
            set(&podman, &open, Container::default()),
            "/usr/bin/podman update --cpu-period=100000 --cpu-quota=1000000000000 --memory=9223372036854774784 --memory-swap=-1 \
             --pids-limit=-1 -- web"
        );
        let cgroup = Attach::Cgroup("/web".to_owned());
        assert_eq!(set(&cgroup, &limited, swapless), "nothing");
        assert!(cgroup.limits().is_empty());
    }
}
