//! Probes against real processes and sockets: what they say, and what follows.

use crate::{manifest, until_it_listens, workload};
use enforcer_model::detail::{
    BreakerChange, BreakerState, Degraded, Detail, HealthChange, Pressure, RestartPlan,
};
use enforcer_model::health::Health;
use enforcer_model::ids::{Cause, Seq};
use enforcer_model::level::Level;
use enforcer_model::oom::Incident;
use enforcer_model::probe::{Answer, ProbeState};
use enforcer_model::requests::Readiness;
use enforcer_model::spec::{ProbeName, Resource};
use enforcer_model::views::{ProbeStatus, WorkloadView};
use enforcer_model::{ReplicaId, WorkloadState};
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, slowness, wait_for};
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;

/// The probe of a workload as the API shows it; `None` while no instance runs.
fn probe(agent: &Agent, workload: &str, name: ProbeName) -> Option<ProbeStatus> {
    let mut probes = agent.inspect(workload).probes.into_iter();
    probes.find(|probe| probe.probe == name)
}

/// The text of a probe's last answer.
fn said(agent: &Agent, workload: &str, name: ProbeName) -> String {
    let last = probe(agent, workload, name).and_then(|probe| probe.last);
    last.map_or_else(String::new, |last| last.text)
}

fn wait_for_health(agent: &Agent, workload: &str, health: Health) -> WorkloadView {
    wait_for(&format!("{workload} to be {health}"), || {
        let view = agent.workload(workload);
        (view.health == health).then_some(view)
    })
}

/// Waits until a change of health gives this reason. The last answer of a probe is gone when its
/// instance ends, so a workload that is being restarted may never be seen with it.
fn wait_for_reason(agent: &Agent, workload: &str, reason: &str) {
    wait_for(&format!("{workload} to be off because of {reason}"), || {
        let mut changes = agent.events::<HealthChange>(workload).into_iter();
        changes
            .any(|change| change.details.why.contains(reason))
            .then_some(())
    });
}

/// The number of failures in a row that a change of health reports of the liveness probe.
fn failures_of_liveness(why: &str) -> Option<u32> {
    let number = why.strip_prefix("liveness probe failed ")?;
    number.split_once(" times")?.0.parse().ok()
}

fn send(port: u16, path: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // In one piece: the server reads once.
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
}

#[test]
fn s1_a_server_that_hangs_heals_by_liveness_alone() {
    let more = format!(
        "probes: {{ {}, liveness: {{ http: {{ port: 9025, path: /health }}, period: 500ms, timeout: 4s, failure_threshold: 3 }} }}
        watch: {{ cpu_loop: off }}",
        until_it_listens(9025)
    );
    let agent = Agent::start(&manifest(&workload("web", "http 9025", &more)));
    let before = wait_for_health(&agent, "web", Health::Healthy);
    send(9025, "/break");
    let restart = agent.wait_for_event::<RestartPlan>("web");
    assert_eq!(restart.reason, Some(Cause::Liveness));
    let after = wait_for_health(&agent, "web", Health::Healthy);
    assert_ne!(before.pid, after.pid);
    assert_eq!(after.restarts, 1);
    // The chain of records leads from the restart to the probe that failed.
    let all = agent.history_of("web");
    let by_seq = |seq: Option<Seq>| all.iter().find(|event| Some(event.seq) == seq).unwrap();
    let exit = by_seq(restart.caused_by);
    let stop = by_seq(exit.caused_by);
    assert!(matches!(stop.detail, Detail::Stop(_)), "{stop:?}");
    let Detail::Health(health) = &by_seq(stop.caused_by).detail else {
        panic!("{stop:?}");
    };
    // While the server waits for a CPU or for memory, it is given up to three times as many.
    let mut reported = agent.events::<HealthChange>("web").into_iter();
    let spared = reported.any(|event| event.details.why.contains("it is given until the 9th"));
    let failures = failures_of_liveness(&health.why).unwrap();
    assert!(
        failures == 3 || spared && (3..=9).contains(&failures),
        "{health:?}"
    );
    assert!(
        health.why.contains("times: no answer within 4s"),
        "{health:?}"
    );
}

/// One workload per endpoint, whose readiness probe asks it of the server.
fn asks(endpoints: &[(&str, &str)], port: u16, timeout: &str) -> String {
    let mut text = String::new();
    for (name, path) in endpoints {
        text.push_str(&workload(
            name,
            "rest",
            &format!("probes: {{ readiness: {{ http: {{ port: {port}, path: {path} }}, period: 500ms, timeout: {timeout}, failure_threshold: 1 }} }}"),
        ));
    }
    text
}

#[test]
fn every_kind_of_answer_is_recognised() {
    let good = [
        ("fine", "/health"),
        ("endless", "/endless"),
        ("here", "/here"),
        ("full", "/here-in-full"),
        ("away", "/away"),
    ];
    let late = [
        ("hang", "/hang", "no answer within 400ms"),
        ("drip-head", "/drip-head", "no answer within 400ms"),
        (
            "drip",
            "/drip",
            "an answer, but no end of its body within 400ms",
        ),
    ];
    // They answer, which takes a slow machine its time.
    let bad = [
        ("circle", "/circle", "was redirected more than 10 times"),
        ("nowhere", "/to-nowhere", "answered 404"),
        ("fail", "/fail", "answered 500"),
        ("garbage", "/garbage", "broke off"),
    ];
    let paths = |of: &[(&'static str, &'static str, &str)]| -> Vec<(&str, &str)> {
        of.iter().map(|(name, path, _)| (*name, *path)).collect()
    };
    let refused = workload(
        "refused",
        "rest",
        "probes: { readiness: { tcp: { port: 1 }, timeout: 30s, failure_threshold: 1 } }",
    );
    let nobody = workload(
        "nobody",
        "rest",
        "probes: { readiness: { tcp: { host: no-such-host, port: 1 }, timeout: 5s } }",
    );
    let server = workload("server", "serve 9030", "priority: 99");
    let agent = Agent::start(&manifest(&format!(
        "{server}{}{}{}{refused}{nobody}",
        asks(&good, 9030, "30s"),
        asks(&paths(&bad), 9030, "30s"),
        asks(&paths(&late), 9030, "400ms")
    )));
    for (name, _) in good {
        let view = wait_for_health(&agent, name, Health::Healthy);
        assert!(view.ready, "{name}");
    }
    let said = |name: &str| said(&agent, name, ProbeName::Readiness);
    for (name, _, why) in late.into_iter().chain(bad) {
        let view = wait_for_health(&agent, name, Health::Degraded);
        assert!(!view.ready, "{name}");
        wait_for(
            &format!("{name} to be reported as {why}: {}", said(name)),
            || said(name).contains(why).then_some(()),
        );
    }
    wait_for_health(&agent, "refused", Health::Degraded);
    wait_for("a refusal in words", || {
        let words = "127.0.0.1:1: Connection refused";
        said("refused").contains(words).then_some(())
    });
    // What can't be asked is neither good nor bad.
    wait_for("an answer", || {
        said("nobody").contains("has no address").then_some(())
    });
    let view = agent.workload("nobody");
    assert_eq!((view.health, view.ready), (Health::Unknown, false));
    // A probe that fails for traffic is no reason to restart anything.
    assert!(agent.events::<RestartPlan>("hang").is_empty());
    let Readiness { workloads } = agent.get("/v1/ready").unwrap();
    let ready = |name| workloads.get(&ReplicaId::parse(name).unwrap()).copied();
    assert_eq!((ready("fine"), ready("hang")), (Some(true), Some(false)));
}

/// Processes of the whole machine with this word among their arguments.
fn processes_with(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> = String::from_utf8_lossy(&line)
            .split('\0')
            .map(str::to_owned)
            .collect();
        if words.iter().any(|one| one == word) {
            found.push(words.join(" "));
        }
    }
    found
}

#[test]
fn exec_probes_end_in_time_and_leave_nothing() {
    // Ten at a time, five rounds each, and every one leaves daemons behind. The time is enough for the first
    // words of most: a machine that is busy elsewhere may keep one from its CPU for that long.
    let seconds = slowness().ceil();
    let names: Vec<String> = (0..10).map(|number| format!("w{number}")).collect();
    let mut text = String::new();
    for name in &names {
        text.push_str(&workload(
            name,
            "rest",
            &format!("probes: {{ readiness: {{ exec: {{ command: [/bin/fixture, double-fork, probe-of-mine] }}, period: 1s, timeout: {seconds}s, failure_threshold: 1 }} }}"),
        ));
    }
    let agent = Agent::start(&manifest(&text));
    let mut spoke = 0;
    for name in &names {
        let last = wait_for("five rounds", || {
            let probe = probe(&agent, name, ProbeName::Readiness)?;
            let last = probe.last.filter(|_| probe.consecutive_failures >= 5);
            // A probe that could not be started tells nothing.
            last.filter(|last| last.result == Answer::Failed)
        });
        let late = format!("failed: no end within {seconds}s");
        let words = last.text.strip_prefix(&late);
        assert!(matches!(words, Some("" | ": ready")), "{}", last.text);
        spoke += usize::from(words == Some(": ready"));
        let took = last.took_seconds;
        assert!((seconds..seconds * 6.0 + 60.0).contains(&took), "{took}");
    }
    assert!(
        spoke > 0,
        "what a probe says before its time is over is reported"
    );
    // Nothing outlives the agent's word for it.
    for name in &names {
        let stopped = agent.cli(&["stop", name]);
        assert!(stopped.status.success());
    }
    wait_for("the last ones to go", || {
        processes_with("probe-of-mine").is_empty().then_some(())
    });
    wait_for("their cgroups to go", || {
        fs::read_dir(enforcer_tests::slot::root().join("probes"))
            .unwrap()
            .flatten()
            .all(|entry| entry.path().is_file())
            .then_some(())
    });
}

#[test]
fn a_probe_that_runs_while_its_workload_stops_leaves_no_cgroup() {
    let more = "
        probes: { liveness: { exec: { command: [/bin/fixture, rest, probe-under-way] }, period: 1s, timeout: 120s } }";
    let agent = Agent::start(&manifest(&workload("web", "rest", more)));
    let branch = enforcer_tests::slot::root().join("probes/web");
    for _ in 0..5 {
        wait_for("a probe under way", || {
            (!processes_with("probe-under-way").is_empty()).then_some(())
        });
        assert!(agent.cli(&["stop", "web"]).status.success());
        wait_for("its cgroups to go", || (!branch.exists()).then_some(()));
        assert!(agent.cli(&["start", "web"]).status.success());
    }
}

#[test]
fn exec_probes_run_as_the_workloads_user_in_a_cgroup_of_their_own() {
    let file = "/tmp/complaints";
    fs::write(file, "").unwrap();
    std::os::unix::fs::chown(file, Some(1000), Some(1000)).unwrap();
    let more = format!("
        environment: {{ SECRET: x }}
        probes: {{ liveness: {{ exec: {{ command: [/bin/fixture, complain, {file}] }}, period: 1h, timeout: 20s }} }}");
    let agent = Agent::start(&manifest(&workload("web", "rest", &more)));
    agent.wait_for_state("web", WorkloadState::Running);
    // A check by hand, whatever the schedule says.
    let answer = agent.cli(&["probe", "web"]);
    let reported = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert_eq!(answer.status.code(), Some(3), "{reported}");
    assert!(
        reported.contains("failed: exited with code 3: complaint by uid 1000"),
        "{reported}"
    );
    assert!(
        fs::read_to_string(file)
            .unwrap()
            .contains("ENFORCER_WORKLOAD=web")
    );
    let branch = enforcer_tests::slot::root().join("probes/web");
    let place = branch.join("liveness");
    let limit = |file: &str| fs::read_to_string(branch.join(file)).unwrap();
    assert_eq!(limit("memory.max").trim(), (128u64 << 20).to_string());
    assert_eq!(limit("pids.max").trim(), "64");
    // One failure of three: something is off, and no more.
    assert_eq!(agent.workload("web").health, Health::Degraded);
    assert!(agent.cli(&["stop", "web"]).status.success());
    wait_for("its probes' cgroup to go", || {
        (!place.exists() && !branch.exists()).then_some(())
    });
}

/// What one workload's commands leave behind is its own affair.
#[test]
fn commands_have_a_ceiling_of_their_workloads_own() {
    let greedy = "{ exec: { command: [/bin/fixture, hog, \"12\"] }, period: 1s, timeout: 20s }";
    let greedy = format!(
        "commands: {{ memory.max: 16M, pids.max: 8 }}\n\
         probes: {{ liveness: {greedy}, readiness: {greedy} }}\nrecovery: {{ restart: never }}"
    );
    let noted = "/tmp/noted";
    fs::write(noted, "").unwrap();
    std::os::unix::fs::chown(noted, Some(1000), Some(1000)).unwrap();
    let modest = format!(
        "probes: {{ readiness: {{ exec: {{ command: [/bin/fixture, note, {noted}, HOME] }}, period: 200ms, timeout: 20s }} }}"
    );
    let agent = Agent::start(&manifest(&format!(
        "{}{}",
        workload("greedy", "rest", &greedy),
        workload("modest", "rest", &modest)
    )));
    // A command that the kernel killed is no answer, so nothing is restarted, and each says so again.
    wait_for("a command to meet its ceiling", || {
        let is_reported = |name| {
            let said = said(&agent, "greedy", name);
            said.contains("more memory than a command may have")
        };
        (is_reported(ProbeName::Liveness) || is_reported(ProbeName::Readiness)).then_some(())
    });
    let asked = || fs::read_to_string(noted).unwrap().lines().count();
    let before = asked();
    wait_for("ten more answers", || {
        (asked() >= before + 10).then_some(())
    });
    assert_eq!(agent.workload("modest").health, Health::Healthy);
    let degraded = agent.all_events::<Degraded>();
    let of_commands = degraded
        .iter()
        .find(|event| event.details.what == "commands");
    assert!(of_commands.is_none(), "{of_commands:?}");
}

#[test]
fn startup_gates_the_others() {
    let flag = "/tmp/may-serve";
    let _ = fs::remove_file(flag);
    let more = "probes: { startup: { http: { port: 9031 }, period: 300ms, failure_threshold: 1000 }, liveness: { http: { port: 9031 }, period: 100ms, timeout: 30s, failure_threshold: 1 } }";
    let agent = Agent::start(&manifest(&workload(
        "late",
        &format!("serve-when-told 9031 {flag}"),
        more,
    )));
    let view = wait_for("its first failure", || {
        let view = agent.workload("late");
        let startup = probe(&agent, "late", ProbeName::Startup)?;
        (startup.consecutive_failures > 3).then_some(view)
    });
    assert_eq!((view.health, view.ready), (Health::Unknown, false));
    let liveness = probe(&agent, "late", ProbeName::Liveness).unwrap();
    assert!(liveness.last.is_none());
    fs::write(flag, "").unwrap();
    let view = wait_for_health(&agent, "late", Health::Healthy);
    assert_eq!((view.restarts, view.ready), (0, true));
    wait_for("liveness to be asked", || {
        let liveness = probe(&agent, "late", ProbeName::Liveness)?;
        (liveness.state == ProbeState::Passing).then_some(())
    });
}

#[test]
fn what_does_not_come_up_is_restarted_until_the_breaker_opens_and_a_trial_closes_it() {
    let _ = fs::remove_file("/tmp/comes-up");
    let more = "
        probes: { startup: { tcp: { port: 9032 }, period: 100ms, timeout: 60s, failure_threshold: 100 } }
        recovery: { backoff: off, budget: { restarts: 2, within: 1h }, breaker: { cooldown: 200ms, max: 1s } }";
    let agent = Agent::start(&manifest(&workload(
        "late",
        "serve-after 4 /tmp/comes-up 9032",
        more,
    )));
    wait_for_health(&agent, "late", Health::Healthy);
    let states: Vec<BreakerState> = agent
        .events::<BreakerChange>("late")
        .iter()
        .map(|event| event.details.state)
        .collect();
    // Three starts of the budget, then trials; the fifth start serves.
    let (open, half_open) = (BreakerState::Open, BreakerState::HalfOpen);
    let expected = [open, half_open, open, half_open, BreakerState::Closed];
    assert_eq!(states, expected);
    assert_eq!(agent.workload("late").restarts, 4);
}

#[test]
fn readiness_flaps_and_the_hooks_follow() {
    let (log, flag) = ("/tmp/hooks", "/tmp/is-ready");
    let _ = (fs::remove_file(log), fs::remove_file(flag));
    let more = format!("
        probes: {{ readiness: {{ exec: {{ command: [/bin/fixture, exists, {flag}] }}, period: 200ms, timeout: 20s, failure_threshold: 1 }} }}
        on_ready: [/bin/fixture, append, {log}, join]
        on_unready: [/bin/fixture, append, {log}, leave]");
    let mode = format!("append-on-term {log}");
    let agent = Agent::start(&manifest(&workload("web", &mode, &more)));
    let is_ready = |wanted: bool| {
        wait_for(&format!("ready to be {wanted}"), || {
            (agent.workload("web").ready == wanted).then_some(())
        });
    };
    wait_for("an answer", || {
        probe(&agent, "web", ProbeName::Readiness)?.last
    });
    is_ready(false);
    for _ in 0..3 {
        fs::write(flag, "").unwrap();
        is_ready(true);
        fs::remove_file(flag).unwrap();
        is_ready(false);
    }
    fs::write(flag, "").unwrap();
    is_ready(true);
    let lines = || fs::read_to_string(log).unwrap_or_default();
    wait_for("the hooks to settle", || {
        lines().ends_with("join\n").then_some(())
    });
    assert!(agent.cli(&["stop", "web"]).status.success());
    // Whoever sends it work heard of the stop before the workload did.
    assert!(lines().ends_with("join\nleave\nterm\n"), "{}", lines());
    // Each reported what had changed, and none twice.
    let reported: Vec<String> = lines()
        .lines()
        .filter(|line| *line != "term")
        .map(str::to_owned)
        .collect();
    assert!(
        reported.windows(2).all(|pair| pair[0] != pair[1]),
        "{reported:?}"
    );
    assert!(agent.events::<RestartPlan>("web").is_empty());
}

#[test]
fn progress_is_what_the_cgroup_has_done() {
    let probes = "probes: { progress: { cgroup: { cpu: 50ms, within: 2s }, period: 500ms, failure_threshold: 2 } }";
    let busy = workload("busy", "keep-warm 1", probes);
    let stuck = workload("stuck", "rest", probes);
    let agent = Agent::start(&manifest(&format!("{busy}{stuck}")));
    let restart = agent.wait_for_event::<RestartPlan>("stuck");
    assert_eq!(restart.reason, Some(Cause::Progress));
    let health = agent.events::<HealthChange>("stuck");
    let why = health.iter().find_map(|event| {
        let why = &event.details.why;
        why.contains("progress probe failed 2 times").then_some(why)
    });
    assert!(
        why.is_some_and(|why| why.contains("in 2s it used ")),
        "{why:?}"
    );
    wait_for_health(&agent, "busy", Health::Healthy);
    assert!(agent.events::<RestartPlan>("busy").is_empty());
}

#[test]
fn a_heartbeat_file_that_gets_old_is_no_progress() {
    let file = "/tmp/heartbeat";
    fs::write(file, "").unwrap();
    let probes = format!(
        "probes: {{ progress: {{ file: {{ path: {file}, fresh_within: 2s }}, period: 200ms, failure_threshold: 2 }} }}"
    );
    let agent = Agent::start(&manifest(&workload("web", "rest", &probes)));
    // As long as it beats, all is well.
    wait_for("web to be healthy", || {
        fs::write(file, "beat").unwrap();
        (agent.workload("web").health == Health::Healthy).then_some(())
    });
    let restart = agent.wait_for_event::<RestartPlan>("web");
    assert_eq!(restart.reason, Some(Cause::Progress));
    fs::remove_file(file).unwrap();
    wait_for_reason(&agent, "web", "there is no /tmp/heartbeat");
}

#[test]
fn a_full_memory_is_reported_before_it_kills() {
    let more = "
        cgroup: { memory.max: 64M }
        watch: { memory: { warn: 50%, critical: 80%, for: 1s } }";
    let agent = Agent::start(&manifest(&workload("web", "hog 40", more)));
    let pressure = agent.wait_for_event::<Pressure>("web");
    assert_eq!(
        (pressure.details.resource, pressure.details.level),
        (Resource::Memory, Level::Warn)
    );
    // It may still have been growing when the warning was due.
    let used = pressure.details.used_percent;
    assert!((50..80).contains(&used), "{used}");
    let view = wait_for_health(&agent, "web", Health::Degraded);
    assert_eq!(view.reason, "memory use is warn");
    assert!(agent.events::<Incident>("web").is_empty());
}

#[test]
fn what_is_throttled_gets_grace_and_what_is_broken_gets_none() {
    // Neither answers any more; the one is held back, and that may be why.
    let probes = "probes: { liveness: { http: { port: PORT, path: /hang }, period: 300ms, timeout: 200ms, failure_threshold: 2 } }";
    let both = |of_held: &str, of_free: &str| {
        let held = workload("held", "serve 9033", of_held);
        manifest(&(held + &workload("free", "serve 9034", of_free)))
    };
    let agent = Agent::start(&both("", ""));
    for name in ["held", "free"] {
        agent.wait_for_output(name, "listening on");
    }
    assert!(
        agent
            .cli(&["throttle", "held", "--cpu", "50%"])
            .status
            .success()
    );
    // They are asked once both listen and the one is held back.
    let of = |port: &str| probes.replace("PORT", port);
    agent.write_manifest(&both(&of("9033"), &of("9034")));
    assert!(agent.cli(&["apply"]).status.success());
    let count = |name: &str| {
        let restart = agent.wait_for_event::<RestartPlan>(name);
        assert_eq!(restart.reason, Some(Cause::Liveness));
        let reported = agent.events::<HealthChange>(name);
        let why = reported.iter().map(|event| &*event.details.why);
        why.filter_map(failures_of_liveness).max()
    };
    assert_eq!(count("free"), Some(2));
    assert_eq!(count("held"), Some(6));
    let spared = agent
        .events::<HealthChange>("held")
        .into_iter()
        .any(|event| {
            let spared = "but it is throttled to 50% of a CPU: it is given until the 6th";
            event.details.why.contains(spared)
        });
    assert!(spared, "that it was spared was not reported");
    assert!(kernel::read("free", "cpu.max").is_some());
}
