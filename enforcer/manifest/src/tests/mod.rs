use super::*;
use enforcer_model::units::{Bytes, Limit};
use expect_test::{Expect, expect};

mod attach;
mod fleet_schema;
mod reached;
mod schema;
mod shared;

struct Known;

impl Accounts for Known {
    fn agent_is_root(&self) -> bool {
        true
    }

    fn has_user(&self, name: &str) -> bool {
        ["root", "web"].contains(&name)
    }

    fn has_user_of_number(&self, number: u32) -> bool {
        [0, 1000].contains(&number)
    }

    fn has_group(&self, name: &str) -> bool {
        ["root", "web"].contains(&name)
    }
}

/// Every fault, as `line:column severity: message (label) [help]`.
fn check(source: &str, expected: &Expect) {
    let reported: String = parse(source, &Known)
        .faults
        .iter()
        .map(|fault| shown(source, fault))
        .collect();
    expected.assert_eq(&reported);
}

fn shown(source: &str, fault: &Fault) -> String {
    let before = &source[..fault.span.start];
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
    let severity = if fault.severity == Severity::Error {
        "error"
    } else {
        "warning"
    };
    let help = fault
        .help
        .as_deref()
        .map(|help| format!(" [{help}]"))
        .unwrap_or_default();
    format!(
        "{line}:{column} {severity}: {} ({}){help}\n",
        fault.message, fault.label
    )
}

/// Faults of lines below one workload.
fn check_workload(lines: &str, expected: &Expect) {
    let head = "version: 1\nworkloads:\n  web:\n    command: [/bin/true]\n    user: web\n";
    let body: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    check(&format!("{head}{body}"), expected);
}

/// All of the manifest that works today.
const FULL: &str = r#"
version: 1
mode: enforce
host:
  reserve: { memory: 1G, swap: 50% }
  cgroup: { cpu.weight: 100 }
workloads:
  web:
    command: [/usr/bin/python3, -m, http.server, "9025"]
    user: web
    group: web
    directory: /srv/web
    environment: { PORT: "9025" }
    environment_files: [web.env]
    capabilities: [CAP_NET_BIND_SERVICE]
    rlimits: { nofile: 4096, core: max }
    priority: 60
    cgroup:
      cpu.weight: 59
      cpu.max: 150%
      cpu.max.burst: 20ms
      cpuset.cpus: 0-1
      memory.max: 1536M
      memory.low: 512M
      memory.high: 90%
      memory.swap.max: 64M
      memory.oom.group: true
      pids.max: 512
      io.weight: 100
    watch: { cpu_loop: off }
    recovery:
      restart: always
      strategy: restart
      backoff: { initial: 1s, factor: 2, max: 5m, jitter: 10%, reset_after: 10m }
      budget: { restarts: 5, within: 5m }
      breaker: { cooldown: 1m, max: 10m }
    stop: { signal: SIGTERM, grace: 10s }
    logs: { to: file, max_size: 10M, keep: 3 }
    commands: { memory.max: 256M, pids.max: 32 }
"#;

#[test]
fn the_whole_manifest_is_understood() {
    check(FULL, &expect![""]);
    let manifest = parse(FULL, &Known).manifest;
    let web = &manifest.workloads[&WorkloadName::parse("web").expect("a name")];
    assert_eq!(web.limits.memory_max, Some(Limit::At(Bytes(1536 << 20))));
    assert_eq!(
        web.limits.memory_high,
        Some(Limit::At(Bytes(1_449_549_824)))
    );
    assert_eq!(web.limits.cpu_max_burst, Some(20_000));
    assert_eq!(web.oom_score_adj(), -100);
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let source = "version: 1\nworkloads:\n  web: { command: [/bin/true], user: web }\n";
    let manifest = parse(source, &Known).manifest;
    let web = &manifest.workloads[&WorkloadName::parse("web").expect("a name")];
    let expected = WorkloadSpec {
        command: vec!["/bin/true".to_owned()],
        user: Some("web".to_owned()),
        ..WorkloadSpec::default()
    };
    assert_eq!(**web, expected);
}

#[test]
fn all_faults_are_reported_at_once() {
    check(
        "version: 2\nworkloads:\n  Web:\n    command: python3\n  web:\n    comand: [/bin/true]\n    user: nobody-here\n    cgroup:\n      memroy.max: 1G\n      cpu.max: 1.5\n      cpu.max: 150%\n      pids.max: 0\n",
        &expect![[r#"
            3:3 error: `Web` is not a workload's name (expected 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends)
            6:5 error: unknown key `comand` (did you mean `command`?)
            6:5 error: this workload has no `command` (expected a `command`, or `attach`) [command: [/path/to/program, argument]]
            7:11 error: there is no user `nobody-here` on this host (expected the name or the number of a user)
            9:7 error: unknown key `memroy.max` (did you mean `memory.max`?)
            10:16 error: `1.5` is not valid here (expected a percentage of one CPU like 150%, the kernel's `150000 100000`, or max; a bare number has no unit)
            11:7 error: `cpu.max` stands here twice (the second one) [keep one of them]
            12:17 error: `0` is not valid here (expected a whole number from 1 to 4194304)
        "#]],
    );
}

#[test]
fn keys_of_other_tools_are_translated() {
    check_workload(
        "mem_limit: 1g\nimage: nginx\ndepends_on: [db]",
        &expect![[r#"
            6:5 error: unknown key `mem_limit` (not a key of enforcer's) [it is `memory.max` under `cgroup`]
            7:5 error: unknown key `image` (not a key of enforcer's) [enforcer starts programs of this host and no containers; give it a `command`]
            8:5 error: unknown key `depends_on` (not a key of enforcer's) [it is `needs`]
        "#]],
    );
}

#[test]
fn a_log_in_the_journal_has_no_bounds_of_ours() {
    check_workload(
        "logs: { to: journal, max_size: 1M, keep: 1 }",
        &expect![[r#"
            6:36 error: `max_size` has no effect on the journal (journald bounds all that it keeps together) [set SystemMaxUse= in journald.conf, or write `to: file`]
            6:46 error: `keep` has no effect on the journal (journald bounds all that it keeps together) [set SystemMaxUse= in journald.conf, or write `to: file`]
        "#]],
    );
    check_workload(
        "logs: { to: syslog }",
        &expect![[r#"
        6:17 error: `syslog` is not valid here (expected one of file, journal)
    "#]],
    );
}

#[test]
fn limits_that_contradict_each_other() {
    check_workload(
        "cgroup: { memory.max: 64M, memory.high: 65M, memory.low: 128M }",
        &expect![[r#"
            6:45 error: `memory.high` is above `memory.max` (64M) (at most 64M; it would never act)
            6:62 error: `memory.low` is above `memory.max` (64M) (at most 64M; the protection can't be larger than the limit)
        "#]],
    );
    check_workload(
        "cgroup: { memory.max: 64M, memory.high: 48M, memory.swap.max: 0 }",
        &expect![[r#"
            6:45 warning: `memory.high` with no swap can stall the workload (above it, allocations are slowed down, and nothing can be moved out) [allow some `memory.swap.max`, or leave `memory.high` out]
        "#]],
    );
    check_workload(
        "cgroup: { cpu.weight: 0, cpu.max: 10%, cpu.max.burst: 20ms, memory.max: 512, io.weight: 10001 }",
        &expect![[r#"
            6:27 error: `0` is not valid here (expected a whole number from 1 to 10000, or idle)
            6:59 error: `cpu.max.burst` is above the quota of `cpu.max` (at most 10000us)
            6:77 error: `memory.max` is less than one page (the kernel would round it down to 0) [plain numbers are bytes; did you mean a unit, like M?]
            6:93 error: `10001` is not valid here (expected a whole number from 1 to 10000)
        "#]],
    );
}

#[test]
fn limits_of_nodes_clamps_and_huge_pages() {
    let source = "version: 1\nworkloads:\n  web:\n    command: [/bin/true]\n    user: web\n    nice: -5\n    \
                  cgroup: { cpuset.mems: 0-1, cpu.uclamp.min: 20%, cpu.uclamp.max: 100%, \
                  memory.zswap.max: max, hugetlb.2MB.max: 4M }\n";
    let manifest = parse(source, &Known).manifest;
    let web = &manifest.workloads[&WorkloadName::parse("web").expect("a name")];
    assert_eq!(web.nice, Some(-5));
    let files: Vec<String> = web
        .limits
        .files()
        .into_iter()
        .filter(|entry| entry.asked && entry.file != "memory.oom.group")
        .map(|entry| format!("{} {}", entry.file, entry.value))
        .collect();
    let expected = [
        "cpu.uclamp.min 20.00",
        "cpu.uclamp.max max",
        "cpuset.mems 0-1",
        "memory.zswap.max max",
        "hugetlb.2MB.max 4194304",
    ];
    assert_eq!(files, expected);
    check_workload(
        "nice: 20\ncgroup: { cpuset.mems: a, cpu.uclamp.min: 101%, hugetlb.2MB.max: 3M, hugetlb.1GB.max: 0 }",
        &expect![[r#"
            6:11 error: `20` is not valid here (expected a whole number from -20 to 19)
            7:28 error: `a` is not valid here (expected a list of memory nodes like 0-1)
            7:47 error: `101%` is not valid here (expected a percentage from 0% to 100%)
            7:70 error: `3M` is not valid here (expected a multiple of 2M, or max)
        "#]],
    );
}

#[test]
fn wrong_kinds_of_values() {
    check_workload(
        "priority: high\nenvironment: [A]\ncapabilities: [CAP_NET_BIND]\nrlimits: { nofiles: 1 }\nstop: { signal: TERM, grace: 10 }\ncgroup: { memory.oom.group: yes }",
        &expect![[r#"
            6:15 error: `high` is not valid here (expected a whole number from 0 to 100)
            7:18 error: expected a mapping of keys to values, found a list (expected a mapping of keys to values)
            8:20 error: unknown capability `CAP_NET_BIND` (not a key of this section) [see capabilities(7)]
            9:16 error: unknown key `nofiles` (did you mean `nofile`?)
            10:34 error: `10` is not valid here (expected a duration like 400ms, 10s or 1h30m; a unit is missing)
            11:33 error: `yes` is not valid here (expected true or false)
        "#]],
    );
}

#[test]
fn faults_of_many_sections_are_reported_together() {
    check_workload(
        "probes:\n  liveness: { http: { prot: 9025 }, timeout: 400 }\nwatch:\n  cpu_loop: { after: 10s, respond: [demote, burn] }\n  memory: off\nneeds: { db: ready }",
        &expect![[r#"
            7:25 error: this `http` probe has no `port` (expected a `port`, or the path of a `unix` socket)
            7:27 error: unknown key `prot` (did you mean `port`?)
            7:50 error: `400` is not valid here (expected a duration like 400ms, 10s or 1h30m; a unit is missing)
            9:49 error: `burn` is not valid here (expected one of tell, demote, restart)
        "#]],
    );
}

/// What is wrong with all files together.
fn whole(sources: &[&str]) -> String {
    let files = sources.iter().map(|source| parse(source, &Known)).collect();
    let (_, faults) = join(files);
    faults
        .iter()
        .map(|(index, fault)| format!("{index} {}", shown(sources[*index], fault)))
        .collect()
}

#[test]
fn needs_in_a_circle() {
    let one = |name: &str, needs: &str| {
        format!("  {name}: {{ command: [/bin/true], user: web, needs: {{ {needs}: ready }} }}\n")
    };
    let source = format!("version: 1\nworkloads:\n{}{}", one("a", "b"), one("b", "a"));
    expect![[r#"
        0 3:41 error: `needs` goes in a circle: a → b → a (none of them could ever start)
    "#]]
    .assert_eq(&whole(&[&source]));
    // Across files as well, and of the defaults.
    let head = "version: 1\nworkloads:\n";
    let (first, second) = (one("a", "b"), one("b", "a"));
    let third = one("c", "d");
    let files = [first, second, third].map(|lines| format!("{head}{lines}"));
    expect![[r#"
        2 3:41 error: `c` needs `d`, which no manifest names (it could never start)
        0 3:41 error: `needs` goes in a circle: a → b → a (none of them could ever start)
    "#]]
    .assert_eq(&whole(&files.each_ref().map(String::as_str)));
}

#[test]
fn probes_as_they_should_not_be() {
    let lines = "probes:
  startup: { tcp: { port: 1 }, success_threshold: 2 }
  liveness: { http: { port: 80, path: health, headers: { \"a b\": x } }, timeout: 0s, period: 1ms }
  readiness: { cgroup: { within: 1m } }
  progress: { cgroup: { within: 1m } }";
    check_workload(
        lines,
        &expect![[r#"
        7:55 error: `success_threshold` of a startup probe is always 1 (only `readiness` may ask for more)
        8:43 error: `health` is not valid here (expected a path that starts with /, without spaces)
        8:69 error: `a b` is not a header's name ()
        8:85 error: `0s` is not valid here (expected a duration above 0)
        8:97 error: `1ms` is not valid here (expected at least 100ms)
        9:28 error: a `cgroup` probe is for `progress` only ()
        9:28 error: this `cgroup` probe asks for nothing (expected `cpu`, `io` or both)
        10:27 error: this `cgroup` probe asks for nothing (expected `cpu`, `io` or both)
    "#]],
    );
    let lines = "probes:
  startup: { tcp: { port: 1 }, exec: { command: [/x] } }
  liveness: { http: { host: 169.254.169.254, port: 80 } }
  readiness: { tcp: { host: \"fe80::1\", port: 70000 } }
  progress: { file: { path: heartbeat, fresh_within: 10 } }";
    check_workload(
        lines,
        &expect![[r#"
            7:16 error: `startup` needs exactly one kind of probe (one of http, https, grpc, notify, tcp, exec, file, cgroup)
            8:33 error: `169.254.169.254` is not valid here (expected an address that is not link-local)
            9:33 error: `fe80::1` is not valid here (expected an address that is not link-local)
            9:50 error: `70000` is not valid here (expected a whole number from 1 to 65535)
            10:33 error: `heartbeat` is not valid here (expected an absolute path)
            10:58 error: `10` is not valid here (expected a duration like 400ms, 10s or 1h30m; a unit is missing)
        "#]],
    );
}

#[test]
fn recoveries_as_they_should_not_be() {
    let lines = "recovery:
  strategy: { liveness: reset, oom: recreate, exit: [restart, recrate] }";
    check_workload(
        lines,
        &expect![[r#"
        7:17 error: there is nothing to `reset` (this strategy clears `reset_paths`) [name them: reset_paths: [/srv/web/cache]]
        7:36 error: unknown key `oom` (not a key of this section) [known keys: exit, oom_kill, liveness, startup, progress, cpu_loop]
        7:67 error: `recrate` is not valid here (expected one of restart, reset, recreate)
    "#]],
    );
    let lines = "recovery:
  strategy: reset
  reset_paths: [/, /home/web, /srv/../etc, relative, /srv/web/cache]";
    check_workload(
        lines,
        &expect![[r#"
        8:21 error: `/` may not be cleared (expected a folder of the workload's own, further down)
        8:24 error: `/home/web` may not be cleared (expected a folder of the workload's own, further down)
        8:35 error: `/srv/../etc` may not be cleared (expected a path without . and ..)
        8:48 error: `relative` may not be cleared (expected an absolute path)
    "#]],
    );
    let lines = "watch:
  memory: { warn: 95%, critical: 90% }
  cpu: { warn: 101%, for: 1 }";
    check_workload(
        lines,
        &expect![[r#"
        7:23 error: `warn` is above `critical` ()
        8:20 error: `101%` is not valid here (expected a percentage from 0% to 100%)
        8:31 error: `1` is not valid here (expected a duration like 400ms, 10s or 1h30m; a unit is missing)
    "#]],
    );
}

#[test]
fn probes_needs_and_strategies_are_read() {
    let source = r#"
version: 1
host:
  starts_at_once: 4
  watch:
    memory: { warn: 80% }
    disk: { path: /var, run: [/clean, now] }
workloads:
  db: { command: [/bin/true], user: web }
  web:
    command: [/bin/true]
    user: web
    needs: { db: ready }
    probes:
      startup: { http: { port: 9025, path: /health }, period: 1s, failure_threshold: 60 }
      liveness: { http: { port: 9025 }, timeout: 400ms }
      readiness: { exec: { command: [/check] }, success_threshold: 2 }
      progress: { cgroup: { cpu: 1s, io: 1M, within: 10m }, period: 30s }
    on_ready: [/join]
    watch: { memory: off, cpu: { warn: 50%, for: 5s } }
    recovery:
      strategy: { oom_kill: { run: [/fix] }, exit: [restart, reset] }
      reset_paths: [/srv/web/cache]
"#;
    let parsed = parse(source, &Known);
    assert!(!parsed.has_errors(), "{:?}", parsed.faults);
    let web = WorkloadName::parse("web").expect("a name");
    let spec = &parsed.manifest.workloads[&web];
    expect![[r#"
        (
            {
                db: Ready,
            },
            {
                Startup: Probe {
                    check: Http {
                        host: "127.0.0.1",
                        port: Some(
                            9025,
                        ),
                        unix: None,
                        path: "/health",
                        headers: {},
                    },
                    initial_delay: 0ns,
                    period: 1s,
                    timeout: 1s,
                    failure_threshold: 60,
                    success_threshold: 1,
                },
                Liveness: Probe {
                    check: Http {
                        host: "127.0.0.1",
                        port: Some(
                            9025,
                        ),
                        unix: None,
                        path: "/",
                        headers: {},
                    },
                    initial_delay: 0ns,
                    period: 10s,
                    timeout: 400ms,
                    failure_threshold: 3,
                    success_threshold: 1,
                },
                Readiness: Probe {
                    check: Exec {
                        command: [
                            "/check",
                        ],
                    },
                    initial_delay: 0ns,
                    period: 10s,
                    timeout: 1s,
                    failure_threshold: 3,
                    success_threshold: 2,
                },
                Progress: Probe {
                    check: Cgroup {
                        cpu: Some(
                            1s,
                        ),
                        io: Some(
                            Bytes(
                                1048576,
                            ),
                        ),
                        within: 600s,
                    },
                    initial_delay: 0ns,
                    period: 30s,
                    timeout: 1s,
                    failure_threshold: 3,
                    success_threshold: 1,
                },
            },
            Some(
                Threshold {
                    warn: Some(
                        Percent(
                            50,
                        ),
                    ),
                    critical: Some(
                        Percent(
                            95,
                        ),
                    ),
                    hold: 5s,
                },
            ),
            Strategies {
                default: [],
                by_cause: {
                    Exit: [
                        Restart,
                        Reset,
                    ],
                    OomKill: [
                        Run(
                            [
                                "/fix",
                            ],
                        ),
                    ],
                },
            },
        )
    "#]]
    .assert_debug_eq(&(
        &spec.needs,
        &spec.probes,
        spec.watch.cpu,
        &spec.recovery.strategies,
    ));
    expect![[r#"
        HostWatch {
            memory: Some(
                Threshold {
                    warn: Some(
                        Percent(
                            80,
                        ),
                    ),
                    critical: Some(
                        Percent(
                            95,
                        ),
                    ),
                    hold: 120s,
                },
            ),
            cpu: None,
            disk: Some(
                DiskWatch {
                    path: "/var",
                    threshold: Threshold {
                        warn: Some(
                            Percent(
                                85,
                            ),
                        ),
                        critical: Some(
                            Percent(
                                90,
                            ),
                        ),
                        hold: 120s,
                    },
                    run: Some(
                        [
                            "/clean",
                            "now",
                        ],
                    ),
                },
            ),
        }
    "#]]
    .assert_debug_eq(&parsed.manifest.host.watch);
}

#[test]
fn alerts_as_they_should_not_be() {
    let source = "version: 1
alerts:
  repeat: 1s
  targets:
    pager: { webhook: https://example.org/hook }
    mail: { webhook: http://a, command: [/bin/true] }
    'no name': { command: [/bin/true] }
  rules:
    two: { memory: 85%, state: failed }
    none: { for: 1m }
    word: { health: sick }
    event: { event: oom_kill, for: 1m }
    host: { host: { memory: 90%, cpu: 90% } }
    gone: { state: failed, to: [nobody] }
";
    check(
        source,
        &expect![[r#"
            3:11 error: `1s` is not valid here (expected at least 10s, or off)
            6:11 error: this target needs exactly one way to be reached (expected either `webhook` or `command`)
            7:5 error: `no name` is not a name (expected 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends)
            9:10 error: a rule has one condition (expected one of memory, state, health, event, host)
            10:11 error: a rule has one condition (expected one of memory, state, health, event, host)
            11:21 error: `sick` is not valid here (expected one of unhealthy, degraded)
            12:36 error: an event has no duration (remove `for`) [it is over when no other came for 5m]
            13:19 error: one resource of the host's a rule (expected one of memory, cpu, disk)
            14:32 error: there is no target `nobody` ()
        "#]],
    );
    check(
        "version: 1\nalerts:\n  rules: { oom: { event: oom_kill } }\n",
        &expect![[r#"
            3:10 warning: these alerts reach no one: there are no `targets` () [the events of the kind `alert` still report them]
        "#]],
    );
}

#[test]
fn alerts_of_a_folder_are_in_one_file() {
    let with = |name: &str| {
        format!(
            "version: 1\nalerts:\n  targets: {{ {name}: {{ command: [/bin/true] }} }}\n  \
             rules: {{ {name}: {{ memory: 85%, for: 2m, workloads: [web], to: [{name}] }} }}\n"
        )
    };
    let plain = "version: 1\nhost: { starts_at_once: 3 }\nworkloads:\n  web: { command: [/bin/true], user: web, cgroup: { memory.max: 1G } }\n";
    let files = [with("first"), plain.to_owned(), with("second")];
    let parsed = files.iter().map(|text| parse(text, &Known)).collect();
    let (manifest, faults) = join(parsed);
    let alerts = &manifest.host.alerts;
    assert_eq!(alerts.rules.keys().collect::<Vec<_>>(), ["first"]);
    assert_eq!(manifest.host.starts_at_once, Some(3));
    let faults: Vec<_> = faults
        .iter()
        .map(|(index, fault)| (*index, &fault.message))
        .collect();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].0, 2);
}

#[test]
fn alerts_that_can_say_nothing() {
    let alerts = "version: 1
alerts:
  targets: { mail: { command: [/bin/true] } }
  rules:
    typo: { health: unhealthy, workloads: [wbe, web] }
    memory: { memory: 85%, workloads: [web] }
    any: { memory: 85% }
";
    let web = "version: 1\nworkloads: { web: { command: [/bin/true], user: web } }\n";
    let limited = "version: 1\nworkloads: { db: { command: [/bin/true], user: web, cgroup: \
                   { memory.max: 1G } } }\n";
    expect![[r#"
        1 5:43 warning: the rule `typo` is about `wbe`, which no manifest names () [it says nothing until there is one]
        1 6:23 warning: the rule `memory` is about no workload with a `memory.max` () [give them a `memory.max`, or use `host: { memory: … }`]
        1 7:20 warning: the rule `any` is about no workload with a `memory.max` () [give them a `memory.max`, or use `host: { memory: … }`]
    "#]].assert_eq(&whole(&[web, alerts]));
    expect![[r#"
        1 5:43 warning: the rule `typo` is about `wbe`, which no manifest names () [it says nothing until there is one]
        1 6:23 warning: the rule `memory` is about no workload with a `memory.max` () [give them a `memory.max`, or use `host: { memory: … }`]
    "#]].assert_eq(&whole(&[web, alerts, limited]));
}

#[test]
fn text_that_is_no_manifest() {
    check(
        "",
        &expect![[r#"
            1:1 error: the manifest has no `version` () [begin the file with `version: 2`]
        "#]],
    );
    check(
        "version: [1",
        &expect![[r#"
        1:12 error: this is not YAML (while parsing a flow sequence, expected ',' or ']')
    "#]],
    );
    check(
        "version: 1\n---\nversion: 1\n",
        &expect![[r#"
        2:1 error: a second document starts here (a manifest is one document) [use a folder of files instead]
    "#]],
    );
    let long = " ".repeat(1 << 20) + "version: 1";
    assert!(
        parse(&long, &Known).faults[0]
            .message
            .contains("larger than 1 MiB")
    );
    let deep = format!("version: {}1{}", "[".repeat(100), "]".repeat(100));
    assert!(parse(&deep, &Known).has_errors());
}

#[test]
fn aliases_that_explode() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let refers = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{refers}]\n"));
    }
    let faults = parse(&bomb, &Known).faults;
    assert!(
        faults[0].message.contains("grows beyond all bounds"),
        "{faults:?}"
    );
}

#[test]
fn a_folder_is_one_manifest() {
    let file = |name: &str, host: &str| {
        parse(
            &format!(
                "version: 1\n{host}workloads:\n  {name}: {{ command: [/bin/true], user: web }}\n"
            ),
            &Known,
        )
    };
    let (manifest, faults) = join(vec![file("a", "host: {}\n"), file("b", "")]);
    assert_eq!((manifest.workloads.len(), faults.len()), (2, 0));
    let (_, faults) = join(vec![file("a", "host: {}\n"), file("a", "host: {}\n")]);
    let reported: Vec<(usize, &str)> = faults
        .iter()
        .map(|(index, fault)| (*index, fault.message.as_str()))
        .collect();
    assert_eq!(
        reported,
        [
            (1, "a second file with a `host` section"),
            (1, "`a` is a workload of another file as well")
        ]
    );
}

#[test]
fn a_missing_user_never_becomes_root() {
    check(
        "version: 1\nworkloads:\n  web:\n    command: [/bin/true]\n",
        &expect![[r#"
        4:5 error: this workload has no `user` (it would run as root) [name the account it runs as; write `user: root` to mean it]
    "#]],
    );
    for bad in [
        "0day",
        "\"-1\"",
        "-1",
        "4294967295",
        "4294967296",
        "\"\"",
        "01000",
        "1.5",
        "\":\"",
    ] {
        let source =
            format!("version: 1\nworkloads:\n  web: {{ command: [/bin/true], user: {bad} }}\n");
        assert!(parse(&source, &Known).has_errors(), "{bad}");
    }
}

#[test]
fn users_and_groups_are_names_or_numbers() {
    let spec = |lines: &str| {
        let head = "version: 1\nworkloads:\n  web:\n    command: [/bin/true]\n";
        let parsed = parse(&format!("{head}    {lines}\n"), &Known);
        assert!(!parsed.has_errors(), "{lines}: {:?}", parsed.faults);
        let spec = parsed.manifest.workloads.values().next().cloned();
        spec.expect("a workload")
    };
    let account = |lines: &str| {
        let spec = spec(lines);
        (spec.user.clone().unwrap_or_default(), spec.group.clone())
    };
    let group = |text: &str| Some(text.to_owned());
    assert_eq!(account("user: 1000"), ("1000".into(), None));
    assert_eq!(account("user: 4000:4001"), ("4000".into(), group("4001")));
    assert_eq!(account("user: web:root"), ("web".into(), group("root")));
    assert_eq!(account("user: 4000\n    group: web").0, "4000");
    let more =
        spec("user: web\n    groups: [root, 44]\n    umask: 0027\n    stop: { scope: group }");
    assert_eq!(more.groups, ["root", "44"]);
    assert_eq!(more.umask.0, 0o027);
    assert_eq!(more.stop.scope, enforcer_model::spec::StopScope::Group);
    for (text, name) in [
        ("TERM", "SIGTERM"),
        ("2", "SIGINT"),
        ("sigrtmin+3", "SIGRTMIN+3"),
    ] {
        let spec = spec(&format!("user: web\n    stop: {{ signal: {text} }}"));
        assert_eq!(spec.stop.signal, name);
    }
}

#[test]
fn what_names_no_account_says_why() {
    check(
        "version: 1\nworkloads:\n  a: { command: [/bin/true], user: 4000 }\n  b: { command: [/bin/true], user: -1 }\n  \
         c: { command: [/bin/true], user: web:nobody-here }\n  d: { command: [/bin/true], user: web:web, group: root }\n  \
         e: { command: [/bin/true], user: web, groups: [4294967295], umask: 0888, stop: { signal: SIGNONE, scope: all } }\n",
        &expect![[r#"
            3:36 error: no account has the number 4000 (so its group is not known) [name the group as well: `user: "4000:4000"`]
            4:36 error: `-1` is no number of a user (expected a number from 0 to 4294967294, without leading zeros)
            5:36 error: there is no group `nobody-here` on this host (expected the name or the number of a group)
            6:52 error: the group is named twice (`user` has one behind its colon)
            7:49 error: `4294967295` is no number of a group (expected a number from 0 to 4294967294, without leading zeros)
            7:70 error: `0888` is not valid here (expected an octal number from 0000 to 0777)
            7:92 error: `SIGNONE` is not valid here (expected a signal of signal(7): SIGTERM, TERM, 15, SIGRTMIN+3, …)
            7:108 error: `all` is not valid here (expected one of main, group)
        "#]],
    );
}
