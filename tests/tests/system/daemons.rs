//! The daemons that people run on Debian, each with the settings that its package brings, below
//! limits. Whatever befalls them, they are healed: SIGKILL, SIGSTOP, an OOM kill, a handler that
//! never ends, and the death of the agent in between. What PostgreSQL has stored survives.

use super::*;
use std::collections::BTreeMap;
use std::fs;

/// More settings of HAProxy: it answers by itself, so that its health is its own.
const FRONT: &str = "/root/front.cfg";

/// HAProxy stays in the foreground by `-db`.
const WORKLOADS: &str = r#"
version: 1
workloads:
  etcd:
    command: [/usr/bin/etcd]
    user: etcd
    environment: { ETCD_DATA_DIR: /var/lib/etcd/default }
    environment_files: [/etc/default/etcd]
    cgroup: { memory.max: 384M, pids.max: 64 }
    recovery: { budget: off }
    probes:
      startup: { http: { port: 2379, path: /health }, period: 1s, timeout: 5s, failure_threshold: 120 }
      liveness: { http: { port: 2379, path: /health }, period: 1s, timeout: 5s }
  haproxy:
    command: [/usr/sbin/haproxy, -W, -db, -f, /etc/haproxy/haproxy.cfg, -f, /root/front.cfg]
    user: root
    cgroup: { memory.max: 128M, pids.max: 64 }
    recovery: { budget: off }
    probes:
      startup: { http: { port: 8080 }, period: 1s, timeout: 5s, failure_threshold: 120 }
      liveness: { http: { port: 8080 }, period: 1s, timeout: 5s }
  nginx:
    command: [/usr/sbin/nginx, -g, "daemon off;"]
    user: root
    cgroup: { memory.max: 64M, pids.max: 32 }
    recovery: { budget: off }
    probes:
      startup: { http: { port: 80 }, period: 1s, timeout: 5s, failure_threshold: 120 }
      liveness: { http: { port: 80 }, period: 1s, timeout: 5s }
  node:
    command:
      - /usr/bin/node
      - -e
      - 'require("http").createServer((q, a) => { if (q.url === "/loop") for (;;); a.end("ok\n") }).listen(8081, "127.0.0.1")'
    user: web
    cgroup: { memory.max: 256M, pids.max: 64 }
    recovery: { budget: off }
    probes:
      startup: { http: { port: 8081 }, period: 1s, timeout: 5s, failure_threshold: 120 }
      liveness: { http: { port: 8081 }, period: 1s, timeout: 5s }
  postgres:
    command:
      - /usr/lib/postgresql/17/bin/postgres
      - --data-directory=/var/lib/postgresql/17/main
      - --config-file=/etc/postgresql/17/main/postgresql.conf
    user: postgres
    cgroup: { memory.max: 384M, pids.max: 64 }
    recovery: { budget: off }
    stop: { signal: SIGINT, grace: 20s }
    probes:
      startup: { exec: { command: [/usr/lib/postgresql/17/bin/pg_isready, -q] }, period: 1s, timeout: 10s, failure_threshold: 120 }
      liveness: { exec: { command: [/usr/lib/postgresql/17/bin/pg_isready, -q] }, period: 2s, timeout: 10s }
  redis:
    command: [/usr/bin/redis-server, /etc/redis/redis.conf, --supervised, "no", --daemonize, "no"]
    user: redis
    cgroup: { memory.max: 64M, pids.max: 32 }
    recovery: { budget: off }
    probes:
      startup: { exec: { command: [/usr/bin/redis-cli, -e, ping] }, period: 1s, timeout: 10s, failure_threshold: 120 }
      liveness: { exec: { command: [/usr/bin/redis-cli, -e, ping] }, period: 2s, timeout: 10s }
"#;

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
install -d -o postgres -g postgres /var/lib/postgresql /etc/postgresql /var/log/postgresql
install -d -o postgres -g postgres -m 2775 /run/postgresql
install -d -o etcd -g etcd -m 700 /var/lib/etcd
install -d -o haproxy -g haproxy -m 2775 /run/haproxy
mkdir -p /var/lib/haproxy /var/log/nginx /var/www/html
echo hello >/var/www/html/index.html
ln -s /etc/nginx/sites-available/default /etc/nginx/sites-enabled/default
printf 'frontend front\n  bind 127.0.0.1:8080\n  http-request return status 200\n' >/root/front.cfg
pg_createcluster 17 main
"#;

const UNMAKE: &str = r#"
for user in redis postgres haproxy etcd; do userdel $user; done
chgrp root /etc/redis/redis.conf
rm -rf /var/lib/redis /etc/postgresql /var/lib/postgresql /var/lib/etcd /var/lib/haproxy \
    /var/lib/nginx/* /var/www /etc/nginx/sites-enabled/default \
    /etc/apt/apt.conf.d/02autoremove-postgresql /root/front.cfg
mkdir -p /var/lib/postgresql /etc/postgresql /var/lib/haproxy/dev
"#;

/// The main process of each.
type Pids = BTreeMap<String, u64>;

/// Waits until all of them are healthy and none has its process of before any more.
fn healed(fault: &str, before: &Pids) -> Pids {
    let mut last = Value::Null;
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for(&format!("all to be healthy after: {fault}"), || {
            last = serde_json::from_slice(&shell("enforcer ps --json").stdout).ok()?;
            let all = last["workloads"].as_array()?.iter().map(|found| {
                let name = found["name"].as_str()?.to_owned();
                let pid = found["pid"].as_u64()?;
                let well = found["state"] == "running" && found["health"] == "healthy";
                let another = before.get(&name) != Some(&pid);
                (well && another).then_some((name, pid))
            });
            all.collect::<Option<Pids>>().filter(|pids| pids.len() == 6)
        })
    }));
    looked.unwrap_or_else(|_| {
        let told = sh(
            "enforcer events --last 60; for w in etcd haproxy nginx node postgres redis; do \
            echo == $w; enforcer logs $w --tail 12; done",
        );
        panic!("{last:#}\n{told}")
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
fn told(kind: &str) -> BTreeSet<String> {
    let events = sh(&format!("enforcer events --kind {kind} --json"));
    let events = events
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    events
        .map(|event: Value| event["workload"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// The daemons as the test before has left them, or a new host with them.
fn daemons() -> Pids {
    if !Path::new(FRONT).exists() {
        install_anew();
        sh(MAKE);
        fs::write(MANIFEST, WORKLOADS).unwrap();
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
fn an_oom_kill_of_a_daemon_is_told_and_healed() {
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
    assert_eq!(told("oom_kill"), pids.keys().cloned().collect());
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
