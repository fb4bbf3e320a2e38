//! The statistics of a cgroup for a scrape, in one pass over its files. The kernel makes each file
//! when it is read (for `memory.stat` and `cpu.stat` it first adds up every CPU's part), so this
//! pass is made only for a scrape.

use super::cgroupfs::Cgroup;
use super::counters::field;
use super::pressure::total;
use super::usage::{Slower, UsageFiles};
use enforcer_model::limits::Limits;

/// `memory.events`, as the kernel calls its counters.
pub const MEMORY_EVENTS: [&str; 6] = ["low", "high", "max", "oom", "oom_kill", "oom_group_kill"];
/// The resources with a `.pressure` file.
pub const RESOURCES: [&str; 3] = ["cpu", "memory", "io"];

/// Bytes, microseconds and counts as the kernel has them; `None` where it has no such
/// file, or says `max`.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    pub memory: u64,
    /// The memory without the page cache that could be dropped at once.
    pub working_set: u64,
    pub memory_max: Option<u64>,
    /// Linux 5.19.
    pub memory_peak: Option<u64>,
    pub swap: Option<u64>,
    pub swap_max: Option<u64>,
    /// The counts in the order of [`MEMORY_EVENTS`].
    pub memory_events: [u64; MEMORY_EVENTS.len()],
    pub cpu_usec: u64,
    pub throttled_usec: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub pids: Option<u64>,
    /// Time in which some waited, and in which all did, in the order of [`RESOURCES`].
    pub waited_usec: [Option<(u64, u64)>; RESOURCES.len()],
}

/// Reads a cgroup. `limits` are those that the kernel is known to have; without them they are read too.
/// `None` if the cgroup is gone.
pub fn read(files: &UsageFiles, limits: Option<&Limits>) -> Option<Statistics> {
    let cgroup = files.cgroup();
    let memory = files.memory()?;
    let cpu = files.cpu_text()?;
    let cpu_usec = field(&cpu, "usage_usec");
    let (slow, slower) = files.slow((memory, cpu_usec), Some(read_slower))?;
    let (memory_max, swap_max) = files.limits(limits);
    Some(Statistics {
        memory,
        working_set: memory.saturating_sub(slow.inactive),
        memory_max,
        memory_peak: slower.peak,
        swap: slow.swap,
        swap_max,
        memory_events: slower.events,
        cpu_usec,
        throttled_usec: field(&cpu, "throttled_usec"),
        periods: field(&cpu, "nr_periods"),
        throttled_periods: field(&cpu, "nr_throttled"),
        pids: slower.pids,
        // A process may wait without running.
        waited_usec: RESOURCES
            .map(|resource| waited(&text(cgroup, &format!("{resource}.pressure"))?)),
    })
}

fn text(cgroup: &Cgroup, file: &str) -> Option<String> {
    cgroup.read_if_present(file).ok().flatten()
}

fn read_slower(cgroup: &Cgroup) -> Option<Slower> {
    let number = |file: &str| text(cgroup, file)?.trim().parse::<u64>().ok();
    let events = text(cgroup, "memory.events")?;
    Some(Slower {
        peak: number("memory.peak"),
        events: MEMORY_EVENTS.map(|event| field(&events, event)),
        pids: number("pids.current"),
    })
}

/// Returns the totals of a pressure file. Before Linux 5.13 there is no `full` line for CPUs, which
/// counts as 0.
fn waited(text: &str) -> Option<(u64, u64)> {
    Some((total(text, "some")?, total(text, "full").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::waited;

    #[test]
    fn what_was_waited_for_is_read_by_its_line() {
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=17\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        assert_eq!(waited(text), Some((17, 5)));
        assert_eq!(waited("some avg10=0.00 total=17\n"), Some((17, 0)));
        assert_eq!(waited(""), None);
    }
}
