//! Threads that don't sleep: what is found, what it is called, and what is done.

use crate::{manifest, workload};
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, wait_for};

const QUICKLY: &str = "watch: { cpu_loop: { after: 2s } }";

#[test]
fn a_dead_loop_is_proved_and_demoted() {
    let agent = Agent::start(&manifest(&workload("web", "spin", QUICKLY)));
    let found = agent.wait_for_events("web", "cpu_loop", 1);
    println!("{:#}", found[0]);
    assert_eq!(found[0]["details"]["verdict"], "dead_loop");
    wait_for("the demotion", || {
        (kernel::read("web", "cpu.weight")? == "1").then_some(())
    });
    assert_eq!(agent.workload("web")["throttle"], "demoted");
}
