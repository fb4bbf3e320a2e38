//! A workload whose output goes to systemd-journald.

use super::*;
use enforcer_model::views::Inspection;

fn put(name: &str, command: &str) {
    let text = format!(
        "version: 1\nworkloads:\n  {name}:\n    command: {command}\n    user: web\n    \
         logs: {{ to: journal }}\n"
    );
    std::fs::write(MANIFEST, text).unwrap();
}

/// What `enforcer logs` prints once it ends with this.
fn wait_for_log(name: &str, end: &str) -> String {
    wait_for("the lines", || {
        let shown = shell(&format!("enforcer logs {name}")).stdout;
        let shown = String::from_utf8(shown).unwrap();
        shown.ends_with(end).then_some(shown)
    })
}

/// The fields of a journal entry that the test reads (systemd.journal-fields(7)).
#[derive(serde::Deserialize)]
struct Stored {
    #[serde(rename = "_SYSTEMD_UNIT")]
    unit: String,
    #[serde(rename = "_UID")]
    uid: String,
    #[serde(rename = "_PID")]
    pid: String,
    #[serde(rename = "PRIORITY")]
    priority: String,
}

#[test]
fn the_journal_takes_what_a_workload_writes_and_logs_reads_it() {
    install_anew();
    put("brief", "[/usr/bin/fixture, count, 3]");
    let pid = running();
    assert_eq!(wait_for_log("brief", "2\n"), "0\n1\n2\n");
    assert_eq!(sh("enforcer logs brief --tail 1"), "2");

    let stored = sh("journalctl -q -o json -n 1 SYSLOG_IDENTIFIER=brief");
    let stored: Stored = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored.unit, "enforcer-workloads.service");
    assert_eq!((&*stored.uid, &*stored.priority), ("1000", "6"));
    assert_eq!(stored.pid, pid.to_string());
    let inspected = sh("enforcer status brief --json");
    let inspected: Inspection = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected.log, "journal");
    assert!(!Path::new("/var/lib/enforcer/logs/brief.log").exists());
    purge();
}

#[test]
fn last_words_and_lines_across_restarts_are_in_the_journal() {
    install_anew();
    put("web", "[/bin/sh, -c, \"echo last words; exec /bin/false\"]");
    assert!(wait_for_log("web", "last words\n").starts_with("last words\n"));

    put("web", "[/usr/bin/fixture, count, 1000000, 50]");
    sh("systemctl reload enforcer");
    wait_for("the first number", || {
        let last = shell("enforcer logs web --tail 1").stdout;
        let last = String::from_utf8(last).ok()?;
        last.trim().parse::<u32>().ok()
    });
    let follows = "timeout 120 enforcer logs web --follow --tail 1 | head -n 20";
    let before = sh(follows);
    let pid = running();
    // An agent that takes it over has nothing to say about its log.
    sh("systemctl restart enforcer");
    assert_eq!(running(), pid);
    assert_eq!(sh("enforcer events --kind degraded"), "");
    // systemd keeps the streams over a restart of journald, and over its death.
    sh("systemctl restart systemd-journald");
    sh("systemctl kill --kill-whom=main -s KILL systemd-journald");
    let after = sh(follows);
    assert_eq!(running(), pid);
    let number = |lines: &str| lines.lines().last().unwrap().parse::<u32>().unwrap();
    assert!(number(&after) > number(&before), "{before}\n{after}");
    // Nobody reads any more.
    let readers = "grep -l journalctl /proc/[0-9]*/comm || true";
    wait_for("the readers to end", || {
        sh(readers).is_empty().then_some(())
    });
    purge();
}
