//! The manifest's JSON Schema for editors, compared with the parser: each section knows the same
//! keys. `UPDATE_EXPECT=1` writes docs/manifest.schema.json.

use super::{Known, parse};
use enforcer_model::spec::schema;
use expect_test::expect_file;
use serde_json::Value;

#[test]
fn the_schema_that_editors_get_is_derived_from_the_types() {
    let text = format!("{:#}\n", schema());
    expect_file!["../../../../docs/manifest.schema.json"].assert_eq(&text);
}

/// Every section of the schema that has fixed keys, with the YAML that leads to it.
pub(super) fn sections(
    schema: &Value,
    lead: &[String],
    found: &mut Vec<(Vec<String>, Vec<String>)>,
) {
    if schema["additionalProperties"] == false {
        let properties = schema["properties"].as_object().expect("properties");
        found.push((lead.to_vec(), properties.keys().cloned().collect()));
        for (key, inner) in properties {
            sections(inner, &[lead, std::slice::from_ref(key)].concat(), found);
        }
    } else if schema["additionalProperties"].is_object() {
        let name = match schema["propertyNames"]["pattern"].as_str() {
            Some("^/") => "/a",
            _ => "a",
        };
        let lead = [lead, &[name.to_owned()]].concat();
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
pub(super) fn with_unknown(lead: &[String]) -> String {
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
        let reported = parsed.faults.iter().filter_map(|fault| {
            let unknown = fault.message.contains("`zzzzzz`");
            unknown.then(|| fault.help.clone()).flatten()
        });
        let mut known: Vec<String> = reported
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
