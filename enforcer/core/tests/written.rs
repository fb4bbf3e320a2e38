//! Checkpoints of earlier versions are read. The files hold what the supervisor's tests of those
//! versions wrote.

use enforcer_core::Checkpoint;
use serde_json::Value;

fn read(text: &str) -> Checkpoint {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The version before events got types wrote these.
#[test]
fn a_checkpoint_is_written_back_byte_for_byte() {
    let lines = include_str!("written/checkpoints.txt").lines();
    let again = lines.inspect(|line| {
        let written = serde_json::to_string(&read(line)).expect("JSON");
        assert_eq!(&written, line);
    });
    assert!(again.count() > 10);
}

/// Commit 73a37a5 wrote these. A later version adds keys, and changes none.
#[test]
fn an_older_checkpoint_keeps_every_key() {
    let lines = include_str!("written/checkpoints-of-73a37a5.txt").lines();
    let again = lines.inspect(|line| {
        let before = serde_json::from_str(line).expect("JSON");
        let after = serde_json::to_value(read(line)).expect("JSON");
        assert!(is_kept(&before, &after), "{before}\nbecame\n{after}");
    });
    assert!(again.count() > 10);
}

fn is_kept(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before
            .iter()
            .all(|(key, value)| after.get(key).is_some_and(|now| is_kept(value, now))),
        (before, after) => before == after,
    }
}
