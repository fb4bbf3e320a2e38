//! The manifest's JSON Schema for editors, generated here, and held against the parser:
//! each section knows the same keys, and what the schema forbids the parser refuses.
//! `UPDATE_EXPECT=1` writes docs/manifest.schema.json.

use super::{Known, parse};
use expect_test::expect_file;
use serde_json::{Map, Value, json};

fn object(keys: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn named(value: &Value, told: &str) -> Value {
    json!({
        "type": "object", "description": told, "additionalProperties": value,
        "propertyNames": { "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" },
    })
}

fn told(mut value: Value, text: &str) -> Value {
    value["description"] = text.into();
    value
}

fn words(of: &[&str]) -> Value {
    json!({ "enum": of })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn path() -> Value {
    json!({ "type": "string", "pattern": "^/" })
}

fn whole(least: u64, most: u64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

fn truth() -> Value {
    json!({ "type": "boolean" })
}

fn either(of: &[Value]) -> Value {
    json!({ "anyOf": of })
}

/// Refuses the bounds of a log file if the output goes to journald, which has its own.
fn logs() -> Value {
    let mut logs = object(&[
        ("to", words(&["file", "journal"])),
        ("max_size", size()),
        ("keep", whole(0, 100)),
    ]);
    logs["if"] = json!({ "properties": { "to": { "const": "journal" } }, "required": ["to"] });
    logs["then"] = json!({ "properties": { "max_size": false, "keep": false } });
    logs
}

fn or_off(value: Value) -> Value {
    either(&[value, json!({ "enum": ["off", false] })])
}

fn size() -> Value {
    either(&[
        json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,6})?([KMGT]i?|[kmgt])?$" }),
        json!({ "type": "integer", "minimum": 0 }),
    ])
}

fn size_or_max() -> Value {
    either(&[size(), words(&["max"])])
}

fn duration() -> Value {
    json!({ "type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(us|ms|s|m|min|h|d))+$" })
}

fn share() -> Value {
    json!({ "type": "string", "pattern": "^(100|[0-9]{1,2})%$" })
}

fn percent() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]+%$" })
}

fn list(of: Value) -> Value {
    json!({ "type": "array", "items": of })
}

fn command() -> Value {
    told(
        json!({ "type": "array", "minItems": 1, "items": text() }),
        "the program's absolute path, and its arguments",
    )
}

fn scalar() -> Value {
    json!({ "type": ["string", "number", "boolean"] })
}

fn threshold() -> Vec<(&'static str, Value)> {
    vec![
        ("warn", share()),
        ("critical", share()),
        ("for", duration()),
    ]
}

fn cgroup() -> Value {
    object(&[
        (
            "cpu.weight",
            told(
                either(&[whole(1, 10_000), words(&["idle"])]),
                "share under contention; 100 is usual (Docker's 512 shares are 59)",
            ),
        ),
        (
            "cpu.max",
            told(
                either(&[
                    percent(),
                    words(&["max"]),
                    json!({ "type": "string", "pattern": "^(max|[0-9]+) [0-9]+$" }),
                ]),
                "of one CPU: 150% is one and a half; or the kernel's own pair",
            ),
        ),
        ("cpu.max.burst", duration()),
        (
            "cpuset.cpus",
            either(&[text(), json!({ "type": "integer" })]),
        ),
        ("memory.min", size_or_max()),
        (
            "memory.low",
            told(
                size_or_max(),
                "protected from reclaim while others have more to give",
            ),
        ),
        ("memory.high", either(&[size_or_max(), share()])),
        (
            "memory.max",
            told(
                size_or_max(),
                "K, M, G, T are binary; at this the kernel kills",
            ),
        ),
        (
            "memory.swap.max",
            told(
                size_or_max(),
                "beside memory.max, and not part of it; 0 for none",
            ),
        ),
        ("memory.oom.group", truth()),
        (
            "pids.max",
            either(&[json!({ "type": "integer", "minimum": 0 }), words(&["max"])]),
        ),
        ("io.weight", whole(1, 10_000)),
    ])
}

fn probe(progress: bool) -> Value {
    let mut keys = vec![
        (
            "http",
            object(&[
                ("host", text()),
                ("port", whole(1, 65_535)),
                ("path", path()),
                (
                    "headers",
                    json!({ "type": "object", "additionalProperties": scalar() }),
                ),
            ]),
        ),
        (
            "tcp",
            object(&[("host", text()), ("port", whole(1, 65_535))]),
        ),
        ("exec", object(&[("command", command())])),
        (
            "file",
            object(&[("path", path()), ("fresh_within", duration())]),
        ),
        ("initial_delay", duration()),
        ("period", duration()),
        ("timeout", duration()),
        ("failure_threshold", whole(1, 1_000_000)),
        ("success_threshold", whole(1, 1_000_000)),
    ];
    if progress {
        let done = [("cpu", duration()), ("io", size()), ("within", duration())];
        keys.push(("cgroup", object(&done)));
    }
    object(&keys)
}

fn recovery() -> Value {
    let strategy = either(&[
        words(&["restart", "reset", "recreate"]),
        object(&[("run", command())]),
    ]);
    let strategies = either(&[strategy.clone(), list(strategy)]);
    let causes = [
        "exit", "oom_kill", "liveness", "startup", "progress", "cpu_loop",
    ];
    let by_cause: Vec<(&str, Value)> = causes
        .iter()
        .map(|cause| (*cause, strategies.clone()))
        .collect();
    object(&[
        ("restart", words(&["always", "on-failure", "never"])),
        ("strategy", either(&[strategies, object(&by_cause)])),
        ("reset_paths", list(path())),
        (
            "backoff",
            or_off(object(&[
                ("initial", duration()),
                ("factor", json!({ "type": "number", "minimum": 1 })),
                ("max", duration()),
                ("jitter", share()),
                ("reset_after", duration()),
            ])),
        ),
        (
            "budget",
            or_off(object(&[
                ("restarts", whole(1, 1000)),
                ("within", duration()),
            ])),
        ),
        (
            "breaker",
            or_off(object(&[("cooldown", duration()), ("max", duration())])),
        ),
    ])
}

fn watch() -> Value {
    let rung = either(&[
        words(&["tell", "demote", "restart"]),
        object(&[("throttle", percent())]),
    ]);
    object(&[
        (
            "cpu_loop",
            or_off(object(&[
                ("after", duration()),
                ("respond", list(rung)),
                ("step", duration()),
                ("assume_loop", truth()),
            ])),
        ),
        ("memory", or_off(object(&threshold()))),
        ("cpu", or_off(object(&threshold()))),
    ])
}

fn workload() -> Value {
    let mut spec = object(&[
        ("mode", words(&["enforce", "observe"])),
        ("command", command()),
        (
            "user",
            told(text(), "a name; required when the agent is root"),
        ),
        ("group", text()),
        ("directory", path()),
        (
            "environment",
            json!({ "type": "object", "additionalProperties": scalar() }),
        ),
        ("environment_files", list(text())),
        (
            "capabilities",
            list(json!({ "type": "string", "pattern": "^CAP_[A-Z_]+$" })),
        ),
        (
            "rlimits",
            json!({ "type": "object", "additionalProperties": size_or_max() }),
        ),
        ("priority", whole(0, 100)),
        (
            "needs",
            json!({ "type": "object", "additionalProperties": words(&["started", "ready"]) }),
        ),
        ("cgroup", cgroup()),
        (
            "probes",
            object(&[
                ("startup", probe(false)),
                ("liveness", probe(false)),
                ("readiness", probe(false)),
                ("progress", probe(true)),
            ]),
        ),
        ("on_ready", command()),
        ("on_unready", command()),
        ("watch", watch()),
        ("recovery", recovery()),
        ("start_timeout", duration()),
        ("stop", object(&[("signal", text()), ("grace", duration())])),
        ("logs", logs()),
        (
            "commands",
            object(&[
                (
                    "memory.max",
                    told(
                        size_or_max(),
                        "of all probes, hooks and remedies of the workload together",
                    ),
                ),
                (
                    "pids.max",
                    either(&[json!({ "type": "integer", "minimum": 0 }), words(&["max"])]),
                ),
            ]),
        ),
    ]);
    spec["required"] = json!(["command"]);
    spec
}

fn alerts() -> Value {
    let webhook = json!({ "type": "string", "pattern": "^http://[!-~]+$" });
    let headers = json!({ "type": "object", "additionalProperties": scalar() });
    let target = object(&[
        (
            "webhook",
            either(&[
                webhook.clone(),
                object(&[("url", webhook), ("headers", headers)]),
            ]),
        ),
        ("command", command()),
    ]);
    let kinds = [
        "oom_kill",
        "cpu_loop",
        "restart",
        "breaker",
        "drift",
        "conflict",
        "pressure",
        "host_pressure",
        "lost",
        "degraded",
    ];
    let rule = object(&[
        ("memory", told(share(), "of memory.max, working set")),
        (
            "state",
            words(&[
                "breaker_open",
                "backing_off",
                "failed",
                "stopped",
                "pending",
            ]),
        ),
        ("health", words(&["unhealthy", "degraded"])),
        ("event", words(&kinds)),
        (
            "host",
            object(&[("memory", share()), ("cpu", share()), ("disk", share())]),
        ),
        ("for", duration()),
        ("severity", words(&["warning", "critical"])),
        ("workloads", list(text())),
        ("to", list(text())),
    ]);
    object(&[
        ("repeat", or_off(duration())),
        ("targets", named(&target, "whom to tell")),
        ("rules", named(&rule, "what to tell; one condition each")),
    ])
}

fn schema() -> Value {
    let mut disk = threshold();
    disk.extend([("path", path()), ("run", command())]);
    let portion = || either(&[size(), share()]);
    let host = object(&[
        (
            "reserve",
            object(&[("memory", portion()), ("swap", portion())]),
        ),
        ("cgroup", cgroup()),
        ("starts_at_once", whole(1, 10_000)),
        (
            "watch",
            object(&[
                ("memory", or_off(object(&threshold()))),
                ("cpu", or_off(object(&threshold()))),
                ("disk", or_off(object(&disk))),
            ]),
        ),
    ]);
    let mut schema = object(&[
        ("version", json!({ "const": 1 })),
        ("mode", words(&["enforce", "observe"])),
        ("host", host),
        ("alerts", alerts()),
        ("workloads", named(&workload(), "by name")),
    ]);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "enforcer manifest".into();
    schema["required"] = json!(["version"]);
    schema
}

#[test]
fn the_schema_that_editors_get_is_the_one_made_here() {
    let text = format!("{:#}\n", schema());
    expect_file!["../../../../docs/manifest.schema.json"].assert_eq(&text);
}

/// Every section of the schema that has fixed keys, with the YAML that leads to it.
fn sections(schema: &Value, lead: &[String], found: &mut Vec<(Vec<String>, Vec<String>)>) {
    if schema["additionalProperties"] == false {
        let properties = schema["properties"].as_object().expect("properties");
        found.push((lead.to_vec(), properties.keys().cloned().collect()));
        for (key, inner) in properties {
            sections(inner, &[lead, std::slice::from_ref(key)].concat(), found);
        }
    } else if schema["additionalProperties"].is_object() {
        let lead = [lead, &["a".to_owned()]].concat();
        sections(&schema["additionalProperties"], &lead, found);
    }
    for inner in schema["anyOf"].as_array().into_iter().flatten() {
        sections(inner, lead, found);
    }
    if schema["items"].is_object() {
        let lead = [lead, &["-".to_owned()]].concat();
        sections(&schema["items"], &lead, found);
    }
}

/// Returns a manifest with an unknown key there, and nothing else.
fn with_unknown(lead: &[String]) -> String {
    let mut text = "{ zzzzzz: 1 }".to_owned();
    for key in lead.iter().rev() {
        text = match key.as_str() {
            "-" => format!("[{text}]"),
            key => format!("{{ {key}: {text} }}"),
        };
    }
    text
}

#[test]
fn every_section_of_the_schema_has_the_parsers_keys() {
    let mut found = Vec::new();
    sections(&schema(), &[], &mut found);
    assert!(found.len() > 60, "{}", found.len());
    for (lead, keys) in found {
        // A strategy is a mapping of causes, or one with `run`: both are asked for by it.
        let parsed = parse(&with_unknown(&lead), &Known);
        let told = parsed.faults.iter().filter_map(|fault| {
            let unknown = fault.message.contains("`zzzzzz`");
            unknown.then(|| fault.help.clone()).flatten()
        });
        let mut known: Vec<String> = told
            .filter_map(|help| Some(help.strip_prefix("known keys: ")?.to_owned()))
            .flat_map(|names| names.split(", ").map(str::to_owned).collect::<Vec<_>>())
            .collect();
        // It is known everywhere, to say where it belongs.
        if lead.iter().any(|key| key == "probes")
            && lead.last().is_some_and(|key| key != "progress")
        {
            known.retain(|key| key != "cgroup");
        }
        known.sort();
        let mut keys = keys;
        keys.sort();
        let is_one_strategy = lead.iter().any(|key| key == "strategy");
        if !is_one_strategy {
            assert_eq!(known, keys, "{lead:?}");
        }
    }
}
