//! The floor: a C program that forks and executes, with nothing around it.

use super::{Samples, all_stamps, fresh_file, shell};
use std::time::Duration;

const STARTS: usize = 60;

/// Measures the time from before a fork to the first instruction of the program.
pub(super) fn starts() -> Samples {
    let file = fresh_file("floor");
    shell(&format!("floor starts {STARTS} {file}"));
    let found = all_stamps(&file);
    let pairs = found.chunks(2).filter(|pair| pair.len() == 2);
    Samples::of(pairs.map(|pair| pair[1].1 - pair[0].1).collect())
}

/// The steps of a restart after an OOM kill.
pub(super) struct Steps {
    /// From the last sign of life to the first instruction of the replacement.
    pub(super) total: Samples,
    /// From the last sign of life until the parent knows of the exit.
    pub(super) exit: Samples,
    /// From then on.
    pub(super) replacement: Samples,
}

/// Measures the restarts of a C program whose parent waits in waitid(2).
pub(super) fn restarts(count: usize) -> Steps {
    let file = fresh_file("floor-restarts");
    let cgroup = "/sys/fs/cgroup/floor";
    shell(&format!(
        "mkdir -p {cgroup}; echo 16M >{cgroup}/memory.max; echo 0 >{cgroup}/memory.swap.max || true; \
         echo 1 >{cgroup}/memory.oom.group; floor restarts {count} {file} {cgroup}; rmdir {cgroup}"
    ));
    let found = all_stamps(&file);
    let (mut total, mut exit, mut replacement) = (Vec::new(), Vec::new(), Vec::new());
    for step in found.windows(3) {
        let [(one, last), (two, ended), (three, first)] = step else {
            continue;
        };
        if (one.as_str(), two.as_str(), three.as_str()) == ("last", "exit", "first") {
            total.push(*first - *last);
            exit.push(*ended - *last);
            replacement.push(*first - *ended);
        }
    }
    let samples = |times: Vec<Duration>| Samples::of(times);
    Steps {
        total: samples(total),
        exit: samples(exit),
        replacement: samples(replacement),
    }
}
