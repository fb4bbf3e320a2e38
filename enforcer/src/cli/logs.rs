//! `logs`: what a workload has written. What would steer a terminal is shown, not obeyed.

use super::{client, escaped};
use crate::fault::Fault;
use crate::settings::Settings;
use std::io::Write as _;

/// The choice of lines.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// The last N lines
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Go on with new lines
    #[arg(short, long)]
    follow: bool,
    /// Also the older files, the oldest first; of a journal, earlier boots
    #[arg(long, conflicts_with = "tail")]
    previous: bool,
    /// Every byte as it was written
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
    let mut tamer = Tamer::default();
    client::stream(settings, &route, |bytes| {
        let shown = if wanted.raw {
            stdout.write_all(bytes)
        } else {
            stdout.write_all(&tamer.tame(bytes))
        };
        // The reader is gone, so nothing is left to do.
        if shown.and_then(|()| stdout.flush()).is_err() {
            std::process::exit(0);
        }
        Ok(())
    })
}

/// Control characters but the ends of lines and tabs, in caret notation; what is no UTF-8,
/// in hexadecimal. A character that is cut in two by a frame waits for its rest.
#[derive(Debug, Default)]
pub(crate) struct Tamer {
    rest: Vec<u8>,
}

impl Tamer {
    pub(crate) fn tame(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let given = std::mem::take(&mut self.rest);
        let mut tame = Vec::with_capacity(given.len());
        for chunk in given.utf8_chunks() {
            for character in chunk.valid().chars() {
                show(character, &mut tame);
            }
            let invalid = chunk.invalid();
            let last = std::ptr::eq(invalid.as_ptr_range().end, given.as_ptr_range().end);
            let cut = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if last && cut {
                self.rest = invalid.to_vec();
            } else {
                tame.extend(
                    invalid
                        .iter()
                        .flat_map(|byte| format!("\\x{byte:02x}").into_bytes()),
                );
            }
        }
        tame
    }
}

fn show(character: char, tame: &mut Vec<u8>) {
    let code = u32::from(character);
    let shown = match code {
        0x0a | 0x09 => character.to_string(),
        0x00..=0x1f => format!("^{}", char::from_u32(code + 0x40).unwrap_or('?')),
        0x7f => "^?".to_owned(),
        // Some terminals take these for an escape and a letter.
        0x80..=0x9f => format!("^[{}", char::from_u32(code - 0x40).unwrap_or('?')),
        _ => character.to_string(),
    };
    tame.extend_from_slice(shown.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(frames: &[&[u8]]) -> String {
        let mut tamer = Tamer::default();
        let tame: Vec<u8> = frames.iter().flat_map(|frame| tamer.tame(frame)).collect();
        String::from_utf8(tame).expect("text")
    }

    #[test]
    fn what_steers_a_terminal_is_shown() {
        assert_eq!(shown(&[b"a\tb\r\n"]), "a\tb^M\n");
        assert_eq!(shown(&[b"\x1b]0;title\x07"]), "^[]0;title^G");
        assert_eq!(shown(&["\u{9b}2J".as_bytes()]), "^[[2J");
        assert_eq!(shown(&["gr\u{fc}n \u{7f}".as_bytes()]), "gr\u{fc}n ^?");
        assert_eq!(shown(&[b"bare \x9b2J"]), "bare \\x9b2J");
    }

    #[test]
    fn a_character_in_two_frames_is_one() {
        assert_eq!(shown(&[b"x\xc2", b"\x9b2J"]), "x^[[2J");
        assert_eq!(shown(&[b"\xe2\x82", b"\xac"]), "\u{20ac}");
        assert_eq!(shown(&[b"\xe2\x82", b"a"]), "\\xe2\\x82a");
    }
}
