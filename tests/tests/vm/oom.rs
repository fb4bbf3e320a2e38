//! OOM kills, from the kernel's mark to the restart.

use enforcer_tests::agent::Agent;

#[test]
fn a_hog_is_killed_told_and_restarted() {
    let agent = Agent::start(
        "version: 1\nworkloads:\n  hog:\n    command: [/bin/fixture, hog]\n    user: web\n    cgroup: { memory.max: 16M }\n",
    );
    let events = agent.wait_for_events("hog", "oom_kill", 2);
    assert_eq!(events[0]["details"]["source"], "ebpf", "{events:#?}");
    println!("{}", agent.lines());
}
