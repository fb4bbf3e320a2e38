//! The forms in which an answer is printed, for a person or for a program.

use super::client::Answer;
use crate::fault::Fault;
use serde::Serialize;
use std::io::{IsTerminal as _, Write as _};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A table for a person
    Table,
    /// The table with more columns
    Wide,
    Json,
    Yaml,
    /// The names, one a line
    Name,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Output {
    /// The format of the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Print JSON, indented on a terminal and in one line elsewhere: `-o json` for short
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl Output {
    pub(super) fn format(self) -> Format {
        if self.json { Format::Json } else { self.output }
    }

    /// Prints an answer for a program. Returns false if the answer is for a person; then nothing
    /// was printed. `names` are the names that `-o name` prints, if the answer has names.
    pub(super) fn print(
        self,
        answer: &impl Serialize,
        names: Option<&[&str]>,
    ) -> Result<bool, Fault> {
        match self.format() {
            Format::Table | Format::Wide => return Ok(false),
            // In one write: standard output would write each line by itself.
            Format::Json => {
                let text = match std::io::stdout().is_terminal() {
                    true => serde_json::to_string_pretty(&as_json(answer)?),
                    false => serde_json::to_string(answer),
                };
                println!("{}", text.map_err(unwritten)?);
            }
            Format::Yaml => print!("{}", yaml(answer)?),
            Format::Name => match names {
                Some(names) => names.iter().for_each(|name| println!("{name}")),
                None => {
                    let text = "this answer has no names: leave out `-o name`";
                    return Err(Fault::Usage(text.to_owned()));
                }
            },
        }
        Ok(true)
    }

    /// Prints an answer of the agent, as `print` does. A program gets JSON as it came.
    pub(super) fn print_answer(
        self,
        answer: &Answer,
        names: Option<&[&str]>,
    ) -> Result<bool, Fault> {
        match self.format() {
            Format::Table | Format::Wide => Ok(false),
            Format::Json if !std::io::stdout().is_terminal() => {
                let line = [answer.bytes(), b"\n"].concat();
                // `print!` fails as this does if the output is closed.
                let written = std::io::stdout().write_all(&line);
                written.map_err(|error| Fault::Failed(format!("failed to print: {error}")))?;
                Ok(true)
            }
            Format::Json | Format::Yaml | Format::Name => {
                self.print(&answer.read::<serde_json::Value>()?, names)
            }
        }
    }

    /// Prints one of many answers, as they come.
    pub(super) fn print_one(self, answer: &impl Serialize) -> Result<bool, Fault> {
        match self.format() {
            Format::Json => println!("{}", serde_json::to_string(answer).map_err(unwritten)?),
            Format::Yaml => print!("---\n{}", yaml(answer)?),
            Format::Table | Format::Wide | Format::Name => return self.print(answer, None),
        }
        Ok(true)
    }
}

/// Turns an answer into a JSON value. A part that was kept as raw text is parsed.
fn as_json(answer: &impl Serialize) -> Result<serde_json::Value, Fault> {
    serde_json::to_value(answer).map_err(unwritten)
}

fn unwritten(error: serde_json::Error) -> Fault {
    Fault::Failed(format!("failed to write JSON: {error}"))
}

fn yaml(answer: &impl Serialize) -> Result<String, Fault> {
    let text = serde_saphyr::to_string(&as_json(answer)?)
        .map_err(|error| Fault::Failed(format!("failed to write YAML: {error}")))?;
    Ok(format!("{}\n", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_says_what_is_text_and_escapes_what_is_not() {
        let answer =
            json!({ "name": "web", "pid": null, "text": "a: b\n\u{1b}[2J", "list": [1, "2"] });
        let text = yaml(&answer).expect("YAML");
        let quoted = text.lines().find(|line| line.starts_with("text:"));
        assert!(
            quoted.is_some_and(|line| !line.contains('\u{1b}')),
            "{text}"
        );
        assert!(text.contains("\"2\"") || text.contains("'2'"), "{text}");
    }
}
