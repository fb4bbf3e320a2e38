//! The `probes` section, and the commands that go with readiness.

use super::{Fields, Reader};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::Node;
use enforcer_model::spec::{Check, Probe, ProbeName, Probes};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

const KINDS: [&str; 5] = ["http", "tcp", "exec", "file", "cgroup"];
const TIMING: [&str; 5] = [
    "initial_delay",
    "period",
    "timeout",
    "failure_threshold",
    "success_threshold",
];
/// A probe that is asked more often than this is a load of its own.
const SHORTEST_PERIOD: Duration = Duration::from_millis(100);

impl Reader<'_> {
    pub(super) fn probes(&mut self, node: &Node) -> Probes {
        let names = ProbeName::ALL.map(ProbeName::as_str);
        let fields = self.fields(node, &names);
        let mut probes = Probes::new();
        for name in ProbeName::ALL {
            if let Some(node) = fields.get(name.as_str())
                && let Some(probe) = self.probe(name, node)
            {
                probes.insert(name, probe);
            }
        }
        probes
    }

    fn probe(&mut self, name: ProbeName, node: &Node) -> Option<Probe> {
        let known: Vec<&str> = KINDS.iter().chain(&TIMING).copied().collect();
        let fields = self.fields(node, &known);
        let kinds: Vec<(&str, &Node)> = fields
            .iter()
            .filter(|(key, _)| KINDS.contains(key))
            .collect();
        let [(kind, check)] = kinds[..] else {
            self.fault(
                Fault::error(
                    node.span.clone(),
                    format!("`{name}` needs exactly one kind of probe"),
                )
                .label(format!("one of {}", KINDS.join(", "))),
            );
            return None;
        };
        if kind == "cgroup" && name != ProbeName::Progress {
            self.fault(Fault::error(
                check.span.clone(),
                "a `cgroup` probe is for `progress` only",
            ));
        }
        // Both are checked, so that a fault in one does not hide a fault in the other.
        let check = self.check(kind, check);
        let mut probe = Probe::of(check.clone().unwrap_or(Check::Exec {
            command: Vec::new(),
        }));
        self.timing(name, &fields, &mut probe);
        check.map(|_| probe)
    }

    fn timing(&mut self, name: ProbeName, fields: &Fields<'_>, probe: &mut Probe) {
        let threshold = |text: &str| {
            let number = quantity::integer(text, 1..=1000)?;
            u32::try_from(number).map_err(|_| "a smaller number".to_owned())
        };
        let delay = &mut probe.initial_delay;
        self.set(fields, "initial_delay", delay, quantity::duration);
        self.set(
            fields,
            "period",
            &mut probe.period,
            |text| match quantity::duration(text)? {
                short if short < SHORTEST_PERIOD => Err("at least 100ms".to_owned()),
                period => Ok(period),
            },
        );
        self.set(
            fields,
            "timeout",
            &mut probe.timeout,
            |text| match quantity::duration(text)? {
                Duration::ZERO => Err("a duration above 0".to_owned()),
                timeout => Ok(timeout),
            },
        );
        let failures = &mut probe.failure_threshold;
        self.set(fields, "failure_threshold", failures, threshold);
        let successes = &mut probe.success_threshold;
        self.set(fields, "success_threshold", successes, threshold);
        // As in Kubernetes, a probe that restarts passes at the first success.
        if name != ProbeName::Readiness
            && probe.success_threshold != 1
            && let Some(node) = fields.get("success_threshold")
        {
            self.fault(
                Fault::error(
                    node.span.clone(),
                    format!("`success_threshold` of a {name} probe is always 1"),
                )
                .label("only `readiness` may ask for more"),
            );
        }
    }

    fn check(&mut self, kind: &str, node: &Node) -> Option<Check> {
        let (known, needed): (&[&str], &[&str]) = match kind {
            "http" => (&["host", "port", "path", "headers"], &["port"]),
            "tcp" => (&["host", "port"], &["port"]),
            "exec" => (&["command"], &["command"]),
            "file" => (&["path", "fresh_within"], &["path", "fresh_within"]),
            _ => (&["cpu", "io", "within"], &["within"]),
        };
        let fields = self.fields(node, known);
        let mut complete = true;
        for key in needed {
            if fields.get(key).is_none() {
                complete = false;
                self.fault(Fault::error(
                    node.span.clone(),
                    format!("this `{kind}` probe has no `{key}`"),
                ));
            }
        }
        if !complete {
            return None;
        }
        match kind {
            "http" => self.http(&fields),
            "tcp" => {
                let (host, port) = (self.probed_host(&fields), self.port(&fields));
                Some(Check::Tcp {
                    host: host?,
                    port: port?,
                })
            }
            "exec" => Some(Check::Exec {
                command: self.command(fields.get("command")?)?,
            }),
            "file" => {
                let path = self.absolute_path(fields.get("path")?);
                let fresh_within = self.parsed(fields.get("fresh_within")?, quantity::duration);
                Some(Check::File {
                    path: path?,
                    fresh_within: fresh_within?,
                })
            }
            _ => self.work(node, &fields),
        }
    }

    fn work(&mut self, node: &Node, fields: &Fields<'_>) -> Option<Check> {
        let (mut cpu, mut io) = (None, None);
        self.set_some(fields, "cpu", &mut cpu, quantity::duration);
        self.set_some(fields, "io", &mut io, quantity::bytes);
        if fields.get("cpu").is_none() && fields.get("io").is_none() {
            self.fault(
                Fault::error(node.span.clone(), "this `cgroup` probe asks for nothing")
                    .label("expected `cpu`, `io` or both"),
            );
        }
        let within = self.parsed(fields.get("within")?, |text| {
            match quantity::duration(text)? {
                Duration::ZERO => Err("a duration above 0".to_owned()),
                within => Ok(within),
            }
        })?;
        Some(Check::Cgroup { cpu, io, within })
    }

    fn port(&mut self, fields: &Fields<'_>) -> Option<u16> {
        self.parsed(fields.get("port")?, |text| {
            let port = quantity::integer(text, 1..=65_535)?;
            u16::try_from(port).map_err(|_| "a port".to_owned())
        })
    }

    /// Reads the host of a probe, which is loopback by default.
    fn probed_host(&mut self, fields: &Fields<'_>) -> Option<String> {
        let Some(node) = fields.get("host") else {
            return Some("127.0.0.1".to_owned());
        };
        self.parsed(node, |text| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte);
            let host = text.trim_start_matches('[').trim_end_matches(']');
            if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
                return Err("a host's name or address".to_owned());
            }
            match host.parse::<IpAddr>() {
                Ok(address) if enforcer_model::probe::is_forbidden(address) => {
                    Err("an address that is not link-local".to_owned())
                }
                Ok(_) | Err(_) => Ok(host.to_owned()),
            }
        })
    }

    fn http(&mut self, fields: &Fields<'_>) -> Option<Check> {
        let mut path = "/".to_owned();
        self.set(fields, "path", &mut path, |text| {
            let plain = |byte: u8| byte.is_ascii_graphic();
            if text.starts_with('/') && text.bytes().all(plain) {
                Ok(text.to_owned())
            } else {
                Err("a path that starts with /, without spaces".to_owned())
            }
        });
        let headers = fields.get("headers").map(|node| self.headers(node));
        let (host, port) = (self.probed_host(fields), self.port(fields));
        Some(Check::Http {
            host: host?,
            port: port?,
            path,
            headers: headers.unwrap_or_default(),
        })
    }

    pub(super) fn headers(&mut self, node: &Node) -> BTreeMap<String, String> {
        let mut headers = BTreeMap::new();
        for (name, value) in self.entries(node).iter() {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) {
                let reported = format!("`{}` is not a header's name", name.escape_debug());
                self.fault(Fault::error(value.span.clone(), reported));
                continue;
            }
            let read = self.parsed(value, |text| {
                let visible = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
                if text.bytes().all(visible) {
                    Ok(text.to_owned())
                } else {
                    Err("visible characters only".to_owned())
                }
            });
            if let Some(value) = read {
                headers.insert(name.to_owned(), value);
            }
        }
        headers
    }
}
