//! The way between a host and etcd, which can be cut, slow, or open in one direction only.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    Cut,
    /// Everything takes its time.
    Slow,
    /// What the host sends arrives, and no answer comes back.
    NoAnswers,
}

/// The delay of each piece on a slow way.
const DELAY: Duration = Duration::from_millis(200);

/// The way from a host to a member of etcd.
pub(super) struct Relay {
    way: Arc<Mutex<Way>>,
    ends: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// Listens at the member's own port, in the network of a host.
    pub(super) fn new(network: &str, port: u16) -> Self {
        let relay = Self {
            way: Arc::new(Mutex::new(Way::Open)),
            ends: Arc::default(),
            connections: Arc::default(),
        };
        let network = File::open(format!("/run/netns/{network}")).unwrap();
        let listener = std::thread::spawn(move || {
            // A thread has a network of its own, and a socket stays in the one that it was made in.
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind(("127.0.0.1", port)).unwrap()
        });
        let listener = listener.join().unwrap();
        let (way, ends) = (Arc::clone(&relay.way), Arc::clone(&relay.ends));
        let connections = Arc::clone(&relay.connections);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else {
                    continue;
                };
                if *way.lock().unwrap() == Way::Cut {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let copy = |one: &TcpStream| one.try_clone().unwrap();
                let asked = (copy(&client), copy(&server));
                let answered = (copy(&server), copy(&client));
                connections.lock().unwrap().extend([client, server]);
                for ((from, to), is_answer) in [(asked, false), (answered, true)] {
                    let way = Arc::clone(&way);
                    std::thread::spawn(move || pass_on(from, to, &way, is_answer));
                }
            }
        });
        relay
    }

    pub(super) fn set(&self, way: Way) {
        *self.way.lock().unwrap() = way;
        if way == Way::Cut {
            for connection in self.connections.lock().unwrap().drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
    }
}

/// Passes on what one end of a connection says, as the way is at that time.
fn pass_on(mut from: TcpStream, mut to: TcpStream, way: &Mutex<Way>, is_answer: bool) {
    let mut piece = [0; 16_384];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let now = || *way.lock().unwrap();
        if now() == Way::Slow {
            std::thread::park_timeout(DELAY);
        }
        while is_answer && now() == Way::NoAnswers {
            std::thread::park_timeout(DELAY);
        }
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.set(Way::Cut);
    }
}
