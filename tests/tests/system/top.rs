//! `top` on a terminal: what tmux shows of it.

use super::*;

/// The screen now, a line each.
fn screen(session: &str) -> Vec<String> {
    let shown = sh(&format!(
        "LANG=C.UTF-8 tmux -u capture-pane -p -t {session}"
    ));
    shown.lines().map(str::to_owned).collect()
}

fn keys(session: &str, keys: &str) {
    sh(&format!("tmux send-keys -t {session} {keys}"));
}

/// Numbers change from run to run, and with them the room they take.
fn masked(screen: &[String]) -> String {
    let mut text = String::new();
    for line in screen {
        let mut words = Vec::new();
        for word in line.split_whitespace() {
            let is_number = word.chars().any(|c| c.is_ascii_digit());
            let bar = word.chars().all(|c| c == '█' || c == '░');
            words.push(match (is_number, bar) {
                (true, _) => "#",
                (_, true) => "▒",
                _ => word,
            });
        }
        text.push_str(&words.join(" "));
        text.push('\n');
    }
    text
}

fn wait_for_screen(session: &str, what: &str, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
    wait_for(what, || Some(screen(session)).filter(|lines| holds(lines)))
}

/// Waits for a whole screen: a terminal may show a part of what is written to it.
fn wait_for_table(session: &str, expected: &str) {
    let mut last = String::new();
    wait_for("the table", || {
        let shown = screen(session);
        let now = masked(&shown);
        if now != last {
            println!("{}", shown.join("\n"));
            last = now;
        }
        (last == expected).then_some(())
    });
}

fn open(session: &str, width: u16, height: u16) {
    sh(&format!(
        "LANG=C.UTF-8 tmux -u new-session -d -s {session} -x {width} -y {height} enforcer top --interval 500ms"
    ));
}

fn has(lines: &[String], text: &str) -> bool {
    lines.iter().any(|line| line.contains(text))
}

/// Whether the table says that the workload runs.
fn is_running(lines: &[String]) -> bool {
    let is_row = |line: &&String| line.trim_start().starts_with("web ");
    lines
        .iter()
        .filter(is_row)
        .any(|row| row.contains("running"))
}

#[test]
fn a_terminal_shows_what_is_and_asks_before_it_does() {
    install_anew();
    put_manifest("rest");
    let pid = running();
    open("small", 80, 24);
    wait_for_table("small", include_str!("top/80x24.txt"));
    open("large", 160, 50);
    wait_for_table("large", include_str!("top/160x50.txt"));

    keys("small", "Enter");
    wait_for_screen("small", "details", |lines| {
        has(lines, "what happened, the last first") && has(lines, "web: started")
    });
    keys("small", "Escape");
    // Escape and R in one piece would be Alt+R.
    wait_for_screen("small", "no details", |lines| {
        !has(lines, "what happened, the last first")
    });
    keys("small", "R");
    wait_for_screen("small", "a question", |lines| has(lines, "restart web?"));
    keys("small", "n");
    wait_for_screen("small", "no question", |lines| !has(lines, "restart web?"));
    assert_eq!(running(), pid);
    keys("small", "R");
    wait_for_screen("small", "a question", |lines| has(lines, "restart web?"));
    keys("small", "y");
    wait_for("another process", || (running() != pid).then_some(()));
    wait_for_screen("small", "what came of it", |lines| {
        let done = has(lines, "web: restart: done") || has(lines, "web: started");
        done && is_running(lines)
    });

    // An agent that goes leaves what was known on the screen.
    sh("systemctl stop enforcer");
    wait_for_screen("small", "that it doesn't answer", |lines| {
        has(lines, "as it was before: no agent answers") && is_running(lines)
    });
    sh("systemctl start enforcer");
    wait_for_screen("small", "that it answers", |lines| {
        !has(lines, "as it was before")
    });
    for session in ["small", "large"] {
        keys(session, "q");
        wait_for("it to end", || {
            (!shell(&format!("tmux has-session -t {session}"))
                .status
                .success())
            .then_some(())
        });
    }
    let once = sh("enforcer top --no-stream");
    assert!(
        once.contains("web") && once.contains("LAST REASON"),
        "{once}"
    );
    assert!(!shell("enforcer top").status.success());
}
