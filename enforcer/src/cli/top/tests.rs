use super::model::{Ask, Details, Mode, Model, News};
use super::{printed, screen};
use enforcer_model::claims::Throttling;
use enforcer_model::cpu_loop::{Evidence, LoopSource, Thread, Verdict};
use enforcer_model::detail::{CpuLoopFound, Detail, Start};
use enforcer_model::health::Health;
use enforcer_model::ids::Seq;
use enforcer_model::requests::Throttle;
use enforcer_model::views::{Details as More, Waiting, WorkloadView, Workloads};
use enforcer_model::{Record, ReplicaId, WorkloadState};
use expect_test::{expect, expect_file};
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use std::time::Duration;

fn workload(name: &str) -> WorkloadView {
    WorkloadView {
        name: ReplicaId::parse(name).expect("a name"),
        state: WorkloadState::Running,
        health: Health::Healthy,
        ready: true,
        throttle: Throttling::None,
        throttle_cpu_percent: None,
        pid: Some(7),
        restarts: 0,
        cgroup: "/".to_owned(),
        memory_bytes: 20 << 20,
        memory_max_bytes: None,
        swap_bytes: 0,
        swap_max_bytes: None,
        cpu_percent: 1.5,
        cpu_throttled_percent: 0.0,
        oom_kills: 0,
        last_exit: None,
        since: "2026-01-31T10:00:00Z".parse().expect("a time"),
        reason: "started".to_owned(),
        delegate: None,
        status_text: None,
        more: Some(more(Some(1), (0.0, 0.0), None)),
    }
}

fn more(pids: Option<u64>, (cpu, memory): (f64, f64), io: Option<f64>) -> More {
    More {
        pids,
        cpu_max_percent: None,
        waiting_percent: Waiting {
            cpu: Some(cpu),
            memory: Some(memory),
            io,
        },
    }
}

fn rows(workloads: Vec<WorkloadView>) -> News {
    News::Rows(Workloads {
        schema: 1,
        cpus: Some(2),
        workloads,
    })
}

fn some() -> Model {
    let mut model = Model::new(false);
    let api = WorkloadView {
        memory_bytes: 290 << 20,
        memory_max_bytes: Some(320 << 20),
        swap_bytes: 4 << 20,
        swap_max_bytes: Some(64 << 20),
        cpu_percent: 48.0,
        cpu_throttled_percent: 87.5,
        restarts: 3,
        oom_kills: 3,
        health: Health::Degraded,
        reason: "memory use is warn: 91% of its limit".to_owned(),
        more: Some(More {
            cpu_max_percent: Some(50.0),
            ..more(Some(12), (61.2, 12.9), Some(0.4))
        }),
        ..workload("api")
    };
    let loops = WorkloadView {
        throttle: Throttling::Demoted,
        cpu_percent: 100.0,
        reason: "dead loop: loops (tid 812) has used 10.0 s of CPU without a sleep".to_owned(),
        ..workload("loops")
    };
    let worker = WorkloadView {
        state: WorkloadState::BreakerOpen,
        health: Health::Unhealthy,
        ready: false,
        restarts: 5,
        memory_bytes: 0,
        reason: "\u{1b}[2Jexited\nwith code 1".to_owned(),
        more: Some(more(None, (0.0, 0.0), None)),
        ..workload("worker")
    };
    model.learn(rows(vec![api, loops, worker]));
    model
}

fn event(time: &str, detail: Detail) -> Record {
    Record {
        seq: Seq(1),
        time: time.parse().expect("a time"),
        boot_id: "boot".into(),
        workload: ReplicaId::parse("api"),
        instance: None,
        reason: None,
        caused_by: None,
        detail,
    }
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
    let found = CpuLoopFound {
        verdict: Verdict::DeadLoop,
        thread: Thread {
            pid: 812,
            tid: 812,
            start_ticks: 0,
        },
        command: "api".to_owned(),
        cpu: Duration::from_secs(10),
        evidence: Evidence {
            recurrences: 88,
            snapshots: 96,
            stack: ["spin+0x4 in api", "main+0x1f in api"]
                .map(str::to_owned)
                .to_vec(),
            ..Evidence::none(LoopSource::Ebpf, "")
        },
    };
    let spin = event("2026-01-31T10:00:05.1Z", Detail::CpuLoop(Box::new(found)));
    let started = Detail::Start(Start::Started { pid: 7 });
    let started = event("2026-01-31T10:00:00.5Z", started);
    let found = Details {
        events: vec![started, spin.clone()],
        last_loop: Some(Box::new(spin)),
    };
    model.learn(News::Details("api".to_owned(), found));
    expect_file!["tests/details.txt"].assert_eq(&screen_of(&model, 80, 24));
}

#[test]
fn foreign_text_never_reaches_the_terminal_unescaped() {
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
    let workloads = (0..1000).map(|number| WorkloadView {
        restarts: number % 7,
        ..workload(&format!("w-{number:04}"))
    });
    model.learn(rows(workloads.collect()));
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
    let act = |what, throttle| Ask::Act {
        name: "loops".to_owned(),
        what,
        throttle,
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
        [act(
            "throttle",
            Some(Throttle {
                cpu: "20%".to_owned()
            })
        )]
    );
    assert_eq!(press(&mut model, &[KeyCode::Char('t'), KeyCode::Enter]), []);
}

#[test]
fn what_was_asked_about_is_what_is_done() {
    let mut model = some();
    press(&mut model, &[KeyCode::Down, KeyCode::Char('R')]);
    // It goes while the question stands, and another row is selected.
    model.learn(rows(vec![workload("api")]));
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
    model.learn(rows(Vec::new()));
    assert!(screen_of(&model, 80, 24).contains("no workloads"));
}
