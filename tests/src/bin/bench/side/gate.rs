//! The gate before unmodified servers: the connections that are lost while replicas are replaced, the
//! throughput beside the same server without a gate and beside HAProxy, and the time of its programs.

use super::{shell, workloads};
use aya::programs::loaded_programs;
use enforcer_model::WorkloadState;
use enforcer_model::views::Replicas;
use enforcer_tests::wait_within;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const FOLDER: &str = "/tmp/gate";
const MANIFEST: &str = "/etc/enforcer/workloads.d/gate.yaml";
/// nginx behind the gate, nginx alone, and HAProxy before the latter.
const GATED: u16 = 18301;
const PLAIN: u16 = 18302;
const PROXIED: u16 = 18303;

const REPLICAS: usize = 3;
const CLIENTS: usize = 4;
/// The planned replacements, those of them in which the agent is killed, and the connections meanwhile.
const REPLACEMENTS: usize = 200;
const KILLED: usize = 50;
const CONNECTIONS: usize = 100_000;
/// The throughput is measured this many times, for this long each.
const ROUNDS: usize = 12;
const ROUND: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn gate() {
    prepare();
    throughput();
    losses();
}

fn prepare() {
    fs::create_dir_all(FOLDER).unwrap();
    shell(&format!("chmod 0777 {FOLDER}"));
    for (name, port, workers, how) in [
        ("gated", GATED, 1, ""),
        ("plain", PLAIN, REPLICAS, " reuseport"),
    ] {
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {FOLDER}/{name}-{kind};\n"))
            .concat();
        let text = format!(
            "daemon off;\nworker_processes {workers};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n\
             {temporary}server {{ listen 127.0.0.1:{port}{how}; location / {{ return 200 \"served\\n\"; }} }}\n}}\n"
        );
        fs::write(format!("{FOLDER}/{name}.conf"), text).unwrap();
    }
    let proxy = format!(
        "global\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 60s\n  timeout client 60s\n  timeout server 60s\n\
         frontend all\n  bind 127.0.0.1:{PROXIED}\n  default_backend servers\nbackend servers\n  \
         server one 127.0.0.1:{PLAIN}\n"
    );
    fs::write(format!("{FOLDER}/haproxy.cfg"), proxy).unwrap();
    let nginx = |name: &str, number: &str| {
        format!(
            "[/usr/sbin/nginx, -c, {FOLDER}/{name}.conf, -g, \"pid {FOLDER}/{name}{number}.pid;\"]"
        )
    };
    let text = format!(
        "version: 1\nworkloads:\n  gated:\n    command: {}\n    user: web\n    replicas: {REPLICAS}\n    \
         ports: {{ main: {{ port: {GATED} }} }}\n    unready_wait: 10m\n    rollout: {{ drain: 10m, deadline: 1h }}\n    \
         recovery: {{ budget: off }}\n    probes: {{ readiness: {{ http: {{ port: {GATED}, path: / }}, period: 1s, timeout: 30s }} }}\n  \
         plain: {{ command: {}, user: web }}\n  \
         haproxy: {{ command: [/usr/sbin/haproxy, -db, -f, {FOLDER}/haproxy.cfg], user: web }}\n",
        nginx("gated", "{replica}"),
        nginx("plain", "")
    );
    fs::write(MANIFEST, text).unwrap();
    shell("enforcer apply");
    wait_until_settled();
    for port in [GATED, PLAIN, PROXIED] {
        wait_within(PATIENCE, "a server to answer", || ask(port).ok());
    }
}

fn wait_until_settled() {
    wait_within(PATIENCE, "all replicas to be ready", || {
        is_settled().then_some(())
    });
}

fn is_settled() -> bool {
    let output = std::process::Command::new("enforcer")
        .args(["rollout", "status", "gated", "--json"])
        .output()
        .unwrap();
    let Ok(found) = serde_json::from_slice::<Replicas>(&output.stdout) else {
        return false;
    };
    let counts = [found.ready, found.total].map(usize::from);
    found.rollout.is_none() && counts == [REPLICAS; 2]
}

/// Asks once, on a connection of its own.
fn ask(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    match text.ends_with(b"served\n") {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Clients that ask one time after the other, and never again for what has failed.
struct Clients {
    ended: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    lost: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn begin(port: u16) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(AtomicUsize::new(0));
        let lost = Arc::new(Mutex::new(Vec::new()));
        let client = |_| {
            let (ended, asked, lost) = (Arc::clone(&ended), Arc::clone(&asked), Arc::clone(&lost));
            std::thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let answer = ask(port);
                    asked.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = answer {
                        lost.lock().unwrap().push(error.to_string());
                    }
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self {
            ended,
            asked,
            lost,
            threads,
        }
    }

    /// Returns the number of connections, and what became of those that were lost.
    fn end(self) -> (usize, Vec<String>) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let lost = self.lost.lock().unwrap().clone();
        (self.asked.load(Ordering::Relaxed), lost)
    }
}

/// Returns the connections in a second, and the time of all CPUs for each in seconds.
fn round(port: u16) -> (f64, f64) {
    let used = busy();
    let begun = Instant::now();
    let clients = Clients::begin(port);
    std::thread::sleep(ROUND);
    let (count, lost) = clients.end();
    let took = begun.elapsed().as_secs_f64();
    assert!(lost.is_empty(), "port {port}: {lost:?}");
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = count as f64;
    (count / took, (busy() - used) / count)
}

/// Returns the time that all CPUs have worked, in seconds.
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let fields = text.lines().next().unwrap().split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.map(|field| field.parse().unwrap()).collect();
    // User, nice, system, irq and softirq: neither idle nor iowait.
    [0, 1, 2, 5, 6].iter().map(|at| ticks[*at]).sum::<f64>() / 100.0
}

/// Returns the runs of the gate's programs so far, and their time in seconds.
fn programs() -> (u64, f64) {
    let of_gate = loaded_programs().flatten().filter(|program| {
        let name = program.name_as_str();
        name.is_some_and(|name| name.starts_with("gate_"))
    });
    of_gate.fold((0, 0.0), |(runs, time), program| {
        (
            runs + program.run_count(),
            time + program.run_time().as_secs_f64(),
        )
    })
}

fn throughput() {
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").unwrap();
    let mut ratios = (Vec::new(), Vec::new());
    let (mut shares, mut runs_of_one, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        let plain = round(PLAIN);
        let before = programs();
        let gated = round(GATED);
        let after = programs();
        let proxied = round(PROXIED);
        println!(
            "  round {number}: {:.0}, {:.0} and {:.0} connections a second: alone, behind the gate, and behind HAProxy",
            plain.0, gated.0, proxied.0
        );
        ratios.0.push(gated.0 / plain.0);
        ratios.1.push(proxied.0 / plain.0);
        rates.push(plain.0);
        let count = gated.0 * ROUND.as_secs_f64();
        shares.push((after.1 - before.1) / count / gated.1 * 100.0);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        runs_of_one.push((after.0 - before.0) as f64 / count);
    }
    println!(
        "  connections a second of nginx alone: {}",
        spread(rates, 0)
    );
    println!("  behind the gate / alone: {}", spread(ratios.0, 2));
    println!("  behind HAProxy / alone: {}", spread(ratios.1, 2));
    println!(
        "  time of the gate's programs / time of all CPUs, in %: {}",
        spread(shares, 2)
    );
    println!(
        "  runs of the gate's programs for a connection: {}",
        spread(runs_of_one, 1)
    );
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "0").unwrap();
}

/// Returns the median and its spread in words.
fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| values[(values.len() - 1) * percent / 100];
    format!(
        "median {:.digits$} (10 % to 90 %: {:.digits$} to {:.digits$}; {} rounds)",
        at(50),
        at(10),
        at(90),
        values.len()
    )
}

/// Replaces all replicas again and again.
fn losses() {
    let clients = Clients::begin(GATED);
    let (mut replaced, mut killed) = (0, 0);
    let asked = || clients.asked.load(Ordering::Relaxed);
    while replaced < REPLACEMENTS || asked() < CONNECTIONS {
        let kills = killed < KILLED && replaced % 2 == 0;
        let restart = std::thread::spawn(|| {
            // It fails if the agent dies meanwhile.
            let _ = std::process::Command::new("enforcer")
                .args(["restart", "gated"])
                .output();
        });
        if kills {
            killed += kill_agents(&restart);
        }
        restart.join().unwrap();
        wait_until_settled();
        replaced += REPLICAS;
        let lost = clients.lost.lock().unwrap().len();
        println!(
            "  {replaced} replicas replaced, {killed} with the agent killed; {lost} of {} connections lost",
            asked()
        );
    }
    let (count, lost) = clients.end();
    println!(
        "  {} of {count} connections lost over {replaced} replacements, {killed} of them with the agent killed",
        lost.len()
    );
    let kinds: BTreeSet<&String> = lost.iter().collect();
    assert!(lost.is_empty(), "{kinds:?}");
}

/// Kills an agent each time another replica drains, once for each replica. Returns how often.
fn kill_agents(restart: &JoinHandle<()>) -> usize {
    let mut known = BTreeSet::new();
    while known.len() < REPLICAS {
        let found = workloads().into_iter().flat_map(|found| found.workloads);
        let mut draining = found.filter(|one| one.state == WorkloadState::Stopping);
        let is_new = draining.find(|one| !known.contains(&one.pid));
        if let Some(one) = is_new {
            known.insert(one.pid);
            shell("systemctl kill --signal=KILL --kill-whom=main enforcer");
            wait_within(PATIENCE, "another agent", || workloads().map(drop));
        } else if restart.is_finished() && is_settled() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    known.len()
}
