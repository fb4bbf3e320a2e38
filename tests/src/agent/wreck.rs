//! Shows what is left of an agent whose test has failed.

use std::fs;
use std::path::Path;

/// The most children of the agent whose stacks a failed test shows.
const CHILDREN_SHOWN: usize = 8;

/// Removes a cgroup with all below it, if they are empty.
pub fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

/// Prints where each thread of the agent and of its children is in the kernel.
pub(super) fn stacks(agent: u32) -> String {
    let mut text = String::new();
    let mut children = 0;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let parent = crate::kernel::status(pid, "PPid").and_then(|parent| parent.parse().ok());
        let child = parent == Some(agent);
        children += usize::from(child);
        if pid != agent && (!child || children > CHILDREN_SHOWN) {
            continue;
        }
        for thread in fs::read_dir(process.path().join("task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let read =
                |file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
            let stack = read("stack");
            let first: Vec<&str> = stack.lines().take(4).collect();
            text.push_str(&format!(
                "{pid}/{} {} [{}]: {}\n",
                thread.file_name().display(),
                read("comm").trim(),
                read("syscall").trim(),
                first.join(" < ")
            ));
        }
    }
    text
}
