//! What real programs and people do to a workload: they freeze it, build cgroups inside it,
//! end by odd signals, listen on IPv6, and keep their files in their own way.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Degraded, Exit, RestartPlan, Start, StartError};
use enforcer_model::ids::Cause;
use enforcer_model::oom::{Incident, Scope};
use enforcer_model::probe::Answer;
use enforcer_model::spec::ProbeName;
use enforcer_model::units::{Bytes, human_duration};
use enforcer_tests::agent::{Agent, command, folder, pid_of, prepare};
use enforcer_tests::{kernel, slowness, wait_for};
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

const DASH: &str = "/usr/bin/dash";
const PYTHON: &str = "/usr/bin/python3";

/// A workload that runs a command line as this user.
fn program(name: &str, user: &str, command: &[&str], more: &str) -> String {
    let command = serde_json::to_string(command).unwrap();
    let mut text = format!("  {name}:\n    command: {command}\n    user: {user}\n");
    for line in more.lines().filter(|line| !line.trim().is_empty()) {
        text.push_str(&format!("    {}\n", line.trim()));
    }
    text
}

fn failed_start(agent: &Agent, name: &str) -> StartError {
    wait_for("a failed start", || {
        let starts = agent.events::<Start>(name);
        let mut errors = starts.iter().filter_map(|start| start.details.error());
        errors.next().cloned()
    })
}

#[test]
fn a_frozen_cgroup_is_thawed_before_a_start() {
    let agent = Agent::start(&manifest(&workload("ice", "rest", "")));
    let before = agent.wait_for_state("ice", WorkloadState::Running);
    fs::write(kernel::cgroup("ice").join("cgroup.freeze"), "1").unwrap();
    assert!(agent.cli(&["kill", "ice"]).status.success());
    assert!(agent.cli(&["start", "ice"]).status.success());
    let view = agent.wait_for_state("ice", WorkloadState::Running);
    assert_ne!(view.pid, before.pid);
    fs::write(kernel::cgroup("ice").join("cgroup.freeze"), "1").unwrap();
    assert!(agent.cli(&["restart", "ice"]).status.success());
    assert_eq!(kernel::read("ice", "cgroup.freeze").as_deref(), Some("0"));
    assert!(agent.cli(&["stop", "ice"]).status.success());
}

/// The whole tree is frozen, so that a child stops before its program runs.
#[test]
fn a_start_that_stands_still_fails_in_its_time_and_gives_its_place_back() {
    let calm = workload("calm", "rest", "");
    let host = "version: 1\nhost: { starts_at_once: 1 }\nworkloads:\n";
    let agent = Agent::start(&format!("{host}{calm}"));
    agent.wait_for_state("calm", WorkloadState::Running);
    let freeze = |value: &str| {
        fs::write(kernel::workloads().join("cgroup.freeze"), value).unwrap();
    };
    freeze("1");
    let never = "recovery: { restart: never }";
    // A start that nothing holds up is over by then.
    let limit = Duration::from_secs_f64((5.0 * slowness()).ceil());
    let late = format!("start_timeout: {}s\n{never}", limit.as_secs());
    let late = workload("late", "rest", &late);
    let endless = workload("endless", "rest", "start_timeout: 1h\npriority: 10");
    agent.write_manifest(&format!("{host}{calm}{late}{endless}"));
    assert!(agent.cli(&["apply"]).status.success());
    let details = failed_start(&agent, "late");
    let stage = format!("execute /bin/fixture within {}", human_duration(limit));
    assert_eq!(details.stage, stage, "{details:?}");
    agent.wait_for_state("late", WorkloadState::Failed);
    // Its place was taken by the next one, and no one waits an hour for it.
    agent.wait_for_state("endless", WorkloadState::Starting);
    assert!(agent.cli(&["stop", "endless"]).status.success());
    assert_eq!(agent.workload("endless").state, WorkloadState::Stopped);
    assert!(kernel::processes("endless").is_empty());
    assert!(!agent.cli(&["start", "late"]).status.success());
    freeze("0");
    assert!(agent.cli(&["start", "late"]).status.success());
    assert_eq!(agent.workload("calm").restarts, 0);
}

#[test]
fn a_workload_that_builds_cgroups_of_its_own_is_restarted() {
    let script = "c=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir -p $c/in/deep; \
                  echo $$ > $c/in/cgroup.procs; echo +memory > $c/cgroup.subtree_control; exit 1";
    let more = "recovery: { backoff: off, budget: off }";
    let agent = Agent::start(&manifest(&program(
        "nested",
        "root",
        &[DASH, "-c", script],
        more,
    )));
    wait_for("three restarts", || {
        (agent.workload("nested").restarts >= 3).then_some(())
    });
    for start in agent.events::<Start>("nested") {
        assert_eq!(start.details.error(), None);
    }
}

/// Some die before the program is executed, and some while it is loaded.
#[test]
fn a_limit_too_small_to_execute_is_reported_as_a_lack_of_memory() {
    let sizes = ["4K", "16K", "32K", "64K", "128K"];
    let name = |size: &str| format!("of-{}", size.to_lowercase());
    let one = |size: &&str| {
        let more = format!(
            "cgroup: {{ memory.max: {size}, memory.swap.max: 0 }}\nrecovery: {{ restart: never }}"
        );
        workload(&name(size), "rest", &more)
    };
    let agent = Agent::start(&manifest(&sizes.iter().map(one).collect::<String>()));
    for size in sizes {
        let name = name(size);
        let view = wait_for("its end, or its life", || {
            let view = agent.workload(&name);
            (view.state == WorkloadState::Failed || !agent.output(&name).is_empty()).then_some(view)
        });
        let start = agent.wait_for_event::<Start>(&name);
        if let Some(error) = start.details.error() {
            assert!(error.error.to_lowercase().contains("memory"), "{error:?}");
            assert_eq!(view.pid, None);
        } else if view.state == WorkloadState::Failed {
            let exit = agent.wait_for_event::<Exit>(&name);
            assert!(exit.details.oom_killed, "{exit:?}");
        }
        // A victim has the program's name, not that of a thread of the agent.
        for incident in agent.events::<Incident>(&name) {
            for victim in incident.details.victims {
                assert_eq!(victim.command, "fixture");
            }
        }
        println!("{size}: {:?}", start.details);
    }
}

#[test]
fn an_exit_by_a_real_time_signal_is_reported_with_its_number() {
    let script = "import os; os.kill(os.getpid(), 34)";
    let more = "recovery: { restart: never }";
    let agent = Agent::start(&manifest(&program(
        "odd",
        "web",
        &[PYTHON, "-c", script],
        more,
    )));
    let exit = agent.wait_for_event::<Exit>("odd");
    assert_eq!(exit.details.signal, Some(34), "{exit:?}");
    assert!(!exit.details.oom_killed);
}

#[test]
fn an_exec_probe_that_a_signal_ended_has_failed_and_one_of_its_ceiling_has_not() {
    let probe = |command: &[&str]| {
        let command = serde_json::to_string(command).unwrap();
        format!(
            "probes: {{ liveness: {{ exec: {{ command: {command} }}, period: 500ms, timeout: 1m, failure_threshold: 2 }} }}"
        )
    };
    let killed = workload("killed", "rest", &probe(&[DASH, "-c", "kill -9 $$"]));
    let timer = workload("timer", "rest", &probe(&[DASH, "-c", "kill -34 $$"]));
    let greedy = [PYTHON, "-c", "x = b'x' * (200 << 20); exit(1)"];
    let greedy = workload("greedy", "rest", &probe(&greedy));
    let agent = Agent::start(&manifest(&format!("{killed}{timer}{greedy}")));
    for name in ["killed", "timer"] {
        let restart = agent.wait_for_event::<RestartPlan>(name);
        assert_eq!(restart.reason, Some(Cause::Liveness), "{restart:?}");
    }
    wait_for("the ceiling to be named", || {
        let said = agent.inspect("greedy").probes.remove(0).last?.text;
        said.contains("more memory than a command may have")
            .then_some(())
    });
    assert!(agent.events::<RestartPlan>("greedy").is_empty());
}

#[test]
fn a_server_that_listens_on_ipv6_alone_is_reached_by_name() {
    let script = "import http.server as h, socketserver as s, socket\n\
                  class S(s.TCPServer): address_family = socket.AF_INET6\n\
                  S(('::1', 9050), h.SimpleHTTPRequestHandler).serve_forever()";
    let more = "probes: { readiness: { http: { host: localhost, port: 9050 }, period: 500ms, timeout: 1m } }";
    let agent = Agent::start(&manifest(&program(
        "six",
        "web",
        &[PYTHON, "-c", script],
        more,
    )));
    wait_for("it to be ready", || {
        (agent.workload("six").ready).then_some(())
    });
}

/// Nothing listens, and the kernel has no other port to connect from.
#[test]
fn a_tcp_probe_that_reaches_itself_has_failed() {
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    fs::write(range, "40000 40001").unwrap();
    let more = "probes: { liveness: { tcp: { port: 40000 }, period: 200ms, timeout: 1m, failure_threshold: 2 } }";
    let agent = Agent::start(&manifest(&workload("deaf", "rest", more)));
    let restart = agent.wait_for_event::<RestartPlan>("deaf");
    assert_eq!(restart.reason, Some(Cause::Liveness), "{restart:?}");
}

#[test]
fn files_of_variables_are_read_as_people_have_them() {
    let place = folder();
    let good = place.join("good.env");
    let text = b"\xef\xbb\xbfFIRST=1\r\nexport SECOND=2\r\nLATIN=\xe4\xf6\r\n";
    fs::write(&good, text).unwrap();
    let fifo = place.join("fifo.env");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let files = |path: &std::path::Path| {
        format!(
            "environment_files: [{}]\nrecovery: {{ restart: never }}",
            path.display()
        )
    };
    let script = "import os, time\n\
                  for name in [b'FIRST', b'SECOND', b'LATIN']: print(name, os.environb.get(name))\n\
                  print('end of it', flush=True); time.sleep(1e9)";
    let good = program("good", "web", &[PYTHON, "-c", script], &files(&good));
    let fifo = workload("fifo", "rest", &files(&fifo));
    let zero = workload("zero", "rest", &files(std::path::Path::new("/dev/zero")));
    let agent = Agent::start(&manifest(&format!("{good}{fifo}{zero}")));
    wait_for("its variables", || {
        agent.output("good").contains("end of it").then_some(())
    });
    let printed = agent.output("good");
    for line in [
        "b'FIRST' b'1'\n",
        "b'SECOND' b'2'\n",
        "b'LATIN' b'\\xe4\\xf6'\n",
    ] {
        assert!(printed.contains(line), "{line:?} is not in {printed:?}");
    }
    for name in ["fifo", "zero"] {
        let details = failed_start(&agent, name);
        assert_eq!(details.error, "it is not a regular file", "{details:?}");
    }
}

#[test]
fn unlimited_open_files_are_as_many_as_the_kernel_gives() {
    let most = fs::read_to_string("/proc/sys/fs/nr_open").unwrap();
    let most = most.trim();
    let free = workload("free", "report", "rlimits: { nofile: unlimited }");
    let more = "rlimits: { nofile: 2000000000 }\nrecovery: { restart: never }";
    let agent = Agent::start(&manifest(&format!(
        "{free}{}",
        workload("more", "report", more)
    )));
    wait_for("its report", || {
        agent.output("free").contains("end of report").then_some(())
    });
    let line = format!("nofile: {most} {most}");
    assert!(
        agent.output("free").contains(&line),
        "{}",
        agent.output("free")
    );
    let details = failed_start(&agent, "more");
    assert!(details.error.contains("fs.nr_open"), "{details:?}");
}

#[test]
fn an_empty_list_of_capabilities_leaves_root_none() {
    let none = program(
        "none",
        "root",
        &["/bin/fixture", "report"],
        "capabilities: []",
    );
    let all = program("all", "root", &["/bin/fixture", "report"], "");
    let agent = Agent::start(&manifest(&format!("{none}{all}")));
    let caps = |name: &str| {
        wait_for("its capabilities", || {
            let printed = agent.output(name);
            let line = printed
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"));
            printed
                .contains("end of report")
                .then_some(line)?
                .map(|line| line.trim().to_owned())
        })
    };
    assert_eq!(caps("none"), "0000000000000000");
    assert_ne!(caps("all"), "0000000000000000");
}

/// As the agent has one under systemd, or in a person's login.
fn in_a_session_keyring() -> nix::Result<()> {
    // SAFETY: without a name, a new anonymous keyring is made.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, 1, std::ptr::null::<libc::c_char>()) };
    nix::errno::Errno::result(joined).map(drop)
}

#[test]
fn workloads_share_no_session_keyring() {
    prepare(in_a_session_keyring);
    let keeps = "import ctypes, time; c = ctypes.CDLL(None)\n\
                 print(c.syscall(248, b'user', b'n', b'secret', 6, -3) > 0, flush=True); time.sleep(1e9)";
    let looks = "import ctypes, time; c = ctypes.CDLL(None)\n\
                 print(c.syscall(250, 10, -3, b'user', b'n', 0), flush=True); time.sleep(1e9)";
    let keeper = program("keeper", "web", &[PYTHON, "-c", keeps], "");
    let agent = Agent::start(&manifest(&keeper));
    wait_for("a key to be kept", || {
        agent.output("keeper").contains("True").then_some(())
    });
    let looker = program("looker", "nobody", &[PYTHON, "-c", looks], "");
    agent.write_manifest(&manifest(&format!("{keeper}{looker}")));
    assert!(agent.cli(&["apply"]).status.success());
    let found = wait_for("an answer", || {
        Some(agent.output("looker")).filter(|text| text.ends_with('\n'))
    });
    assert_eq!(found, "-1\n", "the key of another user was found");
}

#[test]
fn a_manifest_with_a_leading_dot_is_none() {
    let place = folder();
    fs::write(
        place.join("web.yaml"),
        manifest(&workload("web", "rest", "")),
    )
    .unwrap();
    // Emacs' lock, and what macOS leaves.
    symlink("me@host.1", place.join(".#web.yaml")).unwrap();
    fs::write(place.join("._web.yaml"), [0xff, 0, 1]).unwrap();
    let checked = command(&place)
        .arg("validate")
        .arg(&place)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

/// A frozen cgroup of version 1 makes a process as deaf to SIGKILL as a broken disk does.
#[test]
fn a_process_that_cannot_be_killed_is_reported_and_delays_no_other() {
    use nix::mount::{MsFlags, mount};
    let place = "/tmp/freezer";
    fs::create_dir_all(place).unwrap();
    let flags = MsFlags::empty();
    mount(
        Some("cgroup"),
        place,
        Some("cgroup"),
        flags,
        Some("freezer"),
    )
    .unwrap();
    let deep = format!("{place}/deep");
    fs::create_dir_all(&deep).unwrap();
    let more = "stop: { grace: 1s }";
    let two = workload("deaf", "rest", more) + &workload("calm", "rest", "");
    let agent = Agent::start(&manifest(&two));
    let pid = pid_of(&agent.wait_for_state("deaf", WorkloadState::Running));
    fs::write(format!("{deep}/cgroup.procs"), pid.to_string()).unwrap();
    fs::write(format!("{deep}/freezer.state"), "FROZEN").unwrap();
    let stopped = agent.cli(&["stop", "deaf"]);
    assert!(!stopped.status.success(), "{stopped:?}");
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(said.contains("still there after SIGKILL"), "{said}");
    assert!(
        said.contains(&format!("process {pid} (fixture): it is in state D")),
        "{said}"
    );
    assert_eq!(agent.workload("deaf").state, WorkloadState::Stopping);
    assert_eq!(agent.workload("deaf").pid, Some(pid));
    let reported = agent.wait_for_event::<Degraded>("deaf");
    assert_eq!(reported.details.what, "stop", "{reported:?}");
    // The other one is stopped and started meanwhile.
    assert!(agent.cli(&["restart", "calm"]).status.success());
    fs::write(format!("{deep}/freezer.state"), "THAWED").unwrap();
    agent.wait_for_state("deaf", WorkloadState::Stopped);
    wait_for("the freezer to be empty", || fs::remove_dir(&deep).ok());
}

#[test]
fn a_file_of_variables_is_read_with_the_rights_of_its_owner() {
    // Root alone can change the one, and the workload's user the other.
    let private = "/etc/variables-of-root";
    fs::create_dir_all(private).unwrap();
    fs::write(format!("{private}/secret.env"), "SECRET=of root\n").unwrap();
    fs::set_permissions(
        format!("{private}/secret.env"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    fs::create_dir_all("/tmp/web").unwrap();
    std::os::unix::fs::chown("/tmp/web", Some(1000), Some(1000)).unwrap();
    symlink(format!("{private}/secret.env"), "/tmp/web/linked.env").unwrap();
    fs::write("/tmp/web/own.env", "OWN=of web\n").unwrap();
    let reads = |name: &str, file: &str| {
        let more = format!("environment_files: [{file}]\nrecovery: {{ restart: never }}");
        workload(name, "report", &more)
    };
    let agent = Agent::start(&manifest(&format!(
        "{}{}{}",
        reads("root", &format!("{private}/secret.env")),
        reads("own", "/tmp/web/own.env"),
        reads("linked", "/tmp/web/linked.env"),
    )));
    wait_for("what they were given", || {
        let given = agent.output("root").contains("SECRET=of root");
        (given && agent.output("own").contains("OWN=of web")).then_some(())
    });
    let failed = failed_start(&agent, "linked");
    assert_eq!(failed.stage, "read /tmp/web/linked.env", "{failed:?}");
    assert_eq!(failed.errno, Some(libc::EACCES), "{failed:?}");
    fs::remove_dir_all(private).unwrap();
}

#[test]
fn commands_beside_a_workload_have_the_variables_of_its_instance() {
    let (file, noted) = ("/tmp/web.env", "/tmp/noted");
    fs::write(file, "KEY=first\n").unwrap();
    fs::write(noted, "").unwrap();
    std::os::unix::fs::chown(noted, Some(1000), Some(1000)).unwrap();
    let more = format!(
        "environment_files: [{file}]\n\
         probes: {{ readiness: {{ exec: {{ command: [/bin/fixture, note, {noted}, KEY] }}, period: 200ms, timeout: 20s }} }}"
    );
    let agent = Agent::start(&manifest(&workload("web", "rest", &more)));
    let lines = || fs::read_to_string(noted).unwrap().lines().count();
    wait_for("a probe", || (lines() > 0).then_some(()));
    fs::write(file, "KEY=second\n").unwrap();
    let before = lines();
    wait_for("three more", || (lines() >= before + 3).then_some(()));
    fs::remove_file(file).unwrap();
    let before = lines();
    wait_for("three more", || (lines() >= before + 3).then_some(()));
    let all = fs::read_to_string(noted).unwrap();
    assert!(all.lines().all(|line| line == "first"), "{all}");
    assert_eq!(agent.workload("web").state, WorkloadState::Running);
}

#[test]
fn an_oom_kill_at_a_limit_below_the_workloads_own_names_that_limit() {
    let script = "import os, time\n\
        own = '/sys/fs/cgroup' + open('/proc/self/cgroup').read().strip().split(':')[2]\n\
        def write(file, text): open(f'{own}/{file}', 'w').write(text)\n\
        for name in ['main', 'payload']: os.mkdir(f'{own}/{name}')\n\
        write('main/cgroup.procs', '0')\n\
        write('cgroup.subtree_control', '+memory')\n\
        write('payload/memory.max', '24M')\n\
        if os.fork() == 0:\n\
        \x20   write('payload/cgroup.procs', '0')\n\
        \x20   kept = []\n\
        \x20   while True: kept.append(b'x' * (1 << 20))\n\
        os.wait()\n\
        time.sleep(1e9)";
    let more = "cgroup: { memory.max: 512M }";
    let agent = Agent::start(&manifest(&program(
        "nested",
        "root",
        &[PYTHON, "-c", script],
        more,
    )));
    let incident = agent.wait_for_event::<Incident>("nested");
    let details = &incident.details;
    let Scope::Descendant(Some(cgroup)) = &details.scope else {
        panic!("{incident:?}");
    };
    assert!(cgroup.ends_with("/nested/payload"), "{cgroup}");
    assert_eq!(details.limit_bytes, Some(Bytes(24 << 20)), "{incident:?}");
    assert_eq!(agent.workload("nested").state, WorkloadState::Running);
}

/// As a container's entry point: orphans come to it, and eBPF reports the host's process ids.
#[test]
fn as_the_first_process_of_a_namespace_it_collects_orphans_and_says_what_it_lacks() {
    let place = folder();
    let text = manifest(&format!(
        "{}{}",
        workload("web", "orphan", ""),
        workload(
            "hog",
            "hog",
            "cgroup: { memory.max: 8M }\nrecovery: { restart: never }"
        )
    ));
    fs::write(place.join("manifest.yaml"), text).unwrap();
    let said = fs::File::create(place.join("said")).unwrap();
    let mut own = command(&place);
    let mut first = std::process::Command::new("/bin/fixture");
    first.env_clear();
    for (name, value) in own.get_envs() {
        first.env(name, value.unwrap_or_default());
    }
    first.args([
        "first-process",
        enforcer_tests::agent::ENFORCER,
        "run",
        "-f",
    ]);
    first.arg(place.join("manifest.yaml"));
    first.stdout(said.try_clone().unwrap()).stderr(said);
    let mut running = first.spawn().unwrap();
    let ask = |arguments: &[&str]| {
        let asked = command(&place).args(arguments).output().unwrap();
        String::from_utf8_lossy(&asked.stdout).into_owned()
    };
    wait_for("the workload to run", || {
        ask(&["logs", "web"]).contains("ready").then_some(())
    });
    wait_for("the orphan to be collected", || {
        (kernel::read("web", "pids.current").as_deref() == Some("1")).then_some(())
    });
    wait_for("the other one to be killed", || {
        ask(&["events", "--workload", "hog", "--kind", "exit", "--json"])
            .contains("\"oom_killed\":true")
            .then_some(())
    });
    let degraded = ask(&["events", "--kind", "degraded"]);
    assert!(degraded.contains("PID namespace"), "{degraded}");
    own.args(["shutdown", "--workloads"]).status().unwrap();
    let ended = running.wait().unwrap();
    let said = fs::read_to_string(place.join("said")).unwrap();
    assert!(ended.success(), "{ended:?}: {said}");
}

/// python's own server, over TLS with a certificate that signs itself.
#[test]
fn a_server_of_python_is_probed_over_tls() {
    const CERTIFICATE: &str = include_str!("../../../enforcer/src/tls/testdata/own.pem");
    const KEY: &str = include_str!("../../../enforcer/src/tls/testdata/own.key");
    const OTHER: &str = include_str!("../../../enforcer/src/tls/testdata/ca.pem");
    const SCRIPT: &str = "
import http.server, ssl
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('/tmp/python-own.pem', '/tmp/python-own.key')
server = http.server.ThreadingHTTPServer(('127.0.0.1', 9043), Answer)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
";
    fs::write("/tmp/python-own.pem", CERTIFICATE).unwrap();
    fs::write("/tmp/python-own.key", KEY).unwrap();
    fs::write("/tmp/python-other.pem", OTHER).unwrap();
    fs::write("/tmp/python-server.py", SCRIPT).unwrap();
    let timing = "period: 2s, timeout: 60s";
    let https = "port: 9043, server_name: localhost";
    let more = format!(
        "probes: {{ startup: {{ https: {{ {https}, ca_file: /tmp/python-own.pem }}, {timing}, failure_threshold: 1000 }}, readiness: {{ https: {{ {https}, ca_file: /tmp/python-other.pem }}, {timing}, failure_threshold: 1 }} }}"
    );
    let text = program("tls", "web", &[PYTHON, "/tmp/python-server.py"], &more);
    let agent = Agent::start(&manifest(&text));
    // With its certificate it is trusted, and with another one it is not.
    wait_for("the certificate to be refused", || {
        let probes = agent.inspect("tls").probes;
        let last = |name: ProbeName| {
            let mut all = probes.iter();
            all.find(|probe| probe.probe == name)?.last.clone()
        };
        let passed = last(ProbeName::Startup)?.result == Answer::Passed;
        let refused = last(ProbeName::Readiness)?;
        let failed = refused.result == Answer::Failed;
        (passed && failed && refused.text.contains("its certificate signs itself")).then_some(())
    });
}
