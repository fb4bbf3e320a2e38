//! HAProxy in front of the fleet, and clients of it.

use super::wait_for;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A lost host has servers until its lease ends. Until the checks have found that out, two clients at once can hit them several times in a row.
pub const HAPROXY: &str = "global
    stats socket /run/haproxy-fleet.sock mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout queue 30s
    timeout check 5s
    option redispatch 1
    retries 20
    retry-on conn-failure empty-response response-timeout
frontend all
    bind 127.0.0.1:8090
    default_backend web
backend web
    balance roundrobin
    server-template web 6 0.0.0.0:1 disabled check inter 2s fall 2
";

/// Clients of HAProxy, which ask until they are told to end.
pub struct Clients {
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn start() -> Self {
        let mut clients = Self {
            ends: Arc::default(),
            answered: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..2 {
            let (ends, answered) = (Arc::clone(&clients.ends), Arc::clone(&clients.answered));
            let failed = Arc::clone(&clients.failed);
            clients.threads.push(std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    match ask() {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(why) => failed.lock().unwrap().push(why),
                    }
                    std::thread::park_timeout(Duration::from_millis(50));
                }
            }));
        }
        clients
    }

    /// Waits for so many answers more.
    pub fn wait_for_more(&self, more: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_for("answers", || {
            (self.answered.load(Ordering::Relaxed) >= before + more).then_some(())
        });
    }

    /// Returns the number of requests that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn failures(&self) -> Vec<String> {
        self.failed.lock().unwrap().clone()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

pub fn ask() -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect("127.0.0.1:8090").map_err(text)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .map_err(text)?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
        .map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    let head = answer.lines().next().unwrap_or_default();
    match head.contains(" 200 ") {
        true => Ok(()),
        false => Err(head.to_owned()),
    }
}
