//! The `probes` section, and the commands that go with readiness.

use super::{Fields, Reader, boolean};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::Node;
use enforcer_model::spec::{Check, Probe, ProbeName, Probes};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

pub(crate) const KINDS: [&str; 8] = [
    "http", "https", "grpc", "notify", "tcp", "exec", "file", "cgroup",
];
pub(crate) const TIMING: [&str; 5] = [
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
        let place = check;
        let check = self.check(kind, check);
        let mut probe = Probe::of(check.clone().unwrap_or(Check::Exec {
            command: Vec::new(),
        }));
        if let Check::Notify { within } = probe.check {
            self.notify(name, within, place, &mut probe);
        }
        self.timing(name, &fields, &mut probe);
        check.map(|_| probe)
    }

    /// Checks what a `notify` probe needs. One that waits for `WATCHDOG=1` has its patience in `within`, so
    /// its first failure counts.
    fn notify(
        &mut self,
        name: ProbeName,
        within: Option<Duration>,
        place: &Node,
        probe: &mut Probe,
    ) {
        let fault = |message: &str| Fault::error(place.span.clone(), message);
        match (name, within) {
            (ProbeName::Progress, _) => self.fault(
                fault("a `notify` probe says nothing about progress")
                    .label("expected startup, liveness or readiness"),
            ),
            (ProbeName::Liveness, Some(within)) => {
                probe.failure_threshold = 1;
                probe.period = (within / 4).max(SHORTEST_PERIOD);
            }
            (ProbeName::Liveness, None) => self.fault(
                fault("this `notify` probe has no `within`")
                    .label("expected the longest time between two WATCHDOG=1"),
            ),
            (ProbeName::Startup | ProbeName::Readiness, Some(_)) => self.fault(
                fault("`within` is for `liveness` only")
                    .label("the program says by READY=1 that it is ready"),
            ),
            (ProbeName::Startup | ProbeName::Readiness, None) => {}
        }
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
        self.set(fields, "timeout", &mut probe.timeout, above_zero);
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
            "http" => (&["host", "port", "unix", "path", "headers"], &[]),
            "https" => (
                &[
                    "host",
                    "port",
                    "path",
                    "headers",
                    "server_name",
                    "ca_file",
                    "insecure",
                ],
                &[],
            ),
            "grpc" => (&["host", "port", "service"], &["port"]),
            "notify" => (&["within"], &[]),
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
            "http" => self.http(node, &fields),
            "https" => self.https(&fields),
            "grpc" => self.grpc(&fields),
            "notify" => {
                let mut within = None;
                self.set_some(&fields, "within", &mut within, above_zero);
                Some(Check::Notify { within })
            }
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
        let within = self.parsed(fields.get("within")?, above_zero)?;
        Some(Check::Cgroup { cpu, io, within })
    }

    pub(super) fn port(&mut self, fields: &Fields<'_>) -> Option<u16> {
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
            let host = host_name(text)?;
            match host.parse::<IpAddr>() {
                Ok(address) if enforcer_model::probe::is_forbidden(address) => {
                    Err("an address that is not link-local".to_owned())
                }
                Ok(_) | Err(_) => Ok(host),
            }
        })
    }

    fn http(&mut self, node: &Node, fields: &Fields<'_>) -> Option<Check> {
        let (path, headers) = (self.request_path(fields), self.request_headers(fields));
        let unix = fields.get("unix").map(|node| self.socket_path(node));
        let Some(unix) = unix else {
            if fields.get("port").is_none() {
                self.fault(
                    Fault::error(node.span.clone(), "this `http` probe has no `port`")
                        .label("expected a `port`, or the path of a `unix` socket"),
                );
                return None;
            }
            let (host, port) = (self.probed_host(fields), self.port(fields));
            return Some(Check::Http {
                host: host?,
                port: Some(port?),
                unix: None,
                path,
                headers,
            });
        };
        for key in ["host", "port"] {
            if let Some(node) = fields.get(key) {
                self.fault(
                    Fault::error(node.span.clone(), format!("a Unix socket has no `{key}`"))
                        .label("expected either `port` or `unix`"),
                );
            }
        }
        Some(Check::Http {
            host: "localhost".to_owned(),
            port: None,
            unix: Some(unix?),
            path,
            headers,
        })
    }

    fn https(&mut self, fields: &Fields<'_>) -> Option<Check> {
        let (path, headers) = (self.request_path(fields), self.request_headers(fields));
        let host = self.probed_host(fields);
        let port = match fields.get("port") {
            Some(_) => self.port(fields),
            None => Some(443),
        };
        let (mut server_name, mut insecure) = (None, false);
        self.set_some(fields, "server_name", &mut server_name, host_name);
        self.set(fields, "insecure", &mut insecure, boolean);
        let ca_file = fields
            .get("ca_file")
            .and_then(|node| self.absolute_path(node));
        for key in ["ca_file", "server_name"] {
            if insecure && let Some(node) = fields.get(key) {
                self.fault(
                    Fault::error(
                        node.span.clone(),
                        format!("`{key}` has no effect with `insecure: true`"),
                    )
                    .label("any certificate is accepted"),
                );
            }
        }
        Some(Check::Https {
            host: host?,
            port: port?,
            path,
            headers,
            server_name,
            ca_file,
            insecure,
        })
    }

    fn grpc(&mut self, fields: &Fields<'_>) -> Option<Check> {
        let mut service = None;
        self.set_some(fields, "service", &mut service, |text| {
            let is_name = !text.is_empty() && text.len() <= 253;
            match is_name && text.bytes().all(|byte| byte.is_ascii_graphic()) {
                true => Ok(text.to_owned()),
                false => Err("a service's name, such as shop.v1.Orders".to_owned()),
            }
        });
        let (host, port) = (self.probed_host(fields), self.port(fields));
        Some(Check::Grpc {
            host: host?,
            port: port?,
            service,
        })
    }

    /// Reads the path of a socket. `sun_path` of unix(7) has room for 107 bytes.
    fn socket_path(&mut self, node: &Node) -> Option<String> {
        let path = self.absolute_path(node)?;
        if path.len() <= 107 {
            return Some(path);
        }
        let message = format!(
            "the path of a Unix socket has at most 107 bytes, and this has {}",
            path.len()
        );
        self.fault(Fault::error(node.span.clone(), message).label("too long"));
        None
    }

    fn request_path(&mut self, fields: &Fields<'_>) -> String {
        let mut path = "/".to_owned();
        self.set(fields, "path", &mut path, |text| {
            let plain = |byte: u8| byte.is_ascii_graphic();
            if text.starts_with('/') && text.bytes().all(plain) {
                Ok(text.to_owned())
            } else {
                Err("a path that starts with /, without spaces".to_owned())
            }
        });
        path
    }

    fn request_headers(&mut self, fields: &Fields<'_>) -> BTreeMap<String, String> {
        let headers = fields.get("headers").map(|node| self.headers(node));
        headers.unwrap_or_default()
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

fn above_zero(text: &str) -> Result<Duration, String> {
    match quantity::duration(text)? {
        Duration::ZERO => Err("a duration above 0".to_owned()),
        duration => Ok(duration),
    }
}

/// Reads the name or the address of a host. An IPv6 address may have brackets.
fn host_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte);
    let host = text.trim_start_matches('[').trim_end_matches(']');
    let is_host = !host.is_empty() && host.len() <= 253 && host.bytes().all(plain);
    match is_host {
        true => Ok(host.to_owned()),
        false => Err("a host's name or address".to_owned()),
    }
}
