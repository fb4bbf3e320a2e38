//! A fleet of three hosts, of which everything fails in turn.

use super::super::*;
use enforcer_tests::fleet::{
    Clients, Host, MANIFEST, MEMBERS, Way, World, ask, check_singleton, command_line, fleet,
    follow_endpoints, say, start_haproxy,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

const HOSTS: usize = 3;

#[test]
fn hosts_etcd_and_schedulers_fail_and_the_fleet_goes_on() {
    install_anew();
    sh("dpkg --install /root/enforcer-fleet_1.deb");
    let mut world = World::start(HOSTS);
    fs::write("/srv/fleet/all.yaml", MANIFEST).unwrap();
    wait_for("etcd", || {
        shell(&format!("{} nodes", command_line()))
            .status
            .success()
            .then_some(())
    });
    let planned = fleet("plan -f /srv/fleet/all.yaml");
    assert!(planned.contains("web: new, with 4 replicas"), "{planned}");
    fleet("apply -f /srv/fleet/all.yaml");
    let placed = world.wait_for_ready("all replicas", &[]);
    let nodes: BTreeSet<&String> = placed.values().collect();
    assert_eq!(nodes.len(), HOSTS, "{placed:?}");
    assert_eq!(fleet("apply -f /srv/fleet/all.yaml"), "no changes");

    // HAProxy follows the endpoints.
    let first = start_haproxy();
    let _follower = follow_endpoints();
    drop(first);
    let _proxy = start_haproxy();
    wait_for("HAProxy to have servers again", || ask().ok());
    let clients = Clients::start();
    clients.wait_for_more(20);

    // Each member of etcd is killed in turn, and then two at once, so that nobody can write.
    let before = world.pids();
    assert_eq!(before.len(), 4);
    for member in 0..MEMBERS.len() {
        say(&format!("member {member} of etcd is killed"));
        world.cluster.kill(member);
        wait_for("an answer of the others", || world.replicas().map(drop));
        world.cluster.go_on(member);
        std::thread::park_timeout(Duration::from_secs(3));
    }
    say("etcd loses its quorum");
    world.cluster.kill(0);
    world.cluster.kill(1);
    std::thread::park_timeout(Duration::from_secs(30));
    assert_eq!(world.pids(), before, "{}", world.logs());
    world.cluster.go_on(0);
    world.cluster.go_on(1);
    world.wait_for_ready("all after the quorum is back", &[]);
    assert_eq!(world.pids(), before, "{}", world.logs());

    // Ways that are slow, or open in one direction only, and a clock that steps: everything stays where it is.
    say("the ways to etcd are bad, and the clock steps");
    world.hosts[0].set_way(Way::Slow);
    world.hosts[1].set_way(Way::NoAnswers);
    std::thread::park_timeout(Duration::from_secs(5));
    sh("date --set '+1 hour' >/dev/null");
    std::thread::park_timeout(Duration::from_secs(5));
    sh("date --set '-2 hours' >/dev/null");
    std::thread::park_timeout(Duration::from_secs(5));
    sh("date --set '+1 hour' >/dev/null");
    for host in &world.hosts {
        host.set_way(Way::Open);
    }
    world.wait_for_ready("all after that", &[]);
    assert_eq!(world.pids(), before, "{}", world.logs());

    say("an agent, a node and a scheduler are killed");
    world.hosts[0].kill_agent();
    world.hosts[0].start_agent();
    world.hosts[1].kill_node();
    world.hosts[1].start_node();
    let mut first = world.schedulers.remove(0);
    first.kill().unwrap();
    first.wait().unwrap();
    world.start_scheduler();
    // The other one is stopped past its lease, and goes on as if it still led.
    let paused = Pid::from_raw(i32::try_from(world.schedulers[0].id()).unwrap());
    kill(paused, Signal::SIGSTOP).unwrap();
    std::thread::park_timeout(Duration::from_secs(20));
    kill(paused, Signal::SIGCONT).unwrap();
    world.wait_for_ready("all after the kills", &[]);
    wait_for("the next agent to show the same processes", || {
        (world.pids() == before).then_some(())
    });
    clients.wait_for_more(20);
    assert_eq!(clients.failures(), Vec::<String>::new());

    // The host of the singleton is cut off from etcd: it ends there, and begins elsewhere. The others' clients reach it still.
    let present = world.wait_for_ready("all", &[]);
    let cut = world
        .hosts
        .iter()
        .position(|host| host.name() == present["db/0"])
        .unwrap();
    let cut_name = world.hosts[cut].name();
    world.hosts[cut].set_way(Way::Cut);
    let moved = world.wait_for_ready("all elsewhere", &[&cut_name]);
    assert!(moved.values().all(|node| *node != cut_name), "{moved:?}");
    world.hosts[cut].set_way(Way::Open);
    say("the host that was cut off comes back");
    wait_for("the host that was cut off to be empty", || {
        let shown = fleet("nodes -o json");
        let rows: Vec<Value> = serde_json::from_str(&shown).ok()?;
        let row = rows
            .into_iter()
            .find(|row| row["node"] == cut_name.as_str())?;
        (row["state"] == "up" && row["replicas"] == "0").then_some(())
    });
    assert!(check_singleton() >= 2);

    // A host is lost. Requests that were at it are lost, and no others: HAProxy tries another server.
    let lost = world.hosts.iter().position(|host| {
        let name = host.name();
        name != cut_name && moved.values().any(|node| *node == name)
    });
    let lost = lost.unwrap();
    let lost_name = world.hosts[lost].name();
    world.hosts[lost].lose();
    let after = world.wait_for_ready("all on the hosts that are left", &[&lost_name]);
    assert!(after.values().all(|node| *node != lost_name), "{after:?}");
    clients.wait_for_more(20);
    assert_eq!(clients.failures(), Vec::<String>::new(), "{}", world.logs());
    check_singleton();
    let why = fleet("why web");
    assert!(why.contains("its node is lost"), "{why}");
    let status = shell(&format!("{} status", command_line()));
    assert_eq!(status.status.code(), Some(3), "{status:?}");

    say("a node is drained");
    let left: Vec<String> = world
        .hosts
        .iter()
        .map(Host::name)
        .filter(|name| *name != lost_name)
        .collect();
    fleet(&format!("drain {}", left[0]));
    // Its agent is killed in the middle of the move, and so is that of the host to which it goes.
    for host in &mut world.hosts {
        if left.contains(&host.name()) {
            host.kill_agent();
            host.start_agent();
        }
    }
    let away = wait_for("the drain", || {
        let found = world.replicas()?;
        let on: Vec<_> = found
            .iter()
            .filter(|(_, node, _)| *node == left[0])
            .collect();
        let ready = found.iter().filter(|(.., state)| state == "ready").count();
        (on.is_empty() && ready == 5).then_some(found)
    });
    assert!(!away.is_empty());
    clients.wait_for_more(20);
    assert_eq!(clients.failures(), Vec::<String>::new(), "{}", world.logs());
    check_singleton();
    fleet(&format!("uncordon {}", left[0]));
    say("all is removed");
    // What was on the lost host may run there for all that is known, until somebody says that it does not come back.
    fleet("remove web");
    fleet("remove db");
    fleet(&format!("forget {lost_name}"));
    wait_for("nothing to be left", || {
        world.replicas()?.is_empty().then_some(())
    });
    drop(clients);
    drop(world);
    sh("dpkg --purge enforcer-fleet");
    purge();
}
