//! The JSON Schema of a manifest, for editors. The types of the manifest derive it; `shapes.rs` has
//! the parts that no type says.

use super::{Alerts, Host, Probe, ProbeName, WorkloadSpec};
use crate::shapes::{Mode, Named, section, tidy};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};
use std::borrow::Cow;

/// The probes of a workload. Only `progress` may ask the workload's cgroup.
pub(super) enum ProbesSchema {}

impl JsonSchema for ProbesSchema {
    fn schema_name() -> Cow<'static, str> {
        "Probes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = generator.subschema_for::<Probe>().to_value();
        tidy(&mut schema);
        let probes = ProbeName::ALL.map(|name| {
            let mut probe = schema.clone();
            if name != ProbeName::Progress
                && let Some(keys) = probe["properties"].as_object_mut()
            {
                keys.remove("cgroup");
            }
            (name.as_str(), probe)
        });
        section(&probes).try_into().unwrap_or_default()
    }
}

/// Returns the schema of a manifest.
#[must_use]
pub fn schema() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut generator = settings.into_generator();
    let of = |schema: Schema| {
        let mut schema = schema.to_value();
        tidy(&mut schema);
        schema
    };
    // A `command` is required, but `defaults` may have it, which a schema cannot say.
    let workloads = of(generator.subschema_for::<Named<WorkloadSpec>>());
    let defaults = json!({ "$ref": "#/properties/workloads/additionalProperties" });
    let mut schema = section(&[
        ("version", json!({ "enum": [1, 2] })),
        ("mode", of(generator.subschema_for::<Mode>())),
        ("host", of(generator.subschema_for::<Host>())),
        ("alerts", of(generator.subschema_for::<Alerts>())),
        ("defaults", defaults),
        ("workloads", workloads),
    ]);
    allow_extensions(&mut schema);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "enforcer manifest".into();
    schema["required"] = json!(["version"]);
    schema
}

/// Lets each section have keys that begin with `x-`.
fn allow_extensions(schema: &mut Value) {
    match schema {
        Value::Object(keys) => {
            keys.values_mut().for_each(allow_extensions);
            if keys.get("additionalProperties") == Some(&json!(false)) {
                keys.insert("patternProperties".to_owned(), json!({ "^x-": {} }));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(allow_extensions),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
