//! The tests that must have a guest to themselves, and those that run on one kernel only.
//!
//! A rule names tests by the beginning of their names. `docs/decisions/0012` lists the tests
//! that run on one kernel and says why none of them loses anything.

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
    rule("limits::swap_has", "it turns swap on for the whole kernel"),
];

/// Tests of decisions, of HTTP and of files: the same code runs on every kernel, and what
/// they need of a kernel (processes, sockets, files) is tested on each by others.
pub const ONE_KERNEL: &[Rule] = &[
    rule("alerts::", "rules, webhooks and the order of deliveries"),
    rule("clock::", "the core takes time as an argument"),
    rule("corpus::the_groups", "it compares two lists"),
    rule(
        "door::",
        "HTTP, permissions of a socket, and bounds on connections",
    ),
    rule("history::a_damaged", "SQLite on tmpfs"),
    rule("history::a_full_disk", "SQLite on tmpfs"),
    rule("history::events_are_found", "queries of the history"),
    rule("interface::an_answer", "formats of answers"),
    rule("interface::events_are_one_line", "formats of answers"),
    rule("interface::exit_codes", "exit codes of the command line"),
    rule("interface::others_may_not", "the permissions of a socket"),
    rule("interface::ps_has", "formats of answers"),
    rule("probes::a_full_memory", "a threshold of the core"),
    rule("probes::a_heartbeat", "a file's age"),
    rule("probes::every_kind_of_answer", "HTTP"),
    rule("probes::progress", "a threshold of the core"),
    rule("probes::readiness_flaps", "the order of hooks"),
    rule("probes::startup_gates", "the order of probes"),
    rule(
        "probes::what_does_not_come_up",
        "budget and breaker of the core",
    ),
    rule("probes::what_is_throttled", "grace as the core decides it"),
    rule(
        "recovery::",
        "backoff, budget, breaker and policy of the core",
    ),
    rule("refuse::users_and_names", "faults of the manifest"),
    rule(
        "reload::",
        "a manifest's file, and datagrams to a service manager",
    ),
    rule("remedies::starts_take_turns", "the order of starts"),
    rule("remedies::the_users_own_command", "what a command gets"),
    rule(
        "storm::",
        "many workloads: how many a machine holds is not a matter of its kernel",
    ),
];

/// Tests that take long because something in the agent happens once a minute: they begin
/// first, so that others run meanwhile.
pub const LONG: &[&str] = &[
    "drift::a_main_process_that_leaves",
    "degraded::without_inotify",
    "alerts::",
    "death::",
    "oom::two_hundred",
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
    let rules = ALONE.iter().chain(ONE_KERNEL).map(|rule| rule.tests);
    rules
        .chain(LONG.iter().copied())
        .filter(|prefix| !tests.iter().any(|test| test.starts_with(prefix)))
}
