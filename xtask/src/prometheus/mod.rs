//! Checks our metrics, rules and dashboard with Prometheus itself: its checker, its tests of rules,
//! and a server that scrapes the example and answers the dashboard's queries. Both programs are the
//! distribution's, unpacked and not installed.

mod selectors;

use crate::process::{root, run_quietly, target};
use crate::progress::say;
use crate::{apt, unpack};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest wait for the server to start and to scrape twice.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both kernels' boots want it.
static MAKING: Mutex<()> = Mutex::new(());

/// Returns the folder of `prometheus` and `promtool`.
pub(crate) fn programs() -> Result<PathBuf> {
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = target().join("vm/prometheus");
    let programs = folder.join("usr/bin");
    if !programs.join("promtool").is_file() || !programs.join("prometheus").is_file() {
        say("setup", "downloading prometheus, which checks the metrics");
        let names = ["prometheus".to_owned()];
        unpack::packages(&*apt::common()?, &names, None, &folder, |_| Ok(()))?;
    }
    Ok(programs)
}

/// Runs the checks that need no VM.
pub(crate) fn check() -> Result<()> {
    let programs = programs()?;
    let docs = root().join("docs/prometheus");
    let example = docs.join("example.prom");
    let file = std::fs::File::open(&example)
        .with_context(|| format!("failed to open {}", example.display()))?;
    let promtool = || Command::new(programs.join("promtool"));
    let checked = promtool()
        .args(["check", "metrics"])
        .stdin(file)
        .output()
        .context("failed to start promtool")?;
    // It does not count its advice as a failure.
    let advice = String::from_utf8_lossy(&checked.stderr);
    if !checked.status.success() || !advice.trim().is_empty() {
        bail!(
            "promtool has something to say of {}:\n{advice}",
            example.display()
        );
    }
    run_quietly(
        promtool()
            .arg("check")
            .arg("rules")
            .arg(docs.join("alerts.yaml")),
    )?;
    run_quietly(
        promtool()
            .args(["test", "rules", "alerts_test.yaml"])
            .current_dir(&docs),
    )?;
    let text = std::fs::read_to_string(&example)
        .with_context(|| format!("failed to read {}", example.display()))?;
    let rules =
        std::fs::read_to_string(docs.join("alerts.yaml")).context("failed to read rules")?;
    let rules = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    for expression in rules.map(str::to_owned).chain(expressions()?) {
        let missing = selectors::missing(&expression, &text);
        if let Some(missing) = missing {
            bail!("`{expression}` asks for {missing}, which a scrape doesn't have");
        }
    }
    answer_the_dashboard(&programs, text)
}

/// Ends its process when it goes.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answer_the_dashboard(programs: &Path, example: String) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to listen")?;
    let scraped = listener.local_addr()?;
    // Ends with this process.
    std::thread::spawn(move || {
        for (scrape, stream) in (1..).zip(listener.incoming().flatten()) {
            let _ = report(stream, &goes_on(&example, scrape));
        }
    });
    let folder = target().join("prometheus");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("failed to clear {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("failed to create {}", folder.display()))?;
    let configuration = folder.join("prometheus.yml");
    let rules = root().join("docs/prometheus/alerts.yaml");
    std::fs::write(
        &configuration,
        format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\nscrape_configs:\n  - job_name: enforcer\n    \
             static_configs: [{{ targets: ['{scraped}'] }}]\n",
            rules.display()
        ),
    )
    .context("failed to write its configuration")?;
    let address = {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a port")?;
        free.local_addr()?
    };
    let log = std::fs::File::create(folder.join("log")).context("failed to create its log")?;
    let server = Command::new(programs.join("prometheus"))
        .arg(format!("--config.file={}", configuration.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("failed to start prometheus")?;
    let _server = Server(server);
    let ask = |expression: &str| ask(&address.to_string(), expression);
    let begun = Instant::now();
    while !ask("count_over_time(enforcer_build_info[1m]) > 2").is_ok_and(|found| !found.is_empty())
    {
        if begun.elapsed() > PATIENCE {
            bail!(
                "prometheus did not scrape the example; see {}",
                folder.display()
            );
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
    let asked = expressions()?;
    for expression in &asked {
        let found =
            ask(expression).with_context(|| format!("the dashboard asks `{expression}`"))?;
        if found.is_empty() {
            bail!("the dashboard asks `{expression}`, and gets nothing");
        }
    }
    for (expression, expected) in [
        ("sum(enforcer_workload_state{state=\"running\"})", "1"),
        (
            "enforcer_workload_memory_working_set_bytes / enforcer_workload_memory_max_bytes",
            "0.875",
        ),
        (
            "enforcer_workload_restarts_total{reason=\"oom_kill\", workload=\"web\"}",
            "3",
        ),
        (
            "histogram_quantile(0.5, enforcer_probe_duration_seconds_bucket)",
            "0.003",
        ),
        (
            "ALERTS{alertname=\"EnforcerWorkloadBreakerOpen\", alertstate=\"firing\"}",
            "1",
        ),
    ] {
        let begun = Instant::now();
        loop {
            let found = ask(expression)?;
            let value = found.first().map(|sample| sample["value"][1].clone());
            let close = value.as_ref().and_then(Value::as_str).is_some_and(|value| {
                value.parse::<f64>().is_ok_and(|value| {
                    let expected = expected.parse::<f64>().unwrap_or(f64::NAN);
                    (value - expected).abs() <= expected * 0.1
                })
            });
            if close {
                break;
            }
            if begun.elapsed() > PATIENCE * 2 {
                bail!("`{expression}` is {value:?}, and should be {expected}");
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
    }
    println!(
        "prometheus: {} expressions of the dashboard are answered",
        asked.len()
    );
    Ok(())
}

/// Returns the example as a later scrape has it: periods have gone by.
fn goes_on(example: &str, scrape: u64) -> String {
    let later = |line: &str| match line.rsplit_once(' ') {
        Some((name, value)) if name.starts_with("enforcer_workload_cpu_periods_total") => {
            let periods: u64 = value.parse().unwrap_or(0);
            format!("{name} {}\n", periods + scrape * 10)
        }
        _ => format!("{line}\n"),
    };
    example.lines().map(later).collect()
}

/// Sends one query and returns its answer.
fn report(mut stream: TcpStream, text: &str) -> std::io::Result<()> {
    let mut head = [0; 4096];
    let _ = stream.read(&mut head)?;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
}

/// Returns the current samples of an expression.
fn ask(address: &str, expression: &str) -> Result<Vec<Value>> {
    let encoded: String = expression
        .bytes()
        .map(|byte| format!("%{byte:02x}"))
        .collect();
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET /api/v1/query?query={encoded} HTTP/1.0\r\nhost: {address}\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let body: Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
    if body["status"] != "success" {
        bail!("{}", body["error"]);
    }
    Ok(body["data"]["result"]
        .as_array()
        .cloned()
        .unwrap_or_default())
}

/// Returns the queries of the dashboard with its variables filled in. It also checks that the
/// dashboard names no data source of its own.
fn expressions() -> Result<Vec<String>> {
    let file = root().join("docs/grafana/enforcer.json");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("failed to read {}", file.display()))?;
    let dashboard: Value = serde_json::from_str(&text)
        .with_context(|| format!("failed to parse {}", file.display()))?;
    let mut found = Vec::new();
    let panels = dashboard["panels"].as_array().context("no panels")?;
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        for target in panel["targets"]
            .as_array()
            .context("a panel that asks nothing")?
        {
            for of in [panel, target] {
                if of["datasource"]["uid"] != "${datasource}" {
                    bail!("the panel {} has a data source of its own", panel["title"]);
                }
            }
            let expression = target["expr"].as_str().context("no expression")?;
            let filled = ["$instance", "$workload", "$job"]
                .iter()
                .fold(expression.to_owned(), |text, name| text.replace(name, ".*"));
            let filled = filled
                .replace("$__rate_interval", "1m")
                .replace("$__range", "1h");
            if filled.contains('$') {
                bail!("`{expression}` has a variable that nothing sets");
            }
            found.push(filled);
        }
    }
    Ok(found)
}
