//! The daemons that people run on Debian, each with the settings that its package brings, below
//! limits. Whatever befalls them, they are healed: SIGKILL, SIGSTOP, an OOM kill, a handler that
//! never ends, and the death of the agent in between. What PostgreSQL has stored survives.

use super::*;
use enforcer_model::health::Health;
use enforcer_model::views::Workloads;
use enforcer_model::{Record, WorkloadState};
use std::collections::BTreeMap;
use std::fs;

/// More settings of HAProxy: it answers by itself, so that its health is its own.
const FRONT: &str = "/root/front.cfg";

/// A further server of nginx: over TLS, and on a Unix socket.
const NGINX: &str = "/etc/nginx/conf.d/front.conf";
/// nginx leaves its socket behind when it is killed, and cannot begin while it is there.
const NGINX_SOCKET: &str = "/run/nginx-front.sock";
/// A certificate of `localhost` that signs itself, with its key.
const CERTIFICATE: &str = include_str!("../../../enforcer/src/tls/testdata/own.pem");
const KEY: &str = include_str!("../../../enforcer/src/tls/testdata/own.key");

/// A daemon, the settings of its workload in YAML, and its startup and its liveness check. nginx
/// forks, and HAProxy and redis say by sd_notify(3) that they are ready, as in their own units. redis
/// has a root of its own, and those of other users than root a sandbox.
const DAEMONS: [(&str, &str, &str, &str); 6] = [
    (
        "etcd",
        "command: [/usr/bin/etcd], user: etcd, environment_files: [/etc/default/etcd], \
         environment: { ETCD_DATA_DIR: /var/lib/etcd/default }, sandbox: default, cgroup: { memory.max: 384M, pids.max: 64 }",
        "http: { port: 2379, path: /health }",
        "grpc: { port: 2379 }",
    ),
    (
        "haproxy",
        "command: [/usr/sbin/haproxy, -Ws, -f, /etc/haproxy/haproxy.cfg, -f, /root/front.cfg], \
         user: root, reload: { signal: SIGUSR2 }, cgroup: { memory.max: 128M, pids.max: 64 }",
        "notify: {}",
        "http: { port: 8080 }",
    ),
    (
        "nginx",
        "command: [/usr/sbin/nginx], user: root, main_pid_file: /run/nginx.pid, \
         before_start: [[/bin/rm, -f, /run/nginx-front.sock]], reload: { signal: SIGHUP }, \
         reload_on: [/etc/nginx/conf.d/front.conf], cgroup: { memory.max: 64M, pids.max: 32 }",
        "http: { unix: /run/nginx-front.sock }",
        "https: { port: 443, server_name: localhost, ca_file: /root/front.pem }",
    ),
    (
        "node",
        "command: [/usr/bin/node, /tmp/server.js], user: web, \
         sandbox: default, read_only_paths: [/tmp/server.js], \
         cgroup: { memory.max: 256M, pids.max: 64 }",
        "http: { port: 8081 }",
        "http: { port: 8081 }",
    ),
    (
        "postgres",
        "command: [/usr/lib/postgresql/17/bin/postgres, \
         --data-directory=/var/lib/postgresql/17/main, \
         --config-file=/etc/postgresql/17/main/postgresql.conf], user: postgres, \
         stop: { signal: SIGINT, grace: 60s }, sandbox: default, cgroup: { memory.max: 384M, pids.max: 64 }",
        "exec: { command: [/usr/lib/postgresql/17/bin/pg_isready, -q] }",
        "exec: { command: [/usr/lib/postgresql/17/bin/pg_isready, -q] }",
    ),
    (
        "redis",
        "command: [/usr/bin/redis-server, /etc/redis/redis.conf, --supervised, systemd, --daemonize, \"no\"], \
         user: redis, sandbox: default, root: /srv/redis, read_only: true, tmpfs: [/run/redis], mounts: [\
         { from: /usr, to: /usr, read_only: true }, { from: /etc/redis, to: /etc/redis, read_only: true }, \
         { from: /var/lib/redis, to: /var/lib/redis }, { from: /var/log/redis, to: /var/log/redis }], \
         reload: { run: [/usr/bin/redis-cli, -e, config, set, maxmemory, 32mb] }, \
         cgroup: { memory.max: 64M, pids.max: 32 }",
        "notify: {}",
        "exec: { command: [/usr/bin/redis-cli, -e, ping] }",
    ),
];

/// An answer takes its time on an emulated CPU, and the tests together need more restarts than
/// the default budget has.
fn manifest() -> String {
    let mut text = "version: 1\nworkloads:\n".to_owned();
    for (name, settings, startup, liveness) in DAEMONS {
        let timing = "period: 2s, timeout: 10s";
        text.push_str(&format!(
            "  {name}: {{ {settings}, recovery: {{ budget: off }}, probes: {{ \
             startup: {{ {startup}, {timing}, failure_threshold: 120 }}, \
             liveness: {{ {liveness}, {timing} }} }} }}\n"
        ));
    }
    text
}

/// Returns the settings of nginx's further server, which answers with this version.
fn front(version: &str) -> String {
    format!(
        "server {{\n  listen 127.0.0.1:443 ssl;\n  listen unix:{NGINX_SOCKET};\n  \
         ssl_certificate /root/front.pem;\n  ssl_certificate_key /root/front.key;\n  \
         location / {{ return 200 \"version {version}\\n\"; }}\n}}\n"
    )
}

/// What the packages' own scripts would have made.
const MAKE: &str = r#"
set -e
user() { useradd --system --user-group --no-create-home --home-dir "$2" --shell /bin/sh "$1"; }
user redis /var/lib/redis
user postgres /var/lib/postgresql
user haproxy /var/lib/haproxy
user etcd /var/lib/etcd
install -d -o redis -g redis /var/lib/redis /var/log/redis /run/redis
chgrp redis /etc/redis/redis.conf
cd /srv && mkdir -p redis && cd redis
mkdir -p proc sys dev run tmp usr etc/redis var/lib/redis var/log/redis
for folder in bin lib lib64 sbin; do ln -s usr/$folder $folder; done
cp /etc/passwd /etc/group /etc/ld.so.cache etc/
cd /
install -d -o postgres -g postgres /var/lib/postgresql /etc/postgresql /var/log/postgresql
install -d -o postgres -g postgres -m 2775 /run/postgresql
install -d -o etcd -g etcd -m 700 /var/lib/etcd
install -d -o haproxy -g haproxy -m 2775 /run/haproxy
mkdir -p /var/lib/haproxy /var/log/nginx /var/www/html
echo hello >/var/www/html/index.html
ln -s /etc/nginx/sites-available/default /etc/nginx/sites-enabled/default
cat >/tmp/server.js <<'END'
const answer = (question, answer) => {
  if (question.url === '/loop') for (;;);
  answer.end('ok\n');
};
require('http').createServer(answer).listen(8081, '127.0.0.1');
END
printf 'frontend front\n  bind 127.0.0.1:8080\n  http-request return status 200\n' >/root/front.cfg
pg_createcluster 17 main
"#;

const UNMAKE: &str = r#"
for user in redis postgres haproxy etcd; do userdel $user; done
chgrp root /etc/redis/redis.conf
rm -rf /etc/nginx/conf.d/front.conf /root/front.pem /root/front.key /run/nginx-front.sock
rm -rf /srv/redis /var/lib/redis /etc/postgresql /var/lib/postgresql /var/lib/etcd /var/lib/haproxy \
    /var/lib/nginx/* /var/www/html/index.html /etc/nginx/sites-enabled/default \
    /etc/apt/apt.conf.d/02autoremove-postgresql /root/front.cfg /tmp/server.js
mkdir -p /var/lib/postgresql /etc/postgresql /var/lib/haproxy/dev
"#;

/// The main process of each.
type Pids = BTreeMap<String, u32>;

/// Waits until all of them are healthy and none has its process of before any more.
fn healed(fault: &str, before: &Pids) -> Pids {
    let mut last = String::new();
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for(&format!("all to be healthy after: {fault}"), || {
            last = String::from_utf8(shell("enforcer ps --json").stdout).ok()?;
            let listed: Workloads = serde_json::from_str(&last).ok()?;
            let all = listed.workloads.iter().map(|found| {
                let (name, pid) = (found.name.to_string(), found.pid?);
                let well = found.state == WorkloadState::Running && found.health == Health::Healthy;
                let another = before.get(&name) != Some(&pid);
                (well && another).then_some((name, pid))
            });
            let all = all.collect::<Option<Pids>>();
            all.filter(|pids| pids.len() == DAEMONS.len())
        })
    }));
    looked.unwrap_or_else(|_| {
        let reported = sh(
            "enforcer events --last 60; for w in etcd haproxy nginx node postgres redis; do \
            echo == $w; enforcer logs $w --tail 12; done",
        );
        panic!("{last}\n{reported}")
    })
}

fn cgroup(name: &str) -> String {
    format!("/sys/fs/cgroup/enforcer.slice/enforcer-workloads.service/workloads/{name}")
}

fn sql(statement: &str) -> String {
    sh(&format!(
        "setpriv --reuid postgres --regid postgres --clear-groups psql -qAtc '{statement}'"
    ))
}

/// The workloads with an event of this kind.
fn reported(kind: &str) -> BTreeSet<String> {
    let events = sh(&format!("enforcer events --kind {kind} --json"));
    let events = events.lines();
    let events = events.map(|line| serde_json::from_str::<Record>(line).unwrap());
    let workloads = events.filter_map(|event| event.workload);
    workloads.map(|name| name.to_string()).collect()
}

/// The daemons as the test before has left them, or a new host with them.
fn daemons() -> Pids {
    if !Path::new(FRONT).exists() {
        install_anew();
        sh(MAKE);
        fs::write("/root/front.pem", CERTIFICATE).unwrap();
        fs::write("/root/front.key", KEY).unwrap();
        fs::write(NGINX, front("1")).unwrap();
        fs::write(MANIFEST, manifest()).unwrap();
        sh("systemctl reload enforcer");
        let pids = healed("their start", &Pids::new());
        sql("create table kept (n int); insert into kept values (1)");
        return pids;
    }
    healed("the test before", &Pids::new())
}

/// Leaves the host as it was without them; called when the package is purged.
pub(crate) fn unmake() {
    if Path::new(FRONT).exists() {
        sh(UNMAKE);
    }
}

#[test]
fn a_daemon_that_is_killed_runs_again() {
    let pids = daemons();
    for pid in pids.values() {
        sh(&format!("kill -9 {pid}"));
    }
    healed("SIGKILL", &pids);
    assert_eq!(sql("select min(n) from kept"), "1");
}

#[test]
fn a_daemon_that_is_stopped_by_a_signal_is_replaced() {
    let pids = daemons();
    for name in pids.keys() {
        sh(&format!(
            "kill -STOP $(cat {}/cgroup.procs) || true",
            cgroup(name)
        ));
    }
    healed("SIGSTOP", &pids);
    assert_eq!(sql("select min(n) from kept"), "1");
}

#[test]
fn a_daemon_outlives_the_agent() {
    let pids = daemons();
    let own = agent().unwrap();
    sh(&format!("kill -9 {own}"));
    next_agent(own);
    assert_eq!(healed("the death of the agent", &Pids::new()), pids);
}

#[test]
fn an_oom_kill_of_a_daemon_is_reported_and_healed() {
    let pids = daemons();
    sql("insert into kept values (2)");
    for name in pids.keys() {
        // A process of the workload that takes all the memory that it may have.
        let hog = format!(
            "echo $$ >{}/cgroup.procs && exec /usr/bin/fixture hog",
            cgroup(name)
        );
        assert!(!shell(&hog).status.success());
    }
    healed("an OOM kill", &pids);
    assert_eq!(reported("oom_kill"), pids.keys().cloned().collect());
    assert_eq!(sql("select max(n) from kept"), "2");
}

#[test]
fn the_handler_of_a_daemon_that_never_ends_is_healed() {
    const LOOPING: [&str; 2] = ["node", "redis"];
    let mut looping = daemons();
    sh("bash -c 'exec 3<>/dev/tcp/127.0.0.1/8081; printf \"GET /loop HTTP/1.0\\r\\n\\r\\n\" >&3'");
    sh("timeout 10 redis-cli eval 'while true do end' 0 || true");
    looping.retain(|name, _| LOOPING.contains(&name.as_str()));
    healed("a handler that never ends", &looping);
}

#[test]
fn the_database_is_stopped_cleanly() {
    daemons();
    sh("enforcer stop postgres");
    let said = sh("enforcer logs postgres --tail 3");
    assert!(said.contains("database system is shut down"), "{said}");
    sh("enforcer start postgres");
    healed("its start", &Pids::new());
    assert_eq!(sql("select min(n) from kept"), "1");
    let clean = "database system was shut down at";
    let said = sh("enforcer logs postgres --tail 40");
    assert!(said.contains(clean), "{said}");
}

/// nginx reloads when its settings change, HAProxy and redis when they are asked to. All keep their
/// process.
#[test]
fn a_reload_keeps_the_process() {
    let pids = daemons();
    fs::write("/etc/nginx/conf.d/front.new", front("2")).unwrap();
    fs::rename("/etc/nginx/conf.d/front.new", NGINX).unwrap();
    wait_for("nginx to be reloaded", || {
        reported("reload").contains("nginx").then_some(())
    });
    wait_for("the new settings", || {
        let asked = "node -e \"require('http').get({ socketPath: '/run/nginx-front.sock' }, \
             answer => answer.pipe(process.stdout))\"";
        sh(asked).contains("version 2").then_some(())
    });
    // redis takes its settings by a command, which runs in its root.
    for name in ["haproxy", "redis"] {
        sh(&format!("enforcer reload {name}"));
        assert!(reported("reload").contains(name));
    }
    assert!(sh("redis-cli config get maxmemory").ends_with("33554432"));
    assert_eq!(healed("three reloads", &Pids::new()), pids);
    let events = sh("enforcer events --workload nginx");
    for said in ["reloaded by SIGHUP", "front.conf has changed"] {
        assert!(events.contains(said), "{events}");
    }
}

/// systemd-notify waits until its message was read (`BARRIER=1`), and is a process that ends.
#[test]
fn systemd_notify_is_heard() {
    const SPEAKER: &str = "/etc/enforcer/workloads.d/speaker.yaml";
    let pids = daemons();
    let script = "systemd-notify --ready --status=up && echo heard; exec sleep 100000";
    fs::write(
        SPEAKER,
        format!(
            "version: 1\nworkloads:\n  speaker:\n    command: [/bin/sh, -c, {script:?}]\n    \
             user: web\n    probes: {{ startup: {{ notify: {{}}, failure_threshold: 1000 }} }}\n"
        ),
    )
    .unwrap();
    sh("systemctl reload enforcer");
    wait_for("it to be ready", || {
        let found = shell("enforcer status speaker --json").stdout;
        let found: enforcer_model::views::Inspection = serde_json::from_slice(&found).ok()?;
        let said = found.workload.status_text.as_deref() == Some("up");
        (found.workload.ready && said).then_some(())
    });
    wait_for("the barrier", || {
        sh("enforcer logs speaker").contains("heard").then_some(())
    });
    fs::remove_file(SPEAKER).unwrap();
    sh("enforcer apply --prune");
    assert_eq!(healed("a workload beside them", &Pids::new()), pids);
}
