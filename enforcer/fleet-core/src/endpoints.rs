//! The endpoints of a service, in the forms that others read.

use crate::fleet::{NodeId, WorkloadName};
use crate::view::View;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;

/// A replica that is ready.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    pub address: String,
    pub port: u16,
    pub node: String,
    pub index: u32,
}

/// The form of a list of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Table,
    Json,
    /// Lines for the `upstream` of nginx.
    Nginx,
    /// Lines for hosts(5).
    Hosts,
    /// The targets of Prometheus' `http_sd` and `file_sd`.
    Prometheus,
}

/// Returns the endpoints of a service, in the order of their addresses.
#[must_use]
pub fn of_service(view: &View, service: &WorkloadName) -> Vec<Endpoint> {
    let all = view.endpoints.iter();
    let of_service = all.filter(|((name, ..), _)| name == service);
    let endpoints = of_service.map(|((_, node, index), kept)| Endpoint {
        address: kept.record.address.clone(),
        port: kept.record.port,
        node: node_text(node),
        index: *index,
    });
    let sorted: BTreeSet<Endpoint> = endpoints.collect();
    sorted.into_iter().collect()
}

fn node_text(node: &NodeId) -> String {
    node.to_string()
}

/// Returns an address and a port as one text.
fn joined(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

/// Returns each address and port once: replicas of one host share a port.
#[must_use]
pub fn targets(endpoints: &[Endpoint]) -> BTreeSet<(String, u16)> {
    let all = endpoints.iter();
    all.map(|one| (one.address.clone(), one.port)).collect()
}

/// Returns the endpoints in a form.
#[must_use]
pub fn show(service: &WorkloadName, endpoints: &[Endpoint], form: Form) -> String {
    match form {
        Form::Table => {
            let head = [
                "ADDRESS".to_owned(),
                "REPLICA".to_owned(),
                "NODE".to_owned(),
            ];
            let rows = endpoints.iter().map(|one| {
                let replica = format!("{service}/{}", one.index);
                [joined(&one.address, one.port), replica, one.node.clone()]
            });
            let rows: Vec<[String; 3]> = std::iter::once(head).chain(rows).collect();
            crate::report::table(&rows)
        }
        Form::Json => format!("{}\n", json!(endpoints)),
        Form::Nginx => {
            let lines = targets(endpoints).into_iter();
            let lines =
                lines.map(|(address, port)| format!("server {};\n", joined(&address, port)));
            lines.collect()
        }
        Form::Hosts => {
            let addresses = endpoints.iter().map(|one| &one.address);
            let addresses: BTreeSet<&String> = addresses.collect();
            let lines = addresses.into_iter();
            lines
                .map(|address| format!("{address} {service}\n"))
                .collect()
        }
        Form::Prometheus => {
            let targets = targets(endpoints).into_iter();
            let targets: Vec<String> = targets
                .map(|(address, port)| joined(&address, port))
                .collect();
            let groups =
                json!([{ "targets": targets, "labels": { "service": service.to_string() } }]);
            format!("{groups}\n")
        }
    }
}

/// A server of a backend, as HAProxy's `show servers state` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    pub address: String,
    pub port: u16,
    /// Nothing new comes to it, for maintenance or because it is drained.
    pub is_closed: bool,
    pub is_in_maintenance: bool,
}

/// Reads the answer of HAProxy to `show servers state BACKEND`.
///
/// # Errors
/// If it has no such table.
pub fn servers(answer: &str) -> Result<Vec<Server>, String> {
    let mut lines = answer.lines();
    let head = lines.find_map(|line| line.strip_prefix("# "));
    let head = head.ok_or_else(|| format!("HAProxy answered: {}", answer.trim()))?;
    let columns: Vec<&str> = head.split(' ').collect();
    let column = |name: &str| {
        let found = columns.iter().position(|column| *column == name);
        found.ok_or_else(|| format!("HAProxy's table has no column {name}"))
    };
    let (name, address) = (column("srv_name")?, column("srv_addr")?);
    let (state, port) = (column("srv_admin_state")?, column("srv_port")?);
    let servers = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let bits: u32 = fields.get(state)?.parse().ok()?;
        // SRV_ADMF_* of HAProxy: forced, inherited and configured maintenance, and the two kinds of drain.
        let (maintenance, drain) = (0x01 | 0x02 | 0x04 | 0x20 | 0x40, 0x08 | 0x10);
        Some(Server {
            name: (*fields.get(name)?).to_owned(),
            address: (*fields.get(address)?).to_owned(),
            port: fields.get(port)?.parse().ok()?,
            is_closed: bits & (maintenance | drain) != 0,
            is_in_maintenance: bits & maintenance != 0,
        })
    });
    Ok(servers.collect())
}

/// Returns the commands that bring the servers of a backend to these targets, and the number of targets that have no server.
#[must_use]
pub fn haproxy(
    backend: &str,
    servers: &[Server],
    targets: &BTreeSet<(String, u16)>,
) -> (Vec<String>, usize) {
    let mut commands = Vec::new();
    let mut served = BTreeSet::new();
    let mut free = Vec::new();
    for server in servers {
        let target = (server.address.clone(), server.port);
        let set = |what: &str| format!("set server {backend}/{} state {what}", server.name);
        if targets.contains(&target) && served.insert(target) {
            if server.is_closed {
                commands.push(set("ready"));
            }
            continue;
        }
        if !server.is_closed {
            // What it has goes on until it ends.
            commands.push(set("drain"));
        }
        free.push(server);
    }
    // One in maintenance has no connection.
    free.sort_by_key(|server| !server.is_in_maintenance);
    let mut free = free.into_iter();
    let mut without = 0;
    for (address, port) in targets.difference(&served) {
        let Some(server) = free.next() else {
            without += 1;
            continue;
        };
        let place = format!("set server {backend}/{}", server.name);
        commands.extend([
            format!("{place} state maint"),
            format!("{place} addr {address} port {port}"),
            format!("{place} state ready"),
        ]);
    }
    (commands, without)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, index: u32) -> Endpoint {
        Endpoint {
            address: address.to_owned(),
            port: 8080,
            node: "host-1".to_owned(),
            index,
        }
    }

    #[test]
    fn endpoints_have_several_forms() {
        let service = WorkloadName::parse("web").expect("a name");
        let all = [
            endpoint("10.0.0.1", 0),
            endpoint("10.0.0.1", 2),
            endpoint("fd00::2", 1),
        ];
        let forms = [
            Form::Table,
            Form::Json,
            Form::Nginx,
            Form::Hosts,
            Form::Prometheus,
        ];
        let shown: String = forms.map(|form| show(&service, &all, form)).concat();
        expect_test::expect![[r#"
            ADDRESS         REPLICA  NODE
            10.0.0.1:8080   web/0    host-1
            10.0.0.1:8080   web/2    host-1
            [fd00::2]:8080  web/1    host-1
            [{"address":"10.0.0.1","index":0,"node":"host-1","port":8080},{"address":"10.0.0.1","index":2,"node":"host-1","port":8080},{"address":"fd00::2","index":1,"node":"host-1","port":8080}]
            server 10.0.0.1:8080;
            server [fd00::2]:8080;
            10.0.0.1 web
            fd00::2 web
            [{"labels":{"service":"web"},"targets":["10.0.0.1:8080","[fd00::2]:8080"]}]
        "#]].assert_eq(&shown);
    }

    /// The answer of HAProxy 2.6.
    const STATE: &str = "1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port
3 web 1 web1 10.0.0.1 2 0 1 1 12 1 0 2 0 0 0 0 - 8080 - 0 0 - - 0
3 web 2 web2 10.0.0.2 2 0 1 1 12 1 0 2 0 0 0 0 - 8080 - 0 0 - - 0
3 web 3 web3 0.0.0.0 0 5 1 1 12 1 0 2 0 0 0 0 - 1 - 0 0 - - 0
3 web 4 web4 10.0.0.4 2 8 1 1 12 1 0 2 0 0 0 0 - 8080 - 0 0 - - 0

";

    #[test]
    fn servers_of_haproxy_follow_the_endpoints() {
        let servers = servers(STATE).expect("a table");
        let target = |address: &str| (address.to_owned(), 8080);
        let commands = |wanted: &[&str]| {
            let targets = wanted.iter().map(|one| target(one)).collect();
            let (commands, without) = haproxy("web", &servers, &targets);
            format!("{}\n{without} without a server", commands.join("\n"))
        };
        expect_test::expect![[r#"
            set server web/web2 state drain
            set server web/web3 state maint
            set server web/web3 addr 10.0.0.3 port 8080
            set server web/web3 state ready
            0 without a server"#]]
        .assert_eq(&commands(&["10.0.0.1", "10.0.0.3"]));
        expect_test::expect![[r#"
            set server web/web4 state ready
            0 without a server"#]]
        .assert_eq(&commands(&["10.0.0.1", "10.0.0.2", "10.0.0.4"]));
        expect_test::expect![[r#"
            set server web/web1 state drain
            set server web/web2 state drain
            set server web/web3 state maint
            set server web/web3 addr a port 8080
            set server web/web3 state ready
            set server web/web1 state maint
            set server web/web1 addr b port 8080
            set server web/web1 state ready
            set server web/web2 state maint
            set server web/web2 addr c port 8080
            set server web/web2 state ready
            set server web/web4 state maint
            set server web/web4 addr d port 8080
            set server web/web4 state ready
            1 without a server"#]]
        .assert_eq(&commands(&["a", "b", "c", "d", "e"]));
        assert!(super::servers("No such backend.\n").is_err());
    }
}
