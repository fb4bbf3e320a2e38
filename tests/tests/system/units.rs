//! What the two units promise: whatever becomes of the agent, its workloads run on.

use super::*;

/// What holds at every moment: the same process, never restarted, inside its limits, in
/// the cgroup of the unit that is never restarted.
fn check(pid: u64) {
    let found = workload();
    assert_eq!(found["pid"], pid, "{found}\n{}", journal());
    assert_eq!(found["restarts"], 0, "{found}");
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

    let status = sh("systemctl show -P StatusText enforcer");
    assert_eq!(status, "1 running");

    // The one that holds the cgroup is no more than that.
    let own = agent().unwrap();
    sh("kill -9 $(systemctl show -P MainPID enforcer-workloads)");
    assert!(lives(pid));
    sh("systemctl restart enforcer");
    next_agent(own);
    check(pid);
    purge();
    assert!(!lives(pid));
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
        let told = shell("enforcer events --kind oom_kill --json").stdout;
        (String::from_utf8_lossy(&told).lines().count() >= 2).then_some(())
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
