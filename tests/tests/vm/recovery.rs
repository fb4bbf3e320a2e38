//! Restarts: backoff, budget, breaker, policy, and watching only.

use crate::{manifest, workload};
use enforcer_tests::agent::Agent;
use enforcer_tests::wait_for;
use serde_json::Value;

fn delays(restarts: &[Value]) -> Vec<f64> {
    restarts
        .iter()
        .map(|restart| restart["details"]["delay_seconds"].as_f64().unwrap())
        .collect()
}

/// Seconds between an exit and the start that followed it.
fn waited(agent: &Agent, name: &str) -> Vec<f64> {
    let time = |event: &Value| event["time"].as_str().unwrap().parse::<Stamp>().unwrap().0;
    let (exits, starts) = (agent.events(name, "exit"), agent.events(name, "start"));
    exits
        .iter()
        .zip(starts.iter().skip(1))
        .map(|(exit, start)| time(start) - time(exit))
        .collect()
}

/// Seconds of the day: enough for two events of one minute.
struct Stamp(f64);

impl std::str::FromStr for Stamp {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let clock = text.split_once('T').ok_or(())?.1.trim_end_matches('Z');
        let parts: Vec<f64> = clock
            .split(':')
            .filter_map(|part| part.parse().ok())
            .collect();
        let [hours, minutes, seconds] = parts[..] else {
            return Err(());
        };
        Ok(Self(hours * 3600.0 + minutes * 60.0 + seconds))
    }
}

#[test]
fn a_crasher_is_restarted_with_growing_pauses() {
    let more =
        "recovery: { backoff: { initial: 200ms, factor: 2, max: 500ms, jitter: 0% }, budget: off }";
    let agent = Agent::start(&manifest(&workload("crasher", "crash 3", more)));
    let restarts = agent.wait_for_events("crasher", "restart", 5);
    assert_eq!(delays(&restarts)[..5], [0.0, 0.2, 0.4, 0.5, 0.5]);
    agent.wait_for_events("crasher", "start", 5);
    // What was promised is what was done: never earlier.
    for (waited, promised) in waited(&agent, "crasher").iter().zip(delays(&restarts)) {
        assert!(
            *waited >= promised - 0.02,
            "{waited} s instead of {promised} s"
        );
    }
    let view = agent.workload("crasher");
    assert_eq!(view["last_exit"]["code"], 3);
    assert!(view["restarts"].as_u64().unwrap() >= 4);
}

#[test]
fn jitter_spreads_the_pauses() {
    let more = "recovery: { backoff: { initial: 100ms, factor: 1, max: 100ms, jitter: 50% }, budget: off }";
    let agent = Agent::start(&manifest(&workload("crasher", "crash", more)));
    let delays = delays(&agent.wait_for_events("crasher", "restart", 9));
    let spread = &delays[1..];
    assert!(
        spread.iter().all(|delay| (0.05..=0.15).contains(delay)),
        "{spread:?}"
    );
    assert!(
        spread.iter().any(|delay| (delay - spread[0]).abs() > 1e-6),
        "{spread:?}"
    );
}

#[test]
fn a_spent_budget_opens_the_breaker_and_a_person_closes_it() {
    let more = "recovery: { backoff: off, budget: { restarts: 3, within: 1h }, breaker: { cooldown: 1h, max: 1h } }";
    let agent = Agent::start(&manifest(&workload("crasher", "crash", more)));
    let view = agent.wait_for_state("crasher", "breaker_open");
    assert_eq!(view["restarts"], 3);
    assert_eq!(
        agent.events("crasher", "breaker")[0]["details"]["state"],
        "open"
    );
    // By hand it costs nothing and begins anew: three more restarts, and open again.
    let _ = agent.cli(&["start", "crasher"]);
    wait_for("the breaker to open again", || {
        // Open, closed by hand, open.
        (agent.events("crasher", "breaker").len() == 3).then_some(())
    });
    assert_eq!(agent.workload("crasher")["restarts"], 6);
}

#[test]
fn an_open_breaker_tries_once_after_its_cooldown() {
    let more = "recovery: { backoff: off, budget: { restarts: 1, within: 1h }, breaker: { cooldown: 300ms, max: 10s } }";
    let agent = Agent::start(&manifest(&workload("crasher", "crash", more)));
    let changes = agent.wait_for_events("crasher", "breaker", 5);
    let shown: Vec<(&str, f64)> = changes
        .iter()
        .map(|change| {
            (
                change["details"]["state"].as_str().unwrap(),
                change["details"]["cooldown_seconds"].as_f64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        shown[..5],
        [
            ("open", 0.3),
            ("half_open", 0.3),
            ("open", 0.6),
            ("half_open", 0.6),
            ("open", 1.2)
        ]
    );
}

#[test]
fn the_policy_decides_whether_an_exit_is_answered() {
    let fine = workload("fine", "brief 50", "recovery: { restart: on-failure }");
    let failing = workload(
        "failing",
        "crash 1",
        "recovery: { restart: on-failure, backoff: { initial: 1h, max: 1h } }",
    );
    let never = workload("never", "crash 1", "recovery: { restart: never }");
    let always = workload("always", "brief 50", "recovery: { restart: always }");
    let agent = Agent::start(&manifest(&format!("{fine}{failing}{never}{always}")));
    agent.wait_for_state("fine", "stopped");
    agent.wait_for_state("failing", "backing_off");
    agent.wait_for_state("never", "failed");
    agent.wait_for_events("always", "restart", 2);
    assert_eq!(agent.workload("fine")["restarts"], 0);
    assert_eq!(agent.workload("never")["restarts"], 0);
}

#[test]
fn observing_tells_what_it_would_do() {
    let more = "mode: observe\ncgroup: { memory.max: 8M }";
    let agent = Agent::start(&manifest(&workload("watched", "hog", more)));
    let view = agent.wait_for_state("watched", "failed");
    assert_eq!(view["restarts"], 0);
    let restart = agent.wait_for_events("watched", "restart", 1).remove(0);
    assert_eq!(restart["details"]["carried_out"], false);
    assert_eq!(restart["reason"], "oom_kill");
    // Limits apply all the same.
    assert_eq!(agent.events("watched", "oom_kill").len(), 1);
}
