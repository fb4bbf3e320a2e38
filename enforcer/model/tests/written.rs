//! Events of earlier versions are read by their types, and written back byte for byte. The file
//! holds what the tests of commit 73a37a5, and those of the version before events got types,
//! wrote, and events of the kinds that are newer.

use enforcer_model::Record;
use enforcer_model::detail::{Detail, Kind};
use serde_json::value::RawValue;
use std::collections::BTreeSet;

fn read(kind: &str, details: &str) -> Detail {
    let details = RawValue::from_string(details.to_owned()).expect("JSON");
    Detail::read(kind, details)
}

#[test]
fn every_kind_is_read_by_its_type() {
    let mut seen = BTreeSet::new();
    for line in include_str!("written/events.txt").lines() {
        let (kind, details) = line.split_once(' ').expect("a kind and details");
        let detail = read(kind, details);
        assert!(detail.known_kind().is_some(), "not known: {line}");
        assert_eq!(detail.kind(), kind);
        assert_eq!(serde_json::to_string(&detail).expect("JSON"), details);
        seen.extend(detail.known_kind());
    }
    assert_eq!(seen, Kind::ALL.into_iter().collect());
}

#[test]
fn an_event_of_another_version_is_kept_as_it_is() {
    for (kind, details) in [
        ("omen", r#"{"b": 1,"a":[1.50, "ä"]}"#),
        // A key that this version does not know.
        (
            "exit",
            r#"{"code":1,"signal":null,"oom_killed":false,"core":true}"#,
        ),
        // A word that this version does not know.
        ("agent", r#"{"state":"asleep"}"#),
        // A key in another place, and a number in another shape.
        ("adopt", r#"{"pid":7.0}"#),
        ("breaker", r#"{"cooldown_seconds":1.0,"state":"open"}"#),
    ] {
        let detail = read(kind, details);
        assert!(matches!(detail, Detail::Unknown(_)), "{detail:?}");
        assert_eq!(detail.kind(), kind);
        assert_eq!(serde_json::to_string(&detail).expect("JSON"), details);
    }
}

#[test]
fn a_record_is_written_back_byte_for_byte() {
    for (kind, details) in [("adopt", r#"{"pid":7}"#), ("omen", r#"{"b": 1,"a":2}"#)] {
        let text = format!(
            r#"{{"seq":7,"time":"2026-01-31T10:00:00.5Z","boot_id":"b","workload":"web","instance":3,"kind":"{kind}","reason":"config","caused_by":null,"details":{details}}}"#
        );
        let record: Record = serde_json::from_str(&text).expect("a record");
        assert_eq!(serde_json::to_string(&record).expect("JSON"), text);
    }
}

#[test]
fn a_number_with_all_its_digits_is_kept() {
    let lines = include_str!("written/events.txt").lines();
    let mut loops = lines.filter_map(|line| line.strip_prefix("cpu_loop "));
    let details = loops.next().expect("an event of a loop");
    let share = r#""user_share":"#;
    let (before, after) = details.split_once(share).expect("a share of time");
    let after = &after[after.find(',').expect("another key")..];
    // A simple generator: each run has the same numbers.
    let mut state = 1_u64;
    for _ in 0..2_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let number = f64::from_bits((state >> 12) | 1_f64.to_bits()) - 1.0;
        let number = serde_json::to_string(&number).expect("JSON");
        let details = format!("{before}{share}{number}{after}");
        let detail = read("cpu_loop", &details);
        assert!(detail.known_kind().is_some(), "not known: {number}");
        assert_eq!(serde_json::to_string(&detail).expect("JSON"), details);
    }
}
