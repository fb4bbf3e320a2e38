//! The way between a host and etcd, which can be cut.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The way from a host to a member of etcd.
pub(super) struct Relay {
    is_open: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// Listens at the member's own port, in the network of a host.
    pub(super) fn new(network: &str, port: u16) -> Self {
        let relay = Self {
            is_open: Arc::new(AtomicBool::new(true)),
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
        let (is_open, ends) = (Arc::clone(&relay.is_open), Arc::clone(&relay.ends));
        let connections = Arc::clone(&relay.connections);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), true) = (client, is_open.load(Ordering::Relaxed)) else {
                    continue;
                };
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let pairs = [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server.try_clone().unwrap(), client.try_clone().unwrap()),
                ];
                connections.lock().unwrap().extend([client, server]);
                for (mut from, mut to) in pairs {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                        let _ = from.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        relay
    }

    pub(super) fn set(&self, open: bool) {
        self.is_open.store(open, Ordering::Relaxed);
        if !open {
            for connection in self.connections.lock().unwrap().drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.set(false);
    }
}
