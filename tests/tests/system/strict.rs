//! Servers that people run, each in `sandbox: strict` with what it declares; and what systemd says
//! of the unit that promises the same.

use super::*;
use enforcer_model::health::Health;
use enforcer_model::spec::Sandbox;
use std::fs;

const MANIFEST: &str = "/etc/enforcer/workloads.d/strict.yaml";

/// A server, the settings of its workload in YAML, and the check that it must pass. lighttpd gets
/// its socket.
const SERVERS: [(&str, &str, &str); 12] = [
    (
        "dnsmasq",
        "command: [/usr/sbin/dnsmasq, --keep-in-foreground, --port=18001, --no-resolv, --no-hosts, --conf-file=, \
         --pid-file=, --user=web, --listen-address=127.0.0.1, --bind-interfaces, --log-facility=-], \
         network: { bind: [tcp/18001, udp/18001] }",
        "tcp: { port: 18001 }",
    ),
    (
        "etcd",
        "command: [/usr/bin/etcd, --data-dir, /var/lib/strict-etcd/data, --listen-client-urls, \
         \"http://127.0.0.1:18002\", --advertise-client-urls, \"http://127.0.0.1:18002\", --listen-peer-urls, \
         \"http://127.0.0.1:18012\", --initial-advertise-peer-urls, \"http://127.0.0.1:18012\", --initial-cluster, \
         \"default=http://127.0.0.1:18012\"], state_directory: strict-etcd, \
         network: { bind: [tcp/18002, tcp/18012] }",
        "http: { port: 18002, path: /health }",
    ),
    (
        "haproxy",
        "command: [/usr/sbin/haproxy, -db, -f, /srv/strict/haproxy.cfg], network: { bind: [tcp/18003] }",
        "http: { port: 18003 }",
    ),
    (
        "lighttpd",
        "command: [/usr/sbin/lighttpd, -D, -f, /srv/strict/lighttpd.conf], \
         listen: { http: { tcp: \"127.0.0.1:18004\" } }",
        "http: { port: 18004, path: /index.html }",
    ),
    (
        "memcached",
        "command: [/usr/bin/memcached, -p, \"18005\", -l, 127.0.0.1], network: { bind: [tcp/18005] }",
        "tcp: { port: 18005 }",
    ),
    (
        "mosquitto",
        "command: [/usr/sbin/mosquitto, -c, /srv/strict/mosquitto.conf], network: { bind: [tcp/18006] }",
        "tcp: { port: 18006 }",
    ),
    (
        "nginx",
        "command: [/usr/sbin/nginx, -c, /srv/strict/nginx.conf], runtime_directory: strict-nginx, \
         network: { bind: [tcp/18007] }",
        "http: { port: 18007 }",
    ),
    (
        "node",
        "command: [/usr/bin/node, /srv/strict/server.js], network: { bind: [tcp/18008] }",
        "http: { port: 18008 }",
    ),
    (
        "postgres",
        // A command has 60 s, which a busy guest may use up. Half a database must not be taken for one.
        "before_start: [[/bin/sh, -c, \"cd /var/lib/strict-postgres && { test -d data || { rm -rf new && \
         /usr/lib/postgresql/17/bin/initdb --no-sync -D new && mv new data; }; }\"]], \
         command: [/usr/lib/postgresql/17/bin/postgres, -D, /var/lib/strict-postgres/data, -p, \"18009\", -k, \
         /run/strict-postgres, -c, listen_addresses=127.0.0.1], state_directory: strict-postgres, \
         runtime_directory: strict-postgres, stop: { signal: SIGINT, grace: 60s }, \
         network: { bind: [tcp/18009] }",
        "exec: { command: [/usr/lib/postgresql/17/bin/pg_isready, -q, -h, 127.0.0.1, -p, \"18009\"] }",
    ),
    (
        "redis",
        "command: [/usr/bin/redis-server, --port, \"18010\", --dir, /var/lib/strict-redis], \
         state_directory: strict-redis, network: { bind: [tcp/18010] }",
        "exec: { command: [/usr/bin/redis-cli, -e, -p, \"18010\", ping] }",
    ),
    (
        "tinyproxy",
        "command: [/usr/bin/tinyproxy, -d, -c, /srv/strict/tinyproxy.conf], network: { bind: [tcp/18011] }",
        "tcp: { port: 18011 }",
    ),
    (
        "unbound",
        "command: [/usr/sbin/unbound, -d, -c, /srv/strict/unbound.conf], \
         network: { bind: [tcp/18013, udp/18013] }",
        "tcp: { port: 18013 }",
    ),
];

const MAKE: &str = r#"
set -e
mkdir -p /srv/strict
cd /srv/strict
printf 'defaults\n  mode http\n  timeout client 5s\nfrontend front\n  bind 127.0.0.1:18003\n  http-request return status 200\n' >haproxy.cfg
echo hello >index.html
printf 'server.document-root = "/srv/strict"\nserver.port = 18004\nserver.bind = "127.0.0.1"\nserver.systemd-socket-activation = "enable"\n' >lighttpd.conf
printf 'listener 18006 127.0.0.1\nallow_anonymous true\npersistence false\n' >mosquitto.conf
cat >nginx.conf <<'END'
daemon off;
pid /run/strict-nginx/pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path /run/strict-nginx/body;
  proxy_temp_path /run/strict-nginx/proxy;
  fastcgi_temp_path /run/strict-nginx/fastcgi;
  uwsgi_temp_path /run/strict-nginx/uwsgi;
  scgi_temp_path /run/strict-nginx/scgi;
  server { listen 127.0.0.1:18007; location / { return 200 "ok\n"; } }
}
END
echo "require('http').createServer((question, answer) => answer.end('ok')).listen(18008, '127.0.0.1');" >server.js
printf 'Port 18011\nListen 127.0.0.1\nTimeout 60\nMaxClients 5\n' >tinyproxy.conf
cat >unbound.conf <<'END'
server:
  interface: 127.0.0.1@18013
  username: ""
  chroot: ""
  pidfile: ""
  directory: "/srv/strict"
  use-syslog: no
  logfile: ""
  do-daemonize: no
END
"#;

fn manifest() -> String {
    let mut text = "version: 2\nworkloads:\n".to_owned();
    for (name, settings, check) in SERVERS {
        text.push_str(&format!(
            "  strict-{name}: {{ user: web, sandbox: strict, {settings}, recovery: {{ budget: off }}, \
             cgroup: {{ memory.max: 384M, pids.max: 64 }}, probes: {{ startup: {{ {check}, period: 2s, timeout: 10s, \
             failure_threshold: 120 }} }} }}\n"
        ));
    }
    text
}

#[test]
fn twelve_servers_run_in_a_strict_sandbox() {
    install_anew();
    sh(MAKE);
    fs::write(MANIFEST, manifest()).unwrap();
    sh("systemctl reload enforcer");
    let mut last = String::new();
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("all servers to be healthy", || {
            last = String::from_utf8(shell("enforcer ps --json").stdout).ok()?;
            let listed: Workloads = serde_json::from_str(&last).ok()?;
            let well = listed.workloads.iter().filter(|found| {
                found.state == WorkloadState::Running && found.health == Health::Healthy
            });
            let pids: Vec<u32> = well.filter_map(|found| found.pid).collect();
            (pids.len() == SERVERS.len()).then_some(pids)
        })
    }));
    let pids = looked.unwrap_or_else(|_| {
        let names = SERVERS.map(|(name, ..)| name).join(" ");
        let reported = sh(&format!(
            "enforcer events --last 40; for w in {names}; do echo == $w; enforcer logs strict-$w --tail 12; done"
        ));
        panic!("{last}\n{reported}")
    });
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
    }
    // They do their work, and the commands of the manifest reach them.
    sh("redis-cli -e -p 18010 set kept 1");
    assert_eq!(sh("redis-cli -e -p 18010 save"), "OK");
    assert_eq!(
        sh("psql -U web -h 127.0.0.1 -p 18009 -qAtc 'select 1 + 1' postgres"),
        "2"
    );
    fs::remove_file(MANIFEST).unwrap();
    sh("systemctl reload enforcer");
    sh("enforcer apply --prune");
    sh("rm -rf /srv/strict /var/lib/strict-*");
    purge();
}

/// The figure of `systemd-analyze security` goes from 0 (nothing is exposed) to 10.
#[test]
fn the_equivalent_unit_exposes_little() {
    install_anew();
    for (level, most) in [(Sandbox::Default, 2.5), (Sandbox::Strict, 1.5)] {
        let unit = format!("/tmp/equivalent-{level}.service");
        sh(&format!(
            "enforcer sandbox show {level} --unit >{unit} && printf 'User=web\\nExecStart=/bin/true\\n' >>{unit}"
        ));
        let reported = sh(&format!(
            "systemd-analyze security --offline=true --no-pager {unit}"
        ));
        fs::remove_file(&unit).unwrap();
        let overall = reported.lines().last().unwrap_or_default();
        let exposure = overall
            .split_whitespace()
            .find_map(|word| word.parse::<f64>().ok());
        println!("{level}: {overall}");
        assert!(
            exposure.is_some_and(|exposure| exposure <= most),
            "{level}:\n{reported}"
        );
    }
}
