//! Every program of the corpus is called what it is: four at a time on two CPUs,
//! which is the contention, and one of each kind alone.

use enforcer_tests::corpus::{self, HEADER, Outcome, PROGRAMS, Program};

/// Runs the programs of these names, and fails with the table of what came of them.
fn check(names: &[&str], at_once: usize) {
    let find = |name: &&str| PROGRAMS.iter().find(|program| program.name == *name);
    let programs: Vec<Program> = names
        .iter()
        .map(|name| *find(name).expect("a program of the corpus"))
        .collect();
    let mut outcomes: Vec<Outcome> = programs.chunks(at_once).flat_map(corpus::run).collect();
    // Who waited in vain while others were looked into, which may be, is run by itself.
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_overdue()) {
        println!("{}: once more, alone", outcome.program.name);
        *outcome = corpus::run(&[outcome.program]).remove(0);
    }
    let rows: Vec<String> = outcomes.iter().map(Outcome::row).collect();
    println!("{HEADER}\n{}", rows.join("\n"));
    assert!(outcomes.iter().all(Outcome::is_right));
}

macro_rules! groups {
    ($($test:ident: $names:expr;)*) => {
        const GROUPS: &[&[&str]] = &[$(&$names),*];

        $(#[test]
        fn $test() {
            check(&$names, 4);
        })*
    };
}

groups! {
    dead_loops_of_compiled_code: ["bare", "flag", "list", "stuck-among-idle"];
    dead_loops_of_interpreters: ["python-pass", "perl-pass", "mawk-pass", "python-asyncio"];
    busy_polling: ["epoll", "yield", "eagain"];
    loops_of_shells: ["dash-loop", "bash-loop"];
    counters: ["register", "memory", "sse", "fnv"];
    algorithms: ["sort", "matrix", "sha256", "regex"];
    pipelines: ["xz", "gzip", "compile", "throttled-work"];
    counters_of_interpreters: ["python-range", "python-arithmetic", "perl-count"];
    stressors: ["stress-loop", "stress-prime", "stress-fft", "stress-queens"];
    waits_that_end_by_themselves: ["clock", "clock-seldom", "timer", "shared", "flag-later"];
    programs_that_sleep: ["server", "stress-load"];
}

#[test]
fn the_groups_are_the_whole_corpus() {
    let mut grouped: Vec<&str> = GROUPS.iter().copied().flatten().copied().collect();
    let mut all: Vec<&str> = PROGRAMS.iter().map(|program| program.name).collect();
    grouped.sort_unstable();
    all.sort_unstable();
    assert_eq!(grouped, all);
}

#[test]
fn each_kind_alone() {
    check(&["bare", "epoll", "dash-loop", "register", "server"], 1);
}
