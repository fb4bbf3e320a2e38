//! The parts of the manifest's JSON Schema that no type says: how a unit is written, and where a key
//! takes one of several forms.

use crate::strategy::StrategyName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::marker::PhantomData;

/// Defines types that exist for their schema alone.
macro_rules! shapes {
    ($($(#[doc = $doc:literal])* $Shape:ident($generator:ident) = $schema:expr;)+) => {
        $($(#[doc = $doc])*
        pub(crate) enum $Shape {}

        impl JsonSchema for $Shape {
            fn schema_name() -> Cow<'static, str> {
                stringify!($Shape).into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema.try_into().unwrap_or_default()
            }
        })+
    };
}

/// The form of a `WorkloadName`.
const NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// The form of a duration such as `1m30s`.
const TIME: &str = "^([0-9]+(\\.[0-9]+)?(us|ms|s|m|min|h|d))+$";
const SIZE: &str = "^[0-9]+(\\.[0-9]{1,6})?([KMGT]i?|[kmgt])?$";
const SHARE: &str = "^(100|[0-9]{1,2})%$";
const PERCENT: &str = "^[0-9]+%$";

fn size() -> Value {
    json!({ "anyOf": [{ "type": "string", "pattern": SIZE }, { "type": "integer", "minimum": 0 }] })
}

fn share() -> Value {
    json!({ "type": "string", "pattern": SHARE })
}

fn count_or_max() -> Value {
    json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "enum": ["max"] }] })
}

fn either(of: &[Value]) -> Value {
    json!({ "anyOf": of })
}

fn size_or_max() -> Value {
    either(&[size(), json!({ "enum": ["max"] })])
}

fn command() -> Value {
    json!({ "type": "array", "minItems": 1, "items": { "type": "string" } })
}

fn account() -> Value {
    json!({ "anyOf": [{ "type": "string" }, { "type": "integer", "minimum": 0, "maximum": 4_294_967_294_u32 }] })
}

/// A variable or a header: a scalar of YAML.
fn variables() -> Value {
    json!({
        "type": "object",
        "additionalProperties": { "type": ["string", "number", "boolean"] },
    })
}

fn octal() -> Value {
    json!({
        "anyOf": [{ "type": "string", "pattern": "^[0-7]{1,4}$" }, { "type": "integer", "minimum": 0, "maximum": 7777 }],
    })
}

fn list(of: &Value) -> Value {
    json!({ "type": "array", "items": of })
}

/// Returns the schema of a strategy for each attempt, or of a list of them.
fn strategies() -> Value {
    let names: Vec<&str> = StrategyName::ALL
        .into_iter()
        .filter(|name| *name != StrategyName::Run)
        .map(StrategyName::as_str)
        .collect();
    let run = section(&[("run", command())]);
    let strategy = either(&[json!({ "enum": names }), run]);
    either(&[strategy.clone(), list(&strategy)])
}

/// Returns a mapping with these keys and no others.
pub(crate) fn section(keys: &[(&str, Value)]) -> Value {
    let properties: serde_json::Map<String, Value> = keys
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

/// Returns the schema of an attached service, which has one owner.
fn attach() -> Value {
    let name = json!({ "type": "string" });
    let path = json!({ "type": "string", "pattern": "^/" });
    let keys = [
        ("systemd", name.clone()),
        ("docker", name.clone()),
        ("podman", name),
        ("cgroup", path),
    ];
    let mut schema = section(&keys);
    schema["minProperties"] = json!(1);
    schema["maxProperties"] = json!(1);
    schema
}

shapes! {
    Attach(_generator) = attach();
    Texts(_generator) = list(&json!({ "type": "string" }));
    Truth(_generator) = json!({ "type": "boolean" });
    AbsolutePath(_generator) = json!({ "type": "string", "pattern": "^/" });
    AbsolutePaths(_generator) = list(&json!({ "type": "string", "pattern": "^/" }));
    Port(_generator) = json!({ "type": "integer", "minimum": 1, "maximum": 65_535 });
    Time(_generator) = json!({ "type": "string", "pattern": TIME });
    TimeOrOff(_generator) = json!({ "anyOf": [{ "type": "string", "pattern": TIME }, { "enum": ["off", false] }] });
    Size(_generator) = size();
    SizeOrMax(_generator) = size_or_max();
    SizeOrShare(_generator) = either(&[size(), share()]);
    SizeMaxOrShare(_generator) = either(&[size_or_max(), share()]);
    CountOrMax(_generator) = count_or_max();
    Share(_generator) = share();
    Factor(_generator) = json!({ "type": "number", "minimum": 1 });
    CpuWeight(_generator) = either(&[
        json!({ "type": "integer", "minimum": 1, "maximum": 10_000 }),
        json!({ "enum": ["idle"] }),
    ]);
    CpuMax(_generator) = either(&[
        json!({ "type": "string", "pattern": PERCENT }),
        json!({ "enum": ["max"] }),
        json!({ "type": "string", "pattern": "^(max|[0-9]+) [0-9]+$" }),
    ]);
    /// A name, several, or both with their permissions.
    Directories(_generator) = {
        let name = json!({ "type": "string", "pattern": "^[A-Za-z0-9_.@-]+(/[A-Za-z0-9_.@-]+)*$" });
        let names = either(&[name.clone(), list(&name)]);
        let mode = octal();
        either(&[name.clone(), list(&name), section(&[("names", names), ("mode", mode)])])
    };
    Tmpfs(_generator) = {
        let path = json!({ "type": "string", "pattern": "^/" });
        list(&either(&[path.clone(), section(&[("path", path), ("size", size())])]))
    };
    Credentials(_generator) = json!({
        "type": "object",
        "propertyNames": { "pattern": "^[A-Za-z0-9_.@-]+$" },
        "additionalProperties": { "type": "string", "minLength": 1 },
        "maxProperties": 100,
    });
    /// The rates of each disk, which is named by a device or by a path on it.
    DiskRates(_generator) = {
        let rates = section(&[
            ("rbps", size_or_max()),
            ("wbps", size_or_max()),
            ("riops", count_or_max()),
            ("wiops", count_or_max()),
        ]);
        json!({ "type": "object", "propertyNames": { "pattern": "^/" }, "additionalProperties": rates })
    };
    Niceness(_generator) = json!({ "type": "integer", "minimum": -20, "maximum": 19 });
    CpuList(_generator) = json!({ "type": ["string", "integer"] });
    Command(_generator) = command();
    Commands(_generator) = list(&command());
    Variables(_generator) = variables();
    Capabilities(_generator) = list(&json!({ "type": "string", "pattern": "^CAP_[A-Z_]+$" }));
    ResourceLimits(_generator) =
        json!({ "type": "object", "additionalProperties": size_or_max() });
    Needs(_generator) =
        json!({ "type": "object", "additionalProperties": { "enum": ["started", "ready", "completed"] } });
    Mode(_generator) = json!({ "enum": ["enforce", "observe"] });
    Sandbox(_generator) = json!({ "enum": ["off", "default", "strict"] });
    Binds(_generator) = list(&json!({ "type": "string", "pattern": "^(any|(tcp|udp)/[0-9]+)$" }));
    /// Devices, and folders of them.
    Devices(_generator) = list(&json!({ "type": "string", "pattern": "^/dev/." }));
    SocketAddress(_generator) = json!({ "type": "string", "pattern": "^.+:[0-9]+$" });
    StopScope(_generator) = json!({ "enum": ["main", "group"] });
    /// A name or a number of a user or a group.
    Account(_generator) = account();
    Accounts(_generator) = list(&account());
    /// An octal number, in quotes or without.
    Octal(_generator) = octal();
    Signal(_generator) = json!({
        "anyOf": [
            { "type": "string", "pattern": "^(([Ss][Ii][Gg])?[A-Za-z0-9]+([+-][0-9]+)?)$" },
            { "type": "integer", "minimum": 1, "maximum": 64 },
        ],
    });
    Replicas(_generator) = {
        let count = json!({ "type": "integer", "minimum": 1, "maximum": 15 });
        let index = json!({ "type": "integer", "minimum": 0, "maximum": 65535 });
        let mut indexes = list(&index);
        indexes["minItems"] = json!(1);
        indexes["maxItems"] = json!(15);
        let bounds = section(&[
            ("indexes", indexes),
            ("min", count.clone()),
            ("max", count.clone()),
            ("cpu", share()),
            ("memory", share()),
        ]);
        either(&[count, bounds])
    };
    PortOf(_generator) = json!({ "enum": ["any", "each"] });
    PortAddress(_generator) = json!({ "enum": ["*"] });
    OnFailure(_generator) = json!({ "enum": ["rollback", "pause"] });
    LogTarget(_generator) = json!({ "enum": ["file", "journal"] });
    Restart(_generator) = json!({ "enum": ["always", "on-failure", "never"] });
    Severity(_generator) = json!({ "enum": ["warning", "critical"] });
    Ladder(_generator) = list(&either(&[
        json!({ "enum": ["tell", "demote", "restart"] }),
        section(&[("throttle", json!({ "type": "string", "pattern": PERCENT }))]),
    ]));
    /// One strategy or a list, for every cause or by cause.
    Strategies(_generator) = {
        let causes = ["exit", "oom_kill", "liveness", "startup", "progress", "cpu_loop"];
        either(&[strategies(), section(&causes.map(|cause| (cause, strategies())))])
    };
    Target(_generator) = {
        let url = json!({ "type": "string", "pattern": "^https?://[!-~]+$" });
        let webhook = section(&[
            ("url", url.clone()),
            ("headers", variables()),
            ("preset", json!({ "enum": crate::spec::Preset::ALL.map(crate::spec::Preset::as_str) })),
            ("routing_key", json!({ "type": "string" })),
            ("ca_file", json!({ "type": "string", "pattern": "^/" })),
        ]);
        section(&[("webhook", either(&[url, webhook])), ("command", command())])
    };
    /// One of these is the condition of a rule.
    Condition(_generator) = section(&[
        ("memory", share()),
        ("state", json!({ "enum": ["breaker_open", "backing_off", "failed", "stopped", "pending"] })),
        ("health", json!({ "enum": ["unhealthy", "degraded"] })),
        ("event", json!({ "enum": [
            "oom_kill", "cpu_loop", "restart", "reload", "breaker", "rollout", "drift", "conflict", "pressure",
            "host_pressure", "lost", "degraded",
        ] })),
        ("host", section(&["memory", "cpu", "disk"].map(|resource| (resource, share())))),
    ]);
}

/// A whole number with bounds.
pub(crate) struct Whole<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> JsonSchema for Whole<LEAST, MOST> {
    fn schema_name() -> Cow<'static, str> {
        format!("Whole{LEAST}To{MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": LEAST, "maximum": MOST })
    }
}

/// A section, or `off`.
pub(crate) struct OrOff<T>(PhantomData<T>);

impl<T: JsonSchema> JsonSchema for OrOff<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}OrOff", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let section = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [section, { "enum": ["off", false] }] })
    }
}

/// A mapping of names, such as those of workloads.
pub(crate) struct Named<T>(PhantomData<T>);

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Named{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({
            "type": "object",
            "additionalProperties": value,
            "propertyNames": { "pattern": NAME },
        })
    }
}

/// Adds the condition that a log in journald has no bounds of ours.
pub(crate) fn refuse_bounds_of_the_journal(logs: &mut Schema) {
    let to_journal = json!({ "properties": { "to": { "const": "journal" } }, "required": ["to"] });
    logs.insert("if".to_owned(), to_journal);
    let no_bounds = json!({ "properties": { "max_size": false, "keep": false } });
    logs.insert("then".to_owned(), no_bounds);
}

/// Turns a derived schema into that of a manifest: every key has a default, a key with several forms
/// belongs to the section around it, and a number has the bounds of its unit alone.
pub(crate) fn tidy(schema: &mut Value) {
    let Value::Object(keys) = schema else {
        if let Value::Array(items) = schema {
            items.iter_mut().for_each(tidy);
        }
        return;
    };
    if let Some(Value::String(text)) = keys.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    for key in ["default", "format", "title"] {
        keys.remove(key);
    }
    // A condition such as that of `logs` has no type.
    if keys.contains_key("type") {
        keys.remove("required");
    }
    if let Some(Value::Array(forms)) = keys.remove("oneOf") {
        let of_forms = forms
            .into_iter()
            .filter_map(|mut form| form["properties"].take().as_object().cloned());
        let of_forms: Vec<_> = of_forms.flatten().collect();
        if let Some(Value::Object(properties)) = keys.get_mut("properties") {
            properties.extend(of_forms);
        }
    }
    if keys.remove("unevaluatedProperties").is_some() {
        keys.insert("additionalProperties".to_owned(), json!(false));
    }
    for (key, value) in keys {
        match value.as_object_mut() {
            // Its keys are settings.
            Some(settings) if key == "properties" => settings.values_mut().for_each(tidy),
            Some(_) | None => tidy(value),
        }
    }
}
