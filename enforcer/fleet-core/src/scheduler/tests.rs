//! What a scheduler asks of etcd, and when.

use super::*;
use crate::fleet::{Desired, NodeId, Resources, WorkloadName};
use crate::record::{DesiredRecord, Mode, NodeRecord};
use crate::store::{Entry, Got};
use expect_test::expect;

fn at(millis: u64) -> Time {
    Time(Duration::from_millis(millis))
}

fn got(entries: Vec<Entry>) -> Answer {
    Answer::Got(Got {
        revision: Revision(3),
        entries,
    })
}

/// Returns a scheduler that leads and has asked for the list.
fn leader() -> Scheduler {
    let mut scheduler = Scheduler::new("fleet/".to_owned(), Settings::default());
    let own = Entry {
        key: format!("fleet/{}", Key::Election(LeaseId(7))),
        value: Vec::new(),
        created: Revision(2),
        modified: Revision(2),
        lease: Some(LeaseId(7)),
    };
    let transacted = Answer::Transacted {
        revision: Revision(2),
        succeeded: true,
        got: Vec::new(),
    };
    let _ = scheduler.handle(at(0), Input::Woken);
    for (call, answer) in [
        (Call::Grant, Answer::Granted(LeaseId(7), LEASE)),
        (Call::Campaign, transacted),
        (Call::Candidates, got(vec![own])),
    ] {
        let _ = scheduler.handle(at(0), Input::Answer(call, Ok(answer)));
    }
    assert!(scheduler.leads());
    scheduler
}

#[test]
fn a_leader_lists_again_after_a_pause_if_etcd_is_away() {
    let mut scheduler = leader();
    let is_list = |output: &Output| matches!(output, Output::Call(Call::List, _));
    for second in 0..5 {
        let away = Err(StoreError::Unavailable("refused".to_owned()));
        let now = at(second * 1000 + 1);
        let outputs = scheduler.handle(now, Input::Answer(Call::List, away));
        assert!(!outputs.iter().any(is_list), "{outputs:?}");
        assert!(scheduler.wake().is_some_and(|at| at > now));
        let outputs = scheduler.handle(now.after(AGAIN), Input::Woken);
        assert!(outputs.iter().any(is_list), "{outputs:?}");
    }
    let listed = Input::Answer(Call::List, Ok(got(Vec::new())));
    let outputs = scheduler.handle(at(5100), listed);
    assert!(!outputs.iter().any(is_list), "{outputs:?}");
}

/// Returns the writes of a leader that finds one node and one workload of these modes, without the schedulers' memory.
fn first_writes(of_node: Mode, of_workload: Mode) -> String {
    let capacity = Resources {
        memory_bytes: 4,
        cpu_millis: 1000,
    };
    let about = NodeRecord {
        capacity,
        mode: of_node,
        ..NodeRecord::default()
    };
    let desired = DesiredRecord {
        scheduling: Desired {
            needs: capacity,
            ..Desired::default()
        },
        mode: of_workload,
        workload: serde_json::Value::Null,
    };
    let node = NodeId::parse("host-1").expect("a node");
    let workload = WorkloadName::parse("web").expect("a name");
    let entry = |key: Key, value: Vec<u8>| Entry {
        key: format!("fleet/{key}"),
        value,
        created: Revision(1),
        modified: Revision(1),
        lease: None,
    };
    let entries = vec![
        entry(Key::Node(node), about.encode()),
        entry(Key::Desired(workload), desired.encode()),
    ];
    let listed = Input::Answer(Call::List, Ok(got(entries)));
    let outputs = leader().handle(at(1), listed);
    let mut puts = Vec::new();
    for output in outputs {
        let Output::Call(Call::Write, Request::Transact(transaction)) = output else {
            continue;
        };
        for operation in transaction.then {
            if let Operation::Put { key, value, .. } = operation
                && key != "fleet/memory"
            {
                puts.push(format!("{key} {}", String::from_utf8_lossy(&value)));
            }
        }
    }
    puts.join("\n")
}

#[test]
fn what_is_only_observed_is_told_and_not_done() {
    expect![[r#"
        fleet/known/host-1 {"kind":"known","version":1,"capacity":{"memory_bytes":4,"cpu_millis":1000},"labels":{}}
        fleet/assigned/host-1/web/0 {"kind":"assigned","version":1,"revision":1}
        fleet/history/web/0 {"kind":"history","version":1,"changes":[[{"secs":0,"nanos":1000000},{"replica":{"workload":"web","index":0},"from":null,"to":"host-1","why":"placed"}]]}"#]]
    .assert_eq(&first_writes(Mode::Enforce, Mode::Enforce));
    expect![[r#"
        fleet/known/host-1 {"kind":"known","version":1,"capacity":{"memory_bytes":4,"cpu_millis":1000},"labels":{}}
        fleet/history/web/0 {"kind":"history","version":1,"changes":[],"would":{"replica":{"workload":"web","index":0},"from":null,"to":"host-1","why":"placed"}}"#]]
    .assert_eq(&first_writes(Mode::Enforce, Mode::Observe));
    expect![[r#"
        fleet/known/host-1 {"kind":"known","version":1,"capacity":{"memory_bytes":4,"cpu_millis":1000},"labels":{}}
        fleet/history/web/0 {"kind":"history","version":1,"changes":[],"waits":{"no_node":{"down":1,"unlike":0,"refused":0,"failed":0,"full":0}},"would":{"replica":{"workload":"web","index":0},"from":null,"to":"host-1","why":"placed"}}"#]]
    .assert_eq(&first_writes(Mode::Observe, Mode::Enforce));
}

/// The key of a lease that nobody renews is in the way of every other scheduler until it ends, which may be long: etcd 3.4 reckons by the wall
/// clock.
#[test]
fn a_leader_that_gives_up_takes_its_key_away() {
    let mut scheduler = leader();
    let late = at(0).after(LEASE);
    let outputs = scheduler.handle(late, Input::Woken);
    assert!(
        outputs.contains(&Output::Tell(News::Follows)),
        "{outputs:?}"
    );
    let away = || Err(StoreError::Unavailable("no answer".to_owned()));
    let _ = scheduler.handle(late, Input::Answer(Call::KeepAlive, away()));
    let _ = scheduler.handle(late, Input::Answer(Call::List, away()));
    let mut now = late;
    for answer in [away(), Ok(Answer::Revoked)] {
        now = now.after(AGAIN);
        let revoke = Output::Call(Call::Revoke, Request::Revoke(LeaseId(7)));
        assert!(scheduler.handle(now, Input::Woken).contains(&revoke));
        let outputs = scheduler.handle(now, Input::Answer(Call::Revoke, answer));
        let grants = outputs.contains(&Output::Call(Call::Grant, Request::Grant(LEASE)));
        assert_eq!(grants, scheduler.given_up.is_none(), "{outputs:?}");
    }
    assert_eq!(scheduler.given_up, None);
}
