use super::model::{Ask, Mode, Model, News};
use super::{printed, screen};
use expect_test::{expect, expect_file};
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use serde_json::{Value, json};

fn workload(name: &str, more: &Value) -> Value {
    let mut workload = json!({
        "name": name, "state": "running", "health": "healthy", "ready": true, "throttle": "none",
        "cpu_percent": 1.5, "cpu_throttled_percent": 0.0, "memory_bytes": 20 << 20,
        "memory_max_bytes": null, "swap_bytes": 0, "swap_max_bytes": null, "restarts": 0,
        "oom_kills": 0, "reason": "started", "throttle_cpu_percent": null, "pid": 7,
        "cgroup": "/", "last_exit": null, "since": "2026-01-31T10:00:00Z", "pids": 1, "cpu_max_percent": null,
        "waiting_percent": { "cpu": 0.0, "memory": 0.0, "io": null },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        workload[key] = value.clone();
    }
    workload
}

fn rows(workloads: &[Value]) -> News {
    let answer = json!({ "schema": 1, "cpus": 2, "workloads": workloads });
    News::Rows(serde_json::from_value(answer).expect("workloads"))
}

fn some() -> Model {
    let mut model = Model::new(false);
    let workloads = [
        workload(
            "api",
            &json!({
                "memory_bytes": 290 << 20, "memory_max_bytes": 320 << 20, "swap_bytes": 4 << 20,
                "swap_max_bytes": 64 << 20, "cpu_percent": 48.0, "cpu_max_percent": 50.0,
                "cpu_throttled_percent": 87.5, "restarts": 3, "oom_kills": 3, "pids": 12,
                "waiting_percent": { "cpu": 61.2, "memory": 12.9, "io": 0.4 },
                "health": "degraded", "reason": "memory use is warn: 91% of its limit",
            }),
        ),
        workload(
            "loops",
            &json!({
                "throttle": "demoted", "cpu_percent": 100.0,
                "reason": "dead loop: loops (tid 812) has used 10.0 s of CPU without a sleep",
            }),
        ),
        workload(
            "worker",
            &json!({
                "state": "breaker_open", "health": "unhealthy", "ready": false, "restarts": 5,
                "memory_bytes": 0, "pids": null, "reason": "\u{1b}[2Jexited\nwith code 1",
            }),
        ),
    ];
    model.learn(rows(&workloads));
    model
}

fn screen_of(model: &Model, width: u16, height: u16) -> String {
    printed(width, height, |frame| screen::draw(model, frame))
}

fn press(model: &mut Model, keys: &[KeyCode]) -> Vec<Ask> {
    let mut asks = Vec::new();
    for key in keys {
        asks.extend(model.press(*key, KeyModifiers::NONE));
    }
    asks
}

#[test]
fn it_fits_a_small_screen_and_fills_a_large_one() {
    let mut model = some();
    expect_file!["tests/80x24.txt"].assert_eq(&screen_of(&model, 80, 24));
    expect_file!["tests/160x50.txt"].assert_eq(&screen_of(&model, 160, 50));
    press(&mut model, &[KeyCode::Enter]);
    let spin = json!({ "time": "2026-01-31T10:00:05.1Z", "workload": "api", "kind": "cpu_loop",
        "details": { "verdict": "dead_loop", "tid": 812, "command": "api", "cpu_seconds": 10.0,
            "evidence": { "recurrences": 88, "snapshots": 96, "outside": [],
                "stack": ["spin+0x4 in api", "main+0x1f in api"] } } });
    let started = json!({ "time": "2026-01-31T10:00:00.5Z", "workload": "api", "kind": "start",
        "details": { "pid": 7 } });
    let found = json!({ "events": [started, spin], "loop": spin });
    model.learn(News::Details("api".to_owned(), found));
    expect_file!["tests/details.txt"].assert_eq(&screen_of(&model, 80, 24));
}

#[test]
fn nothing_that_somebody_wrote_reaches_the_terminal_as_it_is() {
    let mut model = some();
    press(&mut model, &[KeyCode::End]);
    let screen = screen_of(&model, 160, 24);
    assert!(
        screen.contains("worker: \u{fffd}[2Jexited\u{fffd}with code 1"),
        "{screen}"
    );
    assert!(!screen.contains('\u{1b}'));
}

#[test]
fn a_thousand_say_which_of_them_are_seen() {
    let mut model = Model::new(false);
    let workloads: Vec<Value> = (0..1000)
        .map(|number| {
            workload(
                &format!("w-{number:04}"),
                &json!({ "restarts": number % 7 }),
            )
        })
        .collect();
    model.learn(rows(&workloads));
    assert!(screen_of(&model, 80, 24).contains("1–20 of 1000"));
    press(&mut model, &[KeyCode::End]);
    let screen = screen_of(&model, 80, 24);
    assert!(screen.contains("981–1000 of 1000"), "{screen}");
    assert!(screen.contains("w-0999"));
    press(&mut model, &[KeyCode::Char('r'), KeyCode::Home]);
    assert_eq!(model.shown()[0].name, "w-0006");
    assert_eq!(model.selected(), Some("w-0006"));
    press(&mut model, &[KeyCode::Char('/')]);
    press(
        &mut model,
        &"w-012".chars().map(KeyCode::Char).collect::<Vec<_>>(),
    );
    press(&mut model, &[KeyCode::Enter]);
    assert_eq!(model.shown().len(), 10);
    assert!(screen_of(&model, 80, 24).contains("only `w-012`"));
    press(&mut model, &[KeyCode::Esc]);
    assert_eq!(model.shown().len(), 1000);
}

#[test]
fn nothing_is_done_without_a_yes() {
    let mut model = some();
    press(&mut model, &[KeyCode::Down]);
    assert_eq!(model.selected(), Some("loops"));
    assert_eq!(
        press(&mut model, &[KeyCode::Char('R'), KeyCode::Char('x')]),
        []
    );
    assert_eq!(model.mode, Mode::Watching);
    let act = |what, body| Ask::Act {
        name: "loops".to_owned(),
        what,
        body,
    };
    assert_eq!(
        press(&mut model, &[KeyCode::Char('R'), KeyCode::Char('y')]),
        [act("restart", None)]
    );
    // Not twice while it is not answered.
    assert_eq!(
        press(&mut model, &[KeyCode::Char('R'), KeyCode::Char('y')]),
        []
    );
    model.learn(News::Told("loops: restart: done".to_owned()));
    assert_eq!(
        press(&mut model, &[KeyCode::Char('e'), KeyCode::Char('y')]),
        [act("release", None)]
    );
    model.learn(News::Told("loops: release: done".to_owned()));
    let typed = [
        KeyCode::Char('t'),
        KeyCode::Char('2'),
        KeyCode::Char('x'),
        KeyCode::Char('0'),
    ];
    assert_eq!(press(&mut model, &typed), []);
    expect!["throttle loops to 20▏% of one CPU  Enter do it, Esc leave it                   3"]
        .assert_eq(screen_of(&model, 80, 24).lines().last().unwrap_or_default());
    assert_eq!(
        press(&mut model, &[KeyCode::Enter]),
        [act("throttle", Some(json!({ "cpu": "20%" })))]
    );
    assert_eq!(press(&mut model, &[KeyCode::Char('t'), KeyCode::Enter]), []);
}

#[test]
fn what_was_asked_about_is_what_is_done() {
    let mut model = some();
    press(&mut model, &[KeyCode::Down, KeyCode::Char('R')]);
    // It goes while the question stands, and another row is selected.
    let left = [workload("api", &json!({}))];
    model.learn(rows(&left));
    assert_eq!(model.selected(), Some("api"));
    let asks = press(&mut model, &[KeyCode::Char('y')]);
    assert!(
        matches!(&asks[..], [Ask::Act { name, .. }] if name == "loops"),
        "{asks:?}"
    );
    // In the details no key moves through the table behind them.
    let mut model = some();
    press(
        &mut model,
        &[
            KeyCode::Enter,
            KeyCode::End,
            KeyCode::PageDown,
            KeyCode::Char('n'),
        ],
    );
    assert_eq!(model.selected(), Some("api"));
    let asks = press(&mut model, &[KeyCode::Char('R'), KeyCode::Char('y')]);
    assert!(
        matches!(&asks[..], [Ask::Act { name, .. }] if name == "api"),
        "{asks:?}"
    );
}

#[test]
fn an_agent_that_went_leaves_what_was_known() {
    let mut model = some();
    model.learn(News::Trouble("no agent answers on /run/x".to_owned()));
    let screen = screen_of(&model, 80, 24);
    assert!(
        screen.contains("as it was before: no agent answers"),
        "{screen}"
    );
    assert!(screen.contains("breaker_open"));
    model.learn(rows(&[]));
    assert!(screen_of(&model, 80, 24).contains("no workloads"));
}
