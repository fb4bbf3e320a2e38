//! The JSON Schemas of a fleet's two files for editors, compared with the parsers: each section knows the same keys. `UPDATE_EXPECT=1`
//! writes them.

use crate::fault::Fault;
use crate::read::fleet::{KEYS, OF_HOSTS};
use crate::{parse_fleet, parse_fleet_config};
use enforcer_model::spec::schema;
use expect_test::expect_file;
use serde_json::{Value, json};

/// A section of these keys, and of no other ones.
fn section(description: &str, properties: Value) -> Value {
    json!({
        "type": "object",
        "description": description,
        "additionalProperties": false,
        "patternProperties": { "^x-": {} },
        "properties": properties,
    })
}

/// The values of labels, by their names.
fn labels(description: &str) -> Value {
    let text = json!({ "type": ["string", "number", "boolean"] });
    json!({ "type": "object", "description": description, "additionalProperties": text })
}

/// A part of a manifest's schema, with another description.
fn part(pointer: &str, description: &str) -> Value {
    let mut found = schema().pointer(pointer).expect("a part").clone();
    found["description"] = description.into();
    found
}

fn cpus(description: &str) -> Value {
    json!({
        "description": description,
        "anyOf": [
            { "type": "number", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,3})?$" },
        ],
    })
}

fn bytes(description: &str) -> Value {
    part(
        "/properties/host/properties/reserve/properties/memory/anyOf/0",
        description,
    )
}

fn of_workloads() -> Value {
    let mut all = schema();
    let top = all["properties"].as_object_mut().expect("keys");
    top.retain(|key, _| matches!(key.as_str(), "version" | "workloads"));
    all["properties"]["version"] = json!({ "const": 2 });
    all["title"] = "the workloads of a fleet".into();
    let keys = all.pointer_mut("/properties/workloads/additionalProperties/properties");
    let keys = keys.and_then(Value::as_object_mut).expect("a workload");
    keys.retain(|key, _| OF_HOSTS.iter().all(|(of_host, _)| of_host != key));
    let of_fleet = json!({
        "replicas": {
            "description": "The number of replicas in the whole fleet.",
            "type": "integer", "minimum": 0, "maximum": 10_000,
        },
        "spread": {
            "description": "The label whose values are failure domains, such as `zone`.",
            "type": "string",
        },
        "requires": labels("The labels that a node must have."),
        "request": section("The room that a replica needs.", json!({
            "memory": bytes("The memory, in bytes."),
            "cpu": cpus("The CPU time, in CPUs."),
        })),
        "singleton": {
            "description": "Two instances of it must never run at once.",
            "type": "boolean",
        },
        "mode": {
            "description": "`observe` only tells what the fleet would do.",
            "enum": ["enforce", "observe"],
        },
    });
    let of_fleet = of_fleet.as_object().expect("keys").clone();
    assert!(of_fleet.keys().all(|key| KEYS.contains(&key.as_str())));
    assert_eq!(of_fleet.len(), KEYS.len());
    keys.extend(of_fleet);
    all
}

fn of_host() -> Value {
    let file = |description: &str| json!({ "description": description, "type": "string", "pattern": "^/" });
    let text = |description: &str| json!({ "description": description, "type": "string" });
    let list = |description: &str, pattern: &str| {
        let items = json!({ "type": "string", "pattern": pattern });
        json!({ "description": description, "type": "array", "items": items })
    };
    let port = json!({ "type": "integer", "minimum": 1, "maximum": 65535 });
    let ports = json!({ "type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$" });
    let duration = "/properties/workloads/additionalProperties/properties/stop/properties/grace";
    let etcd = json!({
        "endpoints": list("The URLs of etcd's members. Addresses that are not of the loopback need TLS and a user.", "^https?://"),
        "ca_file": file("The certificate of the authority."),
        "cert_file": file("The client's certificate."),
        "key_file": file("The key of the client's certificate."),
        "user": text("The user of etcd."),
        "password_file": file("The file with the user's password."),
        "prefix": { "description": "The beginning of all keys.", "type": "string", "pattern": "./$" },
        "grace": part(duration, "The time after which a silent node is lost: whole seconds, from 5s to 1h."),
    });
    let node = json!({
        "name": text("The name of the node; the host's own if it is missing."),
        "address": text("The address at which its workloads answer."),
        "labels": labels("The labels of the node."),
        "mode": {
            "description": "`observe` only tells what the fleet would do on this host.",
            "enum": ["enforce", "observe"],
        },
        "reserve": section("What the fleet leaves to others.", json!({
            "memory": bytes("The memory, in bytes."),
            "cpu": cpus("The CPU time, in CPUs."),
        })),
    });
    let allow = json!({
        "users": list("The users of workloads. root is one of them only if it is here.", "."),
        "groups": list("The groups beside those of their users.", "."),
        "capabilities": list("The capabilities, as CAP_NET_RAW.", "^CAP_"),
        "roots": list("The folders below which a root may be.", "^/"),
        "mounts": list("The folders below which a mount may be.", "^/"),
        "files": list("The folders below which the agent opens files as root.", "^/"),
        "devices": list("The devices.", "."),
        "ports": {
            "description": "The ports, as 80 or 8000-8999.",
            "type": "array", "items": { "anyOf": [port, ports] },
        },
        "memory": bytes("The most memory of all these workloads together, in bytes."),
    });
    let mut all = section(
        "The settings of a host in a fleet.",
        json!({
            "etcd": section("The way to etcd.", etcd),
            "node": section("The host as a node of the fleet.", node),
            "allow": section("What the fleet may do on this host. Nothing else is allowed.", allow),
        }),
    );
    all["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    all["title"] = "a host of a fleet".into();
    all
}

#[test]
fn editors_get_the_schemas_of_a_fleets_files() {
    let text = |schema: Value| format!("{schema:#}\n");
    expect_file!["../../../../docs/fleet.schema.json"].assert_eq(&text(of_workloads()));
    expect_file!["../../../../docs/fleet-host.schema.json"].assert_eq(&text(of_host()));
}

/// Compares the keys of each section with those that a parser names when it finds another one.
fn compare(schema: &Value, parse: impl Fn(&str) -> Vec<Fault>) {
    let mut found = Vec::new();
    super::schema::sections(schema, &[], &mut found);
    assert!(found.len() > 3);
    for (lead, mut keys) in found {
        let faults = parse(&super::schema::with_unknown(&lead));
        let helps = faults.iter().filter_map(|fault| {
            let unknown = fault.message.contains("`zzzzzz`");
            unknown.then(|| fault.help.clone()).flatten()
        });
        let known = helps.filter_map(|help| Some(help.strip_prefix("known keys: ")?.to_owned()));
        let known =
            known.flat_map(|names| names.split(", ").map(str::to_owned).collect::<Vec<_>>());
        let mut known: Vec<String> = known.collect();
        known.sort();
        keys.sort();
        assert_eq!(known, keys, "{lead:?}");
    }
}

#[test]
fn the_schema_of_a_host_has_the_parsers_keys() {
    compare(&of_host(), |text| parse_fleet_config(text).1);
}

#[test]
fn the_schema_of_a_request_has_the_parsers_keys() {
    let request = "/properties/workloads/additionalProperties/properties/request";
    let schema = of_workloads().pointer(request).expect("a request").clone();
    let text = "version: 2\nworkloads: { a: { command: [/a], user: a, request: { zzzzzz: 1 } } }\n";
    let faults = parse_fleet(text).faults;
    let help = faults.iter().find_map(|fault| fault.help.clone());
    let keys = schema["properties"].as_object().expect("keys").keys();
    let mut keys: Vec<&str> = keys.map(String::as_str).collect();
    keys.sort_by_key(|key| *key == "cpu");
    assert_eq!(help, Some(format!("known keys: {}", keys.join(", "))));
}
