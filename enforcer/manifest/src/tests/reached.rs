//! Probes and webhooks that reach a server over TLS, a Unix socket or gRPC; commands around a start.

use super::{check, check_workload};
use expect_test::expect;

#[test]
fn probes_of_every_kind_are_understood() {
    check_workload(
        "probes:
  startup: { http: { unix: /run/web.sock, path: /health } }
  liveness: { https: { port: 8443, server_name: shop.example.org, ca_file: /etc/ssl/shop.pem } }
  readiness: { grpc: { port: 2379, service: shop.v1.Orders } }",
        &expect![""],
    );
    check_workload(
        "probes: { liveness: { https: { insecure: true } } }",
        &expect![""],
    );
}

#[test]
fn the_faults_of_a_probe_say_what_is_wrong() {
    check_workload(
        "probes:
  startup: { http: { path: /health } }
  liveness: { http: { unix: /run/web.sock, port: 80, host: a } }
  readiness: { https: { insecure: true, ca_file: /a.pem, server_name: a } }
  progress: { grpc: { service: '' } }",
        &expect![[r#"
            7:24 error: this `http` probe has no `port` (expected a `port`, or the path of a `unix` socket)
            8:54 error: a Unix socket has no `port` (expected either `port` or `unix`)
            8:64 error: a Unix socket has no `host` (expected either `port` or `unix`)
            9:54 error: `ca_file` has no effect with `insecure: true` (any certificate is accepted)
            9:75 error: `server_name` has no effect with `insecure: true` (any certificate is accepted)
            10:25 error: this `grpc` probe has no `port` ()
        "#]],
    );
    let long = format!(
        "probes: {{ startup: {{ http: {{ unix: /{} }} }} }}",
        "x".repeat(107)
    );
    check_workload(
        &long,
        &expect![[r#"
        6:40 error: the path of a Unix socket has at most 107 bytes, and this has 108 (too long)
    "#]],
    );
    check_workload(
        "probes: { startup: { https: { host: 'a b', ca_file: a.pem } } }",
        &expect![[r#"
            6:41 error: `a b` is not valid here (expected a host's name or address)
            6:57 error: `a.pem` is not valid here (expected an absolute path)
        "#]],
    );
}

#[test]
fn webhooks_are_understood() {
    check(
        "version: 1
alerts:
  targets:
    a: { webhook: 'https://hooks.example.org/x' }
    b: { webhook: { url: 'https://hooks.slack.com/services/T/B/X', preset: slack } }
    c: { webhook: { preset: pagerduty, routing_key: KEY } }
    d: { webhook: { url: 'https://ntfy.local/ops', preset: ntfy, ca_file: /etc/ssl/local.pem } }
",
        &expect![""],
    );
    check(
        "version: 1
alerts:
  targets:
    a: { webhook: { preset: slack } }
    b: { webhook: { preset: pagerduty } }
    c: { webhook: { url: 'http://a', routing_key: KEY, ca_file: /a.pem } }
    d: { webhook: { url: 'https://a', preset: teams } }
",
        &expect![[r#"
            4:19 error: this webhook has no `url` (expected a `url`)
            5:19 error: `preset: pagerduty` needs a `routing_key` (expected the key of an Events API v2 integration)
            6:51 error: only `preset: pagerduty` has a `routing_key` (remove it)
            6:65 error: `ca_file` has no effect without https (the `url` begins with http://)
            7:47 error: `teams` is not valid here (expected one of slack, discord, ntfy, pagerduty)
        "#]],
    );
}

#[test]
fn commands_and_reloads_are_understood() {
    check_workload(
        "before_start: [[/bin/a, b], [/bin/c]]
after_start: [[/bin/a]]
before_stop: []
reload: { signal: 1 }
reload_on: [/etc/web.conf]",
        &expect![""],
    );
    check_workload(
        "before_start: [/bin/a, b]
after_start: /bin/a
before_stop: [[a]]
reload: { signal: HUP, run: [/bin/a] }
reload_on: [web.conf]",
        &expect![[r#"
            6:19 error: this is one command, and not a list of commands (expected a list of lists) [before_start: [[/path/to/program, argument]]]
            7:18 error: expected a list of commands, found `/bin/a` (expected a list of commands)
            8:19 error: `a` is not an absolute path (the program's path starts with /) [`command -v a` in a shell prints the path]
            9:13 error: a reload is a signal or a command (expected one of signal, run) [reload: { signal: SIGHUP }, or reload: { run: [/path/to/program, argument] }]
            10:17 error: `web.conf` is not valid here (expected an absolute path)
        "#]],
    );
    check_workload(
        "reload: SIGHUP",
        &expect![[r#"
        6:13 error: expected a mapping of keys to values, found `SIGHUP` (expected a mapping of keys to values)
        6:13 error: a reload is a signal or a command (expected one of signal, run) [reload: { signal: SIGHUP }, or reload: { run: [/path/to/program, argument] }]
    "#]],
    );
    check_workload(
        "reload: { signal: NOSUCH }",
        &expect![[r#"
        6:23 error: `NOSUCH` is not valid here (expected a signal of signal(7): SIGTERM, TERM, 15, SIGRTMIN+3, …)
    "#]],
    );
}

#[test]
fn a_job_that_always_restarts_is_never_completed() {
    let source = "version: 1
workloads:
  job: { command: [/bin/a], user: web }
  web: { command: [/bin/b], user: web, needs: { job: completed } }
";
    let parsed = super::parse(source, &super::Known);
    let (_, faults) = crate::join(vec![parsed]);
    let shown: String = faults
        .iter()
        .map(|(_, fault)| super::shown(source, fault))
        .collect();
    expect![[r#"
        4:40 error: `web` needs `job` to be completed, and `job` is started again whenever it ends (it could never start) [`job` is a job: give it `recovery: { restart: on-failure }`, or `never`]
    "#]].assert_eq(&shown);
}

#[test]
fn what_a_program_says_of_itself_is_a_probe() {
    check_workload(
        "probes: { startup: { notify: {} }, readiness: { notify: }, liveness: { notify: { within: 30s } } }",
        &expect![""],
    );
    check_workload(
        "probes:
  startup: { notify: { within: 30s } }
  liveness: { notify: {} }
  progress: { notify: { within: 0s } }
  readiness: { notify: { socket: /x } }",
        &expect![[r#"
            7:26 error: `within` is for `liveness` only (the program says by READY=1 that it is ready)
            8:27 error: this `notify` probe has no `within` (expected the longest time between two WATCHDOG=1)
            9:27 error: a `notify` probe says nothing about progress (expected startup, liveness or readiness)
            9:37 error: `0s` is not valid here (expected a duration above 0)
            10:30 error: unknown key `socket` (not a key of this section) [known keys: within]
        "#]],
    );
}

#[test]
fn directories_are_named_in_three_ways() {
    check_workload(
        "runtime_directory: web
state_directory: [web, web/db@1]
cache_directory: { names: web, mode: '0700' }",
        &expect![""],
    );
    check_workload(
        "runtime_directory: /run/web
state_directory: [web, ../etc]
cache_directory: { names: web, mode: '1777' }",
        &expect![[r#"
            6:24 error: `/run/web` is not valid here (expected a relative path of letters, digits and _ . @ -, such as web or web/cache)
            7:28 error: `../etc` is not valid here (expected a relative path of letters, digits and _ . @ -, such as web or web/cache)
            8:42 error: `1777` is not valid here (expected an octal number from 0000 to 0777)
        "#]],
    );
    check_workload(
        "runtime_directory: { mode: '0700' }\nstate_directory: ''",
        &expect![[r#"
            6:24 error: these directories have no `names` (expected `names`)
            7:22 error: `` is not valid here (expected a relative path of letters, digits and _ . @ -, such as web or web/cache)
        "#]],
    );
}

#[test]
fn credentials_are_names_and_files() {
    check_workload(
        "credentials: { db-password: /etc/shop/db, tls.key: keys/tls.key }",
        &expect![""],
    );
    check_workload(
        "credentials:
  ../x: /etc/shadow
  empty: ''
  list: [/a]
  .: /a",
        &expect![[r#"
            7:13 error: `../x` is no name of a credential (expected letters, digits and _ . @ - before the colon)
            8:14 error: `` is not valid here (expected the path of a file)
            9:13 error: expected one value, found a list (expected one value)
            10:10 error: `.` is no name of a credential (expected letters, digits and _ . @ - before the colon)
        "#]],
    );
    check_workload(
        "credentials: [/etc/shop/db]",
        &expect![[r#"
        6:18 error: expected a mapping of keys to values, found a list (expected a mapping of keys to values)
    "#]],
    );
    let many: Vec<String> = (0..101).map(|number| format!("c{number}: /a")).collect();
    check_workload(
        &format!("credentials: {{ {} }}", many.join(", ")),
        &expect![[r#"
            6:18 error: these are 101 credentials (expected at most 100)
        "#]],
    );
}

#[test]
fn a_root_of_its_own_has_mounts() {
    check_workload(
        "root: /srv//trees/shop/
mounts: [{ from: /srv/data, to: /data }, { from: /etc/ssl, to: /etc/ssl, read_only: true }]
tmpfs: [/tmp, { path: /run/shop, size: 16M }]
read_only: true
hostname: shop-1
hosts: { db_1: 127.0.0.1, mail.example.org: \"2001:db8::7\" }",
        &expect![""],
    );
    check_workload(
        "root: /
mounts: [{ from: srv, to: /a/../b }, { from: /srv }, /srv, { from: /x, to: /proc/sys }]
tmpfs: [/tmp, /tmp/, { size: 1M }]
hostname: -x
hosts: { \"a b\": 127.0.0.1, db: localhost }",
        &expect![[r#"
            6:11 error: `/` is not valid here (expected a folder other than /)
            7:13 error: two mounts have the place /tmp (expected one)
            7:22 error: `srv` is not valid here (expected an absolute path)
            7:31 error: `/a/../b` is not valid here (expected an absolute path other than / and outside /proc)
            7:42 error: this mount has no `from` and `to` (expected both) [mounts: [{ from: /srv/data, to: /data }]]
            7:58 error: expected a mapping of keys to values, found `/srv` (expected a mapping of keys to values)
            7:80 error: `/proc/sys` is not valid here (expected an absolute path other than / and outside /proc)
            8:26 error: this tmpfs has no `path` (expected a `path`) [tmpfs: [{ path: /tmp, size: 64M }]]
            9:15 error: `-x` is not valid here (expected a host name: letters, digits, - and ., at most 64)
            10:12 error: `hosts` is for a workload with a `root` of its own (the others see the host's /etc/hosts)
            10:21 error: `a b` is no host name (expected letters, digits and - . _ before the colon)
            10:36 error: `localhost` is not valid here (expected an address, such as 127.0.0.1 or ::1)
        "#]],
    );
    check_workload(
        "read_only: true\nmounts: /data\nhosts: { db: ::1 }",
        &expect![[r#"
            6:16 error: `read_only` is for a workload with a `root` of its own (the host's files are not made read-only)
            7:13 error: expected a list of mounts, found `/data` (expected a list of mounts)
            8:12 error: `hosts` is for a workload with a `root` of its own (the others see the host's /etc/hosts)
        "#]],
    );
}

#[test]
fn a_sandbox_has_keys_that_open_it() {
    check_workload(
        "sandbox: default
private_tmp: false
read_only_paths: [/home/shared]
read_write_paths: [/etc/shop]
devices: [/dev/dri, /dev/fuse]
namespaces: true
system_calls: [ptrace]",
        &expect![""],
    );
    check_workload(
        "sandbox: strong
private_tmp: 1
read_only_paths: /home
devices: [/dev/../etc, dri]
system_calls: [ptrce, read]",
        &expect![[r#"
            6:14 error: `strong` is not valid here (expected one of off, default, strict)
            7:18 error: `1` is not valid here (expected true or false)
            8:22 error: expected a list of absolute paths, found `/home` (expected a list of absolute paths)
            9:15 error: `/dev/../etc` is not valid here (expected a path below /dev, such as /dev/dri)
            9:28 error: `dri` is not valid here (expected a path below /dev, such as /dev/dri)
            10:20 error: `ptrce` is not valid here (expected a call that the sandbox refuses, such as ptrace)
            10:27 error: `read` is not valid here (expected a call that the sandbox refuses; it does not refuse this one)
        "#]],
    );
}

#[test]
fn a_strict_sandbox_declares_its_network_and_its_calls() {
    check_workload(
        "sandbox: strict
network: { bind: [tcp/8080, udp/53], connect: [loopback, resolver, 10.0.0.0/8:5432] }
system_calls: [chown, ptrace]",
        &expect![""],
    );
    check_workload(
        "sandbox: strict
network: { bind: [8080, tcp/0], connect: [localhost, 10.0.0.1/8], listen: [tcp/1] }
system_calls: [mount, sched_setattr, chmod]",
        &expect![[r#"
            7:23 error: `8080` is not valid here (expected any, tcp/PORT or udp/PORT, such as tcp/8080)
            7:29 error: `tcp/0` is not valid here (expected any, tcp/PORT or udp/PORT, such as tcp/8080)
            7:47 error: `localhost` is not valid here (expected an address, or addresses such as 10.0.0.0/8; names are not looked up)
            7:58 error: `10.0.0.1/8` is not valid here (expected the first address of the block, as in 10.0.0.0/8)
            7:71 error: unknown key `listen` (not a key of this section) [`listen` stands in the workload itself]
            8:20 error: `mount` is not valid here (expected another call; Landlock refuses this one in `sandbox: strict`)
            8:27 error: `sched_setattr` is not valid here (expected another call; no key allows what the sandbox refuses of this one)
            8:42 error: `chmod` is not valid here (expected another call; no key allows what the sandbox refuses of this one)
        "#]],
    );
    check_workload(
        "sandbox: default\nnetwork: { bind: [any] }\nsystem_calls: [chown]",
        &expect![[r#"
            7:14 error: `network` needs `sandbox: strict` (without effect here) [add `sandbox: strict`, or remove `network`]
            8:20 error: `chown` is not valid here (expected a call that the sandbox refuses; `sandbox: strict` alone refuses this one)
        "#]],
    );
}

#[test]
fn sockets_have_an_address_or_a_path() {
    check_workload(
        "listen:
  api: { tcp: \"127.0.0.1:8080\", backlog: 10 }
  six: { tcp: \"[::]:8080\" }
  ctl: { unix: /run/shop.sock, mode: \"0660\", group: 0 }",
        &expect![""],
    );
    check_workload(
        "listen:
  api: { tcp: 8080 }
  both: { tcp: \"127.0.0.1:1\", unix: /run/a }
  none: {}
  a:b: { tcp: \"127.0.0.1:1\" }
  file: { tcp: \"127.0.0.1:1\", mode: \"0660\" }
  more: { unix: run/a, mode: \"888\", backlog: 0, group: nobody-here }",
        &expect![[r#"
            7:19 error: `8080` is not valid here (expected an address and a port, such as 127.0.0.1:8080)
            8:13 error: expected either `tcp` or `unix` (one of them) [listen: { api: { tcp: "127.0.0.1:8080" } }]
            9:13 error: expected either `tcp` or `unix` (one of them) [listen: { api: { tcp: "127.0.0.1:8080" } }]
            10:12 error: `a:b` is no name of a socket (expected letters, digits and _ . - before the colon)
            11:41 error: a TCP socket has no mode and no group (for a Unix socket alone)
            12:21 error: `run/a` is not valid here (expected an absolute path of at most 107 bytes)
            12:34 error: `888` is not valid here (expected an octal number from 0000 to 0777)
            12:50 error: `0` is not valid here (expected a whole number from 1 to 2147483647)
            12:60 error: there is no group `nobody-here` on this host (expected the name or the number of a group)
        "#]],
    );
}

#[test]
fn ports_are_numbers_and_stand_once() {
    check_workload(
        "ports: { http: { port: 8080 }, admin-2: { port: 9100 } }
unready_wait: off
rollout: { drain: 2m }",
        &expect![""],
    );
    check_workload(
        "listen: { api: { tcp: \"127.0.0.1:8080\" } }
ports:
  http: { port: 0 }
  again: { port: 8080 }
  one: { port: 1 }
  two: { port: 1 }
  None: { port: 2 }
  none: {}
  short: 8080
  wide: { port: 3, address: \"*\" }
unready_wait: 5
rollout: { drain: 2d, surge: 1 }",
        &expect![[r#"
            8:21 error: `0` is not valid here (expected a whole number from 1 to 65535)
            9:22 error: the port 8080 stands in `listen` as well (a port is either made for the program or its own)
            11:20 error: the port 1 stands here twice (each port of clients stands once)
            12:13 error: `None` is no name of a port (expected small letters, digits and - before the colon)
            13:13 error: this port has no number (expected `port`) [ports: { http: { port: 8080 } }]
            14:14 error: expected a mapping of keys to values, found `8080` (expected a mapping of keys to values)
            14:14 error: this port has no number (expected `port`) [ports: { http: { port: 8080 } }]
            16:19 error: `5` is not valid here (expected a duration like 400ms, 10s or 1h30m; a unit is missing)
            17:23 error: `2d` is not valid here (expected a time of at most 24h)
            17:27 error: unknown key `surge` (not a key of this section) [known keys: drain, max_surge, max_unavailable, min_ready, deadline, on_failure]
        "#]],
    );
    check_workload(
        "unready_wait: 5s\nrollout: { drain: 5s }",
        &expect![[r#"
            6:19 error: `unready_wait` needs `ports` (for a workload with `ports`) [ports: { http: { port: 8080 } }]
            7:14 error: `rollout` needs `replicas` or `ports` (for a workload with one of them)
        "#]],
    );
}

/// The accounts of a tree are looked up in it, when the workload starts.
#[test]
fn accounts_of_a_tree_are_not_looked_up_on_the_host() {
    check_workload(
        "root: /srv/tree\ngroup: nobody-here\ngroups: [12, none-here]",
        &expect![""],
    );
    check_workload(
        "root: /srv/tree\ngroup: -1",
        &expect![[r#"
        7:12 error: `-1` is no number of a group (expected a number from 0 to 4294967294, without leading zeros)
    "#]],
    );
}

#[test]
fn disks_are_named_by_device_or_path() {
    check_workload(
        "cgroup: { io.max: { /dev/sda: { wbps: 10M, riops: 100 }, /srv/my data: { rbps: max, wiops: 5 } } }",
        &expect![""],
    );
    check_workload(
        "cgroup:
  io.max:
    sda: { wbps: 10M }
    /dev/sdb: {}
    /dev/sdc: { wbps: 0, riops: 0, bps: 1 }",
        &expect![[r#"
            8:14 error: `sda` is no disk (expected a device such as /dev/sda, or a path on it)
            9:19 error: `/dev/sdb` has no rate (expected rbps, wbps, riops or wiops)
            10:27 error: `0` is not valid here (expected a size above 0, or max)
            10:37 error: `0` is not valid here (expected a whole number, 1 or more)
            10:40 error: unknown key `bps` (did you mean `rbps`?)
        "#]],
    );
}

#[test]
fn replicas_are_a_number_or_follow_their_use() {
    for good in [
        "replicas: 3",
        "replicas: { min: 2, max: 6, cpu: 70% }
replicas_cgroup: { memory.max: 1G }
ports: { http: { port: 8080 }, admin: { port: 9100, to: each, target: 9000 } }
rollout: { max_surge: 2, max_unavailable: 1, min_ready: 2s, deadline: 1m, on_failure: pause }",
        "replicas: { indexes: [0, 2, 40] }
rollout: { max_unavailable: 2 }",
        "replicas: 2
listen: { api: { tcp: \"127.0.0.1:8080\" }, also: { tcp: \"[::1]:8080\" }, ctl: { unix: \"/run/web-{replica}.sock\" } }
unready_wait: 1m",
    ] {
        check_workload(good, &expect![""]);
    }
    check_workload(
        "replicas: 16
replicas_cgroup: { memory.oom.group: true }
rollout: { max_surge: 15, on_failure: stop, deadline: 0s }",
        &expect![[r#"
            6:15 error: `16` is not valid here (expected a whole number from 1 to 15)
            7:22 error: `memory.oom.group` is for each replica, in `cgroup` (an OOM kill of one replica must not take the others)
            8:27 error: `15` is not valid here (expected a whole number from 0 to 14)
            8:43 error: `stop` is not valid here (expected rollback or pause)
            8:59 error: `0s` is not valid here (expected at least 1s)
        "#]],
    );
    check_workload(
        "replicas: { min: 4, max: 2 }
rollout: { max_surge: 0 }",
        &expect![[r#"
            6:15 error: from 4 to 2 replicas (expected `max` to be at least `min`)
            7:14 error: a rollout that may neither add nor miss a replica never ends (expected `max_surge` or `max_unavailable` to be 1 or more)
        "#]],
    );
    check_workload(
        "replicas: { min: 1, max: 2 }",
        &expect![[r#"
        6:15 error: nothing says how many replicas there are to be (expected `cpu` or `memory`, which they follow) [replicas: { min: 2, max: 6, cpu: 70% }]
    "#]],
    );
    check_workload(
        "replicas: { indexes: [0, 2, 17], min: 2 }
rollout: { max_surge: 1 }",
        &expect![[r#"
            6:33 error: 2 and 17 differ by a multiple of 15 (a host tells replicas apart by the rest of their number)
            6:43 error: `indexes` says already which replicas there are to be (expected nothing)
        "#]],
    );
    check_workload(
        "replicas: { indexes: [] }",
        &expect![[r#"
        6:26 error: `indexes` is empty (expected a number)
    "#]],
    );
    check_workload(
        "replicas: { indexes: 3 }",
        &expect![[r#"
        6:26 error: expected a list of numbers, such as [0, 2], found `3` (expected a list of numbers, such as [0, 2])
    "#]],
    );
    check_workload(
        "replicas: { indexes: [70000] }",
        &expect![[r#"
        6:27 error: `70000` is not valid here (expected a whole number from 0 to 65535)
    "#]],
    );
    check_workload(
        "replicas: 14
listen: { api: { tcp: \"127.0.0.1:8080\" }, again: { tcp: \"127.0.0.1:8080\" }, ctl: { unix: /run/web.sock } }
ports: { http: { port: 8080 } }
rollout: { max_surge: 2 }",
        &expect![[r#"
            7:13 error: two sockets at 127.0.0.1:8080 (expected one)
            7:81 error: all replicas would have the socket /run/web.sock (expected a path with `{replica}`) [listen: { ctl: { unix: "/run/web-{replica}.sock" } }]
            8:28 error: the port 8080 stands in `listen` as well (a port is either made for the program or its own)
            9:14 error: with those of `max_surge` there may be 16 replicas (expected at most 15)
        "#]],
    );
    check_workload(
        "replicas: 2
ports:
  one: { port: 65530, to: each }
  two: { port: 9100, to: each }
  three: { port: 9105 }
  four: { port: 80, target: 8080 }
  five: { port: 81, target: 8080 }
  six: { port: 82, address: all }
rollout: { max_surge: 0 }",
        &expect![[r#"
            8:20 error: the ports from 65530 on are too few for the replicas (expected 65521 at most)
            10:22 error: the port 9105 stands here twice (each port of clients stands once)
            12:21 error: the program binds 8080 twice (two ports of clients cannot lead to one of the program)
            13:33 error: `all` is not valid here (expected "*", for every address of the host)
            14:14 error: a rollout that may neither add nor miss a replica never ends (expected `max_surge` or `max_unavailable` to be 1 or more)
        "#]],
    );
    check_workload(
        "replicas_cgroup: { memory.max: 1G }
ports: { http: { port: 8080, to: each } }
rollout: { max_surge: 1 }",
        &expect![[r#"
            6:22 error: `replicas_cgroup` needs `replicas` (for a workload with several instances)
            7:38 error: `to: each` needs `replicas` (for a workload with several instances)
            8:27 error: `max_surge` needs `replicas` (for a workload with several instances)
        "#]],
    );
}
