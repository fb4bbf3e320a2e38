//! Services that others have started: they are looked for, observed and let go.

use super::probes::{probe, probed, refused};
use super::*;
use crate::spec::{Attach, Mode, ProbeName};

fn shop() -> WorkloadSpec {
    WorkloadSpec {
        command: Vec::new(),
        attach: Some(Attach::Systemd("shop.service".to_owned())),
        mode: Mode::Observe,
        ..spec()
    }
}

#[test]
fn its_owner_starts_and_ends_it() {
    check(
        shop(),
        vec![
            (60, prepared(1)),
            (60, started(1)),
            (70, exited(1)),
            (70, reaped(1, ExitStatus::Code(3), 0)),
            (90, prepared(2)),
            (90, started(2)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            60 s: #2 start
            70 s:   → reap #1
            70 s: #3 exit
            70 s:   → start #2
            90 s: #4 start
        "#]],
    );
}

#[test]
fn it_is_let_go_at_the_end_and_with_another_manifest() {
    let other = WorkloadSpec {
        attach: None,
        command: vec!["/bin/true".to_owned()],
        mode: Mode::Enforce,
        ..shop()
    };
    check(
        shop(),
        vec![
            (1, prepared(1)),
            (1, started(1)),
            (2, configure(other)),
            (3, prepared(2)),
            (3, started(2)),
            (4, configure(shop())),
            (5, exited(2)),
            (5, reaped(2, ExitStatus::Signal(15), 0)),
            (6, Event::Agent(AgentEvent::Shutdown)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            1 s: #2 start
            2 s: #3 config (config)
            2 s:   → remove_cgroup #1
            2 s:   → start #2
            3 s: #4 start
            4 s: #5 config (config)
            4 s: #6 stop (config)
            4 s:   → signal #2
            5 s:   → reap #2
            5 s: #7 exit because of #6
            5 s: #8 restart (config) because of #7
            5 s:   → start #3
            6 s: #9 agent (agent)
            6 s:   → remove_cgroup #3
        "#]],
    );
}

/// Its owner is asked once for each failure, again after a command that failed, and no more than the budget
/// allows. A service that was restarted says so.
#[test]
fn its_owner_is_asked_to_restart_it() {
    let mut spec = WorkloadSpec {
        mode: Mode::Enforce,
        probes: [(ProbeName::Liveness, probe(5, 1))].into(),
        ..shop()
    };
    spec.recovery.budget = Some(Budget {
        restarts: 2,
        within: Duration::from_secs(600),
    });
    let fails = |instance, run| probed(instance, ProbeName::Liveness, run, refused());
    let error = "`systemctl restart shop.service`: exited with code 1".to_owned();
    let wake = || Event::Agent(AgentEvent::Wake);
    check(
        spec,
        vec![
            (1, prepared(1)),
            (1, started(1)),
            (2, fails(1, 1)),
            (4, wake()),
            (
                5,
                Event::Workload(name(WEB), WorkloadEvent::RemedyFailed { error }),
            ),
            (10, wake()),
            (11, exited(1)),
            (11, reaped(1, ExitStatus::Signal(15), 0)),
            (12, prepared(2)),
            (12, started(2)),
            (13, fails(2, 3)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            1 s: #2 start
            1 s:   → ask liveness
            2 s: #3 health
            2 s: #4 restart (liveness) because of #3
            2 s:   → ask_owner #1
            5 s: #5 degraded
            5 s: #6 restart (liveness) because of #5
            10 s:   → ask liveness
            10 s:   → ask_owner #1
            11 s:   → reap #1
            11 s: #7 exit because of #6
            11 s: #8 health
            11 s:   → start #2
            12 s: #9 start
            12 s:   → ask liveness
            13 s: #10 health
            13 s: #11 breaker (liveness) because of #10
        "#]],
    );
}
