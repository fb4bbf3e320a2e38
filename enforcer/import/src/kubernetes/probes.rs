//! Probes: the agent's are modelled on those of Kubernetes, and have the same defaults.

use super::{at, items, word};
use crate::outcome::{Outcome, exact, near, needs_you};
use crate::output::Yaml;
use crate::values::{program, texts};
use enforcer_manifest::Node;

/// Returns the probe, and what became of it. `port` finds the number of a port by its name.
pub(super) fn probe(node: &Node, port: &dyn Fn(&str) -> Option<u16>) -> (Option<Yaml>, Outcome) {
    let mut notes = Vec::new();
    let Some((kind, check)) = check(node, port, &mut notes) else {
        let note = "the check is not understood: write a probe";
        return (None, needs_you(note));
    };
    let mut probe = Yaml::map();
    probe.put(&[kind], check);
    for (key, to) in [
        ("initialDelaySeconds", "initial_delay"),
        ("periodSeconds", "period"),
        ("timeoutSeconds", "timeout"),
    ] {
        if let Some(seconds) = number(node, key) {
            probe.put(&[to], Yaml::word(format!("{seconds}s")));
        }
    }
    for (key, to) in [
        ("failureThreshold", "failure_threshold"),
        ("successThreshold", "success_threshold"),
    ] {
        // One success is the default, and the only number that most probes may have.
        match number(node, key) {
            Some(1) if key == "successThreshold" => {}
            Some(count) => probe.put(&[to], Yaml::word(count)),
            None => {}
        }
    }
    if at(node, &["terminationGracePeriodSeconds"]).is_some() {
        notes.push("the grace is that of the workload".to_owned());
    }
    let outcome = match notes.is_empty() {
        true => exact(""),
        false => near(notes.join("; ")),
    };
    (Some(probe), outcome)
}

fn number(node: &Node, key: &str) -> Option<u64> {
    word(node, &[key])?
        .parse()
        .ok()
        .filter(|number| *number > 0)
}

fn check(
    node: &Node,
    port: &dyn Fn(&str) -> Option<u16>,
    notes: &mut Vec<String>,
) -> Option<(&'static str, Yaml)> {
    let mut check = Yaml::map();
    if let Some(exec) = at(node, &["exec"]) {
        let command = texts(at(exec, &["command"])?)?;
        check.put(&["command"], Yaml::texts(program(command)));
        return Some(("exec", check));
    }
    if let Some(http) = at(node, &["httpGet"]) {
        check.put(&["port"], Yaml::word(port(word(http, &["port"])?)?));
        if let Some(host) = word(http, &["host"]) {
            check.put(&["host"], Yaml::Text(host.to_owned()));
        }
        if let Some(path) = word(http, &["path"]) {
            let slash = if path.starts_with('/') { "" } else { "/" };
            check.put(&["path"], Yaml::Text(format!("{slash}{path}")));
        }
        for header in items(http, &["httpHeaders"]) {
            let (name, value) = (word(header, &["name"])?, word(header, &["value"])?);
            check.put(&["headers", name], Yaml::Text(value.to_owned()));
        }
        let is_https =
            word(http, &["scheme"]).is_some_and(|text| text.eq_ignore_ascii_case("https"));
        if is_https {
            // The kubelet looks at no certificate.
            check.put(&["insecure"], Yaml::word("true"));
            return Some(("https", check));
        }
        return Some(("http", check));
    }
    if let Some(tcp) = at(node, &["tcpSocket"]) {
        check.put(&["port"], Yaml::word(port(word(tcp, &["port"])?)?));
        if let Some(host) = word(tcp, &["host"]) {
            check.put(&["host"], Yaml::Text(host.to_owned()));
        }
        return Some(("tcp", check));
    }
    let grpc = at(node, &["grpc"])?;
    check.put(&["port"], Yaml::word(port(word(grpc, &["port"])?)?));
    if let Some(service) = word(grpc, &["service"]).filter(|service| !service.is_empty()) {
        check.put(&["service"], Yaml::Text(service.to_owned()));
    }
    if notes.is_empty() && word(grpc, &["port"])?.parse::<u16>().is_err() {
        notes.push("Kubernetes takes no name here".to_owned());
    }
    Some(("grpc", check))
}
