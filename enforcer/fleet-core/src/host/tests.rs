//! What a node asks of its agent, as a log.

use super::*;
use crate::node::Rules as _;
use crate::record::{DesiredRecord, Mode};
use enforcer_model::views::WorkloadView;
use expect_test::{Expect, expect};
use serde_json::json;
use std::fmt::Write as _;

fn name(text: &str) -> WorkloadName {
    WorkloadName::parse(text).expect("a name")
}

fn at(millis: u64) -> Time {
    Time(Duration::from_millis(millis))
}

fn local(revision: i64, singleton: bool, indexes: &[u32]) -> Local {
    let mut workload = json!({
        "command": ["/bin/web"], "user": "web", "stop": { "grace": "3s" },
        "cgroup": { "memory.max": "64M" },
    });
    if !singleton {
        workload["ports"] = json!({ "http": { "port": 8080 } });
    }
    let replicas = indexes.iter().map(|index| (*index, Revision(7)));
    Local {
        revision: Revision(revision),
        workload,
        singleton,
        replicas: replicas.collect(),
    }
}

fn run(all: &[(&str, Local)]) -> Input {
    let wanted = all.iter().map(|(text, local)| (name(text), local.clone()));
    Input::Run(Run {
        wanted: wanted.collect(),
        untouched: BTreeSet::new(),
    })
}

fn view(replica: &str, state: &str, ready: bool) -> WorkloadView {
    let view = json!({
        "name": replica, "state": state, "health": "unknown", "ready": ready, "throttle": "none",
        "throttle_cpu_percent": null, "pid": 7, "restarts": 2, "cgroup": "/", "memory_bytes": 1,
        "memory_max_bytes": null, "swap_bytes": 0, "swap_max_bytes": null, "cpu_percent": 0.0,
        "cpu_throttled_percent": 0.0, "oom_kills": 0, "last_exit": null,
        "since": "1970-01-01T00:00:05Z", "reason": "",
    });
    serde_json::from_value(view).expect("a view")
}

/// A look at some replicas, such as `web/0 running ready`.
fn looked(all: &[&str]) -> Input {
    let mut workloads: BTreeMap<WorkloadName, Look> = BTreeMap::new();
    for one in all {
        let mut words = one.split(' ');
        let replica = words.next().expect("a replica");
        let (workload, index) = replica.split_once('/').unwrap_or((replica, "0"));
        let state = words.next().expect("a state");
        let view = view(replica, state, words.next() == Some("ready"));
        let look = workloads.entry(name(workload)).or_insert(Look {
            is_current: true,
            replicas: BTreeMap::new(),
        });
        let index = index.parse().expect("a number");
        look.replicas.insert(index, (view, Vec::new()));
    }
    Input::Looked(Ok((workloads, [name("mine")].into())))
}

/// Outputs in short words. A file is told by its workloads.
fn told(output: &Output) -> String {
    let of_file = |text: &str| {
        let all = file::read(text).into_iter();
        let all = all.map(|(name, local)| {
            let indexes: Vec<&u32> = local.replicas.keys().collect();
            format!("{name}@{} {indexes:?}", local.revision.0)
        });
        all.collect::<Vec<_>>().join(", ")
    };
    match output {
        Output::Read => "read".to_owned(),
        Output::Look(names) => {
            let names: Vec<String> = names.keys().map(ToString::to_string).collect();
            format!("look at {}", names.join(", "))
        }
        Output::Apply(text) => format!("apply {}", of_file(text)),
        Output::Plan(name, text) => format!("plan {name}: {}", of_file(text)),
        Output::Deadline(name, at) => format!("deadline of {name}: {} ms", at.0.as_millis()),
        Output::Seen(seen) => {
            let all = seen.iter().map(|(replica, seen)| {
                let health = match seen.health {
                    Health::Failing { since } => format!("failing since {} s", since.0.as_secs()),
                    Health::Unready { since: Some(since) } => {
                        format!("unready since {} ms", since.0.as_millis())
                    }
                    Health::Unready { since: None } => "unready".to_owned(),
                    other => format!("{other:?}").to_lowercase(),
                };
                let ports = seen.endpoints.values().map(|one| one.port);
                let ports: Vec<u16> = ports.collect();
                format!("{replica} {health} @{} {ports:?}", seen.revision.0)
            });
            format!("seen {}", all.collect::<Vec<_>>().join(", "))
        }
        Output::Refused(refused) => {
            let all = refused
                .iter()
                .map(|(name, (of, why))| format!("{name}@{} {why}", of.0));
            format!("refused {}", all.collect::<Vec<_>>().join(", "))
        }
        Output::Forgiven(name) => format!("forgiven {name}"),
        Output::Taken(names) => format!("taken {names:?}"),
        Output::Trouble(why) => format!("trouble {why}"),
    }
}

fn check(events: Vec<(u64, Input)>, expected: &Expect) {
    check_of(Host::new("10.0.0.1".to_owned(), false), events, expected);
}

fn check_of(mut host: Host, events: Vec<(u64, Input)>, expected: &Expect) {
    let mut log = String::new();
    for (millis, input) in events {
        for output in host.handle(at(millis), input) {
            let _ = writeln!(log, "{millis} ms: {}", told(&output));
        }
        let wake = host.wake();
        // What is due has been done, or the node's loop would spin.
        assert!(
            wake.is_none_or(|wake| wake > at(millis)),
            "{millis} ms: {wake:?}\n{log}"
        );
    }
    expected.assert_eq(&log);
}

fn refused(why: &str) -> Rejection {
    Rejection::Refused(why.to_owned())
}

#[test]
fn what_is_wanted_is_applied_looked_at_and_told() {
    check(
        vec![
            (0, run(&[("web", local(3, false, &[0, 2]))])),
            (10, Input::Read(Err("no agent".to_owned()))),
            (1010, Input::Woken),
            (1020, Input::Read(Ok(String::new()))),
            (1030, looked(&[])),
            (1100, Input::Applied(Ok(()))),
            (1200, looked(&["web/0 running ready", "web/2 starting no"])),
            (1300, Input::Changed),
            (1400, Input::Woken),
            (
                1500,
                looked(&["web/0 running ready", "web/2 running ready"]),
            ),
            // Nothing happens, and nothing is asked for ten seconds.
            (9000, Input::Woken),
            // The file is gone.
            (11_500, Input::Woken),
            (11_510, looked(&[])),
            (12_510, Input::Woken),
            (12_520, Input::Read(Ok(String::new()))),
        ],
        &expect![[r#"
            0 ms: read
            10 ms: trouble no agent
            1010 ms: read
            1020 ms: apply web@3 [0, 2]
            1020 ms: look at 
            1030 ms: taken {mine}
            1030 ms: seen 
            1100 ms: look at web
            1200 ms: taken {mine}
            1200 ms: seen web/0 ready @3 [8080], web/2 unready @3 [8080]
            1400 ms: look at web
            1500 ms: taken {mine}
            1500 ms: seen web/0 ready @3 [8080], web/2 ready @3 [8080]
            11500 ms: look at web
            11510 ms: taken {mine}
            11510 ms: seen 
            12510 ms: read
            12520 ms: apply web@3 [0, 2]
            12520 ms: look at 
        "#]],
    );
}

#[test]
fn a_replica_that_leaves_is_withdrawn_first() {
    let both = ["web/0 running ready", "web/1 running ready"];
    check(
        vec![
            (
                0,
                Input::Read(Ok(file::write(
                    &[(name("web"), local(3, false, &[0, 1]))].into(),
                ))),
            ),
            (10, looked(&both)),
            (20, run(&[("web", local(3, false, &[0]))])),
            (2020, Input::Woken),
            (2030, Input::Applied(Ok(()))),
            (2100, looked(&["web/0 running ready"])),
        ],
        &expect![[r#"
            0 ms: look at web
            10 ms: taken {mine}
            10 ms: seen web/0 ready @3 [8080], web/1 ready @3 [8080]
            20 ms: seen web/0 ready @3 [8080], web/1 ready @3 []
            2020 ms: apply web@3 [0]
            2030 ms: look at web
            2100 ms: taken {mine}
            2100 ms: seen web/0 ready @3 [8080]
        "#]],
    );
}

#[test]
fn a_singleton_lives_by_its_lease_and_leaves_at_once() {
    check(
        vec![
            (0, Input::Read(Ok(String::new()))),
            (10, looked(&[])),
            (20, Input::LeaseUntil(at(30_000))),
            (30, run(&[("db", local(4, true, &[0]))])),
            (40, Input::Applied(Ok(()))),
            (50, Input::LeaseUntil(at(40_000))),
            (60, run(&[])),
            (70, Input::Applied(Ok(()))),
            (80, Input::LeaseUntil(at(50_000))),
        ],
        &expect![[r#"
            0 ms: look at 
            10 ms: taken {mine}
            10 ms: seen 
            30 ms: apply db@4 [0]
            40 ms: deadline of db: 22000 ms
            40 ms: look at db
            50 ms: deadline of db: 32000 ms
            60 ms: apply 
        "#]],
    );
}

#[test]
fn a_refused_workload_holds_up_no_other() {
    check(
        vec![
            (0, Input::Read(Ok(String::new()))),
            (10, looked(&[])),
            (
                20,
                run(&[
                    ("bad", local(4, false, &[0])),
                    ("web", local(5, false, &[1])),
                ]),
            ),
            (30, Input::Applied(Err(refused("no user `x`")))),
            (40, Input::Planned(name("web"), Ok(()))),
            (50, Input::Planned(name("bad"), Err(refused("no user `x`")))),
            (60, Input::Applied(Ok(()))),
            // Another version is tried again.
            (
                70,
                run(&[
                    ("bad", local(6, false, &[0])),
                    ("web", local(5, false, &[1])),
                ]),
            ),
            (
                80,
                Input::Applied(Err(Rejection::Unavailable("it goes down".to_owned()))),
            ),
            (1080, Input::Woken),
            (1090, Input::Applied(Err(refused("no user `x`")))),
            (
                1100,
                Input::Planned(name("bad"), Err(refused("no user `x`"))),
            ),
            // It may have been added meanwhile.
            (301_100, Input::Woken),
        ],
        &expect![[r#"
            0 ms: look at 
            10 ms: taken {mine}
            10 ms: seen 
            20 ms: apply bad@4 [0], web@5 [1]
            30 ms: trouble no user `x`
            30 ms: plan web: web@5 [1]
            40 ms: plan bad: bad@4 [0]
            50 ms: refused bad@4 no user `x`
            50 ms: apply web@5 [1]
            60 ms: look at web
            70 ms: apply bad@6 [0], web@5 [1]
            80 ms: trouble it goes down
            1080 ms: apply bad@6 [0], web@5 [1]
            1090 ms: trouble no user `x`
            1090 ms: plan bad: bad@6 [0], web@5 [1]
            1100 ms: refused bad@6 no user `x`
            301100 ms: refused 
            301100 ms: forgiven bad
            301100 ms: apply bad@6 [0], web@5 [1]
        "#]],
    );
}

/// A replica that leaves counts in the agent's rules until it is gone, so the file may be refused because of it.
#[test]
fn a_file_that_is_refused_is_tried_without_what_leaves() {
    let after = || {
        run(&[
            ("new", local(4, false, &[0])),
            ("web", local(3, false, &[0])),
        ])
    };
    check(
        vec![
            (
                0,
                Input::Read(Ok(file::write(
                    &[(name("web"), local(3, false, &[0, 1]))].into(),
                ))),
            ),
            (10, looked(&["web/0 running ready", "web/1 running ready"])),
            (20, after()),
            (30, Input::Applied(Err(refused("too much together")))),
            (2020, Input::Woken),
            (2030, Input::Applied(Ok(()))),
        ],
        &expect![[r#"
            0 ms: look at web
            10 ms: taken {mine}
            10 ms: seen web/0 ready @3 [8080], web/1 ready @3 [8080]
            20 ms: apply new@4 [0], web@3 [0, 1]
            20 ms: seen web/0 ready @3 [8080], web/1 ready @3 []
            30 ms: trouble too much together
            2020 ms: apply new@4 [0], web@3 [0]
            2030 ms: look at new, web
        "#]],
    );
}

/// The node's loop must not spin: it sleeps until the time that the machine asks for.
#[test]
fn it_waits_for_verdicts_and_pauses_after_a_refusal_of_the_whole_file() {
    let mut host = Host::new("10.0.0.1".to_owned(), false);
    let two = [("a", local(1, false, &[0])), ("b", local(1, false, &[0]))];
    for (millis, input) in [
        (1, Input::Read(Ok(String::new()))),
        (2, looked(&[])),
        (10, run(&two)),
        (20, Input::Applied(Err(refused("too much together")))),
        (30, Input::Planned(name("b"), Ok(()))),
    ] {
        let _ = host.handle(at(millis), input);
    }
    assert_eq!(host.handle(at(20_000), Input::Woken).len(), 1, "a look");
    assert_eq!(host.wake(), None, "the look and a verdict are under way");

    let mut host = Host::new("10.0.0.1".to_owned(), false);
    for (millis, input) in [
        (1, Input::Read(Ok(String::new()))),
        (2, looked(&[])),
        (10, run(&two)),
        (20, Input::Applied(Err(refused("too much together")))),
        (30, Input::Planned(name("b"), Ok(()))),
        (40, Input::Planned(name("a"), Ok(()))),
    ] {
        let _ = host.handle(at(millis), input);
    }
    // Each alone is well.
    assert_eq!(host.wake(), Some(at(1020)));
    let again = host.handle(at(1020), Input::Woken);
    assert!(matches!(again.as_slice(), [Output::Apply(_)]), "{again:?}");
}

#[test]
fn an_agent_that_is_away_is_asked_once_a_second() {
    let away = || Rejection::Unavailable("it is away".to_owned());
    check(
        vec![
            (0, run(&[("web", local(5, false, &[1]))])),
            (1, Input::Woken),
            (2, Input::Read(Err("it is away".to_owned()))),
            (500, Input::Woken),
            (1002, Input::Woken),
            (1003, Input::Read(Ok(String::new()))),
            (1004, looked(&[])),
            (1005, Input::Applied(Ok(()))),
            (1010, run(&[])),
            // The replica leaves after two seconds, and the agent does not answer then.
            (3010, Input::Woken),
            (3015, Input::Woken),
            (3020, Input::Applied(Err(away()))),
            (3500, Input::Woken),
            (4020, Input::Woken),
            (4030, Input::Applied(Ok(()))),
        ],
        &expect![[r#"
            0 ms: read
            2 ms: trouble it is away
            1002 ms: read
            1003 ms: apply web@5 [1]
            1003 ms: look at 
            1004 ms: taken {mine}
            1004 ms: seen 
            1005 ms: look at web
            3010 ms: apply 
            3020 ms: trouble it is away
            4020 ms: apply 
        "#]],
    );
}

#[test]
fn what_cannot_be_read_stays_as_it_is() {
    let present = [(name("old"), local(3, false, &[0, 1]))].into();
    let untouched = Replica {
        workload: name("old"),
        index: 1,
    };
    let keeps = Run {
        wanted: [(name("web"), local(5, false, &[0]))].into(),
        untouched: [untouched].into(),
    };
    check(
        vec![
            (0, Input::Read(Ok(file::write(&present)))),
            (10, looked(&["old/0 running ready", "old/1 running ready"])),
            (20, Input::Run(keeps)),
            (30, Input::Applied(Ok(()))),
            (2040, Input::Woken),
        ],
        &expect![[r#"
            0 ms: look at old
            10 ms: taken {mine}
            10 ms: seen old/0 ready @3 [8080], old/1 ready @3 [8080]
            20 ms: apply old@3 [0, 1], web@5 [0]
            20 ms: seen old/0 ready @3 [], old/1 ready @3 [8080]
            30 ms: look at old, web
            2040 ms: apply old@3 [1], web@5 [0]
        "#]],
    );
}

#[test]
fn a_failure_lasts_until_the_replica_is_ready() {
    check(
        vec![
            (
                0,
                Input::Read(Ok(file::write(
                    &[(name("web"), local(3, false, &[0]))].into(),
                ))),
            ),
            (10, looked(&["web/0 backing_off no"])),
            (10_010, Input::Woken),
            (10_020, looked(&["web/0 starting no"])),
            (20_020, Input::Woken),
            (20_030, looked(&["web/0 running ready"])),
        ],
        &expect![[r#"
            0 ms: look at web
            10 ms: taken {mine}
            10 ms: seen web/0 failing since 5 s @3 [8080]
            10010 ms: look at web
            10020 ms: taken {mine}
            20020 ms: look at web
            20030 ms: taken {mine}
            20030 ms: seen web/0 ready @3 [8080]
        "#]],
    );
}

#[test]
fn a_replica_that_runs_without_readiness_is_told_with_its_time() {
    let present = [(name("web"), local(3, false, &[0]))].into();
    check(
        vec![
            (0, Input::Read(Ok(file::write(&present)))),
            (10, looked(&["web/0 running no"])),
            (10_010, Input::Woken),
            (10_020, looked(&["web/0 running no"])),
            (20_020, Input::Woken),
            // A replica that a person stopped need not be ready.
            (20_030, looked(&["web/0 stopped no"])),
            (30_030, Input::Woken),
            (30_040, looked(&["web/0 running no"])),
        ],
        &expect![[r#"
            0 ms: look at web
            10 ms: taken {mine}
            10 ms: seen web/0 unready since 10 ms @3 [8080]
            10010 ms: look at web
            10020 ms: taken {mine}
            20020 ms: look at web
            20030 ms: taken {mine}
            20030 ms: seen web/0 unready @3 [8080]
            30030 ms: look at web
            30040 ms: taken {mine}
            30040 ms: seen web/0 unready since 30040 ms @3 [8080]
        "#]],
    );
}

#[test]
fn a_host_that_observes_changes_nothing() {
    let present = [(name("web"), local(3, false, &[0, 1]))].into();
    check_of(
        Host::new("10.0.0.1".to_owned(), true),
        vec![
            (0, Input::Read(Ok(file::write(&present)))),
            (10, looked(&["web/0 running ready", "web/1 running ready"])),
            (20, run(&[("db", local(4, true, &[0]))])),
            (10_010, Input::Woken),
            (
                10_020,
                looked(&["web/0 running ready", "web/1 running ready"]),
            ),
            (10_030, run(&[("web", local(3, false, &[0, 1]))])),
        ],
        &expect![[r#"
            0 ms: look at web
            10 ms: taken {mine}
            10 ms: seen web/0 ready @3 [8080], web/1 ready @3 [8080]
            20 ms: trouble this node only observes; otherwise its file would have db/0, web/0, web/1
            20 ms: seen web/0 ready @3 [], web/1 ready @3 []
            10010 ms: look at web
            10020 ms: taken {mine}
            10030 ms: seen web/0 ready @3 [8080], web/1 ready @3 [8080]
        "#]],
    );
}

#[test]
fn a_host_judges_what_it_should_run() {
    let rules = enforcer_manifest::Allowed {
        users: ["web".to_owned()].into(),
        ports: [(8080, 8080)].into(),
        memory: Some(enforcer_model::units::Bytes(160 << 20)),
        ..enforcer_manifest::Allowed::default()
    };
    let mut judge = Judge::new(rules, Duration::from_secs(20));
    judge.take([name("mine")].into());
    judge.refuse([(name("web"), (Revision(1), "an older version".to_owned()))].into());
    let desired = |local: Local| DesiredRecord {
        scheduling: crate::fleet::Desired {
            singleton: local.singleton,
            ..crate::fleet::Desired::default()
        },
        mode: Mode::Enforce,
        workload: local.workload,
    };
    let slow = Local {
        workload: json!({ "command": ["/bin/db"], "user": "web", "stop": { "grace": "10s" }, "cgroup": { "memory.max": "1M" } }),
        ..local(2, true, &[0])
    };
    let root = Local {
        workload: json!({ "command": ["/bin/db"], "user": "root" }),
        ..local(2, false, &[0])
    };
    let all = [
        ("large", desired(local(2, false, &[])), 3),
        ("mine", desired(local(2, false, &[])), 1),
        ("quick", desired(local(2, true, &[])), 1),
        ("root", desired(root), 1),
        ("slow", desired(slow), 1),
        ("web", desired(local(2, false, &[])), 1),
    ]
    .map(|(text, desired, replicas)| (name(text), desired, replicas));
    let asked = all.iter().map(|(name, desired, replicas)| {
        let asked = crate::node::Asked {
            desired,
            revision: Revision(2),
            replicas: *replicas,
        };
        (name, asked)
    });
    let refused = judge.refused(&asked.collect());
    let lines = refused.iter().map(|(name, why)| format!("{name}: {why}\n"));
    expect![[r#"
        large: these workloads may use 160M here together, and would use 192M
        mine: the host has a workload of this name
        root: the user root is not allowed here; its memory.max must be 160M or less here
        slow: a singleton with `stop: { grace: 10 s }` needs a lease of 30 s, and `grace` is 20 s
    "#]]
    .assert_eq(&lines.collect::<String>());
}
