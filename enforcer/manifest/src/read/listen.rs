//! `listen`: the sockets that are kept for a workload.

use super::{Reader, place};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::Node;
use enforcer_model::spec::{FileMode, Listen};
use std::collections::BTreeMap;

const KEYS: &[&str] = &["tcp", "unix", "mode", "group", "backlog"];

impl Reader<'_> {
    pub(super) fn listen(&mut self, node: &Node) -> BTreeMap<String, Listen> {
        let mut all = BTreeMap::new();
        for (name, value) in self.entries(node).iter() {
            if !is_name(name) {
                let shown = name.escape_debug();
                self.fault(
                    Fault::error(
                        value.span.clone(),
                        format!("`{shown}` is no name of a socket"),
                    )
                    .label("expected letters, digits and _ . - before the colon"),
                );
                continue;
            }
            let socket = self.socket(value);
            all.extend(socket.map(|socket| (name.to_owned(), socket)));
        }
        if all.len() > Listen::MOST {
            let label = format!("expected at most {}", Listen::MOST);
            let fault = Fault::error(
                node.span.clone(),
                format!("these are {} sockets", all.len()),
            );
            self.fault(fault.label(label));
        }
        all
    }

    fn socket(&mut self, node: &Node) -> Option<Listen> {
        let fields = self.fields(node, KEYS);
        let mut socket = Listen {
            tcp: None,
            unix: None,
            mode: Listen::MODE,
            group: None,
            backlog: Listen::BACKLOG,
            is_of_each: false,
        };
        self.set_some(&fields, "tcp", &mut socket.tcp, |text| {
            let address = text.parse::<std::net::SocketAddr>().ok();
            let address = address.filter(|address| address.port() > 0);
            address.ok_or_else(|| "an address and a port, such as 127.0.0.1:8080".to_owned())
        });
        self.set_some(&fields, "unix", &mut socket.unix, |text| {
            let path = place(text, "an absolute path of at most 107 bytes")?;
            match path.len() <= LONGEST {
                true => Ok(path),
                false => Err(format!("a path of at most {LONGEST} bytes")),
            }
        });
        self.set(&fields, "mode", &mut socket.mode, |text| {
            quantity::permissions(text).map(FileMode)
        });
        self.set(&fields, "backlog", &mut socket.backlog, |text| {
            let backlog = quantity::integer(text, 1..=i32::MAX.unsigned_abs().into())?;
            u32::try_from(backlog).map_err(|_| "a smaller number".to_owned())
        });
        if let Some(group) = fields.get("group") {
            let name = self.text(group, "a name or a number");
            socket.group = name.and_then(|name| self.account_name(group, "group", name, true));
        }
        let of_file = ["mode", "group"].iter().find_map(|key| fields.get(key));
        if let (Some(node), None) = (of_file, fields.get("unix")) {
            self.fault(
                Fault::error(node.span.clone(), "a TCP socket has no mode and no group")
                    .label("for a Unix socket alone"),
            );
        }
        match (fields.get("tcp"), fields.get("unix")) {
            (Some(_), None) => socket.tcp.is_some().then_some(socket),
            (None, Some(_)) => socket.unix.is_some().then_some(socket),
            (None, None) | (Some(_), Some(_)) => {
                self.fault(
                    Fault::error(node.span.clone(), "expected either `tcp` or `unix`")
                        .label("one of them")
                        .help("listen: { api: { tcp: \"127.0.0.1:8080\" } }"),
                );
                None
            }
        }
    }
}

/// The longest path of a socket (unix(7)).
const LONGEST: usize = 107;

/// A colon stands between two names of `LISTEN_FDNAMES`.
fn is_name(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(is_good)
}
