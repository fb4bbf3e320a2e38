//! A unit of systemd's that enforcer looks after: systemd starts and restarts it, and enforcer says why.

use super::*;
use std::fs;

const UNIT: &str = "/etc/systemd/system/shop.service";
const ATTACHED: &str = "/etc/enforcer/workloads.d/shop.yaml";
const PORT: u16 = 18320;

fn manifest(more: &str) -> String {
    format!(
        "version: 1\nworkloads:\n  shop:\n    attach: {{ systemd: shop.service }}\n    \
         watch: {{ cpu_loop: {{ after: 3s }} }}\n{more}"
    )
}

fn shop() -> Option<WorkloadView> {
    let listed = shell("enforcer ps --json");
    let listed: Workloads = serde_json::from_slice(&listed.stdout).ok()?;
    let mut all = listed.workloads.into_iter();
    all.find(|one| one.name.to_string() == "shop")
}

fn main_pid() -> Option<u32> {
    let pid = sh("systemctl show -p MainPID --value shop");
    pid.parse().ok().filter(|pid| *pid > 0)
}

/// Waits until enforcer knows another main process than this one.
fn restarted(before: Option<u32>) -> u32 {
    wait_for("the next process", || {
        let pid = main_pid().filter(|pid| Some(*pid) != before)?;
        (shop()?.pid == Some(pid)).then_some(pid)
    })
}

const LIMITS: &str = "    cgroup: { memory.max: 64M, cpu.max: 50%, pids.max: 200 }\n";

/// Waits until the kernel has these values of `memory.max`, `cpu.max` and `pids.max`.
fn await_limits(expected: [&str; 3]) {
    let read = |file| {
        let path = format!("/sys/fs/cgroup/system.slice/shop.service/{file}");
        // Without a limit of CPU time, systemd takes the controller away.
        fs::read_to_string(path).map_or("max 100000".to_owned(), |text| text.trim().to_owned())
    };
    wait_for(&expected.join(", "), || {
        let found = ["memory.max", "cpu.max", "pids.max"].map(read);
        (found == expected).then_some(())
    });
}

/// The limit of tasks that systemd gives each service.
fn own_tasks() -> String {
    sh("systemctl show -p DefaultTasksMax --value")
}

/// systemd sets the limits of the manifest, also those of a throttle, and those of the unit come back: after a change of the
/// manifest, and when the agent was killed before.
fn its_limits_are_set_by_systemd_and_given_back(probe: &str) {
    let own = [&(48 << 20).to_string(), "max 100000", &own_tasks()];
    await_limits(own);
    fs::write(ATTACHED, manifest(&format!("{probe}{LIMITS}"))).unwrap();
    sh("systemctl reload enforcer");
    let limited = [&(64 << 20).to_string(), "50000 100000", "200"];
    await_limits(limited);
    let shown = sh("systemctl show -p MemoryMax --value shop");
    assert_eq!(shown, (64 << 20).to_string());

    sh("enforcer throttle shop --cpu 20%");
    await_limits([limited[0], "20000 100000", limited[2]]);
    sh("enforcer release shop");
    await_limits(limited);

    let agent = sh("systemctl show -p MainPID --value enforcer");
    sh("systemctl kill -s KILL enforcer");
    wait_for("the next agent", || {
        let next = sh("systemctl show -p MainPID --value enforcer");
        (next != agent && next != "0" && shop()?.pid == main_pid()).then_some(())
    });
    await_limits(limited);
    fs::write(ATTACHED, manifest(probe)).unwrap();
    sh("systemctl reload enforcer");
    await_limits(own);

    // An agent has let the unit go, and has died before its owner was asked: the next one knows no such workload.
    fs::write(ATTACHED, manifest(&format!("{probe}{LIMITS}"))).unwrap();
    sh("systemctl reload enforcer");
    await_limits(limited);
    fs::remove_file(ATTACHED).unwrap();
    sh(
        "systemctl stop enforcer && rm /run/enforcer/workloads/shop.json /run/enforcer/instances/shop.json",
    );
    sh("systemctl start enforcer");
    await_limits(own);
    fs::write(ATTACHED, manifest(probe)).unwrap();
    sh("systemctl reload enforcer");
    wait_for("the unit", || (shop()?.pid == main_pid()).then_some(()));
}

#[test]
fn a_unit_goes_on_under_systemd_and_is_explained_by_enforcer() {
    install_anew();
    let unit = format!(
        "[Service]\nExecStart=/usr/bin/fixture http {PORT}\nUser=web\nMemoryMax=48M\nMemorySwapMax=0\n\
         Restart=always\nRestartSec=0\n"
    );
    fs::write(UNIT, unit).unwrap();
    sh("systemctl daemon-reload");
    fs::write(ATTACHED, manifest("")).unwrap();
    sh("systemctl reload enforcer");
    wait_for("the search", || {
        let reason = shop()?.reason;
        (reason == "waiting for systemd shop.service to run").then_some(())
    });
    sh("systemctl start shop");
    let first = restarted(None);
    let found = shop().unwrap();
    assert_eq!(found.cgroup, "/sys/fs/cgroup/system.slice/shop.service");
    assert_eq!(found.memory_max_bytes, Some(48 << 20));

    // The kernel kills it at its limit, and systemd starts it again at the same moment.
    wait_for("it to listen", || {
        shell(&format!("bash -c '</dev/tcp/127.0.0.1/{PORT}'"))
            .status
            .success()
            .then_some(())
    });
    get(PORT, "/leak");
    let second = restarted(Some(first));
    let why = sh("enforcer why shop");
    assert!(why.contains("OOM") && why.contains("48"), "{why}");
    assert!(
        kinds_of("shop").contains("oom_kill exit start"),
        "{}",
        kinds_of("shop")
    );
    assert_eq!(shop().unwrap().restarts, 1);

    // A loop is seen. Nothing is done about it.
    wait_for("it to listen", || {
        shell(&format!("bash -c '</dev/tcp/127.0.0.1/{PORT}'"))
            .status
            .success()
            .then_some(())
    });
    get(PORT, "/break");
    wait_for("the loop", || {
        kinds_of("shop").contains("cpu_loop").then_some(())
    });
    assert_eq!(main_pid(), Some(second));

    // With `mode: enforce`, systemd is asked to restart it.
    let probe = format!(
        "    mode: enforce\n    probes: {{ liveness: {{ http: {{ port: {PORT}, path: /health }}, period: 1s, timeout: 1s, \
         failure_threshold: 2 }} }}\n"
    );
    fs::write(ATTACHED, manifest(&probe)).unwrap();
    sh("systemctl reload enforcer");
    restarted(Some(second));
    wait_for("it to be healthy", || {
        (shop()?.health == enforcer_model::health::Health::Healthy).then_some(())
    });
    assert!(
        kinds_of("shop").contains("restart exit"),
        "{}",
        kinds_of("shop")
    );
    let shown = shell("enforcer stop shop");
    let error = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(error.contains("ask its owner"), "{error}");
    let shown = shell("enforcer logs shop");
    let error = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(error.contains("journalctl -u shop.service"), "{error}");

    its_limits_are_set_by_systemd_and_given_back(&probe);

    // The package goes, and the unit stays, with its own limits.
    fs::write(ATTACHED, manifest(&format!("{probe}{LIMITS}"))).unwrap();
    sh("systemctl reload enforcer");
    await_limits([&(64 << 20).to_string(), "50000 100000", "200"]);
    let last = main_pid();
    purge();
    assert_eq!(main_pid(), last);
    await_limits([&(48 << 20).to_string(), "max 100000", &own_tasks()]);
    sh("systemctl stop shop");
    fs::remove_file(UNIT).unwrap();
    sh("systemctl daemon-reload");
}
