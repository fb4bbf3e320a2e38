//! The programs of a fleet: etcd, and schedulers as processes of their own.

use super::{GRACE, PORT};
use enforcer_fleet::etcd::{Client, Endpoint};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A process that ends with this.
pub(crate) struct Program(pub(crate) Child);

impl Program {
    /// The CPU time that it has used, from /proc/PID/stat (proc(5)).
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let rest = stat.rsplit(')').next().unwrap();
        let ticks = rest.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|one| one.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Its resident memory in MiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        let kibibytes = line.unwrap().split_whitespace().nth(1).unwrap();
        kibibytes.parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts etcd with empty data.
pub(crate) fn etcd(folder: &Path) -> Program {
    let _ = std::fs::remove_dir_all(folder);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let child = Command::new(std::env::var("ETCD").expect("the path of etcd in ETCD"))
        .arg("--data-dir")
        .arg(folder)
        .args(["--log-level", "error"])
        .args(["--listen-client-urls", &url(PORT)])
        .args(["--advertise-client-urls", &url(PORT)])
        .args(["--listen-peer-urls", &url(PORT + 1)])
        .args(["--initial-advertise-peer-urls", &url(PORT + 1)])
        .args(["--initial-cluster", &format!("default={}", url(PORT + 1))])
        .args(["--quota-backend-bytes", "4294967296"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let program = Program(child.expect("etcd"));
    while TcpStream::connect(("127.0.0.1", PORT)).is_err() {
        std::thread::sleep(Duration::from_millis(50));
    }
    program
}

pub(crate) fn client() -> Arc<Client> {
    let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{PORT}"), None).unwrap();
    Arc::new(Client::new(vec![endpoint], None))
}

/// Returns the values of etcd's own metrics, summed over their labels.
pub(crate) fn metrics() -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
    let ask = "GET /metrics HTTP/1.0\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let mut all = BTreeMap::new();
    for line in answer.lines() {
        if let Some((name, value)) = line.rsplit_once(' ')
            && let Ok(value) = value.parse::<f64>()
        {
            let name = match name.split_once('{') {
                Some((family, labels)) if labels.contains("LeaseKeepAlive") => {
                    format!("{family} LeaseKeepAlive")
                }
                Some((family, _)) => family.to_owned(),
                None => name.to_owned(),
            };
            *all.entry(name).or_default() += value;
        }
    }
    all
}

/// The settings of a program, in a file.
pub(crate) fn config(folder: &Path, prefix: &str) -> PathBuf {
    let path = folder.join(format!("{}.yaml", prefix.trim_end_matches('/')));
    let text = format!(
        "etcd: {{ endpoints: [\"http://127.0.0.1:{PORT}\"], prefix: {prefix}, grace: {}s }}\n",
        GRACE.as_secs()
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// A scheduler, which may lead.
pub(crate) struct Scheduler {
    pub(crate) program: Program,
    pub(crate) leads: Arc<AtomicBool>,
}

pub(crate) fn scheduler(config: &Path) -> Scheduler {
    let mut child = Command::new(env!("CARGO_BIN_EXE_enforcer-fleet"))
        .arg("--config")
        .arg(config)
        .arg("schedule")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let leads = Arc::new(AtomicBool::new(false));
    let said = BufReader::new(child.stderr.take().unwrap());
    let noted = Arc::clone(&leads);
    std::thread::spawn(move || {
        for line in said.lines().map_while(Result::ok) {
            if line == "leads the fleet" {
                noted.store(true, Ordering::Relaxed);
            }
        }
    });
    Scheduler {
        program: Program(child),
        leads,
    }
}
