//! What a sandbox keeps a workload from. Each attempt succeeds without one first.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::spec::{PROMISES, Sandbox, promises};
use enforcer_tests::agent::{Agent, next_folder, pid_of};
use enforcer_tests::{kernel, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

/// The reports of the attempts, which every user may write.
const REPORTS: &str = "/tmp/attempt-reports";
/// The last attempt.
const LAST: &str = "io-priority";
/// What every user may write, and what a strict sandbox closes.
const FREE: &str = "/srv/free";

fn make_ground() {
    for (path, mode) in [
        (REPORTS, 0o777),
        ("/home/other", 0o755),
        ("/boot", 0o755),
        (FREE, 0o777),
    ] {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    fs::write("/home/other/secret", "s3cret").unwrap();
    fs::create_dir_all("/var/tmp").unwrap();
    let file = format!("{FREE}/file");
    for file in ["/tmp/of-the-host", "/var/tmp/of-the-host", &file] {
        fs::write(file, "").unwrap();
    }
    fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    // Its owner alone sets its mode: the user `web`.
    std::os::unix::fs::chown(&file, Some(1000), Some(1000)).unwrap();
    // It is there as a whole or not at all: another test may make it at the same time.
    let program = format!("{FREE}/program");
    if !Path::new(&program).exists() {
        let copy = format!("{program}-{}", std::process::id());
        fs::copy("/usr/bin/attempts", &copy).unwrap();
        fs::rename(copy, program).unwrap();
    }
}

/// A workload that tries everything once.
fn attempts(name: &str, user: &str, agent: &str, more: &str) -> String {
    let report = format!("{REPORTS}/{name}");
    let _ = fs::remove_file(&report);
    format!(
        "  {name}:
    command: [/usr/bin/attempts, {report}, {agent}]
    user: {user}
    read_write_paths: [{REPORTS}]
    recovery: {{ restart: never }}
    {}\n",
        more.replace('\n', "\n    ")
    )
}

/// A workload whose command before the start tries everything once, and then rests.
fn attempts_before(name: &str, user: &str, agent: &str, more: &str) -> String {
    let report = format!("{REPORTS}/{name}");
    let _ = fs::remove_file(&report);
    let more = format!(
        "before_start: [[/usr/bin/attempts, {report}, {agent}]]
        read_write_paths: [{REPORTS}]
        {more}"
    );
    workload(name, "rest", &more).replace("user: web", &format!("user: {user}"))
}

/// What each attempt of a workload came to.
fn outcomes(name: &str) -> BTreeMap<String, String> {
    let text = wait_for("the last attempt", || {
        let text = fs::read_to_string(format!("{REPORTS}/{name}")).ok()?;
        text.contains(&format!("\n{LAST} ")).then_some(text)
    });
    let lines = text.lines();
    let both = lines.map(|line| line.split_once(' ').unwrap());
    both.map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect()
}

fn reached(name: &str) -> BTreeSet<String> {
    let mut all = outcomes(name);
    all.retain(|_, outcome| outcome == "reached");
    all.into_keys().collect()
}

/// The attempts that a level promises to refuse on this kernel.
fn refused(level: Sandbox) -> BTreeSet<String> {
    let release = kernel::release();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let running = (numbers.next().unwrap(), numbers.next().unwrap());
    let kept = promises(level).filter(|promise| promise.since.is_none_or(|since| running >= since));
    let names = kept.flat_map(|promise| promise.attempts);
    names.map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_succeeds_without_a_sandbox_fails_in_it() {
    make_ground();
    let name = SocketAddr::from_abstract_name("attempts").unwrap();
    let _listener = UnixListener::bind_addr(&name).unwrap();
    let socket = next_folder().join("run/enforcer.sock");
    let socket = socket.to_str().unwrap();
    let mut text = String::new();
    for user in ["root", "web"] {
        // There is a process of the same user.
        text.push_str(
            &workload(&format!("{user}-other"), "rest", "")
                .replace("user: web", &format!("user: {user}")),
        );
        for level in Sandbox::ALL {
            let more = format!("sandbox: {level}\nneeds: {{ {user}-other: started }}");
            text.push_str(&attempts(&format!("{user}-{level}"), user, socket, &more));
        }
    }
    // Without the rules for signals, which commands do not have.
    text.push_str(&attempts_before("before", "web", socket, "sandbox: strict"));
    fs::create_dir_all("/run/systemd").unwrap();
    let _ = fs::remove_file("/run/systemd/private");
    let _manager = UnixListener::bind("/run/systemd/private").unwrap();
    fs::set_permissions("/run/systemd/private", PermissionsExt::from_mode(0o666)).unwrap();
    let agent = Agent::start(&manifest(&text));
    let mut tried = BTreeSet::new();
    for user in ["root", "web"] {
        for level in Sandbox::ALL {
            let name = format!("{user}-{level}");
            agent.wait_for_state(&name, WorkloadState::Stopped);
            let found = reached(&name);
            if level == Sandbox::Off {
                tried.extend(found);
                continue;
            }
            let broken: Vec<String> = refused(level).intersection(&found).cloned().collect();
            assert!(broken.is_empty(), "{name}: {broken:?}");
        }
    }
    let all: BTreeSet<String> = outcomes("root-off").into_keys().collect();
    let never: Vec<&String> = all.difference(&tried).collect();
    assert!(never.is_empty(), "these prove nothing: {never:?}");
    let promised = PROMISES.iter().flat_map(|promise| promise.attempts);
    let promised: BTreeSet<String> = promised.map(|name| (*name).to_owned()).collect();
    assert_eq!(tried, promised);
    let left: BTreeSet<String> = reached("web-strict");
    let later: BTreeSet<String> = promised
        .difference(&refused(Sandbox::Strict))
        .cloned()
        .collect();
    assert!(left.is_subset(&later), "{left:?}");
    agent.wait_for_state("before", WorkloadState::Running);
    let mut left = reached("before");
    left.remove("signal-sibling");
    assert!(left.is_subset(&later), "{left:?}");
}

/// Each key opens what it names, and nothing else.
#[test]
fn each_key_opens_what_it_names() {
    make_ground();
    let nowhere = "/nowhere";
    let keys = [
        (
            "tmp",
            "private_tmp: false",
            vec!["hosts-tmp", "hosts-var-tmp"],
        ),
        ("home", "read_only_paths: [/home/other]", vec!["other-home"]),
        (
            "log",
            "devices: [/dev/kmsg]\ncapabilities: [CAP_SYSLOG]",
            vec!["kernel-log-device"],
        ),
        (
            "calls",
            "system_calls: [ptrace, kcmp]",
            vec!["compare", "ptrace"],
        ),
    ];
    let mut text = String::new();
    for (name, key, _) in &keys {
        let more = format!("sandbox: default\n{key}");
        text.push_str(&attempts_before(name, "root", nowhere, &more));
    }
    let namespaces = "sandbox: default\nnamespaces: true";
    text.push_str(&attempts_before("spaces", "web", nowhere, namespaces));
    let agent = Agent::start(&manifest(&text));
    let closed = refused(Sandbox::Default);
    for (name, key, opened) in keys {
        agent.wait_for_state(name, WorkloadState::Running);
        let opened: BTreeSet<String> = opened.into_iter().map(str::to_owned).collect();
        let found: BTreeSet<String> = reached(name).intersection(&closed).cloned().collect();
        assert_eq!(found, opened, "{key}");
    }
    agent.wait_for_state("spaces", WorkloadState::Running);
    let found = reached("spaces");
    assert!(
        found.contains("unshare-users") && found.contains("clone3"),
        "{found:?}"
    );
    assert!(!found.contains("mount"), "{found:?}");
}

/// The keys that open `strict` do as well.
#[test]
fn each_key_of_strict_opens_what_it_names() {
    make_ground();
    let nowhere = "/nowhere";
    let elsewhere = [
        "make-elsewhere",
        "mode-elsewhere",
        "truncate-elsewhere",
        "write-elsewhere",
    ];
    let peers = "network: { bind: [udp/17171], connect: [\"192.0.2.0/24:9\"] }";
    let all = "network: { bind: [any], connect: [any] }";
    let keys = [
        (
            "paths",
            "read_write_paths: [/tmp/attempt-reports, /srv/free]",
            elsewhere.to_vec(),
        ),
        (
            "programs",
            "read_only_paths: [/srv/free]",
            vec!["execute-elsewhere"],
        ),
        // What is below a place of programs and can be changed is not executed.
        (
            "nested",
            "read_only_paths: [/srv]\nread_write_paths: [/tmp/attempt-reports, /srv/free]",
            elsewhere.to_vec(),
        ),
        (
            "calls",
            "system_calls: [chown, setpriority]",
            vec!["owner", "priority"],
        ),
        (
            "peers",
            peers,
            vec![
                "bind-datagrams",
                "connect",
                "connect-fast",
                "connect-mapped",
                "send",
                "send-mapped",
            ],
        ),
        (
            "network",
            all,
            vec![
                "bind",
                "bind-datagrams",
                "bind6",
                "connect",
                "connect-fast",
                "connect-mapped",
                "connect6",
                "send",
                "send-mapped",
                "send6",
            ],
        ),
    ];
    let mut text = String::new();
    for (name, key, _) in &keys {
        let one = attempts(name, "web", nowhere, &format!("sandbox: strict\n{key}"));
        // A later key of the same name is a fault.
        text.push_str(&match key.contains("read_write_paths") {
            true => one.replacen(&format!("    read_write_paths: [{REPORTS}]\n"), "", 1),
            false => one,
        });
    }
    let agent = Agent::start(&manifest(&text));
    let closed = refused(Sandbox::Strict);
    for (name, key, opened) in keys {
        agent.wait_for_state(name, WorkloadState::Stopped);
        let opened: BTreeSet<String> = opened.into_iter().map(str::to_owned).collect();
        let found: BTreeSet<String> = reached(name).intersection(&closed).cloned().collect();
        assert_eq!(found, opened, "{key}");
    }
}

/// Tries everything in the cgroup of a workload, as root and outside of its other restrictions.
fn reached_in_cgroup(name: &str, report: &str) -> BTreeSet<String> {
    let _ = fs::remove_file(format!("{REPORTS}/{report}"));
    let place = kernel::cgroup(name).join("cgroup.procs");
    let script = format!(
        "echo $$ >{} && exec /usr/bin/attempts {REPORTS}/{report} /nowhere",
        place.display()
    );
    let ended = std::process::Command::new("/usr/bin/dash")
        .args(["-c", &script])
        .status()
        .unwrap();
    assert!(ended.success());
    reached(report)
}

/// A cgroup that another process has removed is made again with the filters of its network.
#[test]
fn a_cgroup_that_is_made_again_has_its_filters() {
    make_ground();
    let agent = Agent::start(&manifest(&workload("web", "rest", "sandbox: strict")));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    let of_network: BTreeSet<String> = PROMISES
        .iter()
        .filter(|promise| promise.means == "eBPF at the cgroup")
        .flat_map(|promise| promise.attempts)
        .map(|name| (*name).to_owned())
        .collect();
    let open = |report: &str| -> BTreeSet<String> {
        let reached = reached_in_cgroup("web", report);
        reached.intersection(&of_network).cloned().collect()
    };
    assert_eq!(open("before"), BTreeSet::new());
    let home = kernel::cgroup("web");
    let held = Pid::from_raw(i32::try_from(agent.pid()).unwrap());
    kill(held, Signal::SIGSTOP).unwrap();
    fs::write("/sys/fs/cgroup/cgroup.procs", pid.to_string()).unwrap();
    fs::remove_dir(&home).unwrap();
    kill(held, Signal::SIGCONT).unwrap();
    wait_for("it to be home again", || {
        let place = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        place.trim().ends_with("/web").then_some(())
    });
    assert_eq!(open("after"), BTreeSet::new());
    // Without a sandbox, the same cgroup has none.
    agent.write_manifest(&manifest(&workload("web", "rest", "")));
    assert!(agent.cli(&["apply"]).status.success());
    agent.wait_for_state("web", WorkloadState::Running);
    assert_eq!(open("off"), of_network);
}

/// A server of datagrams answers from its declared port, and connects to no peer.
#[test]
fn a_server_of_datagrams_answers_its_clients() {
    const SERVER: &str = "
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('0.0.0.0', 18053))
while True:
    asked, client = server.recvfrom(100)
    try:
        socket.create_connection(('192.0.2.77', 9))
        outcome = 'connected'
    except OSError as error:
        outcome = str(error.errno)
    server.sendto(asked + outcome.encode(), client)
";
    // SIOCSIFADDR
    const ADDRESS: &str = "
import fcntl, socket, struct
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
address = struct.pack('16sH2s4s8s', b'lo:1', socket.AF_INET, b'', socket.inet_aton('192.0.2.77'), b'')
fcntl.ioctl(made, 0x8916, address)
";
    let python = |script: &str| {
        let mut command = std::process::Command::new("/usr/bin/python3");
        command.args(["-c", script]).status().unwrap()
    };
    assert!(python(ADDRESS).success());
    fs::write("/tmp/datagrams.py", SERVER).unwrap();
    let keys =
        "sandbox: strict\nread_only_paths: [/tmp/datagrams.py]\nnetwork: { bind: [udp/18053] }";
    let text = workload("web", "rest", keys).replace(
        "[/bin/fixture, \"rest\"]",
        "[/usr/bin/python3, /tmp/datagrams.py]",
    );
    let agent = Agent::start(&manifest(&text));
    agent.wait_for_state("web", WorkloadState::Running);
    let client = std::net::UdpSocket::bind("192.0.2.77:0").unwrap();
    client
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    let answer = wait_for("an answer", || {
        client.send_to(b"x", "192.0.2.77:18053").ok()?;
        let mut answer = [0; 100];
        let (length, _) = client.recv_from(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    });
    assert_eq!(answer, format!("x{}", nix::libc::EPERM));
}

/// What a server did is what is proposed, and with that it runs in `strict`.
#[test]
fn what_was_learnt_is_enough_for_strict() {
    const PORT: u16 = 18099;
    let probe = format!("probes: {{ {} }}", crate::until_it_listens(PORT));
    let mode = format!("serve {PORT}");
    let agent = Agent::start(&manifest(&workload("web", &mode, &probe)));
    agent.wait_for_state("web", WorkloadState::Running);
    let learnt = agent.cli(&["sandbox", "learn", "web", "--for", "5s", "--restart"]);
    let proposed = String::from_utf8(learnt.stdout).unwrap();
    let said = String::from_utf8_lossy(&learnt.stderr).into_owned();
    assert!(learnt.status.success(), "{said}");
    println!("{proposed}");
    assert!(proposed.starts_with("# "), "{proposed}");
    assert!(proposed.contains("\nsandbox: strict\n"), "{proposed}");
    assert!(proposed.contains("bind: [tcp/18099]"), "{proposed}");
    // What the agent's child did before its program is none of the program's needs.
    assert!(!proposed.contains("setresuid"), "{proposed}");
    // It cannot listen without what was learnt.
    let strict = workload(
        "web",
        &mode,
        &format!("{probe}\nsandbox: strict\nrecovery: {{ restart: never }}"),
    );
    agent.write_manifest(&manifest(&strict));
    assert!(agent.cli(&["apply"]).status.success());
    agent.wait_for_state("web", WorkloadState::Failed);
    agent.write_manifest(&manifest(&workload(
        "web",
        &mode,
        &format!("{probe}\n{proposed}"),
    )));
    assert!(agent.cli(&["apply"]).status.success());
    agent.wait_for_state("web", WorkloadState::Running);
    wait_for("it to be healthy", || {
        let found = agent.cli(&["status", "web", "--json"]);
        String::from_utf8(found.stdout)
            .ok()?
            .contains("\"health\":\"healthy\"")
            .then_some(())
    });
    let inspected = agent.cli(&["inspect", "web", "--json"]);
    assert!(
        String::from_utf8(inspected.stdout)
            .unwrap()
            .contains("\"sandbox\":\"strict\"")
    );
    // A workload must exist to be watched.
    let unknown = agent.cli(&["sandbox", "learn", "nobody"]);
    assert_eq!(unknown.status.code(), Some(4));
}

/// `version: 2` has it by default, except for root, and `version: 1` has not.
#[test]
fn the_second_version_of_a_manifest_has_a_sandbox() {
    make_ground();
    let text = workload("web", "rest", "") + &workload("root", "rest", "");
    let root = text.rfind("user: web").unwrap();
    let text = format!("{}user: root\n", &text[..root]);
    let agent = Agent::start(&manifest(&text).replace("version: 1", "version: 2"));
    let hides = |name: &str| {
        let pid = pid_of(&agent.wait_for_state(name, WorkloadState::Running));
        let inside = format!("/proc/{pid}/root/home/other/secret");
        (pid, !Path::new(&inside).exists())
    };
    let (web, hidden) = hides("web");
    assert!(hidden);
    assert!(!hides("root").1);
    assert_eq!(kernel::status(web, "Seccomp").unwrap().trim(), "2");
    assert_eq!(kernel::status(web, "NoNewPrivs").unwrap().trim(), "1");
    // The first version has none.
    agent.write_manifest(&manifest(&workload("web", "rest", "")));
    assert!(agent.cli(&["apply"]).status.success());
    let (again, hidden) = hides("web");
    assert!(again != web && !hidden);
}
