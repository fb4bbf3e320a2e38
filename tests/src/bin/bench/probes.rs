//! Measures the cost of probes: a thousand HTTP probes every five seconds, beside the same number
//! of requests by a bare loop over the same client library, and by `curl`.

use super::Samples;
use enforcer_model::WorkloadState;
use enforcer_model::health::Health;
use enforcer_model::requests::{AgentStatus, ProbeLateness};
use enforcer_model::views::WorkloadView;
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, wait_within};
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use nix::sys::resource::{UsageWho, getrusage};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PORT: u16 = 9050;
const LONG: Duration = Duration::from_secs(170);
/// Requests of each floor; what they cost is scaled to a thousand.
const FLOOR: u32 = 200;

pub(super) fn probes(_floor: &Samples) {
    let mut server = serve();
    let many = super::many();
    let seconds =
        |name: &str, cpu: f64| println!("{name}: {cpu:.2} s of CPU time for 1,000 requests");
    let bare = bare_loop();
    seconds("a bare hyper loop", bare);
    let curl = curl();
    seconds("curl", curl);
    let (quiet, _) = measure(many, "");
    let probe = format!(
        "    probes: {{ liveness: {{ http: {{ port: {PORT}, path: /health }}, period: 5s, timeout: 4s }} }}\n"
    );
    let (busy, reported) = measure(many, &probe);
    let asked = f64::from(busy.asked);
    let per_thousand = (busy.cpu - quiet.cpu * busy.wall / quiet.wall) / asked * 1000.0;
    seconds("the agent, less what it takes without probes", per_thousand);
    println!(
        "    {:.1} × the bare loop, {:.2} × curl",
        per_thousand / bare,
        per_thousand / curl
    );
    println!(
        "    {many} workloads, {asked:.0} probes in {:.0} s; without probes {:.2} % of one CPU",
        busy.wall,
        quiet.cpu / quiet.wall * 100.0
    );
    println!(
        "    lateness: {reported:?}; resident: {} with probes, {} without",
        busy.resident, quiet.resident
    );
    server.kill().unwrap();
    server.wait().unwrap();
}

fn serve() -> Child {
    let server = Command::new("/bin/fixture")
        .args(["serve", &PORT.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_within(LONG, "the server", || {
        std::net::TcpStream::connect(("127.0.0.1", PORT)).ok()
    });
    server
}

/// User and system time of this process, or of the children it has waited for.
fn cpu(who: UsageWho) -> f64 {
    let usage = getrusage(who).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| {
        use nix::sys::time::TimeValLike as _;
        Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap()).as_secs_f64()
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn bare_loop() -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    let before = cpu(UsageWho::RUSAGE_SELF);
    runtime.block_on(async {
        for _ in 0..FLOOR {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", PORT))
                .await
                .unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .unwrap();
            let asked = async {
                let request = Request::get("/health")
                    .header("host", "x")
                    .body(Empty::<Bytes>::new())
                    .unwrap();
                let answer = sender.send_request(request).await.unwrap();
                answer.into_body().collect().await.unwrap();
            };
            let (_, ended) = tokio::join!(asked, connection);
            ended.unwrap();
        }
    });
    (cpu(UsageWho::RUSAGE_SELF) - before) / f64::from(FLOOR) * 1000.0
}

fn curl() -> f64 {
    let before = cpu(UsageWho::RUSAGE_CHILDREN);
    for _ in 0..FLOOR {
        let url = format!("http://127.0.0.1:{PORT}/health");
        let ended = Command::new("/usr/bin/curl")
            .args(["-s", "-m", "4", "-o", "/dev/null", &url])
            .status()
            .unwrap();
        assert!(ended.success());
    }
    (cpu(UsageWho::RUSAGE_CHILDREN) - before) / f64::from(FLOOR) * 1000.0
}

struct Measured {
    cpu: f64,
    wall: f64,
    asked: u32,
    resident: String,
}

/// Measures an agent with this many workloads, over four periods of their probes.
fn measure(many: usize, probes: &str) -> (Measured, ProbeLateness) {
    let one = |number: usize| {
        format!("  w{number}:\n    command: [/bin/fixture, rest]\n    user: web\n{probes}")
    };
    let workloads: String = (0..many).map(one).collect();
    let agent = Agent::start(&format!("version: 1\nworkloads:\n{workloads}"));
    let all_good = || {
        let found = agent.workloads();
        let good = |view: &&WorkloadView| {
            view.state == WorkloadState::Running
                && (probes.is_empty() || view.health == Health::Healthy)
        };
        (found.iter().filter(good).count() == many).then_some(())
    };
    wait_within(LONG, "all workloads", all_good);
    let asked = || {
        let reported = agent.get::<AgentStatus>("/v1/agent").unwrap().probes;
        (u32::try_from(reported.asked).unwrap(), reported)
    };
    let spent = || agent_cpu(agent.pid());
    let (cpu, begun, (before, _)) = (spent(), Instant::now(), asked());
    wait_within(LONG, "four periods", || {
        (begun.elapsed() > Duration::from_secs(20)).then_some(())
    });
    let (after, reported) = asked();
    let measured = Measured {
        cpu: spent() - cpu,
        wall: begun.elapsed().as_secs_f64(),
        asked: after - before,
        resident: kernel::status(agent.pid(), "VmRSS").unwrap(),
    };
    (measured, reported)
}

/// Returns CPU time in seconds. The kernel counts in hundredths.
fn agent_cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| fields[index].parse::<u32>().unwrap();
    f64::from(ticks(11) + ticks(12)) / 100.0
}
