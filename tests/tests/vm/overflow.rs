//! More OOM marks than the eBPF ring holds: what is lost is counted, and the kernel's own
//! counters still explain every kill.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::Lost;
use enforcer_model::oom::Incident;
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::{kernel, wait_for, wait_within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

const HERDS: u64 = 6;
const EACH: u64 = 400;

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap())
}

#[test]
fn what_the_ring_has_no_room_for_is_counted() {
    let name = |number| format!("herd-{number}");
    let more = "cgroup: { memory.max: 96M, memory.swap.max: 0 }\nrecovery: { restart: never }";
    let workloads: String = (0..HERDS)
        .map(|number| workload(&name(number), &format!("herd {EACH}"), more))
        .collect();
    let agent = Agent::start(&manifest(&workloads));
    let minutes = Duration::from_secs(300);
    for number in 0..HERDS {
        wait_within(minutes, "a whole herd", || {
            agent.output(&name(number)).contains("ready").then_some(())
        });
    }
    let leaders: Vec<u32> = (0..HERDS)
        .map(|number| pid_of(&agent.workload(&name(number))))
        .collect();
    let own = pid(agent.pid());
    // Nobody empties the ring while they die.
    kill(own, Signal::SIGSTOP).unwrap();
    for leader in leaders {
        kill(pid(leader), Signal::SIGUSR1).unwrap();
    }
    let killed = |number| kernel::field(&name(number), "memory.events", "oom_kill").unwrap_or(0);
    wait_within(minutes, "all of them to be killed", || {
        let all: Vec<u64> = (0..HERDS).map(killed).collect();
        // The first victim of a group is counted twice.
        all.iter().all(|count| *count == EACH + 2).then_some(())
    });
    kill(own, Signal::SIGCONT).unwrap();
    let lost = wait_for("the loss to be reported", || {
        agent.all_events::<Lost>().pop()
    });
    let mut named = 0;
    for number in 0..HERDS {
        let workload = name(number);
        agent.wait_for_state(&workload, WorkloadState::Failed);
        let mut reported = 0;
        for incident in agent.wait_for_events::<Incident>(&workload, 1) {
            let details = &incident.details;
            assert_eq!(details.counter_before, reported, "{incident:#?}");
            reported = details.counter_after;
            named += details.victims.len();
        }
        assert_eq!(reported, EACH + 2, "{workload}");
    }
    let losses = agent.all_events::<Lost>();
    let lost_records: u64 = losses.iter().map(|event| event.details.records).sum();
    let marks = HERDS * (EACH + 1);
    println!("{marks} marks: {named} named, {lost_records} lost");
    assert_eq!(
        u64::try_from(named).unwrap() + lost_records,
        marks,
        "{lost:?}"
    );
    assert!(lost_records > 0);
}
