//! The workloads' outputs: what a program may do with them, and that nothing is lost.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::Degraded;
use enforcer_model::views::WorkloadView;
use enforcer_tests::agent::{Agent, ENFORCER};
use enforcer_tests::disk::Disk;
use enforcer_tests::{kernel, slot, wait_for, wait_within};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

/// Not every host's init makes these links.
fn make_links() {
    for (name, number) in [("stdin", 0), ("stdout", 1), ("stderr", 2)] {
        let _ = symlink(format!("/proc/self/fd/{number}"), format!("/dev/{name}"));
    }
}

fn holder() -> u32 {
    let listed = fs::read_to_string(slot::root().join("holder/cgroup.procs")).unwrap();
    listed.trim().parse().unwrap()
}

fn kill_holder() -> u32 {
    let pid = holder();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    wait_for("the holder to be gone", || {
        let left = fs::read_to_string(slot::root().join("holder/cgroup.procs")).unwrap();
        (!left.lines().any(|line| line == pid.to_string())).then_some(())
    });
    pid
}

fn numbers(output: &str) -> Vec<u32> {
    output.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_program_opens_its_outputs_again() {
    make_links();
    let of_root = workload("root", "reopen", "").replace("user: web", "user: root");
    let agent = Agent::start(&manifest(&format!(
        "{}{of_root}",
        workload("web", "reopen", "")
    )));
    for name in ["web", "root"] {
        let expected = "one\ntwo\nthree\nfour\nfive\n";
        wait_for("all five lines", || {
            (agent.output(name) == expected).then_some(())
        });
    }
    let shown = agent.cli(&["logs", "web", "--tail", "2"]);
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "four\nfive\n");
}

#[test]
fn a_program_cannot_change_the_file_that_its_output_goes_to() {
    let more = "rlimits: { fsize: 4K }\nlogs: { max_size: 64K, keep: 1 }";
    let agent = Agent::start(&manifest(&format!(
        "{}{}",
        workload("stretch", "stretch", ""),
        workload("limited", "flood 1", more)
    )));
    wait_for("its answer", || {
        (agent.output("stretch") == "before\nErr(EINVAL)\n").then_some(())
    });
    // A limit of its own files is none of its output's.
    wait_for("the last line", || {
        agent
            .output("limited")
            .contains("000000016383x")
            .then_some(())
    });
    assert_eq!(agent.workload("limited").state, WorkloadState::Running);
}

#[test]
fn what_a_program_said_last_is_in_its_log_when_it_is_asked_for() {
    let more = "recovery: { restart: never }";
    let agent = Agent::start(&manifest(&workload("brief", "count 3 0", more)));
    agent.wait_for_state("brief", WorkloadState::Running);
    let shown = wait_for("three lines", || {
        let shown = agent.cli(&["logs", "brief"]);
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        (text.lines().count() >= 3).then_some(text)
    });
    assert_eq!(shown, "0\n1\n2\n");
}

/// One hundred writers, and whatever keeps their outputs is killed again and again.
#[test]
fn no_writer_dies_and_no_line_is_lost_after_any_kill() {
    let names: Vec<String> = (0..100).map(|number| format!("w{number}")).collect();
    let reported = "/tmp/enough";
    let mode = format!("count-until {reported} 20");
    let all: String = names.iter().map(|name| workload(name, &mode, "")).collect();
    let mut agent = Agent::start_daemon(&manifest(&all));
    let minutes = Duration::from_secs(120);
    wait_within(minutes, "all to run", || {
        let all = agent.workloads();
        let running = |view: &&WorkloadView| view.state == WorkloadState::Running;
        let count = all.iter().filter(running).count();
        (count == names.len()).then_some(())
    });
    let first = kill_holder();
    wait_for("another holder", || {
        let listed = fs::read_to_string(slot::root().join("holder/cgroup.procs")).ok()?;
        listed
            .trim()
            .parse::<u32>()
            .ok()
            .filter(|pid| *pid != first)
    });
    agent.start_again();
    for _ in 0..3 {
        kill_holder();
        agent.start_again();
    }
    fs::write(reported, "").unwrap();
    let ended = |name: &String| agent.output(name).ends_with("\nend\n");
    wait_within(minutes, "the last lines", || {
        names.iter().all(ended).then_some(())
    });
    for name in &names {
        let output = agent.output(name);
        let found = numbers(output.strip_suffix("end\n").unwrap());
        let expected: Vec<u32> = (0..u32::try_from(found.len()).unwrap()).collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(agent.workload(name).restarts, 0, "{name}");
    }
}

/// Without a holder and without an agent, a writer waits at its full pipe.
#[test]
fn a_writer_without_a_reader_waits_and_loses_nothing() {
    let more = "logs: { max_size: 4M }";
    let reported = enforcer_tests::agent::next_folder().join("told");
    let mode = format!("flood-when-told 1 {}", reported.display());
    let mut agent = Agent::start_daemon(&manifest(&workload("chatty", &mode, more)));
    agent.wait_for_state("chatty", WorkloadState::Running);
    agent.kill();
    kill_holder();
    fs::write(&reported, "").unwrap();
    let writer = kernel::processes("chatty")[0];
    wait_for("the writer to wait at its full pipe", || {
        let call = fs::read_to_string(format!("/proc/{writer}/wchan")).ok()?;
        call.contains("pipe_write").then_some(())
    });
    agent.start_again();
    wait_for("all of it", || {
        let output = agent.output("chatty");
        let lines: Vec<&str> = output.lines().collect();
        let number = |line: &&str| line[..12].parse::<usize>().unwrap();
        let is_whole = lines
            .iter()
            .enumerate()
            .all(|(at, line)| number(line) == at);
        assert!(is_whole, "lines are missing or there twice");
        (lines.len() == (1 << 20) / 64).then_some(())
    });
    assert_eq!(agent.workload("chatty").restarts, 0);
}

#[test]
fn rotation_tools_are_followed() {
    let agent = Agent::start(&manifest(&workload("web", "count 1000000 10", "")));
    let logs = agent.folder().join("state/logs");
    let place = logs.join("web.log");
    let written = || fs::metadata(&place).is_ok_and(|file| file.len() > 20);
    wait_for("some lines", || written().then_some(()));
    // As logrotate does: by a new file, and with `copytruncate`.
    fs::rename(&place, logs.join("moved")).unwrap();
    wait_for("a new file", || written().then_some(()));
    fs::File::create(&place).unwrap();
    wait_for("the same file again", || written().then_some(()));
    let text = fs::read(&place).unwrap();
    assert!(!text.contains(&0), "it goes on at its beginning");
    let moved = numbers(&fs::read_to_string(logs.join("moved")).unwrap());
    let expected: Vec<u32> = (0..u32::try_from(moved.len()).unwrap()).collect();
    assert_eq!(moved, expected);
}

#[test]
fn a_full_disk_costs_the_oldest_lines_and_no_workload() {
    let logs = enforcer_tests::agent::next_folder().join("state/logs");
    fs::create_dir_all(&logs).unwrap();
    mount(
        Some("logs"),
        &logs,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=512k"),
    )
    .unwrap();
    let more = "logs: { max_size: 64K, keep: 100 }";
    let agent = Agent::start(&manifest(&format!(
        "{}{}",
        workload("chatty", "flood 2", more),
        workload("slow", "count 1000000 2", "")
    )));
    assert!(logs.starts_with(agent.folder()));
    // Four times what there is room for: the newest is there, and nothing was lost otherwise.
    wait_for("the last line", || {
        agent
            .output("chatty")
            .contains("000000032767x")
            .then_some(())
    });
    let degraded = agent.all_events::<Degraded>();
    assert!(degraded.is_empty(), "{degraded:?}");
    // Now nothing of the agent's own can be given up.
    for number in 1..100 {
        let _ = fs::remove_file(logs.join(format!("chatty.log.{number}")));
    }
    let mut filler = fs::File::create(logs.join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[b'f'; 4096]).is_ok() {}
    let why = wait_for("the loss to be reported", || {
        Some(agent.all_events::<Degraded>().pop()?.details.why)
    });
    assert!(
        why.starts_with("slow: ") && why.ends_with("were lost: No space left on device"),
        "{why}"
    );
    drop(filler);
    fs::remove_file(logs.join("filler")).unwrap();
    let before = agent.output("slow").len();
    wait_for("the log to go on", || {
        (agent.output("slow").len() > before).then_some(())
    });
    assert_eq!(agent.workload("slow").restarts, 0);
}

#[test]
fn a_disk_that_hangs_stops_no_workload() {
    let logs = enforcer_tests::agent::next_folder().join("state/logs");
    let disk = Disk::mounted_at(&logs);
    let agent = Agent::start(&manifest(&workload("web", "count 1000000 1", "")));
    wait_for("some lines", || {
        (!agent.output("web").is_empty()).then_some(())
    });
    let frozen = disk.freeze();
    let why = wait_for("the loss to be reported", || {
        Some(agent.all_events::<Degraded>().pop()?.details.why)
    });
    let expected = "were lost: the disk has not taken an earlier line within 1 s";
    assert!(why.starts_with("web: ") && why.ends_with(expected), "{why}");
    // Other workloads begin meanwhile.
    assert!(agent.cli(&["restart", "web"]).status.success());
    drop(frozen);
    let before = agent.output("web").len();
    wait_for("the log to go on", || {
        (agent.output("web").len() > before).then_some(())
    });
    drop(agent);
    drop(disk);
}

#[test]
fn a_holder_becomes_the_version_of_its_agent() {
    let mut agent = Agent::start_daemon(&manifest(&workload("web", "count 1000 5", "")));
    let before = holder();
    let executed = || fs::metadata(format!("/proc/{before}/exe")).unwrap();
    let inode = || std::os::unix::fs::MetadataExt::ino(&executed());
    let old = inode();
    // Another file is another version.
    fs::copy(ENFORCER, "/tmp/next").unwrap();
    mount(
        Some("/tmp/next"),
        ENFORCER,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    agent.start_again();
    wait_for("the holder to be renewed", || {
        (inode() != old).then_some(())
    });
    assert_eq!(holder(), before, "it is the same process");
    let name = fs::read_to_string(format!("/proc/{before}/comm")).unwrap();
    assert_eq!(name, "enforcer\n");
    wait_for("all lines", || {
        (numbers(&agent.output("web")).len() == 1000).then_some(())
    });
    let expected: Vec<u32> = (0..1000).collect();
    assert_eq!(numbers(&agent.output("web")), expected);
    // It has no rights but those to its files.
    let status = fs::read_to_string(format!("/proc/{before}/status")).unwrap();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        // CAP_DAC_OVERRIDE and CAP_FOWNER.
        let expected = format!("{set}:\t000000000000000a");
        assert!(status.contains(&expected), "{status}");
    }
}

/// Whoever keeps the output dies, and with it the reader that came with the first descriptor.
#[test]
fn a_program_that_writes_to_an_output_opened_again_outlives_the_holder() {
    make_links();
    let agent = Agent::start(&manifest(&workload("web", "count-again", "")));
    let lines = || numbers(&agent.output("web"));
    for _ in 0..3 {
        let before = lines().len();
        wait_for("more lines", || (lines().len() > before).then_some(()));
        kill_holder();
    }
    let before = lines().len();
    wait_for("more lines", || (lines().len() > before).then_some(()));
    let found = lines();
    let expected: Vec<u32> = (0..u32::try_from(found.len()).unwrap()).collect();
    assert_eq!(found, expected);
    assert_eq!(agent.workload("web").restarts, 0);
}

/// Its processes are in cgroups that it has made, where the agent lists none of its own.
#[test]
fn the_output_of_a_workload_with_cgroups_of_its_own_is_found_again() {
    let script = "import os, time\n\
        own = '/sys/fs/cgroup' + open('/proc/self/cgroup').read().strip().split(':')[2]\n\
        os.mkdir(f'{own}/in')\n\
        open(f'{own}/in/cgroup.procs', 'w').write('0')\n\
        for number in range(1000000):\n\
        \x20   print(number, flush=True)\n\
        \x20   time.sleep(0.01)";
    let command = serde_json::to_string(&["/usr/bin/python3", "-c", script]).unwrap();
    let text = format!("  nested:\n    command: {command}\n    user: root\n");
    let mut agent = Agent::start_daemon(&manifest(&text));
    wait_for("its first lines", || {
        (!agent.output("nested").is_empty()).then_some(())
    });
    agent.kill();
    kill_holder();
    agent.start_again();
    let before = agent.output("nested").len();
    wait_for("more lines", || {
        (agent.output("nested").len() > before).then_some(())
    });
    let found = numbers(&agent.output("nested"));
    let expected: Vec<u32> = (0..u32::try_from(found.len()).unwrap()).collect();
    assert_eq!(found, expected);
    assert_eq!(agent.workload("nested").restarts, 0);
}
