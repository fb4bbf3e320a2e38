//! Socket units: sockets that the agent keeps for its workload.

use super::Files;
use super::text::Setting;
use super::unit::{Unit, is_yes};
use crate::Line;
use crate::outcome::{dropped, exact, near, needs_you};
use crate::output::Yaml;

/// Returns the service that a socket unit belongs to.
pub(super) fn service_of(files: &Files) -> String {
    let Some(stem) = files.name.strip_suffix(".socket") else {
        return String::new();
    };
    let settings = super::settings(files).unwrap_or_default();
    let named = settings
        .iter()
        .rev()
        .find(|setting| setting.key == "Service");
    named.map_or_else(
        || format!("{stem}.service"),
        |setting| setting.value.clone(),
    )
}

pub(super) fn read(unit: &mut Unit<'_>, name: &str, settings: &[Setting]) {
    let of = |key: &str| {
        let found = settings.iter().rev().find(|setting| setting.key == key);
        found.map(|setting| setting.value.as_str())
    };
    let stem = name.strip_suffix(".socket").unwrap_or(name);
    let called = of("FileDescriptorName").unwrap_or(stem);
    let mut count = 0;
    for Setting {
        section,
        key,
        value,
    } in settings
    {
        let outcome = match (section.as_str(), key.as_str()) {
            ("Socket", "ListenStream") => {
                count += 1;
                let called = match count {
                    1 => listen_name(called),
                    more => format!("{}-{more}", listen_name(called)),
                };
                match value.starts_with('/') {
                    true => unit.put(&["listen", &called, "unix"], Yaml::Text(value.clone())),
                    false => unit.put(&["listen", &called, "tcp"], Yaml::Text(address(value))),
                }
                for (from, to) in [
                    ("SocketMode", "mode"),
                    ("SocketGroup", "group"),
                    ("Backlog", "backlog"),
                ] {
                    let is_unix = value.starts_with('/') || to == "backlog";
                    if let Some(value) = of(from).filter(|_| is_unix) {
                        let value = match to {
                            "mode" => Yaml::Text(value.to_owned()),
                            _ => Yaml::word(value),
                        };
                        unit.put(&["listen", &called, to], value);
                    }
                }
                near("the workload is started with the agent, not by the first connection")
            }
            (
                "Socket",
                "SocketMode" | "SocketGroup" | "Backlog" | "FileDescriptorName" | "Service",
            ) => exact(""),
            ("Socket", "Accept") if is_yes(value) => {
                needs_you("one process for each connection has no counterpart")
            }
            ("Socket", "Accept" | "RemoveOnStop") => exact(""),
            ("Socket", "SocketUser" | "DirectoryMode") => {
                near("the socket belongs to the workload's user")
            }
            ("Socket", key) if key.starts_with("Listen") => {
                dropped("`listen` has TCP and Unix stream sockets: the program binds others itself")
            }
            ("Socket", _) => dropped("the option is not set"),
            ("Install", _) | ("Unit", "Description" | "Documentation") => {
                exact("it has no effect on the program")
            }
            _ => near("the agent makes its sockets before the workload's start"),
        };
        unit.report.push(Line {
            key: format!("{name}.{section}.{key}"),
            verdict: outcome.0,
            note: outcome.1,
        });
    }
}

/// Returns a name that a socket may have.
fn listen_name(text: &str) -> String {
    let letters = text.to_ascii_lowercase();
    let letters = letters.chars().map(|letter| match letter {
        'a'..='z' | '0'..='9' | '-' => letter,
        _ => '-',
    });
    let name: String = letters.take(32).collect();
    let name = name.trim_matches('-');
    match name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        true => name.to_owned(),
        false => format!("s-{name}"),
    }
}

/// Returns an address with its port: a port alone is that of every address.
fn address(value: &str) -> String {
    match value.bytes().all(|byte| byte.is_ascii_digit()) {
        true => format!("[::]:{value}"),
        false => value.to_owned(),
    }
}
