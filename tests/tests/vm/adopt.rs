//! An agent dies, and another one takes over: the same processes, the same counts, and
//! whatever happened in between.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Adopted, ConfigChange, Details, DriftFound, Exit, Start};
use enforcer_model::oom::{Incident, OomSource, Scope};
use enforcer_model::views::WorkloadView;
use enforcer_tests::agent::{Agent, Event, pid_of, send};
use enforcer_tests::{kernel, wait_for};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn by_name(agent: &Agent) -> BTreeMap<String, WorkloadView> {
    let all = agent.workloads().into_iter();
    all.map(|view| (view.name.to_string(), view)).collect()
}

fn count<D: Details>(agent: &Agent, name: &str) -> usize {
    agent.events::<D>(name).len()
}

#[test]
fn what_runs_runs_on_and_nothing_is_forgotten() {
    let mut text = workload("plain", "rest", "cgroup: { memory.max: 30M, cpu.max: 50% }");
    text.push_str(&workload("held", "rest", ""));
    text.push_str(&workload("stopped", "rest", ""));
    text.push_str(&workload(
        "crashed",
        "rest",
        "recovery: { backoff: off, budget: { restarts: 5, within: 10m } }",
    ));
    text.push_str(&workload(
        "waiting",
        "crash 3",
        "recovery: { backoff: { initial: 10m, max: 10m, jitter: 0% } }",
    ));
    text.push_str(&workload(
        "failed",
        "crash 4",
        "recovery: { restart: never }",
    ));
    let mut agent = Agent::start(&manifest(&text));
    for name in ["plain", "held", "stopped", "crashed"] {
        agent.wait_for_state(name, WorkloadState::Running);
    }
    send(&agent.workload("crashed"), Signal::SIGKILL);
    agent.wait_for_events::<Start>("crashed", 2);
    agent.wait_for_state("crashed", WorkloadState::Running);
    agent.wait_for_state("waiting", WorkloadState::BackingOff);
    agent.wait_for_state("failed", WorkloadState::Failed);
    assert!(agent.cli(&["stop", "stopped"]).status.success());
    assert!(
        agent
            .cli(&["throttle", "held", "--cpu", "20%"])
            .status
            .success()
    );
    let before = by_name(&agent);
    let reported = ["plain", "held", "crashed"].map(|name| count::<Start>(&agent, name));
    let configured = count::<ConfigChange>(&agent, "plain");
    agent.start_again();
    for (name, reported) in ["plain", "held", "crashed"].into_iter().zip(reported) {
        agent.wait_for_state(name, WorkloadState::Running);
        let adopted = agent.wait_for_events::<Adopted>(name, 1);
        assert_eq!(adopted.len(), 1);
        assert_eq!(count::<Start>(&agent, name), reported, "{name} was started");
    }
    let after = by_name(&agent);
    let same = |view: &WorkloadView| {
        (
            (view.state, view.pid, view.restarts, view.throttle),
            (view.last_exit, view.cgroup.clone(), view.oom_kills),
        )
    };
    for (name, view) in &after {
        assert_eq!(same(view), same(&before[name]), "{name}");
    }
    assert_eq!(after.len(), 6);
    assert_eq!(
        kernel::read("held", "cpu.max").unwrap().trim(),
        "20000 100000"
    );
    // Nothing about it had to be written: it never went away.
    assert_eq!(count::<ConfigChange>(&agent, "plain"), configured);
    assert_eq!(count::<DriftFound>(&agent, "plain"), 0);
    // What another agent started is stopped and restarted like its own.
    assert!(agent.cli(&["release", "held"]).status.success());
    assert!(agent.cli(&["restart", "plain"]).status.success());
    let exit = agent.wait_for_events::<Exit>("plain", 1);
    assert_eq!(exit[0].details.signal, Some(15), "{exit:#?}");
    assert_ne!(agent.workload("plain").pid, before["plain"].pid);
    send(&agent.workload("crashed"), Signal::SIGKILL);
    let exit = agent.wait_for_events::<Exit>("crashed", 2);
    assert_eq!(exit[1].details.signal, Some(9), "{exit:#?}");
    wait_for("the second restart", || {
        (agent.workload("crashed").restarts == 2).then_some(())
    });
    agent.wait_for_state("crashed", WorkloadState::Running);
}

#[test]
fn how_a_process_ended_while_no_agent_ran_is_known() {
    fs::create_dir_all("/tmp/for-web").unwrap();
    fs::set_permissions("/tmp/for-web", PermissionsExt::from_mode(0o777)).unwrap();
    let text = workload("told", "crash-when-told /tmp/for-web/crash", "")
        + &workload("killed", "rest", "")
        + &workload("left", "double-fork", "");
    let mut agent = Agent::start(&manifest(&text));
    for name in ["told", "killed", "left"] {
        agent.wait_for_state(name, WorkloadState::Running);
    }
    let before = by_name(&agent);
    agent.kill();
    fs::write("/tmp/for-web/crash", "").unwrap();
    send(&before["killed"], Signal::SIGTERM);
    for name in ["told", "killed"] {
        let gone = format!("/proc/{}", pid_of(&before[name]));
        wait_for("it to be gone", || {
            (!fs::exists(&gone).unwrap()).then_some(())
        });
    }
    agent.start_again();
    let reported = agent.wait_for_events::<Exit>("told", 1);
    assert_eq!(reported[0].details.code, Some(1), "{reported:#?}");
    let killed = agent.wait_for_events::<Exit>("killed", 1);
    assert_eq!(killed[0].details.signal, Some(15), "{killed:#?}");
    for name in ["told", "killed"] {
        agent.wait_for_state(name, WorkloadState::Running);
        assert_eq!(agent.workload(name).restarts, 1);
        assert_eq!(agent.events::<Exit>(name).len(), 1);
    }
    assert_eq!(agent.workload("left").pid, before["left"].pid);
}

/// Since Linux 7.0 a program at a tracepoint can be preempted, and the kernel passes over
/// it for the next process on that CPU.
#[test]
fn how_many_processes_ended_at_once_while_no_agent_ran_is_known() {
    let names: Vec<String> = (0..24).map(|number| format!("w{number}")).collect();
    let text: String = names
        .iter()
        .map(|name| workload(name, "rest", ""))
        .collect();
    let mut agent = Agent::start(&manifest(&text));
    for name in &names {
        agent.wait_for_state(name, WorkloadState::Running);
    }
    let before = by_name(&agent);
    agent.kill();
    for name in &names {
        send(&before[name], Signal::SIGTERM);
    }
    for name in &names {
        let gone = format!("/proc/{}", pid_of(&before[name]));
        wait_for("it to be gone", || {
            (!fs::exists(&gone).unwrap()).then_some(())
        });
    }
    agent.start_again();
    let unknown = names.iter().filter(|name| {
        let reported = agent.wait_for_events::<Exit>(name, 1);
        reported[0].details.signal != Some(15)
    });
    assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn without_ebpf_the_end_of_a_process_is_unknown_and_never_zero() {
    let mut agent = Agent::start_with(&manifest(&workload("web", "rest", "")), &["--ebpf", "off"]);
    let view = agent.wait_for_state("web", WorkloadState::Running);
    agent.kill();
    send(&view, Signal::SIGKILL);
    agent.start_again();
    let exit = agent.wait_for_events::<Exit>("web", 1);
    assert_eq!(exit[0].details.code, None, "{exit:#?}");
    assert_eq!(exit[0].details.signal, None, "{exit:#?}");
    agent.wait_for_state("web", WorkloadState::Running);
}

#[test]
fn an_oom_kill_while_no_agent_ran_is_reported_once_and_by_name() {
    for (arguments, source) in [
        (&[][..], OomSource::Ebpf),
        (&["--ebpf", "off"], OomSource::Recovered),
    ] {
        let text = workload("hog", "hog-on-signal", "cgroup: { memory.max: 8M }");
        let mut agent = Agent::start_with(&manifest(&text), arguments);
        let view = agent.wait_for_state("hog", WorkloadState::Running);
        wait_for("it to listen", || {
            agent.output("hog").contains("ready").then_some(())
        });
        agent.kill();
        send(&view, Signal::SIGUSR1);
        let gone = format!("/proc/{}", pid_of(&view));
        wait_for("it to be gone", || {
            (!fs::exists(&gone).unwrap()).then_some(())
        });
        agent.start_again();
        let reported = agent.wait_for_events::<Incident>("hog", 1);
        let details = &reported[0].details;
        assert_eq!(details.source, source, "{reported:#?}");
        assert_eq!(details.scope, Scope::Own, "{reported:#?}");
        assert_eq!(details.counter_before, 0, "{reported:#?}");
        if source == OomSource::Ebpf {
            assert_eq!(details.victims[0].pid, pid_of(&view), "{reported:#?}");
        }
        let exit = agent.wait_for_events::<Exit>("hog", 1);
        assert!(exit[0].details.oom_killed, "{exit:#?}");
        assert_eq!(exit[0].caused_by, Some(reported[0].seq), "{exit:#?}");
        agent.wait_for_state("hog", WorkloadState::Running);
        assert_eq!(agent.events::<Incident>("hog").len(), 1);
    }
}

#[test]
fn another_process_with_its_number_is_not_taken_for_it() {
    let mut agent = Agent::start(&manifest(&workload("web", "rest", "")));
    let view = agent.wait_for_state("web", WorkloadState::Running);
    let number = pid_of(&view);
    agent.kill();
    send(&view, Signal::SIGKILL);
    let gone = format!("/proc/{number}");
    wait_for("it to be gone", || {
        (!fs::exists(&gone).unwrap()).then_some(())
    });
    // The next process that is forked here gets the number.
    let mut stranger = wait_for("its number to be given away", || {
        fs::write("/proc/sys/kernel/ns_last_pid", (number - 1).to_string()).unwrap();
        let mut child = std::process::Command::new("/bin/fixture")
            .arg("rest")
            .spawn()
            .unwrap();
        if child.id() == number {
            return Some(child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    });
    agent.start_again();
    agent.wait_for_events::<Exit>("web", 1);
    let view = agent.wait_for_state("web", WorkloadState::Running);
    assert_ne!(pid_of(&view), number);
    assert!(agent.cli(&["stop", "web"]).status.success());
    assert_eq!(
        stranger.try_wait().unwrap(),
        None,
        "the stranger was killed"
    );
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_newer_agents_state_is_refused_untouched() {
    let mut agent = Agent::start(&manifest(&workload("web", "rest", "")));
    let view = agent.wait_for_state("web", WorkloadState::Running);
    let state = agent.folder().join("run/state.json");
    let ours = fs::read_to_string(&state).unwrap();
    agent.kill();
    fs::write(&state, r#"{"schema": 99}"#).unwrap();
    agent.start_doomed(None);
    agent.wait_for_end();
    let log = agent.log();
    assert!(log.contains("has schema 99, and this one knows 2"), "{log}");
    assert_eq!(fs::read_to_string(&state).unwrap(), r#"{"schema": 99}"#);
    assert!(fs::exists(format!("/proc/{}", pid_of(&view))).unwrap());
    // An older one is read.
    let older = ours.replacen("\"schema\":2", "\"schema\":1", 1);
    assert_ne!(older, ours);
    fs::write(&state, older).unwrap();
    agent.start_again();
    assert_eq!(
        agent.wait_for_state("web", WorkloadState::Running).pid,
        view.pid
    );
}

#[test]
fn a_daemon_leaves_workloads_running_and_ends_them_on_request() {
    let mut agent = Agent::start_daemon(&manifest(&workload("web", "rest", "")));
    let view = agent.wait_for_state("web", WorkloadState::Running);
    assert!(agent.terminate());
    assert!(fs::exists(format!("/proc/{}", pid_of(&view))).unwrap());
    agent.start_again();
    assert_eq!(
        agent.wait_for_state("web", WorkloadState::Running).pid,
        view.pid
    );
    let left = agent.cli(&["shutdown"]);
    let said = String::from_utf8_lossy(&left.stdout).into_owned();
    assert_eq!(said, "the agent has ended; its workloads run on\n");
    agent.wait_for_end();
    agent.start_again();
    assert_eq!(
        agent.wait_for_state("web", WorkloadState::Running).pid,
        view.pid
    );
    let ended = agent.cli(&["shutdown", "--workloads"]);
    assert!(ended.status.success(), "{ended:?}");
    agent.wait_for_end();
    assert!(!fs::exists(format!("/proc/{}", pid_of(&view))).unwrap());
    assert!(!enforcer_tests::slot::root().exists());
    assert!(!fs::exists("/sys/fs/bpf/enforcer").unwrap());
}

/// Other programs than those that were left, as another build has them: over the same
/// maps, in the place of the older ones.
#[test]
fn other_programs_take_the_place_of_those_that_were_left() {
    let text = workload("hog", "hog-on-signal", "cgroup: { memory.max: 8M }")
        + &workload("told", "rest", "");
    let mut agent = Agent::start(&manifest(&text));
    let before = agent.wait_for_state("hog", WorkloadState::Running);
    let reported = agent.wait_for_state("told", WorkloadState::Running);
    wait_for("it to listen", || {
        agent.output("hog").contains("ready").then_some(())
    });
    let programs = || {
        let parent = fs::read_dir("/sys/fs/bpf/enforcer").unwrap().flatten();
        let folders = parent.flat_map(|entry| fs::read_dir(entry.path()).unwrap().flatten());
        let folders = folders.filter(|entry| entry.path().is_dir());
        let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.collect::<Vec<_>>()
    };
    let first = programs();
    assert_eq!(first.len(), 1, "{first:?}");
    agent.kill();
    // Seen by the programs that were left, and reported by an agent with others.
    send(&before, Signal::SIGUSR1);
    send(&reported, Signal::SIGTERM);
    for view in [&before, &reported] {
        let gone = format!("/proc/{}", pid_of(view));
        wait_for("it to be gone", || {
            (!fs::exists(&gone).unwrap()).then_some(())
        });
    }
    agent.set_arguments(&["--ebpf", "pid"]);
    agent.start_again();
    let killed = agent.wait_for_events::<Incident>("hog", 1);
    assert_eq!(killed[0].details.source, OomSource::Ebpf, "{killed:#?}");
    assert_eq!(killed[0].details.victims[0].pid, pid_of(&before));
    let exit = agent.wait_for_events::<Exit>("told", 1);
    assert_eq!(exit[0].details.signal, Some(15), "{exit:#?}");
    let second = programs();
    assert_eq!(second.len(), 1, "{second:?}");
    assert_ne!(first, second);
    // And these see as well.
    let view = agent.wait_for_state("hog", WorkloadState::Running);
    wait_for("it to listen again", || {
        (agent.output("hog").matches("ready").count() == 2).then_some(())
    });
    send(&view, Signal::SIGUSR1);
    let killed = agent.wait_for_events::<Incident>("hog", 2);
    assert_eq!(killed[1].details.source, OomSource::Ebpf, "{killed:#?}");
    assert_eq!(
        killed[1].details.counter_before,
        killed[0].details.counter_after
    );
}

/// The next agent supervises what runs, whatever has become of the manifest meanwhile.
#[test]
fn a_manifest_with_a_fault_leaves_no_workload_unsupervised() {
    let more = "cgroup: { memory.max: 30M }\nrecovery: { backoff: off, budget: off }";
    let good = manifest(&workload("web", "rest", more));
    let mut agent = Agent::start_daemon(&good);
    let before = agent.wait_for_state("web", WorkloadState::Running);
    agent.kill();
    agent.write_manifest("version: 1\nworkloads:\n  web:\n    comand: [/bin/fixture]\n");
    agent.start_again();
    assert_eq!(agent.workload("web").pid, before.pid);
    let refused = || {
        let events = agent.all_events::<ConfigChange>();
        let reported = |event: &Event<ConfigChange>| matches!(&event.details, ConfigChange::ManifestRefused(why) if why.contains("comand"));
        events.iter().any(reported).then_some(())
    };
    wait_for("the fault to be reported", refused);
    send(&before, Signal::SIGKILL);
    let view = wait_for("a restart", || {
        let view = agent.workload("web");
        (view.restarts == 1 && view.state == WorkloadState::Running).then_some(view)
    });
    assert_eq!(
        kernel::read("web", "memory.max").as_deref(),
        Some("31457280")
    );
    let unmanaged = |event: &Event<ConfigChange>| event.details == ConfigChange::Unmanaged;
    assert!(!agent.events::<ConfigChange>("web").iter().any(unmanaged));
    agent.write_manifest(&good.replace("30M", "40M"));
    wait_for("the mended manifest to be in force", || {
        (kernel::read("web", "memory.max").as_deref() == Some("41943040")).then_some(())
    });
    assert_eq!(agent.workload("web").pid, view.pid);
}

/// At a first start there is nothing to go on with: the sound files are in force.
#[test]
fn the_sound_files_of_a_folder_are_in_force_beside_a_bad_one() {
    let mut agent = Agent::start_daemon("version: 1\nworkloads: {}\n");
    agent.kill();
    let folder = agent.folder().join("manifest.yaml");
    fs::remove_file(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("a.yaml", &manifest(&workload("first", "rest", "")));
    write("b.yaml", "version: 1\nworkloads: [\n");
    // It is sound alone, and contradicts the first.
    write("c.yaml", &manifest(&workload("first", "burn", "")));
    write("d.yaml", &manifest(&workload("last", "rest", "")));
    agent.start_again();
    for name in ["first", "last"] {
        agent.wait_for_state(name, WorkloadState::Running);
    }
    let reported = agent.log();
    assert!(
        reported.contains("b.yaml") && reported.contains("c.yaml"),
        "{reported}"
    );
}
