//! `cargo xtask demo fleet`: five hosts in one kernel, of which one is lost.

use enforcer_tests::fleet::{
    Clients, GRACE, MANIFEST, World, check_singleton, fleet, follow_endpoints, run, start_haproxy,
};
use std::time::{Duration, Instant};

const HOSTS: usize = 5;

fn show(what: &str, command: &str) {
    println!("\n$ enforcer-fleet {command}        # {what}");
    println!("{}", fleet(command));
}

pub(super) fn demo() {
    println!("five hosts, each with its own network, agent and cgroup, and three members of etcd");
    run("dpkg --install /root/enforcer_1.deb /root/enforcer-fleet_1.deb");
    run("systemctl stop enforcer");
    let mut world = World::start(HOSTS);
    std::fs::write("/srv/fleet/all.yaml", MANIFEST).unwrap();
    enforcer_tests::wait_for("all nodes", || {
        let shown = enforcer_tests::fleet::shell(&format!(
            "{} nodes",
            enforcer_tests::fleet::command_line()
        ));
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        (text.matches(" up ").count() == HOSTS).then_some(())
    });
    show("the hosts have come by themselves", "nodes");
    show(
        "four web servers, and a singleton",
        "apply -f /srv/fleet/all.yaml",
    );
    let placed = world.wait_for_ready("all replicas", &[]);
    show("they are spread over two zones", "ps");

    let _proxy = start_haproxy();
    let _follower = follow_endpoints();
    let clients = Clients::start();
    clients.wait_for_more(50);
    let name = &placed["db/0"];
    let lost = world
        .hosts
        .iter()
        .position(|host| host.name() == *name)
        .unwrap();
    println!("\n{name}, which has the singleton, loses its power and its network");
    let begun = Instant::now();
    world.hosts[lost].lose();
    world.wait_for_ready("all on the other hosts", &[name]);
    let took = begun.elapsed().as_secs();
    show(&format!("{took} s later, with a lease of {GRACE} s"), "ps");
    show("and the reason", "why db");
    check_singleton();
    clients.wait_for_more(50);
    let failures = clients.failures();
    println!(
        "\n{} requests were answered meanwhile, and {} failed; the singleton never ran twice",
        clients.answered(),
        failures.len()
    );
    assert!(failures.is_empty(), "{failures:?}");
    std::thread::park_timeout(Duration::from_millis(100));
    drop(clients);
    drop(world);
}
