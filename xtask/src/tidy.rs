//! The invariants of `docs/ARCHITECTURE.md` that a program can check by reading
//! the source. Each rule has a seeded violation in the tests below: a rule that
//! can't fail protects nothing.

use crate::process::{root, run_quietly};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Words that may stand only in some places.
struct Rule {
    /// The beginning of the paths to which the rule applies.
    scope: &'static str,
    /// The paths among them in which the words are allowed.
    except: &'static [&'static str],
    words: &'static [&'static str],
    reported: &'static str,
}

const AGENT: &str = "enforcer/src/";
const CORE: &str = "enforcer/core/src/";
/// The rules of the core hold for the crates around it that do no I/O as well.
const PURE: [&str; 3] = [CORE, "enforcer/manifest/src/", "enforcer/model/src/"];
const EXECUTOR: &str = "enforcer/src/executor";
/// The holder kills what no agent has stopped in time.
const DEADLINES: &str = "enforcer/src/holder/deadlines.rs";

const RULES: &[Rule] = &[
    Rule {
        scope: CORE,
        except: &[],
        words: &[
            "std::fs",
            "std::io",
            "std::net::Tcp",
            "std::net::Udp",
            "std::env",
            "std::process",
            "std::thread",
            "Instant",
            "SystemTime",
            "async fn",
            ".await",
            "tokio",
            "nix::",
            "libc::",
            "println!",
            "eprintln!",
            "RandomState",
            "rand::",
            "static mut",
        ],
        reported: "deciding crates do no I/O, read no clock, await nothing and draw no random number",
    },
    Rule {
        scope: AGENT,
        except: &[],
        words: &[
            "\"/proc",
            "\"/sys",
            "\"/dev/",
            "\"cgroup.",
            "\"memory.",
            "\"cpu.",
            "\"pids.",
            "\"io.",
        ],
        reported: "only enforcer/kernel names the kernel's paths",
    },
    Rule {
        scope: AGENT,
        except: &[EXECUTOR, DEADLINES],
        words: &[
            "limits::apply",
            "Cgroup::kill",
            "cgroup.kill()",
            "kill_and_wait",
            "spawn::spawn(",
            "ensure_child",
            "remove_child",
            ".signal(",
        ],
        reported: "only the executor changes the host, and the holder where a deadline has passed",
    },
    Rule {
        scope: "enforcer/",
        except: &[],
        words: &["libc::kill(", "signal::kill(", "killpg", "SYS_kill"],
        reported: "processes are signalled through pidfds, workloads through cgroup.kill",
    },
    Rule {
        scope: AGENT,
        except: &["enforcer/src/probe/"],
        words: &["TcpStream::connect", "TcpSocket"],
        reported: "only probe/ dials workloads",
    },
    Rule {
        scope: AGENT,
        except: &["enforcer/src/api/", "enforcer/src/telemetry"],
        words: &["prometheus::"],
        reported: "only telemetry/ and api/ know metrics",
    },
    Rule {
        scope: AGENT,
        except: &["enforcer/src/runtime/mod.rs"],
        words: &["Supervisor::new", "Supervisor::default"],
        reported: "one task owns the Supervisor",
    },
    Rule {
        scope: "tests/",
        except: &["tests/src/lib.rs", "tests/src/bin/", "tests/src/burn.rs"],
        words: &["thread::sleep", "time::sleep("],
        reported: "a test waits for a value, not for a time",
    },
    Rule {
        scope: "",
        except: &["xtask/src/tidy.rs"],
        words: &[
            "#[ignore",
            "todo!(",
            "unimplemented!(",
            "TODO",
            "FIXME",
            "XXX",
        ],
        reported: "what is not done is not in the source",
    },
];

/// Names that say nothing.
const MODULES: &[&str] = &["utils", "util", "helpers", "common", "manager", "misc"];
const MOST_LINES: usize = 600;
/// The allowed dependencies of each inner crate. Cargo refuses circles; this refuses the wrong
/// direction.
const DEPENDENCIES: [(&str, &[&str]); 4] = [
    (
        "model",
        &[
            "enforcer-model-derive",
            "jiff",
            "schemars",
            "serde",
            "serde_json",
        ],
    ),
    (
        "manifest",
        &["enforcer-model", "saphyr-parser", "strsim", "thiserror"],
    ),
    ("core", &["enforcer-model", "serde"]),
    (
        "kernel",
        &[
            "aya",
            "aya-log",
            "aya-obj",
            "cgroups-rs",
            "enforcer-common",
            "enforcer-model",
            "jiff",
            "landlock",
            "libc",
            "log",
            "nix",
            "parking_lot",
            "procfs",
            "seccompiler",
            "serde",
            "serde_json",
            "syscalls",
            "thiserror",
            "tokio",
            "tracing",
        ],
    ),
];

/// Checks every tracked file.
pub(crate) fn run() -> Result<()> {
    let listed = run_quietly(Command::new("git").current_dir(root()).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut faults = Vec::new();
    for path in listed.lines() {
        let Ok(text) = std::fs::read_to_string(root().join(path)) else {
            continue;
        };
        faults.extend(check_file(path, &text));
    }
    for (package, allowed) in DEPENDENCIES {
        let file = format!("enforcer/{package}/Cargo.toml");
        let manifest = std::fs::read_to_string(root().join(&file))
            .with_context(|| format!("failed to read {file}"))?;
        faults.extend(check_dependencies(&file, &manifest, allowed));
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!("tidy: {} faults\n{}", faults.len(), faults.join("\n"));
}

/// Checks that no failpoint is in the agent that ships. This needs no git, so that the agent can be
/// built from an archive of the source.
///
/// # Errors
/// If one is, or a file cannot be read.
pub(crate) fn check_agent(agent: &Path) -> Result<()> {
    let mut names = BTreeSet::from(["ENFORCER_FAILPOINT".to_owned()]);
    for file in sources_below(&root().join(AGENT))? {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))?;
        let after = text.split("failpoint!(\"").skip(1);
        names.extend(after.filter_map(|rest| Some(rest.split('"').next()?.to_owned())));
    }
    if names.len() < 2 {
        bail!("tidy: no failpoint was found in {AGENT}");
    }
    let binary =
        std::fs::read(agent).with_context(|| format!("failed to read {}", agent.display()))?;
    let found = names_in(&binary, &names);
    if found.is_empty() {
        return Ok(());
    }
    bail!(
        "tidy: {} has failpoints: {}; they belong to builds with the feature `failpoints`",
        agent.display(),
        found.join(", ")
    );
}

/// Returns every Rust file below a folder.
fn sources_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let listed = std::fs::read_dir(folder)
        .with_context(|| format!("failed to list {}", folder.display()))?;
    for entry in listed {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(sources_below(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Returns the names that are in a binary.
fn names_in<'n>(binary: &[u8], names: &'n BTreeSet<String>) -> Vec<&'n str> {
    let text = String::from_utf8_lossy(binary);
    let found = names.iter().filter(|name| text.contains(name.as_str()));
    found.map(String::as_str).collect()
}

fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !path.ends_with(".rs") {
        return faults;
    }
    let name = path
        .rsplit('/')
        .next()
        .unwrap_or(path)
        .trim_end_matches(".rs");
    let folder = path.rsplit('/').nth(1).unwrap_or("");
    if MODULES.contains(&name) || (name == "mod" && MODULES.contains(&folder)) {
        faults.push(format!(
            "{path}: `{name}` says nothing about what is inside"
        ));
    }
    let is_tests = is_test(path);
    if !text.starts_with("//!") && !is_tests {
        faults.push(format!(
            "{path}: the file doesn't open with `//!`: what it alone is responsible for"
        ));
    }
    let production = text.split("\n#[cfg(test)]").next().unwrap_or(text);
    if production.lines().count() > MOST_LINES && !is_tests {
        let lines = production.lines().count();
        faults.push(format!(
            "{path}: {lines} lines before the tests; look for the second responsibility"
        ));
    }
    for (number, line) in production.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for fault in broken_rules(path, line) {
            faults.push(format!("{path}:{}: {fault}: {}", number + 1, line.trim()));
        }
    }
    faults
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn broken_rules(path: &str, line: &str) -> Vec<&'static str> {
    let applies = |rule: &&Rule| {
        let is_pure = || PURE.iter().any(|crate_| path.starts_with(crate_));
        let is_inside = path.starts_with(rule.scope) || rule.scope == CORE && is_pure();
        is_inside && !rule.except.iter().any(|home| path.starts_with(home))
    };
    let broken = RULES
        .iter()
        .filter(applies)
        .filter(|rule| rule.words.iter().any(|word| line.contains(word)));
    // The core's own tests may print.
    broken
        .filter(|rule| rule.scope != CORE || !is_test(path))
        .map(|rule| rule.reported)
        .collect()
}

fn check_dependencies(file: &str, manifest: &str, allowed: &[&str]) -> Vec<String> {
    let section = manifest
        .split("[dependencies]")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .unwrap_or("");
    section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#') && !allowed.contains(name))
        .map(|name| format!("{file}: `{name}` is not one of its dependencies"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the file with this one line, and whether it is at fault.
    fn is_at_fault(path: &str, line: &str) -> bool {
        !check_file(path, &format!("//! A file.\n{line}\n")).is_empty()
    }

    #[test]
    fn every_rule_fails_on_a_seeded_violation() {
        for rule in RULES {
            let scope = if rule.scope.is_empty() {
                "enforcer/src/cli/"
            } else {
                rule.scope
            };
            for word in rule.words {
                assert!(
                    is_at_fault(&format!("{scope}seeded.rs"), word),
                    "{word} in {scope}"
                );
                for home in rule.except.iter().filter(|home| home.ends_with('/')) {
                    let broken = broken_rules(&format!("{home}seeded.rs"), word);
                    assert!(
                        !broken.contains(&rule.reported),
                        "{word} is at home in {home}"
                    );
                }
            }
        }
    }

    #[test]
    fn comments_and_tests_may_say_what_they_like() {
        assert!(!is_at_fault(
            "enforcer/core/src/seeded.rs",
            "// std::fs is not used here"
        ));
        assert!(!is_at_fault(
            "enforcer/core/src/seeded.rs",
            "fn f() {}\n\n#[cfg(test)]\nmod tests { use std::fs; }"
        ));
    }

    #[test]
    fn files_have_a_head_a_name_and_an_end() {
        assert!(!check_file("enforcer/src/seeded.rs", "fn f() {}\n").is_empty());
        assert!(is_at_fault("enforcer/src/utils.rs", ""));
        assert!(is_at_fault("enforcer/src/helpers/mod.rs", ""));
        assert!(is_at_fault(
            "enforcer/src/long.rs",
            &"fn f() {}\n".repeat(MOST_LINES + 1)
        ));
    }

    #[test]
    fn a_failpoint_in_the_agent_is_found() {
        let names = ["stop-killed", "start-forked"].map(str::to_owned).into();
        assert_eq!(
            names_in(b"\0\xffstop-killed\0\xff", &names),
            ["stop-killed"]
        );
        assert!(names_in(b"\0stop killed\0", &names).is_empty());
        // The source of this build has failpoints, so an agent that holds one is refused.
        let file = std::env::temp_dir().join(format!("agent-{}", std::process::id()));
        std::fs::write(&file, b"\0start-forked\0").expect("a file");
        let refused = check_agent(&file).expect_err("it has one").to_string();
        assert!(refused.contains("start-forked"), "{refused}");
        std::fs::write(&file, b"\x7fELF").expect("a file");
        check_agent(&file).expect("it has none");
        std::fs::remove_file(&file).expect("the file goes");
        assert!(check_agent(&file).is_err());
    }

    #[test]
    fn an_inner_crate_has_no_further_dependencies() {
        let faults = |manifest| check_dependencies("Cargo.toml", manifest, &["serde"]);
        assert!(faults("[dependencies]\nserde.workspace = true\n\n[lints]\n").is_empty());
        assert_eq!(faults("[dependencies]\ntokio = \"1\"\n").len(), 1);
    }
}
