//! The environment that a program was started in.

use std::fs;

/// Returns what a program finds when it starts, as lines of `key: value`.
///
/// # Panics
/// If the kernel doesn't say.
pub fn report(sigpipe_default: bool) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let keys = [
        "Uid",
        "Gid",
        "Groups",
        "Umask",
        "NoNewPrivs",
        "SigBlk",
        "SigIgn",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
    ];
    for line in status
        .lines()
        .filter(|line| keys.iter().any(|key| line.starts_with(&format!("{key}:"))))
    {
        println!("{}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    println!(
        "sigpipe: {}",
        if sigpipe_default {
            "default"
        } else {
            "ignored"
        }
    );
    println!(
        "cgroup: {}",
        fs::read_to_string("/proc/self/cgroup").unwrap().trim()
    );
    println!(
        "oom_score_adj: {}",
        fs::read_to_string("/proc/self/oom_score_adj")
            .unwrap()
            .trim()
    );
    println!(
        "session: {}",
        nix::unistd::getsid(None).unwrap().as_raw() == i32::try_from(std::process::id()).unwrap()
    );
    println!("directory: {}", std::env::current_dir().unwrap().display());
    let listed: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    // The listing's own descriptor is gone by now.
    let mut open: Vec<String> = listed
        .iter()
        .filter(|path| fs::read_link(path).is_ok())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    open.sort();
    println!("descriptors: {}", open.join(" "));
    for line in fs::read_to_string("/proc/self/limits")
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("Max open files"))
    {
        println!(
            "nofile: {}",
            line.split_whitespace()
                .skip(3)
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        );
    }
    for (name, value) in std::env::vars() {
        println!("environment {name}={value}");
    }
    println!("end of report");
}
