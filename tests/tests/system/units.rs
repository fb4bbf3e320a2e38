//! What the two units promise: whatever becomes of the agent, its workloads run on.

use super::*;

/// What holds at every moment: the same process, never restarted, inside its limits, in
/// the cgroup of the unit that is never restarted.
fn check(pid: u32) {
    let found = workload().unwrap();
    assert_eq!(found.pid, Some(pid), "{found:?}\n{}", journal());
    assert_eq!(found.restarts, 0, "{found:?}");
    let place = sh(&format!("sed 's/^0:://' /proc/{pid}/cgroup"));
    assert_eq!(
        place,
        "/enforcer.slice/enforcer-workloads.service/workloads/web"
    );
    assert_eq!(
        sh(&format!("cat /sys/fs/cgroup{place}/memory.max")),
        "67108864"
    );
}

#[test]
fn an_agent_comes_and_goes_without_its_workloads() {
    install_anew();
    put_manifest("rest");
    let pid = running();
    check(pid);
    let own = agent().unwrap();
    assert_eq!(
        sh(&format!("sed 's/^0:://' /proc/{own}/cgroup")),
        "/enforcer.slice/enforcer.service"
    );

    sh("systemctl restart enforcer");
    let own = next_agent(own);
    check(pid);

    sh(&format!("kill -9 {own}"));
    let own = next_agent(own);
    check(pid);

    // One that hangs is found by its silence.
    sh(&format!("kill -STOP {own}"));
    next_agent(own);
    check(pid);

    sh("systemctl stop enforcer");
    assert!(lives(pid));
    sh("systemctl start enforcer");
    check(pid);

    // It comes up to a second after the agent is ready.
    wait_for("the status", || {
        (sh("systemctl show -P StatusText enforcer") == "1 running").then_some(())
    });

    // The one that holds the cgroup is no more than that.
    let own = agent().unwrap();
    sh("kill -9 $(systemctl show -P MainPID enforcer-workloads)");
    assert!(lives(pid));
    // systemd clears what is empty there, and the agent makes it again.
    let own = next_agent(own);
    check(pid);
    sh("systemctl restart enforcer");
    next_agent(own);
    check(pid);
    // With the last process the whole tree goes, and comes again.
    sh(&format!("kill -9 {pid}"));
    let next = wait_for("the workload to run again", || {
        let found = workload()?;
        let other = found.pid.filter(|other| *other != pid)?;
        (found.state == WorkloadState::Running).then_some(other)
    });
    assert_eq!(
        sh("systemctl is-active enforcer enforcer-workloads"),
        "active\nactive"
    );
    purge();
    assert!(!lives(next));
}

/// What it may do: what it needs, and no more; a root's program has all of it again.
#[test]
fn the_agent_uses_no_capability_that_it_does_not_need() {
    install_anew();
    put_manifest("rest");
    running();
    let sets = sh(&format!(
        "sed -n 's/^Cap\\(Eff\\|Prm\\|Bnd\\):[[:space:]]*//p' /proc/{}/status",
        agent().unwrap()
    ));
    let sets: Vec<u64> = sets
        .lines()
        .map(|set| u64::from_str_radix(set, 16).unwrap())
        .collect();
    // Permitted, effective, bounding.
    assert_eq!(sets[1], 0xc0_01ac_15eb, "{:x}", sets[1]);
    assert_eq!(sets[0], sets[2]);
    purge();
}

#[test]
fn a_reload_takes_the_new_manifest_and_a_bad_one_changes_nothing() {
    install_anew();
    put_manifest("rest");
    let pid = running();
    let own = agent().unwrap();
    std::fs::write(
        MANIFEST,
        std::fs::read_to_string(MANIFEST)
            .unwrap()
            .replace("64M", "48M"),
    )
    .unwrap();
    sh("systemctl reload enforcer");
    let limit = "/sys/fs/cgroup/enforcer.slice/enforcer-workloads.service/workloads/web/memory.max";
    wait_for("the new limit", || {
        (std::fs::read_to_string(limit).ok()?.trim() == "50331648").then_some(())
    });
    std::fs::write(MANIFEST, "version: 1\nworkloads:\n  web: { commnd: [x] }\n").unwrap();
    sh("systemctl reload enforcer");
    wait_for("the refusal", || {
        sh("enforcer events --kind config")
            .contains("commnd")
            .then_some(())
    });
    assert_eq!((running(), agent()), (pid, Some(own)));
    purge();
}

#[test]
fn an_oom_kill_in_a_workload_stops_no_unit() {
    install_anew();
    put_manifest("hog");
    wait_for("two OOM kills", || {
        let reported = shell("enforcer events --kind oom_kill --json").stdout;
        (String::from_utf8_lossy(&reported).lines().count() >= 2).then_some(())
    });
    assert_eq!(
        sh("systemctl is-active enforcer enforcer-workloads"),
        "active\nactive"
    );
    let why = sh("enforcer why web");
    assert!(why.contains("OOM kill"), "{why}");
    purge();
}

#[test]
fn stopping_the_workloads_unit_stops_the_workloads() {
    install_anew();
    put_manifest("rest");
    let pid = running();
    sh("systemctl restart enforcer-workloads");
    assert!(!lives(pid));
    let pid = running();
    // Both at once: the agent leaves, and the holder ends what it finds.
    sh("systemctl stop enforcer enforcer-workloads");
    assert!(!lives(pid));
    sh("systemctl start enforcer");
    let pid = running();
    sh("systemctl stop enforcer-workloads");
    assert!(!lives(pid));
    wait_for("the agent to end with them", || {
        agent().is_none().then_some(())
    });
    assert!(!Path::new("/sys/fs/cgroup/enforcer.slice/enforcer-workloads.service").exists());
    sh("systemctl start enforcer");
    assert_ne!(running(), pid);
    purge();
}
