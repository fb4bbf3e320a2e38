//! Hundreds of workloads: up, at rest, asked, scraped, and stopped.

use super::{EMPTY, unit, workloads};
use super::{
    FEW, LONG, MANIFEST, MANY, Samples, fresh_file, monotonic, print, shell, stamps, timed,
};
use enforcer_model::WorkloadState;
use enforcer_tests::wait_within;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

const COUNTS: [usize; 2] = [300, 1000];
/// The time at rest.
const QUIET: Duration = Duration::from_secs(120);

pub(super) fn bulk(floor: &Samples) {
    for count in COUNTS {
        println!("  {count} workloads");
        let ours = enforcer(count);
        let theirs = systemd(count);
        let peer = |samples| ("systemd", samples);
        print(
            (&format!("up-{count}"), "up from nothing"),
            &ours.up,
            peer(&theirs.up),
            floor,
        );
        print(
            (&format!("stopped-{count}"), "stopped"),
            &ours.stopped,
            peer(&theirs.stopped),
            floor,
        );
        print(
            (&format!("listed-{count}"), "listed"),
            &ours.listed,
            peer(&theirs.listed),
            floor,
        );
        print(
            (&format!("read-{count}"), "all read"),
            &ours.read,
            peer(&theirs.read),
            floor,
        );
        println!(
            "  at rest for {} s: enforcer {:.3} % of a CPU, systemd {:.3} %",
            QUIET.as_secs(),
            ours.idle,
            theirs.idle
        );
        // Both are next to nothing; below a thousandth of a CPU no difference counts.
        println!(
            "ratio idle-{count}/systemd {:.3}",
            ours.idle / theirs.idle.max(0.1)
        );
        println!(
            "  resident, and the anonymous part: enforcer {} before and {} with all, systemd {} and {}",
            ours.resident.0, ours.resident.1, theirs.resident.0, theirs.resident.1
        );
    }
}

/// The services of the comparison of attached ones with the agent's own.
const ATTACHED: usize = 500;

/// Measures the agent at rest with services of systemd's that are attached, beside as many workloads of its own.
pub(super) fn attached(_floor: &Samples) {
    let agent: u32 = shell("systemctl show -P MainPID enforcer")
        .trim()
        .parse()
        .unwrap();
    let idle_with = |text: &dyn Fn(usize) -> String| {
        let text: String = (0..ATTACHED).map(text).collect();
        fs::write(MANIFEST, format!("version: 1\nworkloads:\n{text}")).unwrap();
        timed(&["enforcer", "apply", "--prune"]);
        wait_within(LONG, "all to run", || {
            let running = workloads()?.workloads.into_iter();
            let running = running
                .filter(|one| one.state == WorkloadState::Running)
                .count();
            println!("    {running} run");
            std::thread::sleep(Duration::from_secs(5));
            (running == ATTACHED).then_some(())
        });
        at_rest(&[agent])
    };
    let file = fresh_file("attached");
    let own = idle_with(&|number| {
        format!(
            "  w-{number}: {{ command: [/usr/bin/floor, stamp, {file}], user: web, cgroup: {{ memory.max: 16M }} }}\n"
        )
    });
    unit(
        "w@.service",
        &format!("ExecStart=/usr/bin/floor stamp {file}\nUser=web\nMemoryMax=16M\n"),
    );
    let names: Vec<String> = (0..ATTACHED)
        .map(|number| format!("w@{number}.service"))
        .collect();
    for some in names.chunks(50) {
        shell(&format!("systemctl start {}", some.join(" ")));
        println!("    {} and those before are up", some[0]);
    }
    let theirs = idle_with(&|number| {
        format!("  a-{number}: {{ attach: {{ systemd: \"w@{number}.service\" }} }}\n")
    });
    println!(
        "  {ATTACHED} at rest for {} s: own {own:.3} % of a CPU, attached {theirs:.3} %",
        QUIET.as_secs()
    );
    println!("ratio idle-attached/own {:.3}", theirs / own.max(0.1));
    shell(&format!("systemctl stop {}", names.join(" ")));
}

struct Figures {
    up: Samples,
    stopped: Samples,
    listed: Samples,
    read: Samples,
    idle: f64,
    resident: (Resident, Resident),
}

fn enforcer(count: usize) -> Figures {
    let pid: u32 = shell("systemctl show -P MainPID enforcer")
        .trim()
        .parse()
        .unwrap();
    let (mut up, mut stopped) = (Vec::new(), Vec::new());
    let before = resident(pid);
    let mut figures = None;
    for round in 0..FEW {
        let file = fresh_file("enforcer-bulk");
        let one = |number| {
            format!(
                "  w-{number}:\n    command: [/usr/bin/floor, stamp, {file}]\n    user: web\n    cgroup: {{ memory.max: 16M }}\n"
            )
        };
        let text: String = (0..count).map(one).collect();
        fs::write(MANIFEST, format!("version: 1\nworkloads:\n{text}")).unwrap();
        let begun = monotonic();
        timed(&["enforcer", "apply"]);
        up.push(all_up(&file, count) - begun);
        println!("    enforcer, round {round}: up");
        wait_within(LONG, "all to run", || {
            let running = workloads()?.workloads.into_iter();
            let running = running.filter(|one| one.state == WorkloadState::Running);
            (running.count() == count).then_some(())
        });
        if round == 0 {
            let idle = at_rest(&[pid]);
            let listed = (0..MANY).map(|_| timed(&["enforcer", "ps", "--json"]));
            let listed = Samples::of(listed.collect());
            let read = (0..MANY).map(|_| scrape_once());
            let read = Samples::of(read.collect());
            figures = Some((idle, listed, read, resident(pid)));
        }
        fs::write(MANIFEST, EMPTY).unwrap();
        let begun = monotonic();
        timed(&["enforcer", "apply", "--prune"]);
        wait_within(LONG, "all to stop", || {
            workloads()?.workloads.is_empty().then_some(())
        });
        stopped.push(monotonic() - begun);
    }
    let (idle, listed, read, with_all) = figures.unwrap();
    Figures {
        up: Samples::of(up),
        stopped: Samples::of(stopped),
        listed,
        read,
        idle,
        resident: (before, with_all),
    }
}

fn systemd(count: usize) -> Figures {
    let file = fresh_file("systemd-bulk");
    unit(
        "w@.service",
        &format!("ExecStart=/usr/bin/floor stamp {file}\nUser=web\nMemoryMax=16M\n"),
    );
    let names: Vec<String> = (0..count)
        .map(|number| format!("w@{number}.service"))
        .collect();
    let with = |verb: &'static str| {
        let mut command = vec!["systemctl", verb];
        command.extend(names.iter().map(String::as_str));
        timed(&command)
    };
    let (mut up, mut stopped) = (Vec::new(), Vec::new());
    let before = resident(1);
    let mut figures = None;
    for round in 0..FEW {
        fs::write(&file, "").unwrap();
        let begun = monotonic();
        with("start");
        up.push(all_up(&file, count) - begun);
        println!("    systemd, round {round}: up");
        if round == 0 {
            let idle = at_rest(&[1]);
            let listed = (0..MANY).map(|_| timed(&["systemctl", "list-units", "--no-pager"]));
            let listed = Samples::of(listed.collect());
            let read = (0..FEW).map(|_| timed(&["systemd-cgtop", "-n", "1", "-b"]));
            let read = Samples::of(read.collect());
            figures = Some((idle, listed, read, resident(1)));
        }
        stopped.push(with("stop"));
    }
    let (idle, listed, read, with_all) = figures.unwrap();
    Figures {
        up: Samples::of(up),
        stopped: Samples::of(stopped),
        listed,
        read,
        idle,
        resident: (before, with_all),
    }
}

/// Returns when the last of them executed its first instruction.
fn all_up(file: &str, count: usize) -> Duration {
    wait_within(LONG, "all to start", || {
        let found = stamps(file, "first");
        (found.len() >= count).then(|| found.into_iter().max())
    })
    .unwrap()
}

/// Returns the CPU time of all threads of these processes while nothing happens, in percent of a CPU.
fn at_rest(pids: &[u32]) -> f64 {
    std::thread::sleep(QUIET / 8);
    let used = || -> Duration { pids.iter().map(|pid| cpu_time(*pid)).sum() };
    let (begun, before) = (monotonic(), used());
    std::thread::sleep(QUIET);
    (used() - before).as_secs_f64() / (monotonic() - begun).as_secs_f64() * 100.0
}

/// Returns the CPU time of all threads of a process, also of those that have ended.
fn cpu_time(pid: u32) -> Duration {
    let pid = Pid::from_raw(pid.cast_signed());
    let time = clock_getcpuclockid(pid).and_then(clock_gettime).unwrap();
    Duration::from(time)
}

/// Resident memory in MiB: all of it, and the anonymous part, which is neither the program nor its
/// libraries.
struct Resident {
    all: f64,
    anonymous: f64,
}

impl std::fmt::Display for Resident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} MiB ({:.1})", self.all, self.anonymous)
    }
}

fn resident(pid: u32) -> Resident {
    let mebibytes = |key| {
        let text = enforcer_tests::kernel::status(pid, key).unwrap();
        let number: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
        number / 1024.0
    };
    Resident {
        all: mebibytes("VmRSS"),
        anonymous: mebibytes("RssAnon"),
    }
}

/// Reads the metrics of all workloads once.
fn scrape_once() -> Duration {
    use std::io::{Read as _, Write as _};
    let begun = monotonic();
    let mut stream =
        std::os::unix::net::UnixStream::connect("/run/enforcer/enforcer.sock").unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nhost: enforcer\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    monotonic() - begun
}
