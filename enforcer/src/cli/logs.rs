//! `logs`: what a workload has written. What would steer a terminal is shown, not obeyed.

use super::{Fault, client, escaped};
use crate::settings::Settings;
use std::io::Write as _;

/// Which part of it.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// Only the last so many lines
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Go on with what it writes
    #[arg(short, long)]
    follow: bool,
    /// The older files as well, oldest first
    #[arg(long, conflicts_with = "tail")]
    previous: bool,
    /// Every byte as it was written, for a program that wants it so
    #[arg(long)]
    raw: bool,
}

pub(super) fn logs(settings: &Settings, name: &str, wanted: &Wanted) -> Result<(), Fault> {
    let mut route = format!(
        "/v1/workloads/{}/logs?follow={}&previous={}",
        escaped(name),
        wanted.follow,
        wanted.previous
    );
    if let Some(tail) = wanted.tail {
        route.push_str(&format!("&tail={tail}"));
    }
    let mut stdout = std::io::stdout().lock();
    client::stream(settings, &route, |bytes| {
        let shown = if wanted.raw {
            stdout.write_all(bytes)
        } else {
            stdout.write_all(&tamed(bytes))
        };
        // Nobody reads any more: nothing is left to do.
        if shown.and_then(|()| stdout.flush()).is_err() {
            std::process::exit(0);
        }
    })
}

/// Control characters but the ends of lines and tabs, in caret notation. C1 characters
/// steer some terminals as well: they are `C2 80` to `C2 9F` in UTF-8.
fn tamed(bytes: &[u8]) -> Vec<u8> {
    let mut tame = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'\n' | b'\t' => tame.push(byte),
            // At the end of a line it does nothing.
            b'\r' if rest.peek() == Some(&b'\n') => {}
            0x00..=0x1f => tame.extend([b'^', byte + b'@']),
            0x7f => tame.extend(*b"^?"),
            0xc2 if rest.peek().is_some_and(|next| (0x80..=0x9f).contains(next)) => {
                let next = rest.next().unwrap_or_default();
                tame.extend([b'^', b'[', next - 0x40]);
            }
            _ => tame.push(byte),
        }
    }
    tame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown() {
        let shown = |text: &str| String::from_utf8(tamed(text.as_bytes())).expect("text");
        assert_eq!(shown("a\tb\r\n"), "a\tb\n");
        assert_eq!(shown("\u{1b}]0;title\u{7}"), "^[]0;title^G");
        assert_eq!(shown("\u{9b}2J"), "^[[2J");
        assert_eq!(shown("grün \u{7f}"), "grün ^?");
        assert_eq!(shown("over\rwritten"), "over^Mwritten");
    }
}
