//! The tests that must have a guest to themselves, and the kernels on which each test runs.
//!
//! A rule names tests by the beginning of their names. `docs/decisions/0012` says why a test of
//! decisions, HTTP or files loses nothing if it runs on one kernel.

/// Names tests, and says why they are special.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The beginning of the names of the tests.
    pub tests: &'static str,
    pub why: &'static str,
}

const fn rule(tests: &'static str, why: &'static str) -> Rule {
    Rule { tests, why }
}

const PROOF: &str =
    "a proof stops its process for a bounded time, which is over too early in a busy guest";

/// Tests that run while no other test does, in this order. Swap comes last: the loop device
/// holds on to the `io` controller of cgroups that used it for a minute after they are gone.
pub const ALONE: &[Rule] = &[
    rule(
        "refuse::a_missing_controller",
        "it takes a controller from the whole hierarchy",
    ),
    rule(
        "adopt::another_process_with_its_number",
        "it chooses the next process id of the kernel",
    ),
    rule("attach::a_container", PROOF),
    rule("clock::", "it sets the wall clock"),
    rule(
        "corpus::",
        "the number of busy programs beside each other is what it tests",
    ),
    rule("cpu::", "it measures shares of CPU time"),
    rule("loops::a_cpu_that_went", "it takes a CPU offline"),
    rule("loops::a_dead_loop_is_proved", PROOF),
    rule("loops::a_looping_thread", PROOF),
    rule("loops::a_map_without_bounds", PROOF),
    rule("loops::each_rung", PROOF),
    rule("loops::s1_a_server", PROOF),
    rule(
        "loops::a_stop_in_the_middle",
        "it must meet a proof, which takes a second",
    ),
    rule(
        "loops::an_agent_that_dies",
        "it must meet a proof, which takes a second",
    ),
    rule(
        "loops::an_exit_in_the_middle",
        "it must meet a proof, which takes a second",
    ),
    rule("oom::the_hosts_shortage", "it uses up the kernel's memory"),
    rule("overflow::", "it needs most of the kernel's memory"),
    rule(
        "probes::what_is_throttled",
        "a busy host would be a second reason for grace",
    ),
    rule(
        "remedies::the_least_important",
        "it reads how much memory the host uses",
    ),
    rule("roots::a_loop", PROOF),
    rule("storm::", "it uses the whole machine"),
    rule(
        "output::a_disk_that_hangs",
        "its loop device holds on to the `io` controller, as swap's does",
    ),
    rule(
        "output::no_writer_dies",
        "its hundred writers and the agents that follow each other use the whole machine",
    ),
    rule(
        "limits::protected_memory",
        "it turns swap on for the whole kernel",
    ),
    rule(
        "limits::a_disk",
        "its loop device holds on to the `io` controller, as swap's does",
    ),
    rule("limits::swap_has", "it turns swap on for the whole kernel"),
];

/// Tests of what a kernel does, which one version of it may do otherwise than another: they run
/// on every kernel. The others run on one kernel each.
pub const EVERY_KERNEL: &[Rule] = &[
    rule("adopt::an_oom_kill", "pinned eBPF programs and maps"),
    rule("adopt::another_process_with", "the identity of a process"),
    rule("adopt::how_a_process", "pinned eBPF programs and maps"),
    rule("adopt::what_runs", "pinned eBPF programs and maps"),
    rule(
        "adopt::without_ebpf",
        "process descriptors of other parents",
    ),
    rule("apply::limits_", "limits of a cgroup in use"),
    rule("apply::shrinking", "limits of a cgroup in use"),
    rule("corpus::each_kind", "samples of the CPU clock, and ptrace"),
    rule("cpu::", "the scheduler's shares and quotas"),
    rule("credentials::", "file systems in memory"),
    rule("degraded::", "features that a kernel lacks"),
    rule("drift::", "notification of changed cgroups"),
    rule("gate::", "reuseport groups, and eBPF that chooses in them"),
    rule("interface::the_doctor", "what a kernel offers"),
    rule("interface::the_ebpf", "eBPF"),
    rule("limits::", "the files of each controller"),
    rule("loops::a_cpu_that", "samples of the CPU clock"),
    rule("loops::a_dead_loop", "samples of the CPU clock, and ptrace"),
    rule(
        "loops::a_looping_thread",
        "samples of the CPU clock, and ptrace",
    ),
    rule("loops::a_traced_thread", "ptrace"),
    rule("loops::an_agent_that", "ptrace"),
    rule("loops::s1_", "samples of the CPU clock, and ptrace"),
    rule("loops::without_ebpf", "counters of a thread"),
    rule("metrics::counters", "the files of each controller"),
    rule("oom::", "the kernel's OOM killer and its tracepoint"),
    rule("output::a_disk", "the `io` controller"),
    rule("output::a_program_opens", "opening a pipe through /proc"),
    rule("overflow::", "the ring of eBPF"),
    rule("probes::exec_probes_end", "`cgroup.kill`"),
    rule("programs::a_frozen", "`cgroup.freeze`"),
    rule("programs::a_limit_too_small", "memory that execve needs"),
    rule(
        "programs::a_process_that_cannot",
        "a process in the D state",
    ),
    rule(
        "programs::a_workload_that_builds",
        "cgroups below a workload",
    ),
    rule("programs::an_oom_kill_at", "the kernel's OOM killer"),
    rule("programs::as_the_first", "a PID namespace"),
    rule("refuse::a_", "the kinds of cgroup hierarchies"),
    rule("roots::a_workload", "mounts by descriptor"),
    rule("roots::mounts", "mounts by descriptor"),
    rule("roots::places", "mounts by descriptor"),
    rule("roots::planted", "mounts by descriptor"),
    rule("sandbox::what", "the system calls of each kernel"),
    rule("start::a_process_is_born", "`clone3` into a cgroup"),
    rule("start::children_are", "`clone3` with a parent's parent"),
    rule("start::limits_hold", "`clone3` into a cgroup"),
    rule("start::nothing_of", "what a process inherits"),
    rule("start::without_capabilities", "capabilities"),
    rule("stop::a_fork_bomb", "`cgroup.kill`"),
    rule("stop::ctrl_c", "cgroups that are removed"),
    rule("stop::daemons", "`cgroup.kill`"),
];

/// Tests that run on one certain kernel of the matrix, given by its place in it: the oldest, the
/// main one, or the newest. The other tests that run on one kernel are dealt out in turn.
pub const CHOSEN: &[(&str, usize)] = &[
    // A thousand workloads, and 36 deaths of an agent, and 120 OOM kills over six agents, each
    // on another one: these are the longest.
    ("storm::", 1),
    ("death::", 0),
    ("history::hundreds_of", 2),
];

/// A guest's place among those that share the tests of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub place: usize,
    pub count: usize,
}

impl Share {
    /// The guest that has no others beside it.
    pub const WHOLE: Self = Self { place: 0, count: 1 };

    /// Reads `PLACE/COUNT`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (place, count) = text.split_once('/')?;
        let share = Self {
            place: place.parse().ok()?,
            count: count.parse().ok()?,
        };
        (share.place < share.count).then_some(share)
    }

    /// Returns whether this guest runs a test, which is at this place of the list of all.
    #[must_use]
    pub fn has(self, test: &str, at: usize) -> bool {
        if rule_of(EVERY_KERNEL, test).is_some() {
            return true;
        }
        let chosen = CHOSEN.iter().find(|(begin, _)| test.starts_with(begin));
        match chosen {
            Some((_, place)) => self.place == (*place).min(self.count - 1),
            None => self.place == at % self.count,
        }
    }
}

/// Tests that take long because something in the agent happens once a minute: they begin
/// first, so that others run meanwhile.
pub const LONG: &[&str] = &[
    "drift::a_main_process_that_leaves",
    "degraded::without_inotify",
    "alerts::",
    "death::",
    "oom::each_of_many",
    "oom::without_ebpf_the_counters",
    "history::",
];

/// Returns the place in a list of the rule that names this test.
#[must_use]
pub fn rule_of(rules: &[Rule], test: &str) -> Option<usize> {
    rules.iter().position(|rule| test.starts_with(rule.tests))
}

/// Returns the rules that name none of these tests: their tests were renamed or removed.
pub fn stale<'a>(tests: &'a [String]) -> impl Iterator<Item = &'static str> + 'a {
    let rules = ALONE.iter().chain(EVERY_KERNEL).map(|rule| rule.tests);
    rules
        .chain(CHOSEN.iter().map(|(tests, _)| *tests))
        .chain(LONG.iter().copied())
        .filter(|prefix| !tests.iter().any(|test| test.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_has_one_guest_or_all() {
        let names = ["oom::only", "storm::many", "recovery::a", "recovery::b"];
        for count in 1..=3 {
            for (at, name) in names.iter().enumerate() {
                let guests = (0..count).filter(|&place| Share { place, count }.has(name, at));
                let wanted = if at == 0 { count } else { 1 };
                assert_eq!(guests.count(), wanted, "{name} of {count}");
            }
        }
    }

    #[test]
    fn a_share_is_a_place_below_a_count() {
        assert_eq!(Share::read("2/3"), Some(Share { place: 2, count: 3 }));
        assert_eq!(Share::read("3/3"), None);
        assert_eq!(Share::read("1"), None);
    }
}
