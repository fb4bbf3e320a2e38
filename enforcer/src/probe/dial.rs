//! A name to its addresses, once, and a connection to one of them. Nothing is dialled that
//! gives out the host's credentials.

use super::{failed, too_late};
use enforcer_core::probe::{Outcome, is_forbidden};
use enforcer_core::units::human_duration;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::Command;

/// A `tcp` probe: whoever accepts, passes.
pub(super) async fn ask(target: (&str, u16), timeout: Duration) -> Outcome {
    let known = AtomicBool::new(false);
    let asked = async {
        let addresses = resolve(target).await?;
        known.store(true, Ordering::Relaxed);
        connect(&addresses).await
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(_)) => Outcome::Passed,
        Ok(Err(outcome)) => outcome,
        Err(_) if !known.load(Ordering::Relaxed) => unresolved(target.0, timeout),
        Err(_) => too_late("no connection", timeout),
    }
}

/// That a name server doesn't answer is not the workload's fault.
pub(super) fn unresolved(host: &str, timeout: Duration) -> Outcome {
    Outcome::Unknown(format!(
        "nobody says where `{host}` is within {}",
        human_duration(timeout)
    ))
}

/// To the first address that takes it.
pub(super) async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Outcome> {
    let mut outcome = Outcome::Unknown("there is no address".to_owned());
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => outcome = judge(*address, &error),
        }
    }
    Err(outcome)
}

fn judge(address: SocketAddr, error: &io::Error) -> Outcome {
    let told = format!("{address}: {}", crate::kernel::spawn::describe(error));
    match error.raw_os_error() {
        // Ours: no descriptor, no memory, no port or no way is left.
        Some(
            libc::EMFILE
            | libc::ENFILE
            | libc::ENOBUFS
            | libc::ENOMEM
            | libc::ENOSPC
            | libc::EADDRNOTAVAIL
            | libc::ENETUNREACH,
        ) => Outcome::Unknown(told),
        _ => failed(told, error.kind() == io::ErrorKind::TimedOut),
    }
}

/// The addresses that are dialled in this asking, whatever the name means a moment
/// later.
pub(super) async fn resolve((host, port): (&str, u16)) -> Result<Vec<SocketAddr>, Outcome> {
    let found = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) if host == "localhost" => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        Err(_) => look_up(host).await,
    };
    if found.is_empty() {
        return Err(Outcome::Unknown(format!("nobody knows the host `{host}`")));
    }
    let (forbidden, allowed): (Vec<IpAddr>, Vec<IpAddr>) = found
        .into_iter()
        .partition(|address| is_forbidden(*address));
    if let (Some(address), []) = (forbidden.first(), &allowed[..]) {
        let told =
            format!("`{host}` is {address}, a link-local address, and those are not dialled");
        return Err(Outcome::Unknown(told));
    }
    let sockets = allowed
        .into_iter()
        .map(|address| SocketAddr::new(address, port));
    Ok(sockets.collect())
}

/// The host's own way to its names, in a process of its own: a static program can't
/// load the modules that the C library would ask.
async fn look_up(host: &str) -> Vec<IpAddr> {
    if let Some(address) = in_hosts_file(host).await {
        return vec![address];
    }
    let asked = Command::new("/usr/bin/getent")
        .args(["ahosts", "--", host])
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let Ok(output) = asked.await else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout);
    // Each address stands there once for every type of socket.
    let words = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let mut addresses: Vec<IpAddr> = words.filter_map(|word| word.parse().ok()).collect();
    addresses.dedup();
    addresses
}

async fn in_hosts_file(host: &str) -> Option<IpAddr> {
    let read = tokio::task::spawn_blocking(|| std::fs::read_to_string("/etc/hosts"));
    find_host(&read.await.ok()?.ok()?, host)
}

fn find_host(file: &str, host: &str) -> Option<IpAddr> {
    let lines = file
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?;
            words
                .any(|name| name.eq_ignore_ascii_case(host))
                .then_some(address)
        })
        .find_map(|address| address.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::find_host;

    #[test]
    fn hosts_are_found_as_the_file_names_them() {
        let file = "127.0.0.1 localhost\n10.0.0.7\tdb db.local # the old db2\nbad name\n";
        let shown = |host| find_host(file, host).map(|address| address.to_string());
        assert_eq!(shown("DB.local").as_deref(), Some("10.0.0.7"));
        assert_eq!((shown("db2"), shown("name")), (None, None));
    }
}
