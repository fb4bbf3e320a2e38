//! The wall clock is for people: setting it changes no decision.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Degraded, DriftFound};
use enforcer_model::health::Health;
use enforcer_model::ids::Seq;
use enforcer_tests::agent::Agent;
use enforcer_tests::wait_for;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

const HOUR: i64 = 3600;

fn move_clock(seconds: i64) {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
    let then = TimeSpec::new(now.tv_sec() + seconds, now.tv_nsec());
    clock_settime(ClockId::CLOCK_REALTIME, then).unwrap();
}

#[test]
fn an_hour_forth_and_an_hour_back_change_no_decision() {
    let probed = "probes: { liveness: { tcp: { port: 9025 }, period: 1s, timeout: 30s } }";
    let crasher =
        "recovery: { backoff: { initial: 2s, factor: 1, max: 2s, jitter: 0% }, budget: off }";
    let workloads = workload("web", "http 9025", probed) + &workload("crasher", "crash 3", crasher);
    let mut agent = Agent::start_daemon(&manifest(&workloads));
    let pid = agent.wait_for_state("web", WorkloadState::Running).pid;
    let restarts = |agent: &Agent| agent.workload("crasher").restarts;
    for jump in [HOUR, -HOUR, -HOUR, HOUR] {
        move_clock(jump);
        // Neither at once nor never: two seconds lie between two restarts.
        let begun = std::time::Instant::now();
        let before = restarts(&agent);
        wait_for("two more restarts", || {
            (restarts(&agent) >= before + 2).then_some(())
        });
        assert!(begun.elapsed().as_millis() >= 1500, "{:?}", begun.elapsed());
        let web = agent.workload("web");
        assert_eq!((web.pid, web.restarts), (pid, 0), "{web:?}");
        assert_eq!(web.health, Health::Healthy, "{web:?}");
    }
    // And where the agent itself is another one meanwhile.
    move_clock(HOUR);
    agent.start_again();
    assert_eq!(agent.wait_for_state("web", WorkloadState::Running).pid, pid);
    assert_eq!(agent.workload("web").restarts, 0);
    move_clock(-HOUR);
    let seqs: Vec<Seq> = agent.history().iter().map(|event| event.seq).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
    assert!(agent.all_events::<DriftFound>().is_empty());
    assert!(agent.all_events::<Degraded>().is_empty());
}
