//! Shares and quotas of CPU time, by `cpu.stat`: an emulated machine has its own
//! idea of wall time.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, wait_for};

fn usage(name: &str) -> u64 {
    kernel::field(name, "cpu.stat", "usage_usec").unwrap()
}

#[test]
fn weights_share_one_cpu_in_proportion() {
    let names = ["light", "middle", "heavy"];
    let weights = [50u64, 100, 150];
    let spinner = |(name, weight): (&&str, &u64)| {
        workload(
            name,
            "spin",
            &format!("cgroup: {{ cpuset.cpus: 1, cpu.weight: {weight} }}"),
        )
    };
    let text: String = names.iter().zip(&weights).map(spinner).collect();
    let agent = Agent::start(&manifest(&text));
    for name in names {
        agent.wait_for_state(name, WorkloadState::Running);
    }
    let before = names.map(usage);
    // A pause of the emulator is charged to whoever runs at that moment: in the end each share is
    // fair to 25 %.
    wait_for("the shares of at least six seconds to be fair", || {
        let spent = names.iter().zip(before);
        let spent: Vec<u64> = spent.map(|(name, before)| usage(name) - before).collect();
        let all: u64 = spent.iter().sum();
        println!("of {all} us: {spent:?}");
        let are_fair = spent.iter().zip(weights).all(|(spent, weight)| {
            let fair = all * weight / weights.iter().sum::<u64>();
            spent * 4 >= fair * 3 && spent * 4 <= fair * 5
        });
        (all > 6_000_000 && are_fair).then_some(())
    });
}

#[test]
fn a_quota_holds_and_shows_as_throttled() {
    let agent = Agent::start(&manifest(&workload(
        "busy",
        "spin",
        "cgroup: { cpu.max: 30% }",
    )));
    agent.wait_for_state("busy", WorkloadState::Running);
    let stat = |key: &str| kernel::field("busy", "cpu.stat", key).unwrap();
    let periods = || stat("nr_periods");
    wait_for("the first period", || (periods() > 0).then_some(()));
    let (usage_before, periods_before) = (stat("usage_usec"), periods());
    wait_for("40 periods", || {
        (periods() - periods_before > 40).then_some(())
    });
    // A pause of the emulator is CPU time that the kernel takes back later: in the end the
    // quota holds to 20 %.
    wait_for("the quota to hold", || {
        let spent = stat("usage_usec") - usage_before;
        let passed = periods() - periods_before;
        let allowed = passed * 30_000;
        println!("{spent} us in {passed} periods of 30000 us each");
        (spent * 10 >= allowed * 8 && spent * 10 <= allowed * 12).then_some(())
    });
    wait_for("the throttling to show", || {
        let shown = agent.workload("busy");
        (shown.cpu_throttled_percent > 50.0).then_some(())
    });
    // Slower, never killed.
    assert_eq!(agent.workload("busy").restarts, 0);
}

#[test]
fn a_lone_workload_may_use_the_whole_cpu_whatever_its_weight() {
    let agent = Agent::start(&manifest(&workload(
        "alone",
        "spin",
        "cgroup: { cpu.weight: 1 }",
    )));
    agent.wait_for_state("alone", WorkloadState::Running);
    // Voluntary waits would show as idle time; a spinner that is never held back
    // is never throttled.
    wait_for("a second of CPU time", || {
        (usage("alone") > 1_000_000).then_some(())
    });
    assert_eq!(kernel::field("alone", "cpu.stat", "nr_throttled"), Some(0));
}
