//! Restarts: backoff, budget, breaker, policy, and watching only.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{BreakerChange, BreakerState, Exit, RestartPlan, Start};
use enforcer_model::ids::Cause;
use enforcer_model::oom::Incident;
use enforcer_tests::agent::{Agent, Event};
use enforcer_tests::wait_for;
use std::time::Duration;

fn delays(restarts: &[Event<RestartPlan>]) -> Vec<Duration> {
    let plans = restarts.iter();
    plans.map(|restart| restart.details.delay).collect()
}

/// The times between an exit and the start that followed it.
fn waited(agent: &Agent, name: &str) -> Vec<Duration> {
    let (exits, starts) = (agent.events::<Exit>(name), agent.events::<Start>(name));
    let pairs = exits.iter().zip(starts.iter().skip(1));
    pairs
        .map(|(exit, start)| start.time.duration_since(exit.time).unsigned_abs())
        .collect()
}

#[test]
fn a_crasher_is_restarted_with_growing_pauses() {
    let more =
        "recovery: { backoff: { initial: 200ms, factor: 2, max: 500ms, jitter: 0% }, budget: off }";
    let agent = Agent::start(&manifest(&workload("crasher", "crash 3", more)));
    let restarts = agent.wait_for_events::<RestartPlan>("crasher", 5);
    let expected = [0, 200, 400, 500, 500].map(Duration::from_millis);
    assert_eq!(delays(&restarts)[..5], expected);
    agent.wait_for_events::<Start>("crasher", 5);
    // What was promised is what was done: never earlier.
    for (waited, promised) in waited(&agent, "crasher").iter().zip(delays(&restarts)) {
        assert!(
            *waited + Duration::from_millis(20) >= promised,
            "{waited:?} instead of {promised:?}"
        );
    }
    let view = agent.workload("crasher");
    assert_eq!(view.last_exit.unwrap().code, Some(3));
    assert!(view.restarts >= 4);
}

#[test]
fn jitter_spreads_the_pauses() {
    let more = "recovery: { backoff: { initial: 100ms, factor: 1, max: 100ms, jitter: 50% }, budget: off }";
    let agent = Agent::start(&manifest(&workload("crasher", "crash", more)));
    let delays = delays(&agent.wait_for_events::<RestartPlan>("crasher", 9));
    let spread = &delays[1..];
    assert!(
        spread
            .iter()
            .all(|delay| (50..=150).contains(&delay.as_millis())),
        "{spread:?}"
    );
    assert!(spread.iter().any(|delay| *delay != spread[0]), "{spread:?}");
}

#[test]
fn a_spent_budget_opens_the_breaker_and_a_person_closes_it() {
    let more = "recovery: { backoff: off, budget: { restarts: 3, within: 1h }, breaker: { cooldown: 1h, max: 1h } }";
    let agent = Agent::start(&manifest(&workload("crasher", "crash", more)));
    let view = agent.wait_for_state("crasher", WorkloadState::BreakerOpen);
    assert_eq!(view.restarts, 3);
    assert_eq!(
        agent.events::<BreakerChange>("crasher")[0].details.state,
        BreakerState::Open
    );
    // By hand it costs nothing and begins anew: three more restarts, and open again.
    let _ = agent.cli(&["start", "crasher"]);
    wait_for("the breaker to open again", || {
        // Open, closed by hand, open.
        (agent.events::<BreakerChange>("crasher").len() == 3).then_some(())
    });
    assert_eq!(agent.workload("crasher").restarts, 6);
}

#[test]
fn an_open_breaker_tries_once_after_its_cooldown() {
    let more = "recovery: { backoff: off, budget: { restarts: 1, within: 1h }, breaker: { cooldown: 300ms, max: 10s } }";
    let agent = Agent::start(&manifest(&workload("crasher", "crash", more)));
    let changes = agent.wait_for_events::<BreakerChange>("crasher", 5);
    let shown: Vec<(BreakerState, u128)> = changes
        .iter()
        .map(|change| (change.details.state, change.details.cooldown.as_millis()))
        .collect();
    assert_eq!(
        shown[..5],
        [
            (BreakerState::Open, 300),
            (BreakerState::HalfOpen, 300),
            (BreakerState::Open, 600),
            (BreakerState::HalfOpen, 600),
            (BreakerState::Open, 1200)
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
    agent.wait_for_state("fine", WorkloadState::Stopped);
    agent.wait_for_state("failing", WorkloadState::BackingOff);
    agent.wait_for_state("never", WorkloadState::Failed);
    agent.wait_for_events::<RestartPlan>("always", 2);
    assert_eq!(agent.workload("fine").restarts, 0);
    assert_eq!(agent.workload("never").restarts, 0);
}

#[test]
fn observe_mode_reports_what_it_would_do() {
    let more = "mode: observe\ncgroup: { memory.max: 8M }";
    let agent = Agent::start(&manifest(&workload("watched", "hog", more)));
    let view = agent.wait_for_state("watched", WorkloadState::Failed);
    assert_eq!(view.restarts, 0);
    let restart = agent.wait_for_event::<RestartPlan>("watched");
    assert!(!restart.details.carried_out);
    assert_eq!(restart.reason, Some(Cause::OomKill));
    // Limits apply all the same.
    assert_eq!(agent.events::<Incident>("watched").len(), 1);
}
