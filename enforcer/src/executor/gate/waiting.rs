//! The sockets where connections to a port wait.
//!
//! The agent learns the addresses of a port when the program begins to listen. A socket of ours joins
//! each of them, with the owner of the program's socket, and stays over restarts; the holder keeps it
//! over the deaths of agents. While it is there, the program that chooses among the sockets of the
//! address is as well.

use super::{OfPort, Owner, Table, Wanted};
use crate::executor::Executor;
use crate::executor::sockets::PORT;
use crate::holder::SocketName;
use enforcer_common::gate::ADDRESSES;
use enforcer_core::ReplicaId;
use enforcer_core::event::Door;
use enforcer_kernel::bpf::gate::{Gate, GateId, ListenRecord};
use enforcer_kernel::connections::{self, LocalSocket};
use enforcer_kernel::{clock, listening, ready};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;

/// The pauses before another look for connections whose handshake ended after a flush.
const LATE: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];
/// The pauses before another look for the socket of a record.
const UNTIL_IT_LISTENS: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
];
/// The time that a program gets to listen at all of its addresses. After that, the sockets at others
/// are closed.
const ALL_ADDRESSES: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Waiting {
    address: Address,
    socket: Arc<OwnedFd>,
}

/// An address at which the program listens, and everything that a socket beside it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Address {
    address: SocketAddr,
    is_v6_only: bool,
    uid: u32,
    /// The user that the workload was started as.
    user: Option<u32>,
}

impl Address {
    /// Returns whether a socket of the program's is at this address.
    fn is_of(&self, other: &LocalSocket) -> bool {
        let same = (self.address.ip(), self.is_v6_only) == (other.address, other.is_v6_only);
        same && self.uid == other.uid
    }
}

/// A place for a socket: the owner and the key of a port, and a number.
type Place = (Owner, String, u32);

fn name_of((workload, port, number): &Place) -> SocketName {
    SocketName {
        workload: workload.clone(),
        name: format!("{PORT}{port}:{number}"),
    }
}

/// Returns the port and the number that a kept socket is named after.
fn parsed(name: &str) -> Option<(&str, u32)> {
    let (port, number) = name.strip_prefix(PORT)?.rsplit_once(':')?;
    Some((port, number.parse().ok()?))
}

impl OfPort {
    /// Puts a socket into the gate, with the program that chooses.
    fn install(&self, gate: &Gate, number: u32, socket: &OwnedFd) -> io::Result<()> {
        self.chooser.attach(socket)?;
        gate.wait_at(self.id, number, socket)
    }

    /// Makes another socket where connections to an address wait, as long as it is open. Without it, one that comes at the
    /// wrong moment is refused.
    fn spare(&self, gate: &Gate, of: &Address) -> io::Result<OwnedFd> {
        let mut numbers = (0..ADDRESSES).filter(|number| !self.waiting.contains_key(number));
        let number = numbers.next().ok_or(io::ErrorKind::QuotaExceeded)?;
        let user = Uid::from_raw(of.uid);
        let made = listening::shared(of.address, of.is_v6_only, user, u32::MAX)?;
        self.install(gate, number, &made)?;
        Ok(made)
    }

    fn look(&self) -> Look {
        Look {
            port: self.port,
            ours: self.inodes().collect(),
        }
    }

    fn inodes(&self) -> impl Iterator<Item = u32> {
        let sockets = self.waiting.values();
        sockets.filter_map(|waiting| listening::inode(&waiting.socket))
    }
}

/// A look for the sockets at a port that are not ours. It takes longer than the table may be locked.
#[derive(Debug)]
struct Look {
    port: u16,
    ours: BTreeSet<u32>,
}

impl Look {
    /// Returns the sockets of the program's that listen.
    fn listeners(&self) -> Vec<LocalSocket> {
        let listed = connections::listening(self.port);
        let mut listed = listed.unwrap_or_else(|error| {
            tracing::error!("the sockets at port {} are not known: {error}", self.port);
            Vec::new()
        });
        listed.retain(|one| !self.ours.contains(&one.inode));
        listed
    }
}

impl Executor {
    pub(super) fn inodes_of_waiting(&self, workload: &Owner) -> BTreeSet<u32> {
        let table = self.gates.table.lock();
        let known = table.of.get(workload).into_iter();
        let ports = known.flat_map(|known| known.ports.values());
        ports.flat_map(OfPort::inodes).collect()
    }

    /// Closes the sockets at ports that no replica has any more, and those of another user: the kernel
    /// would not let a program of this one listen beside them.
    pub(super) fn close_stale_waiting(
        &self,
        owner: &Owner,
        replica: &ReplicaId,
        wanted: &[Wanted],
        user: Option<Uid>,
    ) {
        let slot = super::slot(replica);
        for (name, made_for, socket) in self.waiting_sockets(owner) {
            let Some((key, number)) = parsed(&name) else {
                continue;
            };
            let is_used_by_others = {
                let mut table = self.gates.table.lock();
                let of = port_of(&mut table, owner, key);
                of.is_some_and(|of| of.members.keys().any(|member| *member != slot))
            };
            if is_used_by_others {
                continue;
            }
            let mut found = wanted.iter().filter(|one| one.owner == *owner);
            let found = found.find(|one| one.key == key);
            let address = listening::address(&socket).map(|address| address.port());
            let before = address_for(&made_for).and_then(|address| address.user);
            let is_same_user = user
                .map(Uid::as_raw)
                .zip(before)
                .is_none_or(|(now, before)| now == before);
            if found.is_none_or(|one| Some(one.port) != address) || !is_same_user {
                self.close_one(&(owner.clone(), key.to_owned(), number));
            }
        }
    }

    /// Closes all sockets where connections to a workload wait, if it rests and is not behind the gate:
    /// an agent before has left them.
    fn close_left(&self, owner: &Owner) {
        let rests = || {
            let table = self.gates.table.lock();
            let doors = table.doors.iter();
            let of_owner = doors.filter(|(replica, _)| super::owners(replica).contains(owner));
            let mut of_owner = of_owner.map(|(_, door)| *door).peekable();
            let is_decided = of_owner.peek().is_some();
            let is_refused = of_owner.all(|door| door == Door::Refuse);
            !table.of.contains_key(owner) && is_decided && is_refused
        };
        if !rests() {
            return;
        }
        // A start that has begun meanwhile takes them instead.
        let _alone = self.gates.setup.lock();
        if !rests() {
            return;
        }
        for (name, ..) in self.waiting_sockets(owner) {
            if let Some((key, number)) = parsed(&name) {
                self.close_one(&(owner.clone(), key.to_owned(), number));
            }
        }
    }

    fn close_one(&self, place: &Place) {
        let (workload, port, number) = place;
        let removed = {
            let mut table = self.gates.table.lock();
            let of = port_of(&mut table, workload, port);
            of.and_then(|of| of.waiting.remove(number))
        };
        drop(removed);
        self.close_socket(&name_of(place));
    }

    /// Has the gate use the sockets that an agent before has left.
    pub(super) fn take_waiting(&self, workload: &Owner) {
        let kept = self.waiting_sockets(workload);
        let mut table = self.gates.table.lock();
        let Some(gate) = table.open.clone() else {
            return;
        };
        for (name, made_for, socket) in kept {
            let Some(((port, number), address)) = parsed(&name).zip(address_for(&made_for)) else {
                continue;
            };
            let Some(of) = port_of(&mut table, workload, port) else {
                continue;
            };
            if of.waiting.contains_key(&number) {
                continue;
            }
            // An agent may have died in the middle of a flush.
            let listens = listening::ensure(&socket);
            match listens.and_then(|()| of.install(&gate, number, &socket)) {
                Ok(()) => drop(of.waiting.insert(number, Waiting { address, socket })),
                Err(error) => tracing::warn!("{workload}: nothing waits at port {port}: {error}"),
            }
        }
    }

    /// Has the gate use the sockets that came from another holder.
    pub(in crate::executor) fn take_all_waiting(&self) {
        let known: Vec<ReplicaId> = self.gates.table.lock().of.keys().cloned().collect();
        known
            .iter()
            .for_each(|workload| self.take_waiting(workload));
    }

    /// Brings the sockets of a workload up to date with its door: connections get through to a program that
    /// listens, or are refused. It looks again for as long as connections come late: one whose handshake was
    /// under way at a flush ends in the queue that was emptied.
    pub(super) async fn renew_waiting(self: Arc<Self>, workload: Owner) {
        let (this, of) = (Arc::clone(&self), workload.clone());
        let first = move || {
            this.close_left(&of);
            this.flush_where(&of, |_| true)
        };
        let mut goes_on = tokio::task::spawn_blocking(first).await;
        for pause in LATE {
            if !goes_on.unwrap_or(false) {
                return;
            }
            tokio::time::sleep(pause).await;
            let (this, of) = (Arc::clone(&self), workload.clone());
            let again = move || this.flush_where(&of, listening::has_waiting);
            goes_on = tokio::task::spawn_blocking(again).await;
        }
    }

    /// Flushes the sockets of a workload that fulfil a condition. Returns false while its connections are to
    /// wait.
    fn flush_where(
        self: &Arc<Self>,
        workload: &Owner,
        condition: impl Fn(&OwnedFd) -> bool,
    ) -> bool {
        let listeners = self.listeners_if_open(workload);
        let mut broken = Vec::new();
        let mut goes_on = false;
        {
            let table = self.gates.table.lock();
            let (Some(gate), Some(known)) = (&table.open, table.of.get(workload)) else {
                return false;
            };
            for (name, of) in &known.ports {
                let door = of.door(&table.doors);
                goes_on |= door != Door::Wait;
                let listeners = listeners.get(name).map(Vec::as_slice).unwrap_or_default();
                for (number, waiting) in &of.waiting {
                    let socket = &waiting.socket;
                    // Without a listener there is nobody to give them to.
                    let flushes = match door {
                        Door::Open => listeners.iter().any(|one| waiting.address.is_of(one)),
                        Door::Refuse => true,
                        Door::Wait => false,
                    };
                    // While it is flushed, it does not listen, and the program may end just then.
                    let is_open = door == Door::Open;
                    let flushes = flushes && condition(socket);
                    let spare = (flushes && is_open).then(|| of.spare(gate, &waiting.address));
                    if let Some(Err(error)) = &spare {
                        tracing::warn!(
                            "{workload}: a client of port {name} may be refused: {error}"
                        );
                    }
                    let flushed = match flushes {
                        // It would stay in the gate (seen on Linux 6.1), and connections that are passed on to it are reset.
                        true => (gate.leave(of.id, *number))
                            .and_then(|()| listening::flush(socket, u32::MAX)),
                        false => Ok(()),
                    };
                    let installed = flushed.and_then(|()| of.install(gate, *number, socket));
                    drop(spare);
                    if let Err(error) = installed {
                        tracing::warn!("{workload}: another socket for port {name}: {error}");
                        let place = (workload.clone(), name.clone(), *number);
                        broken.push((place, waiting.address.clone()));
                    }
                }
            }
        }
        for (place, address) in broken {
            self.close_one(&place);
            self.wait_beside(workload, &place.1, address);
        }
        goes_on
    }

    /// Returns the program's sockets at each port, if connections are to get through.
    fn listeners_if_open(&self, workload: &Owner) -> BTreeMap<String, Vec<LocalSocket>> {
        let looks: Vec<(String, Look)> = {
            let table = self.gates.table.lock();
            let known = table.of.get(workload).into_iter();
            let ports = known.flat_map(|known| known.ports.iter());
            let ports = ports.filter(|(_, of)| !of.waiting.is_empty());
            let ports = ports.filter(|(_, of)| of.door(&table.doors) == Door::Open);
            ports.map(|(name, of)| (name.clone(), of.look())).collect()
        };
        let looks = looks.into_iter();
        looks.map(|(name, look)| (name, look.listeners())).collect()
    }

    /// Follows the sockets that begin to listen.
    pub(super) async fn follow_listeners(self: Arc<Self>, gate: Arc<Gate>) {
        let Ok(polled) = ready::watch(&*gate, Interest::READABLE) else {
            tracing::error!("the gate's records cannot be waited for");
            return;
        };
        loop {
            let Ok(mut readable) = polled.readable().await else {
                return;
            };
            readable.clear_ready();
            let this = Arc::clone(&self);
            let of = Arc::clone(&gate);
            let looked = tokio::task::spawn_blocking(move || {
                let mut records = Vec::new();
                of.drain(|id, record| records.push((id, record)));
                for (id, record) in records {
                    this.join(id, &record);
                }
            });
            if looked.await.is_err() {
                tracing::error!("a port was not joined");
            }
        }
    }

    /// Joins a port at an address at which the program listens now.
    fn join(self: &Arc<Self>, id: GateId, record: &ListenRecord) {
        let found = {
            let table = self.gates.table.lock();
            table.of.iter().find_map(|(workload, known)| {
                let (name, of) = known.ports.iter().find(|(_, of)| of.id == id)?;
                Some((workload.clone(), name.clone(), of.port))
            })
        };
        let Some((workload, name, port)) = found else {
            return;
        };
        let address = address_of(record);
        let at_address = || {
            let look = self.look(&workload, &name);
            let mut listeners = look.map_or_else(Vec::new, |look| look.listeners());
            listeners.retain(|one| one.address == address);
            listeners
        };
        let mut listeners = at_address();
        // The record may come before the end of listen(2).
        for pause in UNTIL_IT_LISTENS {
            if !listeners.is_empty() {
                break;
            }
            clock::pause(pause);
            listeners = at_address();
        }
        if record.result != 0 {
            let error = io::Error::from_raw_os_error(record.result.saturating_neg());
            self.report_ports(format!(
                "{workload}: its socket at {} is not behind the gate: {error}",
                SocketAddr::new(address, port)
            ));
        }
        for one in &listeners {
            self.join_at(&workload, &name, port, one);
        }
        let this = Arc::clone(self);
        self.runtime.spawn(this.prune(workload, name));
    }

    /// Joins all ports of a workload or a replica at the addresses at which it listens already.
    pub(super) fn join_listeners(self: &Arc<Self>, replica: &ReplicaId) {
        let slot = super::slot(replica);
        let found: Vec<_> = {
            let table = self.gates.table.lock();
            let owners = super::owners(replica).into_iter();
            let known = owners.filter_map(|owner| Some((table.of.get(&owner)?, owner)));
            let ports = known.flat_map(|(known, owner)| {
                let ports = known.ports.iter();
                ports.map(move |(key, of)| (owner.clone(), key.clone(), of))
            });
            let ports = ports.filter_map(|(owner, key, of)| {
                let cgroup = of.members.get(&slot)?.cgroup;
                Some((owner, key, cgroup, of.look()))
            });
            ports.collect()
        };
        for (owner, key, cgroup, look) in found {
            let held = self.inodes_held_for(replica);
            // Where the kernel does not say whose they are, they are the program's.
            let is_its = |one: &&LocalSocket| {
                let is_made = one.cgroup.is_none_or(|of_socket| of_socket == cgroup);
                is_made || held.contains(&one.inode)
            };
            for one in look.listeners().iter().filter(is_its) {
                self.join_at(&owner, &key, look.port, one);
            }
        }
    }

    fn look(&self, workload: &Owner, name: &str) -> Option<Look> {
        let mut table = self.gates.table.lock();
        port_of(&mut table, workload, name).map(|of| of.look())
    }

    fn join_at(self: &Arc<Self>, workload: &Owner, name: &str, port: u16, one: &LocalSocket) {
        let user = {
            let table = self.gates.table.lock();
            table.of.get(workload).and_then(|known| known.user)
        };
        let address = Address {
            address: SocketAddr::new(one.address, port),
            is_v6_only: one.is_v6_only,
            uid: one.uid,
            user,
        };
        let other = {
            let mut table = self.gates.table.lock();
            let of = port_of(&mut table, workload, name);
            let mut known = of.iter().flat_map(|of| of.waiting.iter());
            let at = known.find(|(_, waiting)| waiting.address.address == address.address);
            match at {
                Some((_, waiting)) if waiting.address.is_of(one) => None,
                Some((number, _)) => Some(Some(*number)),
                None => Some(None),
            }
        };
        if let Some(differs) = other {
            if let Some(number) = differs {
                self.close_one(&(workload.clone(), name.to_owned(), number));
            }
            self.wait_beside(workload, name, address);
        }
        self.flush_where(workload, |_| true);
    }

    /// Makes a socket where connections to this address wait.
    fn wait_beside(self: &Arc<Self>, workload: &Owner, name: &str, address: Address) {
        if let Err(error) = self.try_wait_beside(workload, name, &address) {
            self.report_ports(format!(
                "{workload}: connections to {} do not wait while it is not ready: {error}",
                address.address
            ));
        }
    }

    fn try_wait_beside(
        self: &Arc<Self>,
        workload: &Owner,
        name: &str,
        address: &Address,
    ) -> io::Result<()> {
        let user = Uid::from_raw(address.uid);
        let made = listening::shared(address.address, address.is_v6_only, user, u32::MAX)?;
        let socket = Arc::new(made);
        let made_for = serde_json::to_string(address)?;
        let number = {
            let mut table = self.gates.table.lock();
            let gate = table.open.clone();
            let (Some(of), Some(gate)) = (port_of(&mut table, workload, name), gate) else {
                return Ok(());
            };
            let mut numbers = (0..ADDRESSES).filter(|number| !of.waiting.contains_key(number));
            let Some(number) = numbers.next() else {
                let why = format!("the port has more than {ADDRESSES} addresses");
                return Err(io::Error::other(why));
            };
            of.install(&gate, number, &socket)?;
            let (address, socket) = (address.clone(), Arc::clone(&socket));
            of.waiting.insert(number, Waiting { address, socket });
            number
        };
        let place = (workload.clone(), name.to_owned(), number);
        self.keep_socket(name_of(&place), made_for, &socket);
        // The workload may have come to rest meanwhile.
        let is_wanted = {
            let mut table = self.gates.table.lock();
            port_of(&mut table, workload, name).is_some_and(|of| of.waiting.contains_key(&number))
        };
        if !is_wanted {
            self.close_socket(&name_of(&place));
        }
        Ok(())
    }

    /// Closes the sockets at addresses at which the program no longer listens, once it has had the time to
    /// listen at all of them.
    async fn prune(self: Arc<Self>, workload: Owner, name: String) {
        tokio::time::sleep(ALL_ADDRESSES).await;
        let look = move || {
            let Some(look) = self.look(&workload, &name) else {
                return;
            };
            let listeners = look.listeners();
            let unwanted: Vec<u32> = {
                let mut table = self.gates.table.lock();
                let Some(of) = port_of(&mut table, &workload, &name) else {
                    return;
                };
                let is_used =
                    |waiting: &Waiting| listeners.iter().any(|one| waiting.address.is_of(one));
                let (used, unused): (Vec<_>, Vec<_>) =
                    of.waiting.iter().partition(|(_, waiting)| is_used(waiting));
                match used.is_empty() {
                    // It has ended.
                    true => Vec::new(),
                    false => unused.into_iter().map(|(number, _)| *number).collect(),
                }
            };
            for number in unwanted {
                self.close_one(&(workload.clone(), name.clone(), number));
            }
        };
        let _ = tokio::task::spawn_blocking(look).await;
    }
}

fn port_of<'t>(table: &'t mut Table, workload: &Owner, name: &str) -> Option<&'t mut OfPort> {
    table.of.get_mut(workload)?.ports.get_mut(name)
}

/// Returns the address that a kept socket was made for.
fn address_for(made_for: &str) -> Option<Address> {
    serde_json::from_str(made_for).ok()
}

/// Returns the address of a record.
fn address_of(record: &ListenRecord) -> IpAddr {
    let [a, b, c, d, ..] = record.address;
    match i32::try_from(record.family) {
        Ok(libc::AF_INET) => Ipv4Addr::new(a, b, c, d).into(),
        Ok(_) | Err(_) => Ipv6Addr::from(record.address).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_socket_is_found_by_its_name() {
        let workload = ReplicaId::parse("web").expect("a name");
        let name = name_of(&(workload, "http:8080".to_owned(), 3));
        assert_eq!(parsed(&name.name), Some(("http:8080", 3)));
        assert_eq!(parsed("api"), None, "one of `listen`");
        assert_eq!(parsed("port:http"), None);
    }

    #[test]
    fn an_address_of_a_record_is_of_its_family() {
        let mut record = ListenRecord {
            family: u32::try_from(libc::AF_INET).expect("a family"),
            address: [127, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9],
            ..ListenRecord::default()
        };
        assert_eq!(address_of(&record).to_string(), "127.0.0.1");
        record.family = u32::try_from(libc::AF_INET6).expect("a family");
        record.address = [0; 16];
        assert_eq!(address_of(&record).to_string(), "::");
    }
}
