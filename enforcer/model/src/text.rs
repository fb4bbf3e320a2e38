//! Words that somebody else has chosen: names of programs, what a probe was answered,
//! lines of files.

/// As text that steers no terminal and stays one line: what would is shown as U+FFFD.
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
