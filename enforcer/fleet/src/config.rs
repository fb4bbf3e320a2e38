//! The settings of this host, and the faults of files as a person reads them.

use crate::etcd::{Client, Endpoint, Login, Security};
use enforcer_client::Fault;
use enforcer_fleet_core::NodeId;
use enforcer_fleet_core::fleet::Resources;
use enforcer_manifest::{
    EtcdConfig, Fault as ManifestFault, FleetConfig, NodeConfig, Severity, parse_fleet_config,
};
use std::fmt::Write as _;
use std::net::UdpSocket;
use std::path::Path;

/// Reads a file.
///
/// # Errors
/// If it cannot be read.
pub fn text_of(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path)
        .map_err(|error| Fault::Failed(format!("failed to read {}: {error}", path.display())))
}

/// Draws the faults of a file, each with its place.
///
/// # Errors
/// If one of them is an error.
pub fn check(path: &Path, text: &str, faults: &[ManifestFault]) -> Result<(), Fault> {
    let mut drawn = String::new();
    for fault in faults {
        let before = text.get(..fault.span.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|one| *one != '\n').count() + 1;
        let severity = match fault.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let path = path.display();
        // Writing to a string cannot fail.
        let _ = write!(
            drawn,
            "{path}:{line}:{column}: {severity}: {}",
            fault.message
        );
        if !fault.label.is_empty() {
            let _ = write!(drawn, " ({})", fault.label);
        }
        drawn.push('\n');
        if let Some(help) = &fault.help {
            let _ = writeln!(drawn, "  help: {help}");
        }
    }
    let errors = faults
        .iter()
        .filter(|fault| fault.severity == Severity::Error);
    match errors.count() {
        0 => {
            eprint!("{drawn}");
            Ok(())
        }
        1 => Err(Fault::Drawn {
            drawn,
            summary: "1 fault; nothing was changed".to_owned(),
        }),
        count => Err(Fault::Drawn {
            drawn,
            summary: format!("{count} faults; nothing was changed"),
        }),
    }
}

/// Reads the settings.
///
/// # Errors
/// If the file cannot be read, or has faults.
pub fn read(path: &Path) -> Result<FleetConfig, Fault> {
    let text = text_of(path)?;
    let (config, faults) = parse_fleet_config(&text);
    check(path, &text, &faults)?;
    Ok(config)
}

/// Makes a client of etcd.
///
/// # Errors
/// If a certificate or the password cannot be read, or an endpoint is not allowed.
pub fn client(etcd: &EtcdConfig) -> Result<Client, Fault> {
    let failed = |error: &dyn std::error::Error| Fault::Failed(format!("etcd: {error}"));
    let own = etcd.cert_file.as_deref().zip(etcd.key_file.as_deref());
    let own = own.map(|(certificate, key)| (Path::new(certificate), Path::new(key)));
    let security = etcd
        .ca_file
        .as_deref()
        .map(|file| Security::read(Path::new(file), own));
    let security = security.transpose().map_err(|error| failed(&error))?;
    let login = match (&etcd.user, &etcd.password_file) {
        (Some(user), Some(file)) => Some(Login {
            user: user.clone(),
            password: text_of(Path::new(file))?.trim_end_matches('\n').to_owned(),
        }),
        _ => None,
    };
    let endpoints = etcd.endpoints.iter();
    let endpoints = endpoints.map(|text| Endpoint::parse(text, security.as_ref()));
    let endpoints = endpoints.collect::<Result<Vec<_>, _>>();
    Ok(Client::new(
        endpoints.map_err(|error| failed(&error))?,
        login,
    ))
}

/// Returns the name of this node: the one that is set, or the host's own.
///
/// # Errors
/// If it is no name of a node.
pub fn node_id(node: &NodeConfig) -> Result<NodeId, Fault> {
    let name = match &node.name {
        Some(name) => name.clone(),
        None => nix::sys::utsname::uname()
            .map_err(|error| Fault::Failed(format!("failed to read the host's name: {error}")))?
            .nodename()
            .to_string_lossy()
            .to_lowercase(),
    };
    NodeId::parse(&name).ok_or_else(|| {
        Fault::Failed(format!(
            "`{name}` is no name of a node ({}); set `node: {{ name: … }}`",
            NodeId::RULE
        ))
    })
}

/// Returns the address at which workloads answer: the one that is set, or that of the way to etcd.
#[must_use]
pub fn address(config: &FleetConfig) -> String {
    if let Some(address) = config.node.address {
        return address.to_string();
    }
    let endpoint = config.etcd.endpoints.first();
    let to = endpoint.and_then(|text| text.split_once("://"));
    let own = to.and_then(|(_, to)| {
        let to = to.trim_end_matches('/');
        let any = if to.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        // Nothing is sent: the kernel only chooses the way.
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok()
    });
    own.map_or_else(|| "127.0.0.1".to_owned(), |own| own.ip().to_string())
}

/// Returns what the fleet may use of this host.
#[must_use]
pub fn capacity(config: &FleetConfig) -> Resources {
    let memory = nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total());
    // A tenth is left to the host itself.
    let reserve = config
        .node
        .reserve_memory
        .map_or(memory / 10, |bytes| bytes.0);
    let most = config.allow.memory.map_or(u64::MAX, |bytes| bytes.0);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpus = u64::try_from(cpus).unwrap_or(1).saturating_mul(1000);
    Resources {
        memory_bytes: memory.saturating_sub(reserve).min(most),
        cpu_millis: cpus.saturating_sub(config.node.reserve_cpu_millis.unwrap_or(0)),
    }
}
