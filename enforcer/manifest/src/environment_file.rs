//! Files of environment variables, as people have them: one `NAME=value` a line.
//!
//! Blank lines and lines that begin with `#` are skipped. A byte order mark, line ends of
//! Windows and the word `export` in front of a name are accepted, since editors, other systems
//! and shells leave them there. One pair of quotes around a whole value is not part of it. A
//! value may be any bytes; nothing in it is expanded.

/// A line that is not `NAME=value`: its number, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct LineFault {
    /// The line's number, from 1 on.
    pub line: usize,
    pub why: &'static str,
}

/// A variable: its name, and its value as bytes.
pub type Variable = (String, Vec<u8>);

/// Reads every variable of a file in its order; a later one of the same name is meant to win.
///
/// # Errors
/// With the first line that is not `NAME=value`.
pub fn parse(text: &[u8]) -> Result<Vec<Variable>, LineFault> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut variables = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let variable = variable(line).map_err(|why| LineFault {
            line: index + 1,
            why,
        })?;
        variables.push(variable);
    }
    Ok(variables)
}

fn variable(line: &[u8]) -> Result<Variable, &'static str> {
    let line = match line.strip_prefix(b"export") {
        Some(rest) if rest.first().is_some_and(u8::is_ascii_whitespace) => rest.trim_ascii_start(),
        _ => line,
    };
    let Some(at) = line.iter().position(|byte| *byte == b'=') else {
        return Err("it has no `=`: expected NAME=value");
    };
    let (name, value) = (
        line[..at].trim_ascii_end(),
        line[at + 1..].trim_ascii_start(),
    );
    if name.is_empty() {
        return Err("it has no name: expected NAME=value");
    }
    let is_plain = |byte: &u8| byte.is_ascii_graphic();
    if !name.iter().all(is_plain) {
        return Err("its name has a space, a control character or a letter beyond ASCII in it");
    }
    if value.contains(&0) {
        return Err("its value has a NUL byte in it");
    }
    let name = String::from_utf8_lossy(name).into_owned();
    Ok((name, unquoted(value).to_vec()))
}

fn unquoted(value: &[u8]) -> &[u8] {
    let inner = |quote: &[u8]| value.strip_prefix(quote)?.strip_suffix(quote);
    inner(b"\"").or_else(|| inner(b"'")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &[u8]) -> Vec<(String, String)> {
        let variables = parse(text).expect("variables");
        let shown = variables.into_iter();
        shown
            .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        expected.iter().map(owned).collect()
    }

    #[test]
    fn a_byte_order_mark_windows_line_ends_and_export_are_accepted() {
        let text =
            b"\xef\xbb\xbfFIRST=1\r\nexport SECOND=2\r\n\r\n# comment\r\nexport\tTHIRD='3 4'\r\n";
        let expected = [("FIRST", "1"), ("SECOND", "2"), ("THIRD", "3 4")];
        assert_eq!(read(text), pairs(&expected));
    }

    #[test]
    fn a_mark_before_a_comment_is_no_fault() {
        assert_eq!(read(b"\xef\xbb\xbf# comment\nA=b"), pairs(&[("A", "b")]));
    }

    #[test]
    fn a_name_that_begins_like_export_keeps_its_name() {
        let expected = [("exported", "1"), ("export", "2")];
        assert_eq!(read(b"exported=1\nexport=2\n"), pairs(&expected));
    }

    #[test]
    fn a_value_may_hold_anything_but_nul() {
        let variables = parse(b"LATIN=\xe4\xf6\nURL=a=b#c\nEMPTY=\n").expect("variables");
        assert_eq!(variables[0], ("LATIN".to_owned(), vec![0xe4, 0xf6]));
        assert_eq!(variables[1].1, b"a=b#c");
        assert_eq!(variables[2].1, b"");
        assert!(parse(b"A=\0").is_err());
    }

    #[test]
    fn what_is_no_variable_is_refused_with_its_line() {
        for (text, line) in [
            (&b"A=1\nexport B\n"[..], 2),
            (b"\n\n=1", 3),
            (b"A B=1", 1),
            (b"export A B=1", 1),
            ("A\u{feff}=1".as_bytes(), 1),
            (b"A=1\n\xff\xfeB\0=\0", 2),
        ] {
            let fault = parse(text).expect_err("a fault");
            assert_eq!(fault.line, line, "{fault}");
        }
    }

    proptest! {
        #[test]
        fn no_file_gives_a_name_that_the_kernel_or_a_shell_would_misread(
            text in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            const NEVER: [char; 4] = ['=', ' ', '\0', '\u{feff}'];
            for (name, value) in parse(&text).into_iter().flatten() {
                prop_assert!(!name.is_empty() && !name.contains(NEVER));
                prop_assert!(!value.contains(&0));
            }
        }
    }
}
