//! A name to one address, once, and a connection to it. Nothing is dialled that
//! gives out the host's credentials.

use super::{failed, too_late};
use enforcer_core::probe::{Outcome, is_forbidden};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::Command;

/// A `tcp` probe: whoever accepts, passes.
pub(super) async fn ask(target: (&str, u16), timeout: Duration) -> Outcome {
    let asked = async {
        let address = resolve(target).await?;
        connect(address).await
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(_)) => Outcome::Passed,
        Ok(Err(outcome)) => outcome,
        Err(_) => too_late("no connection", timeout),
    }
}

pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, Outcome> {
    TcpStream::connect(address).await.map_err(|error| {
        let told = format!("{address}: {}", crate::kernel::spawn::describe(&error));
        match error.raw_os_error() {
            // Ours: no descriptor, no memory or no port is left.
            Some(
                libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL,
            ) => Outcome::Unknown(told),
            _ => failed(told, error.kind() == io::ErrorKind::TimedOut),
        }
    })
}

/// The address that is dialled in this asking, whatever the name means a moment later.
pub(super) async fn resolve((host, port): (&str, u16)) -> Result<SocketAddr, Outcome> {
    let address = match host.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) if host == "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        // That nobody knows the name is not the workload's fault.
        Err(_) => look_up(host)
            .await
            .ok_or_else(|| Outcome::Unknown(format!("nobody knows the host `{host}`")))?,
    };
    if is_forbidden(address) {
        let told =
            format!("`{host}` is {address}, a link-local address, and those are not dialled");
        return Err(Outcome::Unknown(told));
    }
    Ok(SocketAddr::new(address, port))
}

/// The host's own way to its names, in a process of its own: a static program can't
/// load the modules that the C library would ask.
async fn look_up(host: &str) -> Option<IpAddr> {
    if let Some(address) = in_hosts_file(host).await {
        return Some(address);
    }
    let output = Command::new("/usr/bin/getent")
        .args(["ahosts", "--", host])
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next()?.parse().ok()
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
