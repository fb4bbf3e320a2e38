//! The tests that run on a real kernel, one after another, in one boot. Each
//! proves its claim by reading the kernel back.
#![allow(clippy::disallowed_methods, reason = "a test measures times itself")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should say where"
)]

mod adopt;
mod alerts;
mod apply;
mod attach;
mod clock;
mod corpus;
mod cpu;
mod credentials;
mod death;
mod degraded;
mod directories;
mod door;
mod drift;
mod forking;
mod gate;
mod history;
mod hooks;
mod interface;
mod lease;
mod limits;
mod listen;
mod loops;
mod metrics;
mod notices;
mod oom;
mod output;
mod overflow;
mod planted;
mod probes;
mod programs;
mod recovery;
mod refuse;
mod reload;
mod remedies;
mod replicas;
mod roots;
mod sandbox;
mod start;
mod stop;
mod storm;

/// A manifest with these workloads, each line indented as under `workloads:`.
fn manifest(workloads: &str) -> String {
    format!("version: 1\nworkloads:\n{workloads}")
}

/// A startup probe that waits for a server, however long it takes until it listens.
fn until_it_listens(port: u16) -> String {
    format!(
        "startup: {{ tcp: {{ port: {port} }}, period: 500ms, timeout: 60s, failure_threshold: 1000 }}"
    )
}

/// One workload that runs the fixture as the user `web`.
fn workload(name: &str, mode: &str, more: &str) -> String {
    let arguments = mode
        .split(' ')
        .map(|word| format!("{word:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    let mut text = format!("  {name}:\n    command: [/bin/fixture, {arguments}]\n    user: web\n");
    for line in more.lines().filter(|line| !line.trim().is_empty()) {
        text.push_str(&format!("    {}\n", line.trim()));
    }
    text
}
