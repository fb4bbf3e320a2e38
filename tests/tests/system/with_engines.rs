//! Containers of Debian's own Podman and Docker that enforcer looks after: the engine starts and restarts them, and enforcer
//! says why.

use super::*;
use std::fs;

const ATTACHED: &str = "/etc/enforcer/workloads.d/shop.yaml";
const PORT: u16 = 18340;
const IMAGE: &str = "/srv/shop-image";

/// Without a network of its own, a container needs no module of the kernel's that is not there.
const DOCKER_UNIT: &str = "[Service]\nEnvironment=DOCKER_RAMDISK=1\nExecStart=/usr/sbin/dockerd \
    --bridge=none --iptables=false --ip6tables=false --storage-driver=vfs\n";

/// An engine, by its key of `attach` and its command.
struct Engine {
    key: &'static str,
    /// The beginning of its cgroup.
    cgroup: &'static str,
}

const ENGINES: [Engine; 2] = [
    Engine {
        key: "podman",
        cgroup: "/sys/fs/cgroup/libpod_parent/libpod-",
    },
    Engine {
        key: "docker",
        cgroup: "/sys/fs/cgroup/system.slice/docker-",
    },
];

fn manifest(engine: &Engine, more: &str) -> String {
    format!(
        "version: 1\nworkloads:\n  shop:\n    attach: {{ {}: shop }}\n    mode: enforce\n    \
         watch: {{ cpu_loop: {{ after: 3s }} }}\n    probes: {{ liveness: {{ http: {{ port: {PORT}, path: /health }}, \
         period: 1s, timeout: 1s, failure_threshold: 3 }} }}\n{more}",
        engine.key
    )
}

fn shop() -> Option<WorkloadView> {
    workload().filter(|found| found.name.to_string() == "shop")
}

/// The process that the engine says is the container's.
fn pid_of_engine(engine: &Engine) -> Option<u32> {
    let shown = shell(&format!(
        "{} inspect --format '{{{{.State.Pid}}}}' shop",
        engine.key
    ));
    let pid = String::from_utf8_lossy(&shown.stdout).trim().parse().ok()?;
    (pid != 0).then_some(pid)
}

/// Waits until enforcer and the engine know the same process, and it is healthy.
fn healthy(engine: &Engine, before: Option<u32>) -> u32 {
    wait_for("a healthy container", || {
        let found = shop()?;
        let pid = found.pid.filter(|pid| Some(*pid) != before)?;
        let is_healthy = found.health == enforcer_model::health::Health::Healthy;
        (is_healthy && pid_of_engine(engine) == Some(pid)).then_some(pid)
    })
}

fn await_limit(file: &str, expected: &str) {
    wait_for(&format!("{file} {expected}"), || {
        let path = format!("{}/{file}", shop()?.cgroup);
        let found = fs::read_to_string(path).ok()?;
        (found.trim() == expected).then_some(())
    });
}

fn set_manifest(engine: &Engine, more: &str) {
    fs::write(ATTACHED, manifest(engine, more)).unwrap();
    sh("systemctl reload enforcer");
}

/// A container is started by its engine, and its death, its loop and its limits are as those of any workload.
fn look_after_a_container(engine: &Engine) {
    sh(&format!(
        "tar -C {IMAGE} -c . | {0} import - shop && {0} run --detach --name shop --network host \
         --memory 48m --memory-swap 48m shop /usr/bin/fixture http {PORT}",
        engine.key
    ));
    set_manifest(engine, "");
    let first = healthy(engine, None);
    let found = shop().unwrap();
    assert!(found.cgroup.starts_with(engine.cgroup), "{}", found.cgroup);
    assert_eq!(found.memory_max_bytes, Some(48 << 20));

    // The engine sets the limits, and gives back what it has had.
    let own = (48 << 20).to_string();
    set_manifest(
        engine,
        "    cgroup: { memory.max: 64M, cpu.max: 80%, pids.max: 200 }\n",
    );
    await_limit("memory.max", &(64 << 20).to_string());
    await_limit("cpu.max", "80000 100000");
    await_limit("pids.max", "200");
    set_manifest(engine, "");
    await_limit("memory.max", &own);
    wait_for("no quota", || {
        let text = fs::read_to_string(format!("{}/cpu.max", shop()?.cgroup));
        // Podman gives a vast one instead.
        let is_none = |text: String| text.starts_with("max ") || text.starts_with("1000000000000 ");
        text.map_or(true, is_none).then_some(())
    });
    assert_eq!(pid_of_engine(engine), Some(first));

    // It loops and does not answer, so its engine is asked to restart it.
    get(PORT, "/break");
    let second = healthy(engine, Some(first));
    assert!(
        kinds_of("shop").contains("cpu_loop"),
        "{}",
        kinds_of("shop")
    );

    // The kernel kills it at its limit.
    get(PORT, "/leak");
    wait_for("the OOM kill", || {
        kinds_of("shop").contains("oom_kill").then_some(())
    });
    let why = sh("enforcer why shop");
    assert!(why.contains("OOM") && why.contains("48"), "{why}");
    sh(&format!("{} start shop", engine.key));
    healthy(engine, Some(second));
    sh(&format!(
        "{0} rm --force --time 1 shop 2>/dev/null || {0} rm --force shop",
        engine.key
    ));
    wait_for("the search", || {
        let reason = shop()?.reason;
        (reason == format!("waiting for {} shop to run", engine.key)).then_some(())
    });
    fs::remove_file(ATTACHED).unwrap();
    sh("systemctl reload enforcer && enforcer apply --prune");
}

const LIMITED: &str = "/etc/enforcer/workloads.d/limited.yaml";
/// The options of `run` for a container, and the same limits in a Compose file and in a Pod.
const OPTIONS: &str =
    "--memory 64m --memory-swap 96m --memory-reservation 32m --cpus 0.5 --pids-limit 60";
const COMPOSE: &str = "services:\n  limited:\n    command: [/usr/bin/fixture, rest]\n    user: web\n    mem_limit: 64m\n    \
    memswap_limit: 96m\n    mem_reservation: 32m\n    cpus: 0.5\n    pids_limit: 60\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: { name: limited }\nspec:\n  containers:\n  - name: limited\n    \
    command: [/usr/bin/fixture, rest]\n    securityContext: { runAsUser: 1000 }\n    \
    resources: { limits: { memory: 64Mi, cpu: 500m } }\n";

/// The values of a cgroup that both sources set.
fn limits_of(cgroup: &str, files: &[&str]) -> Vec<String> {
    let read = |file| fs::read_to_string(format!("{cgroup}/{file}")).unwrap();
    files
        .iter()
        .map(|file| format!("{file} {}", read(file).trim()))
        .collect()
}

/// Limits of an imported file are those that crun and runc set from the same numbers.
fn compare_imported_limits(engine: &Engine) {
    sh(&format!(
        "{} run --detach --name limited --network host {OPTIONS} shop /usr/bin/fixture rest",
        engine.key
    ));
    let pid = sh(&format!(
        "{} inspect --format '{{{{.State.Pid}}}}' limited",
        engine.key
    ));
    let place = sh(&format!("cut -d: -f3 /proc/{pid}/cgroup"));
    // crun gives the program a cgroup below the one with the limits.
    let cgroup = format!("/sys/fs/cgroup{}", place.trim_end_matches("/container"));
    for (kind, text, files) in [
        (
            "compose",
            COMPOSE,
            &[
                "memory.max",
                "memory.swap.max",
                "memory.low",
                "cpu.max",
                "pids.max",
            ][..],
        ),
        ("kubernetes", POD, &["memory.max", "cpu.max"]),
    ] {
        fs::write("/tmp/limited.yaml", text).unwrap();
        // The report may ask for something that has nothing to do with limits.
        let imported = shell(&format!("enforcer import {kind} /tmp/limited.yaml"));
        fs::write(LIMITED, imported.stdout).unwrap();
        sh("enforcer apply");
        let ours = wait_for("the imported workload", || {
            let listed = workload().filter(|found| found.state == WorkloadState::Running)?;
            Some(listed.cgroup)
        });
        assert_eq!(limits_of(&ours, files), limits_of(&cgroup, files), "{kind}");
        fs::remove_file(LIMITED).unwrap();
        sh("enforcer apply --prune");
        wait_for("no workload", || workload().is_none().then_some(()));
    }
    sh(&format!("{} rm --force limited", engine.key));
}

/// A container without limits gets them, and has none again.
fn limit_an_open_container(engine: &Engine) {
    sh(&format!(
        "{} run --detach --name open --network host shop /usr/bin/fixture rest",
        engine.key
    ));
    let manifest = |more: &str| {
        format!(
            "version: 1\nworkloads:\n  shop:\n    attach: {{ {}: open }}\n    mode: enforce\n{more}",
            engine.key
        )
    };
    fs::write(ATTACHED, manifest("    cgroup: { memory.max: 64M }\n")).unwrap();
    sh("systemctl reload enforcer");
    await_limit("memory.max", &(64 << 20).to_string());
    fs::write(ATTACHED, manifest("")).unwrap();
    sh("systemctl reload enforcer");
    await_limit("memory.max", "max");
    fs::remove_file(ATTACHED).unwrap();
    sh("enforcer apply --prune");
    sh(&format!("{} rm --force open", engine.key));
}

/// crun asks systemd for a scope over D-Bus, which this host has not, so Podman makes its cgroups itself.
#[test]
fn containers_go_on_under_their_engines_and_are_explained_by_enforcer() {
    install_anew();
    sh(&format!(
        "mkdir -p {IMAGE}/usr/bin {IMAGE}/tmp {IMAGE}/etc {IMAGE}/proc {IMAGE}/sys {IMAGE}/dev {IMAGE}/run && \
         cp /usr/bin/fixture {IMAGE}/usr/bin/ && mkdir -p /etc/containers && \
         printf '[storage]\\ndriver = \"vfs\"\\nrunroot = \"/run/containers\"\\n\
         graphroot = \"/var/lib/containers/storage\"\\n' >/etc/containers/storage.conf && \
         printf '[engine]\\ncgroup_manager = \"cgroupfs\"\\n' >/etc/containers/containers.conf"
    ));
    fs::write("/etc/systemd/system/docker-alone.service", DOCKER_UNIT).unwrap();
    sh("systemctl daemon-reload && systemctl start docker-alone");
    wait_for("Docker", || {
        shell("docker version").status.success().then_some(())
    });
    for engine in &ENGINES {
        look_after_a_container(engine);
        compare_imported_limits(engine);
        limit_an_open_container(engine);
    }
    sh(
        "systemctl stop docker-alone && rm /etc/systemd/system/docker-alone.service && systemctl daemon-reload",
    );
    purge();
}

/// A unit of a user's own systemd.
const OF_USER: &str = "/etc/systemd/user/own.service";
const AS_USER: &str =
    "setpriv --reuid 1000 --regid 1000 --clear-groups env XDG_RUNTIME_DIR=/run/user/1000";

fn own_pid() -> Option<u32> {
    let shown = sh(&format!("{AS_USER} systemctl --user show -P MainPID own"));
    shown.parse().ok().filter(|pid| *pid != 0)
}

fn own_is_healthy(before: Option<u32>) -> u32 {
    wait_for("a healthy service", || {
        let found = workload()?;
        let pid = found.pid.filter(|pid| Some(*pid) != before)?;
        let is_healthy = found.health == enforcer_model::health::Health::Healthy;
        (is_healthy && own_pid() == Some(pid)).then_some(pid)
    })
}

/// A user's own systemd is asked as that user, to restart the unit and to limit it.
#[test]
fn a_users_own_service_is_looked_after() {
    install_anew();
    fs::write(
        OF_USER,
        format!("[Service]\nExecStart=/usr/bin/fixture http {PORT}\n"),
    )
    .unwrap();
    // Without D-Bus and PAM, the user's systemd gets its folder from another unit.
    fs::write(
        "/etc/systemd/system/user-runtime-dir@.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/install -d -m 0700 -o %i -g %i /run/user/%i\n",
    )
    .unwrap();
    fs::create_dir_all("/etc/systemd/system/user@.service.d").unwrap();
    fs::write(
        "/etc/systemd/system/user@.service.d/alone.conf",
        "[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n",
    )
    .unwrap();
    sh("systemctl daemon-reload && systemctl start user@1000");
    sh(&format!("{AS_USER} systemctl --user start own"));
    let manifest = |more: &str| {
        format!(
            "version: 1\nworkloads:\n  own:\n    attach: {{ systemd: web/own.service }}\n    mode: enforce\n    \
             probes: {{ liveness: {{ http: {{ port: {PORT}, path: /health }}, period: 1s, timeout: 1s, \
             failure_threshold: 3 }} }}\n{more}"
        )
    };
    fs::write(ATTACHED, manifest("    cgroup: { memory.max: 64M }\n")).unwrap();
    sh("systemctl reload enforcer");
    let first = own_is_healthy(None);
    let cgroup = workload().unwrap().cgroup;
    assert!(
        cgroup.starts_with("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/"),
        "{cgroup}"
    );
    let limit = |expected: &str| {
        wait_for(&format!("memory.max {expected}"), || {
            let found = fs::read_to_string(format!("{}/memory.max", workload()?.cgroup)).ok()?;
            (found.trim() == expected).then_some(())
        });
    };
    limit(&(64 << 20).to_string());
    get(PORT, "/break");
    own_is_healthy(Some(first));
    limit(&(64 << 20).to_string());
    fs::write(ATTACHED, manifest("")).unwrap();
    sh("systemctl reload enforcer");
    limit("max");
    purge();
    assert!(own_pid().is_some());
    sh(&format!(
        "systemctl stop user@1000 user-runtime-dir@1000; rm -r {OF_USER} /etc/systemd/system/user@.service.d \
         /etc/systemd/system/user-runtime-dir@.service /run/user/1000; systemctl daemon-reload"
    ));
}
