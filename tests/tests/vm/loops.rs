//! Threads that don't sleep: what is done about them, and what is never done.

use crate::{manifest, workload};
use enforcer_model::claims::Throttling;
use enforcer_model::cpu_loop::{LoopSource, Outside, Verdict};
use enforcer_model::detail::{
    CpuLoopFound, Degraded, Detail, Exit, Release, RestartPlan, ThrottleChange,
};
use enforcer_model::ids::Cause;
use enforcer_model::{Record, WorkloadState};
use enforcer_tests::agent::{Agent, Event, pid_of};
use enforcer_tests::{catch, kernel, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const QUICKLY: &str = "watch: { cpu_loop: { after: 2s, step: 1s } }";

fn ladder(respond: &str) -> String {
    format!("watch: {{ cpu_loop: {{ after: 2s, step: 1s, respond: {respond} }} }}")
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn wait_for_file(workload: &str, file: &str, value: &str) {
    wait_for(&format!("{file} of {workload} to be {value}"), || {
        (kernel::read(workload, file)? == value).then_some(())
    });
}

/// The dead loops that were proved. A proof that ran out of time, as it may in a pause of the
/// emulator, is reported as another verdict and tried again.
fn proofs(agent: &Agent) -> Vec<Event<Box<CpuLoopFound>>> {
    let mut found = agent.events::<Box<CpuLoopFound>>("web");
    found.retain(|event| event.details.verdict == Verdict::DeadLoop);
    found
}

/// Waits for the first of them.
fn proved(agent: &Agent) -> Event<Box<CpuLoopFound>> {
    wait_for("a proof", || proofs(agent).into_iter().next())
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn a_dead_loop_is_proved_and_demoted_by_default() {
    let agent = Agent::start(&manifest(&workload("web", "burn bare", QUICKLY)));
    let found = proved(&agent);
    let details = &found.details;
    assert_eq!(details.thread.pid, pid_of(&agent.workload("web")));
    assert!(details.cpu >= Duration::from_secs(2));
    wait_for_file("web", "cpu.weight", "1");
    let shown = agent.workload("web");
    assert_eq!(shown.throttle, Throttling::Demoted);
    assert!(shown.reason.starts_with("dead_loop in"));
    let reported = agent.wait_for_events::<ThrottleChange>("web", 1);
    assert_eq!(reported[0].caused_by, Some(found.seq));
    assert_eq!(reported[0].reason, Some(Cause::CpuLoop));
    wait_for("the lines of the loop and of the answer", || {
        let lines = agent.lines();
        let found = lines.contains("dead loop: fixture");
        (found && lines.contains("demoted to cpu.weight 1")).then_some(())
    });
    // The agent gives the search for names two seconds, and keeps the addresses if that was too
    // short. The next instance is then looked at.
    let mut wanted = 1;
    wait_for("the place of the loop by its name", || {
        let found = proofs(&agent);
        let hottest = &found.get(wanted - 1)?.details.evidence.stack[0];
        let is_named = hottest.contains("burn") && hottest.contains("in fixture");
        if !is_named {
            assert!(hottest.starts_with("fixture+0x"), "{hottest}");
            assert!(agent.cli(&["restart", "web"]).status.success());
            wanted += 1;
        }
        is_named.then_some(())
    });
}

#[test]
fn a_looping_thread_is_found_though_its_name_is_no_utf8() {
    let agent = Agent::start(&manifest(&workload("web", "burn bare-renamed", QUICKLY)));
    proved(&agent);
}

/// A thread that will end the loop is seen, whatever its name.
#[test]
fn a_helper_breaks_the_proof_though_its_name_is_no_utf8() {
    let more = ladder("[restart]");
    let agent = Agent::start(&manifest(&workload(
        "web",
        "burn flag-later-renamed",
        &more,
    )));
    let found = agent.wait_for_events::<Box<CpuLoopFound>>("web", 1);
    let details = &found[0].details;
    assert_eq!(details.verdict, Verdict::OverBudget, "{found:#?}");
    let outside = &details.evidence.outside;
    let wakes = |one: &Outside| matches!(one, Outside::ThreadWakes(_));
    assert!(outside.iter().any(wakes), "{outside:?}");
    assert_eq!(agent.workload("web").restarts, 0);
}

/// A map of 150 MB of text, which the program's own user has made.
#[test]
fn a_map_without_bounds_costs_the_agent_little_memory() {
    let folder = "/tmp/maps";
    fs::create_dir(folder).unwrap();
    std::os::unix::fs::chown(folder, Some(1000), Some(1000)).unwrap();
    let mode = format!("map-and-spin {folder} 1500");
    let agent = Agent::start(&manifest(&workload("web", "rest", QUICKLY)));
    agent.wait_for_state("web", WorkloadState::Running);
    // Its peak is counted from now on (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5").unwrap();
    let spins = manifest(&workload("web", &mode, QUICKLY));
    fs::write(agent.folder().join("manifest.yaml"), spins).unwrap();
    assert!(agent.cli(&["apply"]).status.success());
    let found = agent.wait_for_event::<Box<CpuLoopFound>>("web");
    let peak = kernel::status(agent.pid(), "VmHWM").unwrap();
    let kibibytes: u64 = peak.split(' ').next().unwrap().parse().unwrap();
    assert!(kibibytes < 64 << 10, "{peak}");
    let text = serde_json::to_string(&found.details).unwrap();
    assert!(text.len() < 64 << 10, "{text}");
}

/// The first field report: one endpoint runs into an infinite loop.
#[test]
fn s1_a_server_that_loops_is_healthy_again_without_a_person() {
    let agent = Agent::start(&manifest(&format!(
        "{}{}",
        workload("node", "http 9025", &ladder("[demote, restart]")),
        workload("neighbour", "burn register", &ladder("[restart]")),
    )));
    wait_for("the first answer", || {
        get(9025, "/health").filter(|answer| answer.ends_with("ok"))
    });
    // Nobody answers this one.
    let mut stream = TcpStream::connect(("127.0.0.1", 9025)).unwrap();
    stream.write_all(b"GET /break HTTP/1.1\r\n\r\n").unwrap();
    let restart = agent.wait_for_events::<RestartPlan>("node", 1);
    assert_eq!(restart[0].reason, Some(Cause::CpuLoop));
    let mut found = agent.events::<Box<CpuLoopFound>>("node").into_iter();
    assert!(
        found.any(|event| {
            event.details.verdict == Verdict::DeadLoop && event.seq < restart[0].seq
        })
    );
    wait_for("the second answer", || {
        get(9025, "/health").filter(|answer| answer.ends_with("ok"))
    });
    wait_for_file("node", "cpu.weight", "100");
    assert_eq!(agent.workload("node").throttle, Throttling::None);
    assert_eq!(agent.workload("neighbour").restarts, 0);
}

#[test]
fn each_rung_holds_for_a_step_and_the_last_one_restarts() {
    let more = ladder("[tell, demote, { throttle: 20% }, restart]");
    let agent = Agent::start(&manifest(&workload("web", "burn bare", &more)));
    let restart = agent.wait_for_events::<RestartPlan>("web", 1);
    let history = agent.history_of("web");
    // A proof that ran out of time is tried again.
    let is_no_proof = |event: &Record| match &event.detail {
        Detail::CpuLoop(found) => found.verdict != Verdict::DeadLoop,
        _ => false,
    };
    let until = history
        .iter()
        .filter(|event| event.seq <= restart[0].seq && !is_no_proof(event));
    let kinds: Vec<&str> = until.map(|event| event.detail.kind()).collect();
    let kinds: Vec<&str> = kinds.into_iter().filter(|kind| *kind != "config").collect();
    let expected = [
        "start", "cpu_loop", "health", "throttle", "throttle", "stop", "exit", "release", "restart",
    ];
    assert_eq!(kinds, expected);
    let levels: Vec<Throttling> = agent
        .events::<ThrottleChange>("web")
        .iter()
        .take(2)
        .map(|event| event.details.throttle)
        .collect();
    assert_eq!(levels, [Throttling::Demoted, Throttling::Throttled]);
    wait_for_file("web", "cpu.weight", "100");
    wait_for_file("web", "cpu.max", "max 100000");
}

#[test]
fn a_loop_that_ends_leaves_the_workload_as_the_manifest_says() {
    let more = format!(
        "{}\ncgroup: {{ cpu.weight: 59, cpu.max: 150% }}",
        ladder("[demote, { throttle: 20% }]")
    );
    let text = workload("web", "burn until-usr1", &more);
    let agent = Agent::start(&manifest(&text));
    wait_for_file("web", "cpu.max", "20000 100000");
    assert_eq!(kernel::read("web", "cpu.weight").as_deref(), Some("1"));
    // Another manifest meanwhile: the rung holds, the rest is taken over.
    agent.write_manifest(&manifest(
        &text.replace("cpu.weight: 59", "cpu.weight: 60, memory.max: 64M"),
    ));
    assert!(agent.cli(&["apply"]).status.success());
    wait_for_file("web", "memory.max", "67108864");
    assert_eq!(kernel::read("web", "cpu.weight").as_deref(), Some("1"));
    assert_eq!(
        kernel::read("web", "cpu.max").as_deref(),
        Some("20000 100000")
    );
    signal(pid_of(&agent.workload("web")), Signal::SIGUSR1);
    let released = agent.wait_for_events::<Release>("web", 1);
    assert_eq!(released[0].details.throttle, Throttling::None);
    wait_for_file("web", "cpu.weight", "60");
    wait_for_file("web", "cpu.max", "150000 100000");
    assert_eq!(agent.workload("web").restarts, 0);
}

#[test]
fn throttle_and_release_by_hand() {
    let agent = Agent::start(&manifest(&workload(
        "web",
        "rest",
        "cgroup: { cpu.max: 150% }",
    )));
    agent.wait_for_state("web", WorkloadState::Running);
    let throttled = agent.cli(&["throttle", "web", "--cpu", "20%"]);
    assert_eq!(
        String::from_utf8_lossy(&throttled.stdout),
        "web: throttled to 20% of one CPU\n"
    );
    assert_eq!(
        kernel::read("web", "cpu.max").as_deref(),
        Some("20000 100000")
    );
    let shown = agent.cli(&["ps"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("throttled 20%"));
    let shown = agent.cli(&["status", "web"]);
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("throttled to 20% of one CPU"),
        "{shown:?}"
    );
    // It outlives the instance.
    assert!(agent.cli(&["restart", "web"]).status.success());
    assert_eq!(
        kernel::read("web", "cpu.max").as_deref(),
        Some("20000 100000")
    );
    let released = agent.cli(&["release", "web"]);
    assert_eq!(
        String::from_utf8_lossy(&released.stdout),
        "web: not throttled\n"
    );
    assert_eq!(
        kernel::read("web", "cpu.max").as_deref(),
        Some("150000 100000")
    );
    let refused = agent.cli(&["throttle", "web", "--cpu", "0.2"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("expected a whole percentage"),
        "{refused:?}"
    );
}

#[test]
fn an_agent_that_dies_in_the_middle_of_a_proof_leaves_nothing_stopped() {
    let mut agent = Agent::start(&manifest(&workload("web", "burn bare", QUICKLY)));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    catch("a stop of the proof", || {
        kernel::status(pid, "State")?.starts_with('t').then_some(())
    });
    agent.kill();
    assert_eq!(kernel::status(pid, "TracerPid").as_deref(), Some("0"));
    let used = || kernel::field("web", "cpu.stat", "usage_usec").unwrap();
    let before = used();
    wait_for("it to run on", || (used() > before + 200_000).then_some(()));
    assert!(kernel::status(pid, "State").unwrap().starts_with('R'));
    agent.clear();
}

/// The proof's thread must not take the exit that the agent waits for.
#[test]
fn an_exit_in_the_middle_of_a_proof_is_reported_as_it_was() {
    let more = format!("{QUICKLY}\nrecovery: {{ restart: never }}");
    let agent = Agent::start(&manifest(&workload("web", "burn bare", &more)));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    catch("the proof", || {
        (kernel::status(pid, "TracerPid")? != "0").then_some(())
    });
    signal(pid, Signal::SIGALRM);
    let exit = agent.wait_for_events::<Exit>("web", 1);
    assert_eq!(exit[0].details.signal, Some(Signal::SIGALRM as i32));
    agent.wait_for_state("web", WorkloadState::Failed);
}

/// Somebody stops the process while it is looked at: it stays stopped, and goes on
/// on request.
#[test]
fn a_stop_in_the_middle_of_a_proof_holds() {
    let agent = Agent::start(&manifest(&workload("web", "burn bare", QUICKLY)));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    catch("the proof", || {
        (kernel::status(pid, "TracerPid")? != "0").then_some(())
    });
    signal(pid, Signal::SIGSTOP);
    wait_for("it to stand still, and to be let go", || {
        let stopped = kernel::status(pid, "State")?.starts_with('T');
        (stopped && kernel::status(pid, "TracerPid")? == "0").then_some(())
    });
    let used = || kernel::field("web", "cpu.stat", "usage_usec").unwrap();
    let before = used();
    signal(pid, Signal::SIGCONT);
    wait_for("it to go on", || (used() > before + 200_000).then_some(()));
}

#[test]
fn a_traced_thread_is_left_alone() {
    let agent = Agent::start(&manifest(&workload("web", "burn traced", QUICKLY)));
    let found = agent.wait_for_events::<Box<CpuLoopFound>>("web", 1);
    assert_eq!(found[0].details.verdict, Verdict::OverBudget);
    let why = &found[0].details.evidence.unproven;
    let why = why.as_deref().unwrap();
    assert!(why.starts_with("it is traced already"), "{why}");
    assert_eq!(kernel::read("web", "cpu.weight").as_deref(), Some("100"));
}

#[test]
fn without_ebpf_a_loop_is_seen_and_not_proved() {
    let agent = Agent::start_with(
        &manifest(&workload("web", "burn bare", &ladder("[demote, restart]"))),
        &["--ebpf", "off"],
    );
    let found = agent.wait_for_events::<Box<CpuLoopFound>>("web", 1);
    let details = &found[0].details;
    assert_eq!(details.verdict, Verdict::OverBudget);
    assert_eq!(details.evidence.source, LoopSource::Proc);
    let why = details.evidence.unproven.as_deref().unwrap();
    assert!(why.contains("without eBPF"), "{why}");
    let degraded = agent.all_events::<Degraded>();
    assert!(degraded[0].details.why.contains("none is proved"));
    assert_eq!(agent.workload("web").throttle, Throttling::None);
}

#[test]
fn what_is_not_watched_is_not_suspected() {
    let agent = Agent::start(&manifest(&workload(
        "web",
        "burn bare",
        "watch: { cpu_loop: off }",
    )));
    // Once it is watched, its streak counts from then on.
    wait_for("four seconds of CPU time", || {
        (kernel::field("web", "cpu.stat", "usage_usec")? > 4_000_000).then_some(())
    });
    assert!(agent.events::<Box<CpuLoopFound>>("web").is_empty());
    agent.write_manifest(&manifest(&workload("web", "burn bare", QUICKLY)));
    assert!(agent.cli(&["apply"]).status.success());
    agent.wait_for_events::<Box<CpuLoopFound>>("web", 1);
    assert_eq!(agent.workload("web").restarts, 0);
    // And off again gives back what was taken.
    wait_for_file("web", "cpu.weight", "1");
    agent.write_manifest(&manifest(&workload(
        "web",
        "burn bare",
        "watch: { cpu_loop: off }",
    )));
    assert!(agent.cli(&["apply"]).status.success());
    wait_for_file("web", "cpu.weight", "100");
}

#[test]
fn a_cpu_that_went_and_came_is_sampled_again() {
    const SWITCH: &str = "/sys/devices/system/cpu/cpu1/online";
    let agent = Agent::start(&manifest(&workload("calm", "rest", "")));
    agent.wait_for_state("calm", WorkloadState::Running);
    fs::write(SWITCH, "0").unwrap();
    fs::write(SWITCH, "1").unwrap();
    let looping = workload(
        "web",
        "burn bare",
        &format!("{QUICKLY}\ncgroup: {{ cpuset.cpus: 1 }}"),
    );
    agent.write_manifest(&manifest(&format!(
        "{}{looping}",
        workload("calm", "rest", "")
    )));
    assert!(agent.cli(&["apply"]).status.success());
    let found = proved(&agent);
    assert_eq!(found.details.evidence.source, LoopSource::Ebpf);
}
