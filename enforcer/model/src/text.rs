//! Text from outside: names of programs, answers to probes, lines of files.

/// Returns one line that does not control a terminal: control characters become U+FFFD.
#[must_use]
pub fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_steers_a_terminal_is_shown() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(printable("\u{9b}ä→"), "\u{fffd}ä→");
    }
}
