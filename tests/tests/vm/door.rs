//! Who may ask and who may not, and what a flood of them holds up.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::Degraded;
use enforcer_model::requests::ErrorAnswer;
use enforcer_tests::agent::{Agent, ENFORCER};
use enforcer_tests::{patience, wait_for};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const NOBODY: u32 = 65534;

/// The status line's code and the body of an answer over TCP.
fn ask(head: &str) -> (u16, String) {
    let mut stream = TcpStream::connect("127.0.0.1:9988").unwrap();
    write!(stream, "{head}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (code, body.to_owned())
}

fn code(body: &str) -> String {
    let answer: ErrorAnswer = serde_json::from_str(body).unwrap();
    answer.error.code.to_string()
}

/// A text that is no workload's name leads to no other path, for any client.
#[test]
fn names_that_are_invalid_belong_to_no_workload() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    let pid = agent.wait_for_state("web", WorkloadState::Running).pid;
    let long = "a".repeat(65);
    for name in [
        "..",
        "%2e%2e",
        "a%2F..%2Fb",
        "web%0A",
        "web%00",
        "WEB",
        &long,
        "%ff",
        "web%2Fstop",
    ] {
        for (method, rest) in [
            ("GET", ""),
            ("POST", "/stop"),
            ("POST", "/kill"),
            ("GET", "/logs"),
            ("GET", "/why"),
        ] {
            let (status, body) = agent.raw(&format!("{method} /v1/workloads/{name}{rest}"), "");
            assert!(status == 404 || status == 400, "{name}: {status}: {body}");
            assert!(
                ["no_such_workload", "not_found", "bad_request"].contains(&code(&body).as_str()),
                "{body}"
            );
        }
    }
    for name in ["..", "a/../b", "web\n", &long] {
        let reported = agent.cli(&["stop", name]);
        assert_eq!(reported.status.code(), Some(4), "{reported:?}");
    }
    assert_eq!(agent.workload("web").pid, pid);
}

#[test]
fn tcp_answers_its_own_host_alone_and_changes_nothing() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    agent.wait_for_state("web", WorkloadState::Running);
    let own = "host: 127.0.0.1:9988";
    assert_eq!(ask(&format!("GET /health HTTP/1.1\r\n{own}")).0, 200);
    assert_eq!(ask("GET /health HTTP/1.1\r\nhost: localhost").0, 200);
    assert_eq!(
        ask(&format!("GET /health/workloads/web HTTP/1.1\r\n{own}")).0,
        200
    );
    assert_eq!(
        ask(&format!("GET /health/worker/web HTTP/1.1\r\n{own}")).0,
        200
    );
    for path in ["/metrics", "/metrics/prometheus"] {
        let (status, body) = ask(&format!("GET {path} HTTP/1.1\r\n{own}"));
        assert_eq!(status, 200);
        assert!(body.contains("enforcer_workload_pids{workload=\"web\"} 1\n"));
    }
    let json = format!("GET /metrics HTTP/1.1\r\n{own}\r\naccept: application/json");
    let body = ask(&json).1;
    assert!(body.starts_with("{\"schema\":1,\"metrics\":["), "{body}");
    for path in ["/health", "/metrics"] {
        let (status, body) = ask(&format!("GET {path} HTTP/1.1\r\nhost: evil.example"));
        assert_eq!((status, code(&body).as_str()), (403, "not_permitted"));
    }
    let from_a_page = format!("GET /health HTTP/1.1\r\n{own}\r\norigin: http://localhost");
    assert_eq!(ask(&from_a_page).0, 403);
    for route in [
        "/v1/workloads",
        "/v1/events",
        "/v1/metrics",
        "/v1/workloads/web",
        "/",
        "/health/workloads/../../v1/events",
    ] {
        let (status, body) = ask(&format!("GET {route} HTTP/1.1\r\n{own}"));
        assert_eq!(
            (status, code(&body).as_str()),
            (404, "not_found"),
            "{route}"
        );
    }
    let (status, body) = ask(&format!("GET /health/workloads/nobody HTTP/1.1\r\n{own}"));
    assert_eq!((status, code(&body).as_str()), (404, "no_such_workload"));
    for request in [
        "POST /v1/workloads/web/stop",
        "POST /v1/shutdown",
        "DELETE /v1/workloads/web",
    ] {
        assert_eq!(
            ask(&format!("{request} HTTP/1.1\r\n{own}\r\ncontent-length: 0")).0,
            404
        );
    }
    assert_eq!(
        ask(&format!(
            "POST /health HTTP/1.1\r\n{own}\r\ncontent-length: 0"
        ))
        .0,
        405
    );
    assert_eq!(agent.workload("web").state, WorkloadState::Running);
}

#[test]
fn a_malformed_request_is_answered_as_json_with_a_code() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    for (request, body, expected) in [
        ("POST /v1/apply", "{", (400, "bad_request")),
        ("POST /v1/apply", "{\"what\": 1}", (400, "bad_request")),
        ("POST /v1/plan", "[]", (400, "bad_request")),
        (
            "POST /v1/shutdown",
            "{\"workload\": true}",
            (400, "bad_request"),
        ),
        (
            "POST /v1/workloads/web/throttle",
            "{\"cpu\": \"-1\"}",
            (400, "bad_request"),
        ),
        ("POST /v1/workloads/web/dance", "", (404, "not_found")),
        ("GET /v1/workloads/..", "", (404, "no_such_workload")),
        (
            "GET /v1/workloads/a%2F..%2Fb",
            "",
            (404, "no_such_workload"),
        ),
        ("GET /v1/events?since=never", "", (400, "bad_request")),
        (
            "GET /v1/events?until=2026-01-01T00:00:00Z&and=more",
            "",
            (400, "bad_request"),
        ),
        (
            "GET /v1/workloads/web/logs?tail=-1",
            "",
            (400, "bad_request"),
        ),
        ("DELETE /v1/workloads/web", "", (405, "wrong_method")),
    ] {
        let (status, answer) = agent.raw(request, body);
        assert_eq!(
            (status, code(&answer).as_str()),
            expected,
            "{request} {body}"
        );
    }
    let long = "a".repeat(65);
    let (status, answer) = agent.raw(&format!("GET /v1/workloads/{long}"), "");
    assert_eq!((status, code(&answer).as_str()), (404, "no_such_workload"));
    let much = format!("\"{}\"", "x".repeat(5 << 20));
    let (status, answer) = agent.raw("POST /v1/apply", &much);
    assert_eq!((status, code(&answer).as_str()), (400, "bad_request"));
}

#[test]
fn a_stranger_may_not_even_connect() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    let mut command = Command::new(ENFORCER);
    let asked = command
        .arg("--socket")
        .arg(agent.folder().join("run/enforcer.sock"))
        .arg("ps")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    assert_eq!(asked.status.code(), Some(6), "{asked:?}");
    let reported = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(
        reported.contains("you may not speak to the agent"),
        "{reported}"
    );
}

const GROUP: u32 = 990;

/// Streams of events that a member of the group asks for and never reads.
fn streams_of_a_member(socket: PathBuf) -> Vec<UnixStream> {
    let member = std::thread::spawn(move || {
        // SAFETY: the bare calls take numbers and change this thread alone, which is
        // what the kernel asks about at connect(2).
        let changed = unsafe {
            libc::syscall(libc::SYS_setresgid, GROUP, GROUP, GROUP) == 0
                && libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0
        };
        assert!(changed);
        let streams = (0..300).map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            let _ = stream.write_all(b"GET /v1/events/stream HTTP/1.1\r\nhost: x\r\n\r\n");
            stream
        });
        streams.collect()
    });
    member.join().unwrap()
}

#[test]
fn who_may_only_look_leaves_a_place_to_root() {
    let agent = agent_with_a_group();
    agent.wait_for_state("web", WorkloadState::Running);
    let streams = streams_of_a_member(agent.folder().join("run/enforcer.sock"));
    let answered = streams.into_iter().filter_map(|mut stream| {
        let long = patience();
        stream.set_read_timeout(Some(long)).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).ok()?;
        assert_eq!(&first, b"HTTP/1.1 200");
        Some(stream)
    });
    let held: Vec<UnixStream> = answered.collect();
    assert!((200..=240).contains(&held.len()), "{}", held.len());
    assert!(agent.cli(&["restart", "web"]).status.success());
    drop(held);
}

fn agent_with_a_group() -> Agent {
    let before = std::fs::read_to_string("/etc/group").unwrap();
    std::fs::write("/etc/group", format!("{before}enforcer:x:{GROUP}:\n")).unwrap();
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    std::fs::write("/etc/group", before).unwrap();
    agent
}

#[test]
fn the_group_may_look_and_root_alone_may_change() {
    let agent = agent_with_a_group();
    agent.wait_for_state("web", WorkloadState::Running);
    let as_member = |request: &[&str]| {
        let mut command = Command::new(ENFORCER);
        let socket = agent.folder().join("run/enforcer.sock");
        command.arg("--socket").arg(socket).args(request);
        command.uid(NOBODY).gid(GROUP).output().unwrap()
    };
    assert!(as_member(&["ps"]).status.success());
    for change in [
        &["stop", "web"][..],
        &["shutdown"],
        &["throttle", "web", "--cpu", "20%"],
    ] {
        let refused = as_member(change);
        assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    }
    assert_eq!(agent.workload("web").state, WorkloadState::Running);
    // It shows lines of the manifest, and looks up accounts.
    let file = agent.folder().join("manifest.yaml");
    let refused = as_member(&["plan", "-f", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
}

/// Its file has workloads only, and nobody else's are touched.
#[test]
fn a_user_may_change_the_workloads_of_its_own_file() {
    let before = std::fs::read_to_string("/etc/group").unwrap();
    std::fs::write("/etc/group", format!("{before}enforcer:x:{GROUP}:\n")).unwrap();
    let mut agent = Agent::start_daemon("version: 1\nworkloads: {}\n");
    agent.kill();
    agent.set_arguments(&["--delegate", "nobody=shop.yaml"]);
    let folder = agent.folder().join("manifest.yaml");
    std::fs::remove_file(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(
        folder.join("root.yaml"),
        manifest(&workload("web", "rest", "")),
    )
    .unwrap();
    agent.start_again();
    let web = agent.wait_for_state("web", WorkloadState::Running).pid;
    let socket = agent.folder().join("run/enforcer.sock");
    let as_user = |request: &[&str]| {
        let mut command = Command::new(ENFORCER);
        command.arg("--socket").arg(&socket).args(request);
        command.uid(NOBODY).gid(GROUP).output().unwrap()
    };
    let drafts = std::env::temp_dir().join("shop");
    std::fs::create_dir_all(&drafts).unwrap();
    let apply = |name: &str, text: &str| {
        let path = drafts.join(name);
        std::fs::write(&path, text).unwrap();
        as_user(&["apply", "--prune", "-f", path.to_str().unwrap()])
    };
    let two = manifest(&(workload("cart", "rest", "") + &workload("pay", "rest", "")));
    let applied = apply("shop.yaml", &two);
    assert!(applied.status.success(), "{applied:?}");
    let pay = agent.wait_for_state("pay", WorkloadState::Running);
    assert_eq!(pay.delegate.as_deref(), Some("nobody"));

    // What is of no concern to it.
    for refused in [
        apply("root.yaml", &two),
        apply(
            "shop.yaml",
            "version: 1\nworkloads: {}\nhost: { starts_at_once: 2 }\n",
        ),
        apply("shop.yaml", &manifest(&workload("web", "burn", ""))),
        as_user(&["apply"]),
        as_user(&["stop", "web"]),
        as_user(&["shutdown"]),
    ] {
        assert!(!refused.status.success(), "{refused:?}");
    }
    assert_eq!(agent.workload("web").pid, web);
    assert_eq!(agent.workload("pay").pid, pay.pid);

    // The next agent knows whose they are, and a removed one is pruned alone.
    agent.kill();
    agent.start_again();
    std::fs::write("/etc/group", before).unwrap();
    agent.wait_for_state("pay", WorkloadState::Running);
    assert!(as_user(&["restart", "cart"]).status.success());
    let one = apply("shop.yaml", &manifest(&workload("pay", "rest", "")));
    assert!(one.status.success(), "{one:?}");
    wait_for("the other to go", || {
        agent.find("cart").is_none().then_some(())
    });
    assert_eq!(agent.workload("web").pid, web);
    assert_eq!(agent.workload("pay").pid, pay.pid);
}

#[test]
fn a_thousand_silent_connections_delay_no_request() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    agent.wait_for_state("web", WorkloadState::Running);
    let mut silent = Vec::new();
    for number in 0..1000 {
        let Ok(mut stream) = TcpStream::connect("127.0.0.1:9988") else {
            continue;
        };
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /health HTTP/1.1\r\nhost: loc");
        }
        silent.push(stream);
    }
    println!("{} connections", silent.len());
    assert!(silent.len() > 500);
    assert!(agent.cli(&["ps"]).status.success());
    assert!(agent.cli(&["restart", "web"]).status.success());
    // Whoever says nothing is hung up on, and others have their places.
    for stream in &silent {
        stream
            .set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
    }
    wait_for("a place to be free", || {
        let mut stream = TcpStream::connect("127.0.0.1:9988").ok()?;
        stream.set_read_timeout(Some(patience())).ok()?;
        write!(
            stream,
            "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
}

#[test]
fn what_is_due_is_done_however_many_ask() {
    let more = "recovery: { backoff: { initial: 200ms, factor: 1, max: 200ms }, budget: off }";
    let agent = Agent::start(&manifest(&workload("brief", "brief 20", more)));
    let restarts = || agent.workload("brief").restarts;
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let _ = agent.find("brief");
                }
            });
        }
        let before = restarts();
        // A panic here must end those who ask, or the test would never end.
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("restarts", || (restarts() >= before + 5).then_some(()))
        }));
        enough.store(true, Ordering::Relaxed);
        waited.unwrap();
    });
}

#[test]
fn a_port_that_is_taken_is_reported_and_stops_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:9988").unwrap();
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    agent.wait_for_state("web", WorkloadState::Running);
    wait_for("it to be reported", || {
        let mut events = agent.all_events::<Degraded>().into_iter();
        events.find(|event| event.details.what == "listen")
    });
    drop(taken);
}

#[test]
fn logs_are_read_followed_and_tamed() {
    let agent = Agent::start(&manifest(&workload("talker", "say-escapes", "")));
    agent.wait_for_state("talker", WorkloadState::Running);
    wait_for("it to speak", || {
        (!agent.output("talker").is_empty()).then_some(())
    });
    let shown = agent.cli(&["logs", "talker", "--tail", "1"]);
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "^[[2J^G-hello\n");
    let raw = agent.cli(&["logs", "talker", "--raw"]);
    assert_eq!(
        String::from_utf8_lossy(&raw.stdout),
        "\u{1b}[2J\u{7}-hello\n"
    );
    let followed = agent.read_lines("/v1/workloads/talker/logs?follow=true", 1);
    assert_eq!(followed, ["\u{1b}[2J\u{7}-hello"]);
    let nobody = agent.cli(&["logs", "nobody"]);
    assert_eq!(nobody.status.code(), Some(4), "{nobody:?}");
}
