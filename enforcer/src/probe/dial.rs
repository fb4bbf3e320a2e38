//! A name to its addresses, once, and a connection to one of them. Nothing is dialled that
//! gives out the host's credentials.

use super::{failed, too_late};
use enforcer_core::probe::Outcome;
use enforcer_core::units::human_duration;
use enforcer_model::probe::is_forbidden;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

/// What a probe does before it connects to its own workload behind the gate, with the source port and
/// the port: without it, the connection would wait until the workload is ready.
#[derive(Clone, Default)]
pub(crate) struct Pass(pub(super) Option<Arc<dyn Fn(u16, u16) + Send + Sync>>);

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pass").field(&self.0.is_some()).finish()
    }
}

/// Addresses with the pass for them.
#[derive(Debug)]
pub(super) struct Addresses {
    pub(super) all: Vec<SocketAddr>,
    pub(super) pass: Pass,
}

/// Asks a `tcp` probe: an accepted connection passes.
pub(super) async fn ask(target: (&str, u16), pass: Pass, timeout: Duration) -> Outcome {
    let known = AtomicBool::new(false);
    let asked = async {
        let all = resolve(target).await?;
        known.store(true, Ordering::Relaxed);
        connect(&Addresses { all, pass }).await
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(_)) => Outcome::Passed,
        Ok(Err(outcome)) => outcome,
        Err(_) if !known.load(Ordering::Relaxed) => unresolved(target.0, timeout),
        Err(_) => too_late("no connection", timeout),
    }
}

/// Returns the outcome of an unresolved name. A name server that does not answer is not the
/// workload's fault.
pub(super) fn unresolved(host: &str, timeout: Duration) -> Outcome {
    Outcome::Unknown(format!(
        "no answer within {} for the address of `{host}`",
        human_duration(timeout)
    ))
}

/// The time after which the next address is tried beside this one (RFC 8305, 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Connects to the first address that accepts. An address that does not answer does not keep
/// the others from being tried.
pub(super) async fn connect(addresses: &Addresses) -> Result<TcpStream, Outcome> {
    let mut outcome = Outcome::Unknown("there is no address".to_owned());
    let mut attempts = JoinSet::new();
    let mut left = addresses.all.iter().copied();
    let mut add = |attempts: &mut JoinSet<_>| {
        let next = left.next();
        if let Some(address) = next {
            let pass = addresses.pass.clone();
            attempts.spawn(async move { (address, connect_to(address, &pass).await) });
        }
        next.is_some()
    };
    let mut more = add(&mut attempts);
    loop {
        let attempt = if more {
            match tokio::time::timeout(NEXT_ADDRESS_AFTER, attempts.join_next()).await {
                Ok(attempt) => attempt,
                Err(_) => {
                    more = add(&mut attempts);
                    continue;
                }
            }
        } else {
            attempts.join_next().await
        };
        match attempt {
            Some(Ok((address, Ok(stream)))) if is_to_itself(&stream) => {
                let why = format!("{address}: nothing listens there (the probe reached itself)");
                outcome = keep(outcome, failed(why, false));
            }
            Some(Ok((_, Ok(stream)))) => return Ok(stream),
            Some(Ok((address, Err(error)))) => outcome = keep(outcome, judge(address, &error)),
            // A task that panicked has no outcome.
            Some(Err(_)) => {}
            None if !more => return Err(outcome),
            None => {}
        }
        more = add(&mut attempts);
    }
}

async fn connect_to(address: SocketAddr, pass: &Pass) -> io::Result<TcpStream> {
    if let Some(announce) = &pass.0 {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // An address of another host cannot be bound, and nothing behind the gate is there.
        if socket.bind(SocketAddr::new(address.ip(), 0)).is_ok() {
            announce(socket.local_addr()?.port(), address.port());
            return socket.connect(address).await;
        }
    }
    TcpStream::connect(address).await
}

/// Joins the outcomes of several addresses: the first one that was reached counts.
fn keep(known: Outcome, next: Outcome) -> Outcome {
    match known {
        Outcome::Failed(_) => known,
        Outcome::Passed | Outcome::Unknown(_) | Outcome::Did(_) => next,
    }
}

/// Returns whether a connection leads to its own socket. If nothing listens on a port of
/// `ip_local_port_range`, the kernel may choose the same port as the source, and TCP lets a socket
/// connect to itself (RFC 9293, 3.5).
fn is_to_itself(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) => local == peer,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

fn judge(address: SocketAddr, error: &io::Error) -> Outcome {
    let reported = format!("{address}: {}", enforcer_kernel::spawn::describe(error));
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
        ) => Outcome::Unknown(reported),
        _ => failed(reported, error.kind() == io::ErrorKind::TimedOut),
    }
}

/// Resolves the name into the addresses of this check, whatever the name means a moment later.
pub(super) async fn resolve((host, port): (&str, u16)) -> Result<Vec<SocketAddr>, Outcome> {
    let found = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) if host == "localhost" => vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ],
        Err(_) => look_up(host).await,
    };
    if found.is_empty() {
        return Err(Outcome::Unknown(format!(
            "the host `{host}` has no address"
        )));
    }
    let (forbidden, allowed): (Vec<IpAddr>, Vec<IpAddr>) = found
        .into_iter()
        .partition(|address| is_forbidden(*address));
    if let (Some(address), []) = (forbidden.first(), &allowed[..]) {
        let reported =
            format!("`{host}` is {address}, a link-local address, and those are not dialled");
        return Err(Outcome::Unknown(reported));
    }
    let sockets = allowed
        .into_iter()
        .map(|address| SocketAddr::new(address, port));
    Ok(sockets.collect())
}

/// Looks a name up in `/etc/hosts`, and if it is not there by the host's own `getent`, in a process
/// of its own: a static program cannot load the modules that the C library would use.
async fn look_up(host: &str) -> Vec<IpAddr> {
    let listed = in_hosts_file(host).await;
    if !listed.is_empty() {
        return listed;
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
    // The answer has each address once for every type of socket.
    let words = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let mut addresses: Vec<IpAddr> = words.filter_map(|word| word.parse().ok()).collect();
    addresses.dedup();
    addresses
}

async fn in_hosts_file(host: &str) -> Vec<IpAddr> {
    let read = tokio::task::spawn_blocking(|| std::fs::read("/etc/hosts")).await;
    match read {
        Ok(Ok(file)) => addresses_of(&String::from_utf8_lossy(&file), host),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// Returns every address that a hosts file has for a name, in its order.
fn addresses_of(file: &str, host: &str) -> Vec<IpAddr> {
    let lines = file
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?;
            let named = words.any(|name| name.eq_ignore_ascii_case(host));
            named.then(|| address.parse().ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_pass(all: &[SocketAddr]) -> Addresses {
        Addresses {
            all: all.to_vec(),
            pass: Pass::default(),
        }
    }

    #[test]
    fn every_address_of_a_host_is_found() {
        let file =
            "127.0.0.1 localhost\n10.0.0.7\tdb db.local # the old db2\nfd00::7 db\nbad name\n";
        let shown = |host| -> Vec<String> {
            let found = addresses_of(file, host).into_iter();
            found.map(|address| address.to_string()).collect()
        };
        assert_eq!(shown("DB"), ["10.0.0.7", "fd00::7"]);
        assert_eq!(shown("db.local"), ["10.0.0.7"]);
        assert!(shown("db2").is_empty() && shown("name").is_empty());
    }

    /// A server that listens on the second address alone is reached.
    #[tokio::test]
    async fn the_address_that_accepts_is_reached_whichever_it_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let open = listener.local_addr().expect("an address");
        let closed = SocketAddr::new("127.0.0.9".parse().expect("an address"), open.port());
        for addresses in [[closed, open], [open, closed]] {
            let stream = connect(&without_pass(&addresses)).await;
            let peer = stream.ok().and_then(|stream| stream.peer_addr().ok());
            assert_eq!(peer, Some(open));
        }
        assert!(matches!(
            connect(&without_pass(&[closed])).await,
            Err(Outcome::Failed(_))
        ));
    }

    /// A socket that connects to the port it is bound to reaches itself.
    #[tokio::test]
    async fn a_connection_to_itself_is_recognised() {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        let any = SocketAddr::new("127.0.0.1".parse().expect("an address"), 0);
        socket.bind(any).expect("a port");
        let own = socket.local_addr().expect("an address");
        let stream = socket.connect(own).await.expect("itself");
        assert!(is_to_itself(&stream));
    }
}
