//! The webhook of a target of alerts.

use super::{Fields, Reader, word_of};
use crate::fault::Fault;
use crate::yaml::{Node, Value};
use enforcer_model::probe::is_forbidden;
use enforcer_model::spec::{Preset, Target};
use std::collections::BTreeMap;

/// The address of PagerDuty's Events API v2.
const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

impl Reader<'_> {
    pub(super) fn webhook(&mut self, node: &Node) -> Option<Target> {
        let Value::Mapping(_) = node.value else {
            let Url {
                tls,
                host,
                port,
                path,
            } = self.parsed(node, url)?;
            return Some(Target::Webhook {
                tls,
                host,
                port,
                preset: None,
                routing_key: None,
                ca_file: None,
                path,
                headers: BTreeMap::new(),
            });
        };
        let known = ["url", "headers", "preset", "routing_key", "ca_file"];
        let fields = self.fields(node, &known);
        let headers = fields.get("headers").map(|headers| self.headers(headers));
        let mut preset = None;
        self.set_some(&fields, "preset", &mut preset, word_of(&Preset::ALL));
        let routing_key = self.routing_key(node, &fields, preset);
        let ca_file = fields
            .get("ca_file")
            .and_then(|node| self.absolute_path(node));
        let place = match (fields.get("url"), preset) {
            (Some(place), _) => self.parsed(place, url),
            (None, Some(Preset::PagerDuty)) => url(PAGERDUTY).ok(),
            (None, _) => {
                self.fault(
                    Fault::error(node.span.clone(), "this webhook has no `url`")
                        .label("expected a `url`"),
                );
                None
            }
        };
        let Url {
            tls,
            host,
            port,
            path,
        } = place?;
        if let (false, Some(node)) = (tls, fields.get("ca_file")) {
            self.fault(
                Fault::error(node.span.clone(), "`ca_file` has no effect without https")
                    .label("the `url` begins with http://"),
            );
        }
        Some(Target::Webhook {
            tls,
            host,
            port,
            preset,
            routing_key,
            ca_file,
            path,
            headers: headers.unwrap_or_default(),
        })
    }

    /// Reads the key of an integration, which PagerDuty needs and no one else takes.
    fn routing_key(
        &mut self,
        node: &Node,
        fields: &Fields<'_>,
        preset: Option<Preset>,
    ) -> Option<String> {
        let is_needed = preset == Some(Preset::PagerDuty);
        match fields.get("routing_key") {
            Some(key) if !is_needed => {
                self.fault(
                    Fault::error(
                        key.span.clone(),
                        "only `preset: pagerduty` has a `routing_key`",
                    )
                    .label("remove it"),
                );
                None
            }
            Some(key) => self.parsed(key, |text| {
                let is_key = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
                match is_key {
                    true => Ok(text.to_owned()),
                    false => Err("the key of an integration".to_owned()),
                }
            }),
            None if is_needed => {
                self.fault(
                    Fault::error(
                        node.span.clone(),
                        "`preset: pagerduty` needs a `routing_key`",
                    )
                    .label("expected the key of an Events API v2 integration"),
                );
                None
            }
            None => None,
        }
    }
}

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    tls: bool,
    host: String,
    port: u16,
    /// The path, with its query.
    path: String,
}

/// Parses `http://HOST[:PORT][/PATH]`, or the same with https.
fn url(text: &str) -> Result<Url, String> {
    const EXPECTED: &str = "http://HOST[:PORT][/PATH] or https://…";
    let expected = || EXPECTED.to_owned();
    let (tls, rest) = match text.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("http://").ok_or_else(expected)?),
    };
    let printable = |c: char| c.is_ascii_graphic() && c != '#' && c != '@';
    if !rest.chars().all(printable) {
        return Err(format!(
            "{EXPECTED}, in visible ASCII, without a password or fragment"
        ));
    }
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let path = match path {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        path => path.to_owned(),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            (host, port.ok_or_else(expected)?)
        }
        _ if tls => (authority, 443),
        _ => (authority, 80),
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if bracketed.is_none() && host.contains([':', '[', ']']) {
        return Err(format!("{EXPECTED}, an IPv6 address in brackets"));
    }
    let host = bracketed.unwrap_or(host);
    if host.is_empty() {
        return Err(expected());
    }
    if host.parse().is_ok_and(is_forbidden) {
        return Err(format!("{EXPECTED}, and none that gives out credentials"));
    }
    Ok(Url {
        tls,
        host: host.to_owned(),
        port,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::{Url, url};

    #[test]
    fn urls_are_taken_apart() {
        let good = |text: &str| url(text).expect("good");
        let of = |host: &str, port, path: &str| Url {
            tls: false,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        };
        assert_eq!(good("http://a"), of("a", 80, "/"));
        assert_eq!(good("http://a:9093/x?y=1"), of("a", 9093, "/x?y=1"));
        assert_eq!(good("http://[::1]:80/"), of("::1", 80, "/"));
        assert_eq!(good("http://[::1]"), of("::1", 80, "/"));
        assert_eq!(good("http://a?x"), of("a", 80, "/?x"));
        let tls = Url {
            tls: true,
            ..of("a.b", 443, "/c")
        };
        assert_eq!(good("https://a.b/c"), tls);
        assert_eq!(good("https://a.b:8443/c").port, 8443);
        for bad in [
            "http://fe80::1/",
            "http://[::1",
            "",
            "a",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:x",
            "https://",
            "ftp://a",
            "http://a b",
            "http://u:p@a",
            "http://a/#x",
            "http://a\r\nx: y",
            "http://169.254.169.254/",
        ] {
            assert!(url(bad).is_err(), "{bad:?}");
        }
    }
}
