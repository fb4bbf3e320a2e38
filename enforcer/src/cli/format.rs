//! How an answer is printed: for a person, or for a program.

use super::Fault;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For a person
    Table,
    /// The same with more columns
    Wide,
    Json,
    Yaml,
    /// Names alone, one a line
    Name,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Output {
    /// How the answer is printed
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Print JSON: `-o json` for short
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl Output {
    pub(super) fn format(self) -> Format {
        if self.json { Format::Json } else { self.output }
    }

    /// Prints an answer for a program; `false` where a person asked, and nothing was
    /// printed.
    pub(super) fn print(self, answer: &Value) -> Result<bool, Fault> {
        match self.format() {
            Format::Table | Format::Wide => return Ok(false),
            Format::Json => println!("{answer:#}"),
            Format::Yaml => print!("{}", yaml(answer)?),
            Format::Name => {
                for name in names(answer)? {
                    println!("{name}");
                }
            }
        }
        Ok(true)
    }

    /// One of many, as they come.
    pub(super) fn print_one(self, answer: &Value) -> Result<bool, Fault> {
        match self.format() {
            Format::Json => println!("{answer}"),
            Format::Yaml => print!("---\n{}", yaml(answer)?),
            Format::Table | Format::Wide | Format::Name => return self.print(answer),
        }
        Ok(true)
    }
}

fn yaml(answer: &Value) -> Result<String, Fault> {
    let text = serde_saphyr::to_string(answer)
        .map_err(|error| Fault::Failed(format!("failed to write YAML: {error}")))?;
    Ok(format!("{}\n", text.trim_end()))
}

/// Of workloads, or of one.
fn names(answer: &Value) -> Result<Vec<&str>, Fault> {
    let listed = answer["workloads"].as_array();
    let found: Option<Vec<&str>> = match listed {
        Some(workloads) => workloads.iter().map(|one| one["name"].as_str()).collect(),
        None => answer["name"].as_str().map(|name| vec![name]),
    };
    found.ok_or_else(|| Fault::Usage("this answer has no names: leave out `-o name`".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_found_in_lists_and_in_single_answers() {
        let list = json!({ "schema": 1, "workloads": [{ "name": "db" }, { "name": "web" }] });
        assert_eq!(names(&list).expect("names"), ["db", "web"]);
        assert_eq!(names(&json!({ "name": "web" })).expect("a name"), ["web"]);
        assert!(names(&json!({ "seq": 1 })).is_err());
    }

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
