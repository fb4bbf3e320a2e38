//! What a scheduler asks of etcd, and when.

use super::*;
use crate::store::{Entry, Got};

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
