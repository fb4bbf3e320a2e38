//! The text of a unit: sections, keys, continued lines and specifiers (systemd.syntax(7),
//! systemd.unit(5)).

use crate::Refused;

/// One assignment, in the order of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
}

/// A unit's name, as its specifiers see it.
#[derive(Clone, Debug, Default)]
pub(super) struct Name {
    /// `web@blue.service`
    pub(super) whole: String,
}

impl Name {
    /// Returns the name without the suffix.
    pub(super) fn stem(&self) -> &str {
        self.whole
            .rsplit_once('.')
            .map_or(&self.whole, |(stem, _)| stem)
    }

    fn prefix(&self) -> &str {
        self.stem()
            .split_once('@')
            .map_or(self.stem(), |(prefix, _)| prefix)
    }

    fn instance(&self) -> &str {
        self.stem()
            .split_once('@')
            .map_or("", |(_, instance)| instance)
    }

    /// Replaces specifiers. The error is the one that has no value here.
    pub(super) fn fill(&self, text: &str) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text.chars();
        while let Some(next) = rest.next() {
            if next != '%' {
                filled.push(next);
                continue;
            }
            let Some(letter) = rest.next() else {
                filled.push('%');
                break;
            };
            let value = match letter {
                '%' => "%",
                'n' => &self.whole,
                'N' => self.stem(),
                'p' | 'P' => self.prefix(),
                'i' => self.instance(),
                'I' => {
                    filled.push_str(&unescaped(self.instance()));
                    continue;
                }
                'j' | 'J' => self.prefix().rsplit('-').next().unwrap_or_default(),
                't' => "/run",
                'S' => "/var/lib",
                'C' => "/var/cache",
                'L' => "/var/log",
                'E' => "/etc",
                'T' => "/tmp",
                'V' => "/var/tmp",
                'h' => "/root",
                'u' | 'g' => "root",
                'U' | 'G' => "0",
                's' => "/bin/sh",
                _ => return Err(format!("the specifier `%{letter}` has no value here")),
            };
            filled.push_str(value);
        }
        Ok(filled)
    }
}

/// Undoes the escapes of systemd-escape(1).
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let code = rest
            .strip_prefix("\\x")
            .and_then(|code| u8::from_str_radix(code.get(..2)?, 16).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &rest[4..];
            }
            None if next == '-' => {
                bytes.push(b'/');
                rest = &rest[1..];
            }
            None => {
                bytes.extend(next.to_string().bytes());
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads the assignments of one file.
pub(super) fn read(file: &str, text: &str) -> Result<Vec<Setting>, Refused> {
    let mut settings = Vec::new();
    let mut section = String::new();
    let mut begun: Option<(usize, String)> = None;
    let mut at = 0;
    let fail = |at: usize, message: String| Refused {
        file: file.to_owned(),
        at,
        message,
    };
    for line in text.split_inclusive('\n') {
        let begins = at;
        at += line.len();
        let line = line.trim_end_matches(['\n', '\r']);
        let is_comment = line.trim_start().starts_with(['#', ';']);
        // A comment between continued lines is left out.
        if is_comment || (line.trim().is_empty() && begun.is_none()) {
            continue;
        }
        let (begins, mut whole) = match begun.take() {
            Some((begins, before)) => (begins, before + line.trim_start()),
            None => (begins, line.trim_start().to_owned()),
        };
        if let Some(continued) = whole.strip_suffix('\\') {
            begun = Some((begins, format!("{continued} ")));
            continue;
        }
        whole.truncate(whole.trim_end().len());
        if let Some(name) = whole.strip_prefix('[') {
            let Some(name) = name.strip_suffix(']') else {
                return Err(fail(begins, format!("the section `{whole}` is not closed")));
            };
            name.clone_into(&mut section);
            continue;
        }
        let Some((key, value)) = whole.split_once('=') else {
            return Err(fail(begins, format!("`{whole}` is no assignment")));
        };
        if section.is_empty() {
            return Err(fail(begins, format!("`{whole}` is in no section")));
        }
        settings.push(Setting {
            section: section.clone(),
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
        });
    }
    Ok(settings)
}

/// Splits a value into words with the quotes and escapes of systemd.syntax(7).
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        match (next, quote) {
            ('\\', _) => word.get_or_insert_default().push_str(&escape(&mut rest)?),
            (end, Some(open)) if end == open => quote = None,
            (other, Some(_)) => word.get_or_insert_default().push(other),
            ('\'' | '"', None) => {
                quote = Some(next);
                word.get_or_insert_default();
            }
            (' ' | '\t' | '\n', None) => words.extend(word.take()),
            (other, None) => word.get_or_insert_default().push(other),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

fn escape(rest: &mut std::str::Chars<'_>) -> Result<String, String> {
    let simple = |letter: char| Ok(letter.to_string());
    let unknown = || "an escape is not known: a backslash is `\\\\`".to_owned();
    match rest.next() {
        Some('n') => simple('\n'),
        Some('t') => simple('\t'),
        Some('r') => simple('\r'),
        Some('s') => simple(' '),
        Some(same @ ('\\' | '"' | '\'' | ';')) => simple(same),
        Some('x') => code(rest, 2, 16).ok_or_else(unknown),
        Some('u') => code(rest, 4, 16).ok_or_else(unknown),
        Some('U') => code(rest, 8, 16).ok_or_else(unknown),
        // An escape that is not known stays as it is.
        Some(other) => Ok(format!("\\{other}")),
        None => Err(unknown()),
    }
}

fn code(rest: &mut std::str::Chars<'_>, digits: usize, radix: u32) -> Option<String> {
    let text: String = rest.by_ref().take(digits).collect();
    let code = u32::from_str_radix(&text, radix).ok()?;
    char::from_u32(code).map(String::from)
}
