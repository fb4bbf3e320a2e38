//! Rules, weighed.

use super::*;
use crate::event::{AlertState, Kind};
use crate::host::HostStood;
use crate::spec::{Alerts, Resource, Rule, Severity, Target, Threshold, When};
use crate::state::WorkloadState;
use crate::threshold::Level;

/// One rule, and a workload that it is about.
fn wanted(rule: &Rule, spec: WorkloadSpec) -> Event {
    let alerts = Alerts {
        repeat: None,
        targets: BTreeMap::from([(
            "pager".to_owned(),
            Target::Command(vec!["/page".to_owned()]),
        )]),
        rules: BTreeMap::from([("rule".to_owned(), rule.clone())]),
    };
    let mut manifest = manifest(&[(WEB, spec)]);
    manifest.host.alerts = Arc::new(alerts);
    Event::Agent(AgentEvent::Configure {
        manifest,
        prune: Prune::Nothing,
    })
}

/// One rule, and what is measured or happens at these seconds; the reports of alerts.
fn alerts_reported(rule: &Rule, events: Vec<(u64, Event)>) -> Vec<String> {
    let configure = wanted(rule, limited_spec());
    let mut supervisor = Supervisor::new(2);
    let mut reported = Vec::new();
    for (seconds, event) in [(0, configure), (0, started(1))].into_iter().chain(events) {
        for transition in supervisor.handle(at(seconds), event).transitions {
            if let Detail::Alert(alert) = transition.detail {
                assert_eq!(alert.to, ["pager"]);
                reported.push(format!("{seconds} s: {} {}", alert.state, alert.text));
            }
        }
    }
    reported
}

fn limited_spec() -> WorkloadSpec {
    WorkloadSpec {
        limits: Limits {
            memory_max: Some(Limit::At(Bytes(1 << 20))),
            ..Limits::default()
        },
        ..spec()
    }
}

fn measured(percent: u32, host: u32) -> Event {
    let measured = Measured {
        memory: Some(Percent(percent)),
        ..Measured::default()
    };
    Event::Host(HostEvent::Measured {
        workloads: vec![(name(WEB), measured)],
        host: HostMeasured {
            memory: Some(Percent(host)),
            ..HostMeasured::default()
        },
    })
}

fn rule(when: When, held: u64) -> Rule {
    Rule {
        when,
        held: Duration::from_secs(held),
        severity: Severity::Warning,
        workloads: None,
        to: None,
    }
}

#[test]
fn alerts_weigh_levels_states_and_events() {
    let ticks = |levels: &[(u64, u32)]| -> Vec<(u64, Event)> {
        levels
            .iter()
            .map(|(at, level)| (*at, measured(*level, *level)))
            .collect()
    };
    let levels = ticks(&[(5, 90), (10, 90), (15, 90), (20, 10), (25, 10), (30, 10)]);
    assert_eq!(
        alerts_reported(&rule(When::Memory(Percent(85)), 10), levels.clone()),
        [
            "15 s: firing memory at 90 % of its limit, from 85 % on",
            "30 s: resolved memory at 90 % of its limit, from 85 % on"
        ]
    );
    assert_eq!(
        alerts_reported(&rule(When::Host(Resource::Memory, Percent(85)), 0), levels),
        [
            "5 s: firing the host's memory at 90 %, from 85 % on",
            "20 s: resolved the host's memory at 90 %, from 85 % on"
        ]
    );
    // It fails, and is started again: each is reported at the next tick.
    let mut events = vec![(1, exited(1)), (1, reaped(1, ExitStatus::Code(1), 0))];
    events.extend(ticks(&[(5, 0)]));
    assert_eq!(
        alerts_reported(&rule(When::Event(Kind::Restart), 0), events.clone()),
        ["1 s: firing restarting now (exit), attempt 1"]
    );
    events.extend(ticks(&[(100, 0), (301, 0)]));
    assert_eq!(
        alerts_reported(&rule(When::Event(Kind::Restart), 0), events),
        [
            "1 s: firing restarting now (exit), attempt 1",
            "301 s: resolved restarting now (exit), attempt 1"
        ]
    );
}

/// Returns an alert by a rule that no manifest here has.
fn one_stands() -> Event {
    let standing = crate::alert::Standing {
        rule: "gone".to_owned(),
        workload: Some(name(WEB)),
        id: Seq(3),
        reported: MonoTime(0),
        stood: Duration::ZERO,
        text: "as it was".to_owned(),
        to: vec!["pager".to_owned()],
        severity: Severity::Critical,
    };
    Event::Agent(AgentEvent::AlertsStand {
        standing: vec![standing],
        alerts: Arc::default(),
    })
}

/// The file with the fault may contain the rules, so an alert may still hold.
#[test]
fn what_stands_is_not_over_while_the_rules_cannot_be_read() {
    let mut supervisor = Supervisor::new(2);
    let _ = supervisor.handle(at(0), one_stands());
    let readable = Event::Agent(AgentEvent::ConfigureReadable {
        manifest: manifest(&[(WEB, spec())]),
        keeps_ceiling: true,
        has_alerts: false,
    });
    let _ = supervisor.handle(at(1), readable);
    let decision = supervisor.handle(at(5), measured(0, 0));
    assert!(decision.transitions.is_empty());
    // The file was removed.
    let decision = supervisor.handle(at(6), configure(spec()));
    let plan = decision.plan.expect("a plan");
    assert!(plan.is_empty(), "{plan:?}");
    let writes: Vec<_> = decision.actions.iter().map(Action::name).collect();
    assert_eq!(
        writes,
        ["write_host_limits"],
        "the kernel had those of the agent before"
    );
    let reported = supervisor.handle(at(10), measured(0, 0)).transitions;
    assert!(
        matches!(&reported[..], [reported] if reported.detail.known_kind() == Some(Kind::Alert))
    );
}

#[test]
fn what_is_named_no_more_is_over() {
    let mut supervisor = Supervisor::new(2);
    let _ = supervisor.handle(at(0), one_stands());
    let _ = supervisor.handle(at(1), configure(spec()));
    let decision = supervisor.handle(at(5), measured(0, 0));
    let reported: Vec<_> = decision
        .transitions
        .iter()
        .map(|reported| &reported.detail)
        .collect();
    let [Detail::Alert(over)] = reported.as_slice() else {
        panic!("{reported:?}");
    };
    assert_eq!(
        (over.id, over.state, &*over.text),
        (Seq(3), AlertState::Resolved, "as it was")
    );
    assert_eq!(over.to, ["pager"]);
    assert_eq!(over.severity, Severity::Critical);
    assert!(
        supervisor
            .handle(at(10), measured(0, 0))
            .transitions
            .is_empty()
    );
}

#[test]
fn without_a_limit_there_is_no_share_of_it() {
    let rule = rule(When::Memory(Percent(85)), 0);
    let unlimited = Event::Host(HostEvent::Measured {
        workloads: vec![(name(WEB), Measured::default())],
        host: HostMeasured::default(),
    });
    let unknown = (10, unlimited.clone());
    let events = vec![
        (5, measured(90, 0)),
        unknown,
        (15, wanted(&rule, spec())),
        (20, unlimited),
    ];
    assert_eq!(
        alerts_reported(&rule, events),
        [
            "5 s: firing memory at 90 % of its limit, from 85 % on",
            "20 s: resolved memory at 90 % of its limit, from 85 % on"
        ]
    );
}

/// A level that was reported still holds in the next agent, which has measured nothing yet.
#[test]
fn a_level_is_not_reported_again() {
    let mut watched = limited_spec();
    watched.watch.memory = Some(Threshold {
        hold: Duration::ZERO,
        ..Threshold::MEMORY
    });
    let mut supervisor = Supervisor::new(2);
    let mut kept = None;
    for (seconds, event) in [
        (0, configure(watched)),
        (0, started(1)),
        (5, measured(92, 0)),
    ] {
        let decision = supervisor.handle(at(seconds), event);
        kept = decision.checkpoints.into_iter().last().or(kept);
    }
    let (_, checkpoint) = kept.expect("a checkpoint");
    let text = serde_json::to_string(&checkpoint).expect("it can be written");
    let taken = TakenOver {
        workload: name(WEB),
        checkpoint: serde_json::from_str(&text).expect("it was written so"),
        found: Found::Running(CgroupId(1), Counters::default(), 101),
    };
    let mut next = Supervisor::new(2);
    let take_over = Event::Agent(AgentEvent::TakeOver {
        workloads: vec![taken],
        groups: Vec::new(),
        last: (Seq(100), InstanceId(1)),
    });
    let mut kinds = Vec::new();
    for (seconds, event) in [(6, take_over), (10, measured(92, 0)), (15, measured(10, 0))] {
        let decision = next.handle(at(seconds), event);
        let reported = decision
            .transitions
            .iter()
            .map(|reported| reported.detail.known_kind());
        kinds.extend(reported.map(|kind| (seconds, kind)));
    }
    let expected = [
        (6, Kind::Agent),
        (6, Kind::Adopt),
        (15, Kind::Pressure),
        (15, Kind::Health),
    ]
    .map(|(seconds, kind)| (seconds, Some(kind)));
    assert_eq!(kinds, expected);
}

/// A level that ends is news, and no trouble.
#[test]
fn what_gets_better_is_no_trouble() {
    let rule = rule(When::Event(Kind::Pressure), 0);
    let mut watched = limited_spec();
    watched.watch.memory = Some(Threshold {
        hold: Duration::ZERO,
        ..Threshold::MEMORY
    });
    let events = vec![
        (1, wanted(&rule, watched)),
        (5, measured(92, 0)),
        (400, measured(92, 0)),
        (405, measured(10, 0)),
        (410, measured(10, 0)),
    ];
    let text = "memory use is warn: 92% of its limit";
    let expected = [
        format!("5 s: firing {text}"),
        format!("400 s: resolved {text}"),
    ];
    assert_eq!(alerts_reported(&rule, events), expected);
}

#[test]
fn a_breaker_stands_open_until_a_trial_has_passed() {
    let rule = rule(When::State(WorkloadState::BreakerOpen), 0);
    let mut spent = limited_spec();
    spent.recovery.budget = Some(Budget {
        restarts: 0,
        within: Duration::from_secs(300),
    });
    let events = vec![
        (1, wanted(&rule, spent)),
        (2, exited(1)),
        (2, reaped(1, ExitStatus::Code(1), 0)),
        (5, measured(0, 0)),
        (62, Event::Agent(AgentEvent::Wake)),
        (62, started(2)),
        (65, measured(0, 0)),
        (92, Event::Agent(AgentEvent::Wake)),
        (95, measured(0, 0)),
    ];
    let expected = [
        "5 s: firing it is in the state breaker_open",
        "95 s: resolved it is in the state breaker_open",
    ];
    assert_eq!(alerts_reported(&rule, events), expected);
}

/// A target that got the alert gets its end, even if the rule names other targets by now.
#[test]
fn a_resolution_reaches_all_who_got_the_alert() {
    let with = |to: &str| {
        let targets = ["mail", "pager"].map(|name| {
            let command = Target::Command(vec!["/report".to_owned()]);
            (name.to_owned(), command)
        });
        let rule = Rule {
            to: Some(BTreeSet::from([to.to_owned()])),
            ..rule(When::Memory(Percent(85)), 0)
        };
        let mut manifest = manifest(&[(WEB, limited_spec())]);
        manifest.host.alerts = Arc::new(Alerts {
            repeat: Some(Duration::from_secs(60)),
            targets: BTreeMap::from(targets),
            rules: BTreeMap::from([("rule".to_owned(), rule)]),
        });
        Event::Agent(AgentEvent::Configure {
            manifest,
            prune: Prune::Nothing,
        })
    };
    let mut supervisor = Supervisor::new(2);
    let mut reported = Vec::new();
    for (seconds, event) in [
        (0, with("pager")),
        (0, started(1)),
        (5, measured(90, 0)),
        (10, with("mail")),
        (65, measured(90, 0)),
        (70, measured(10, 0)),
    ] {
        for transition in supervisor.handle(at(seconds), event).transitions {
            if let Detail::Alert(alert) = transition.detail {
                reported.push((seconds, alert.state, alert.to.join(" ")));
            }
        }
    }
    let expected = [
        (5, AlertState::Firing, "pager".to_owned()),
        (65, AlertState::Firing, "mail".to_owned()),
        (70, AlertState::Resolved, "mail pager".to_owned()),
    ];
    assert_eq!(reported, expected);
}

/// What an event stands for is not over because the agent is another one.
#[test]
fn an_event_stands_on_in_the_next_agent() {
    let rule = rule(When::Event(Kind::Restart), 0);
    let standing = crate::alert::Standing {
        rule: "rule".to_owned(),
        workload: Some(name(WEB)),
        id: Seq(3),
        reported: MonoTime(0),
        stood: Duration::from_secs(10),
        text: "restarted, for exit".to_owned(),
        to: vec!["pager".to_owned()],
        severity: Severity::Warning,
    };
    let Event::Agent(AgentEvent::Configure { manifest, .. }) = wanted(&rule, limited_spec()) else {
        unreachable!();
    };
    let stand = Event::Agent(AgentEvent::AlertsStand {
        standing: vec![standing],
        alerts: manifest.host.alerts,
    });
    let mut supervisor = Supervisor::new(2);
    let mut reported = Vec::new();
    for (seconds, event) in [
        (1000, stand),
        (1000, wanted(&rule, limited_spec())),
        (1005, measured(0, 0)),
        (1299, measured(0, 0)),
        (1300, measured(0, 0)),
    ] {
        for transition in supervisor.handle(at(seconds), event).transitions {
            if let Detail::Alert(alert) = transition.detail {
                reported.push((seconds, alert.state, alert.id));
            }
        }
    }
    assert_eq!(reported, [(1300, AlertState::Resolved, Seq(3))]);
}

/// The host's levels likewise, and its disk's command isn't run again at once.
#[test]
fn a_pressure_of_the_host_is_not_reported_again() {
    let threshold = Threshold {
        hold: Duration::ZERO,
        ..Threshold::MEMORY
    };
    let mut manifest = manifest(&[]);
    manifest.host.watch.memory = Some(threshold);
    let stood = HostStood {
        memory: Level::Critical,
        ..HostStood::default()
    };
    let mut supervisor = Supervisor::new(2);
    let configure = Event::Agent(AgentEvent::Configure {
        manifest: manifest.clone(),
        prune: Prune::Nothing,
    });
    let mut levels = Vec::new();
    for (seconds, event) in [
        (0, Event::Host(HostEvent::Stood(stood, manifest.host.watch))),
        (1, configure),
        (5, measured(0, 97)),
        (10, measured(0, 50)),
    ] {
        for transition in supervisor.handle(at(seconds), event).transitions {
            if let Detail::HostPressure(reported) = transition.detail {
                levels.push((seconds, reported.level));
            }
        }
    }
    assert_eq!(levels, [(10, Level::Normal)]);
}
