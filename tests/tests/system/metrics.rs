//! A real Prometheus that scrapes a live agent over loopback.

use super::*;

/// An answer of Prometheus to a query, as its HTTP API has it.
#[derive(serde::Deserialize)]
struct Answer {
    data: Data,
}

#[derive(serde::Deserialize)]
struct Data {
    result: Vec<Sample>,
}

#[derive(serde::Deserialize)]
struct Sample {
    /// The time in seconds, and the value.
    value: (f64, String),
}

/// Returns the first sample's value of Prometheus' answer to a query.
fn ask(query: &str) -> Option<f64> {
    use std::io::{Read as _, Write as _};
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let mut stream = std::net::TcpStream::connect("127.0.0.1:9090").ok()?;
    write!(
        stream,
        "GET /api/v1/query?query={encoded} HTTP/1.0\r\nhost: localhost\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let answer: Answer = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    let (_, value) = answer.data.result.into_iter().next()?.value;
    value.parse().ok()
}

#[test]
fn a_prometheus_server_takes_what_the_agent_reports() {
    install_anew();
    let text = "version: 1\nworkloads:\n  web:\n    command: [/usr/bin/fixture, rest]\n    user: web\n    \
        cgroup: { memory.max: 64M }\n  hog:\n    command: [/usr/bin/fixture, hog-times, \"2\", /tmp/hogs]\n    \
        user: web\n    cgroup: { memory.max: 8M, memory.swap.max: 0 }\n    recovery: { backoff: off, budget: off }\n";
    std::fs::write(MANIFEST, text).unwrap();
    sh("rm -f /tmp/hogs; mkdir -p /tmp/prometheus");
    std::fs::write(
        "/tmp/prometheus/prometheus.yml",
        "global: { scrape_interval: 2s }\nscrape_configs:\n  - job_name: enforcer\n    \
         static_configs: [{ targets: ['127.0.0.1:9988'] }]\n",
    )
    .unwrap();
    sh("systemd-run --unit=prometheus --quiet /usr/bin/prometheus \
        --config.file=/tmp/prometheus/prometheus.yml --storage.tsdb.path=/tmp/prometheus/data \
        --web.listen-address=127.0.0.1:9090");
    let answered = |query: &str, expected: f64| {
        wait_for(query, || {
            ask(query).filter(|value| (value - expected).abs() < 1e-9)
        });
    };
    answered("up{job=\"enforcer\"}", 1.0);
    answered(
        "enforcer_workload_memory_max_bytes{workload=\"web\"}",
        67_108_864.0,
    );
    answered(
        "enforcer_workload_restarts_total{workload=\"hog\", reason=\"oom_kill\"}",
        2.0,
    );
    answered(
        "enforcer_workload_oom_kills_total{workload=\"hog\", scope=\"own\"}",
        2.0,
    );
    answered("sum(enforcer_workload_state{state=\"running\"})", 2.0);
    answered("min(enforcer_ebpf_program_attached)", 1.0);
    // What is gone is stale at the next scrape.
    std::fs::write(MANIFEST, text.split("  hog:").next().unwrap()).unwrap();
    sh("enforcer apply --prune");
    answered(
        "count({workload=~\".+\", __name__=\"enforcer_workload_pids\"})",
        1.0,
    );
    wait_for("the series of what is gone to end", || {
        ask("count({workload=\"hog\"})").is_none().then_some(())
    });
    sh("systemctl stop prometheus; rm -rf /tmp/prometheus");
}
