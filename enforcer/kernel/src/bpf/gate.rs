//! The gate: the kernel gives the connections to a declared port to instances that are ready
//! (`enforcer-ebpf/src/gate.rs`).
//!
//! Its programs, maps and links are pinned, so it goes on without an agent. They stay for as long as
//! [`ABI`](enforcer_common::gate::ABI) is the same; a new build exchanges the programs:
//!
//! ```text
//! enforcer/gate-vABI-CGROUP/
//!   MEMBERS, PORTS, …        maps
//!   links-BUILD/             of one build, complete once `gate_sockets` is there
//! ```
//!
//! Needs Linux 5.14 (`BPF_SK_REUSEPORT_SELECT_OR_MIGRATE`).

use super::calls::{self, Hook, Kind};
use super::loading::{load_program, with_maps};
use super::{BpfError, GATE_OBJECT, pins};
use crate::cgroupfs::Cgroup;
use crate::clock;
use aya::maps::{Map, MapData, PerCpuArray, RingBuf};
use aya_obj::Object;
use enforcer_common::gate::{
    ADDRESSES, COUNTERS, GATES, Listens, MemberKey, Membership, PARKED, REFUSED, REPLICAS, SOCKETS,
    words,
};
use enforcer_model::ids::CgroupId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub use enforcer_common::gate::Listens as ListenRecord;

/// The number of a declared port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GateId(u32);

/// A cgroup whose processes may listen at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub cgroup: CgroupId,
    /// The port that the program binds.
    pub target: u16,
    /// The port that clients connect to.
    pub port: u16,
    /// The program listens at every address of the host, whatever it binds.
    pub is_any: bool,
    pub gate: GateId,
    pub replica: u32,
}

/// Which connections a gate lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    /// Bit n: replica n gets connections.
    pub ready: u32,
    /// Without a ready replica connections are refused, and wait otherwise.
    pub refuses: bool,
}

/// The program that chooses among the sockets of a port.
#[derive(Debug)]
pub struct Chooser(OwnedFd);

impl Chooser {
    /// Attaches the program to the group of a listening socket.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn attach(&self, socket: &OwnedFd) -> io::Result<()> {
        attach_to_group(self.0.as_fd(), socket.as_fd())
    }
}

/// The connections of a gate so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The connections of each replica.
    pub given: Vec<u64>,
    pub parked: u64,
    pub refused: u64,
}

impl Counts {
    /// Returns the connections since an earlier count.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let given = self.given.iter().enumerate();
        let given = given.map(|(replica, count)| {
            count.saturating_sub(before.given.get(replica).copied().unwrap_or(0))
        });
        Self {
            given: given.collect(),
            parked: self.parked.saturating_sub(before.parked),
            refused: self.refused.saturating_sub(before.refused),
        }
    }
}

/// The programs that are attached to the cgroup above all workloads. The last one says that all are.
const PROGRAMS: [(&str, Kind); 6] = [
    ("gate_bind4", Kind::CgroupAddress(Hook::Bind4)),
    ("gate_bind6", Kind::CgroupAddress(Hook::Bind6)),
    ("gate_connect4", Kind::CgroupAddress(Hook::Connect4)),
    ("gate_connect6", Kind::CgroupAddress(Hook::Connect6)),
    ("gate_create", Kind::CgroupSocket),
    ("gate_sockets", Kind::SocketOperations),
];

/// The program of a reuseport group.
const SELECT: &str = "gate_select";

/// The maps that are shared by agents.
const MAPS: [&str; 11] = [
    "MEMBERS", "PORTS", "BOUND", "SOCKETS", "USED", "WAITING", "DOORS", "DIALS", "OWN", "LISTENS",
    "COUNTS",
];

/// The gate of this host's workloads.
pub struct Gate {
    folder: PathBuf,
    maps: BTreeMap<String, OwnedFd>,
    ring: Mutex<RingBuf<MapData>>,
    descriptor: OwnedFd,
    counts: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Gate {
    /// Opens the gate for workloads below `parent`. Its programs are attached to `root`, which is above
    /// the workloads and their commands.
    ///
    /// # Errors
    /// If the kernel lacks something, or there is no place for pins.
    pub fn open(parent: CgroupId, root: &Cgroup) -> Result<Self, BpfError> {
        if GATE_OBJECT.is_empty() {
            return Err(BpfError::NotBuiltIn);
        }
        if crate::init::is_in_pid_namespace() {
            return Err(BpfError::PidNamespace);
        }
        let folder = pins::gate_folder(parent).map_err(BpfError::NoPlace)?;
        let (object, mut maps) = object_for(&folder, None)?;
        attach(&object, &folder, root)?;
        let ring = take(&mut maps, "LISTENS")?;
        let failed = |map| move |source| BpfError::Map { map, source };
        let ring: RingBuf<MapData> = ring.try_into().map_err(failed("LISTENS"))?;
        let counts = take(&mut maps, "COUNTS")?;
        let descriptor = ring.as_fd().try_clone_to_owned();
        Ok(Self {
            folder,
            maps,
            descriptor: descriptor.map_err(BpfError::Duplicate)?,
            ring: Mutex::new(ring),
            counts: counts.try_into().map_err(failed("COUNTS"))?,
        })
    }

    /// Returns whether an agent before has opened a gate for workloads below `parent`.
    pub fn is_there(parent: CgroupId) -> bool {
        pins::has_gate(parent)
    }

    fn map(&self, name: &'static str) -> io::Result<BorrowedFd<'_>> {
        let map = self.maps.get(name).map(OwnedFd::as_fd);
        map.ok_or_else(|| io::Error::other(format!("the map {name} is missing")))
    }

    /// Returns all members.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn members(&self) -> io::Result<Vec<Member>> {
        let map = self.map("MEMBERS")?;
        let keys = calls::keys::<16>(map, 4096)?.into_iter();
        let members = keys.filter_map(|bytes| {
            let key = MemberKey::from_bytes(&bytes);
            let target = u16::try_from(key.port).ok().filter(|port| *port > 0)?;
            let mut value = [0; 16];
            calls::look_up(map, &bytes, &mut value).ok()?;
            let Membership {
                member,
                port,
                is_any,
            } = Membership::from_bytes(&value);
            Some(Member {
                cgroup: CgroupId(key.cgroup),
                target,
                port: u16::try_from(port).ok()?,
                is_any: is_any != 0,
                gate: GateId(member.gate),
                replica: member.replica,
            })
        });
        Ok(members.collect())
    }

    /// Returns a gate that no member uses.
    ///
    /// # Errors
    /// If all are in use.
    pub fn free(&self) -> io::Result<GateId> {
        let members = self.members()?;
        let used = |gate: &u32| members.iter().any(|member| member.gate.0 == *gate);
        let mut all = 0..GATES;
        let found = all.find(|gate| !used(gate)).map(GateId);
        found.ok_or_else(|| io::Error::other(format!("{GATES} ports are declared already")))
    }

    /// Lets the processes of a cgroup listen at a port behind a gate.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add(&self, member: Member) -> io::Result<()> {
        let Member {
            cgroup,
            target,
            port,
            is_any,
            gate,
            replica,
        } = member;
        let value = Membership {
            member: enforcer_common::gate::Member {
                gate: gate.0,
                replica,
            },
            port: port.into(),
            is_any: is_any.into(),
        };
        for target in [u32::from(target), 0] {
            let key = key(cgroup, target);
            calls::update(self.map("MEMBERS")?, &key, &value.to_bytes())?;
        }
        let port = u32::from(target).to_ne_bytes();
        calls::update(self.map("PORTS")?, &port, &1_u32.to_ne_bytes())
    }

    /// Undoes [`add`](Self::add). What listens goes on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&self, member: Member) -> io::Result<()> {
        remove_if_there(
            self.map("MEMBERS")?,
            &key(member.cgroup, member.target.into()),
        )?;
        let left = self.members()?;
        if left.iter().all(|other| other.cgroup != member.cgroup) {
            remove_if_there(self.map("MEMBERS")?, &key(member.cgroup, 0))?;
        }
        if left.iter().all(|other| other.target != member.target) {
            let port = u32::from(member.target).to_ne_bytes();
            remove_if_there(self.map("PORTS")?, &port)?;
        }
        Ok(())
    }

    /// Opens and closes a gate.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set(&self, gate: GateId, door: Door) -> io::Result<()> {
        let value = words(door.ready, door.refuses.into());
        calls::update(self.map("DOORS")?, &gate.0.to_ne_bytes(), &value)
    }

    /// Returns which connections a gate lets through now.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn door(&self, gate: GateId) -> io::Result<Door> {
        let mut value = [0; 8];
        calls::look_up(self.map("DOORS")?, &gate.0.to_ne_bytes(), &mut value)?;
        let [a, b, c, d, refuses @ ..] = value;
        Ok(Door {
            ready: u32::from_ne_bytes([a, b, c, d]),
            refuses: refuses != [0; 4],
        })
    }

    /// Has no connection go to the sockets of a replica until it has others, or the same ones again.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn begin(&self, gate: GateId, replica: u32) -> io::Result<()> {
        let place = gate.0 * REPLICAS + replica % REPLICAS;
        calls::update(
            self.map("USED")?,
            &place.to_ne_bytes(),
            &0_u32.to_ne_bytes(),
        )
    }

    /// Gives a replica the listening sockets that were made for it, in place of those before.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn hold(&self, gate: GateId, replica: u32, sockets: &[&OwnedFd]) -> io::Result<()> {
        let index = gate.0 * REPLICAS + replica % REPLICAS;
        for (place, socket) in (0..SOCKETS).zip(sockets) {
            let place = index * SOCKETS + place;
            let socket = socket.as_raw_fd().to_ne_bytes();
            calls::update(self.map("SOCKETS")?, &place.to_ne_bytes(), &socket)?;
        }
        let used = u32::try_from(sockets.len()).map_or(SOCKETS, |count| count.min(SOCKETS));
        calls::update(self.map("USED")?, &index.to_ne_bytes(), &used.to_ne_bytes())
    }

    /// Detaches the programs, for good. What listens goes on.
    pub fn close(&self) {
        pins::remove(&self.folder);
    }

    /// Has connections wait at a socket, which listens at one of the gate's addresses.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn wait_at(&self, gate: GateId, address: u32, socket: &OwnedFd) -> io::Result<()> {
        let place = gate.0 * ADDRESSES + address % ADDRESSES;
        let socket = socket.as_raw_fd().to_ne_bytes();
        calls::update(self.map("WAITING")?, &place.to_ne_bytes(), &socket)
    }

    /// Has no connection wait at an address until a socket is there again.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn leave(&self, gate: GateId, address: u32) -> io::Result<()> {
        let place = gate.0 * ADDRESSES + address % ADDRESSES;
        match calls::remove(self.map("WAITING")?, &place.to_ne_bytes()) {
            // Nothing is there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
                Ok(())
            }
            deleted => deleted,
        }
    }

    /// Loads the program that chooses behind this gate.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn chooser(&self, gate: GateId) -> Result<Chooser, BpfError> {
        // The program names its maps by their descriptors until it is loaded.
        let (object, _maps) = object_for(&self.folder, Some(gate))?;
        load_program(&object, SELECT, Kind::Reuseport).map(Chooser)
    }

    /// Has a connection between these ports of this host reach a replica, ready or not.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn direct(&self, from: u16, to: u16, (gate, replica): (GateId, u32)) -> io::Result<()> {
        let ports = words(from.into(), to.into());
        let mut value = [0; 16];
        value[..8].copy_from_slice(&words(gate.0, replica));
        value[8..].copy_from_slice(&clock::now().0.to_ne_bytes());
        calls::update(self.map("OWN")?, &ports, &value)
    }

    /// Hands every waiting record of a socket that has begun to listen to `take`.
    pub fn drain(&self, mut take: impl FnMut(GateId, Listens)) {
        let mut ring = self.ring.lock();
        while let Some(bytes) = ring.next() {
            match Listens::from_bytes(&bytes) {
                Some(record) => take(GateId(record.gate), record),
                None => tracing::warn!("a record of {} bytes is none of the gate's", bytes.len()),
            }
        }
    }

    /// Returns the connections of a gate so far.
    pub fn counts(&self, gate: GateId) -> Counts {
        let read = |place: u32| -> u64 {
            let values = self.counts.get(&(gate.0 * COUNTERS + place), 0);
            values.map_or(0, |values| values.iter().sum())
        };
        Counts {
            given: (0..REPLICAS).map(read).collect(),
            parked: read(PARKED),
            refused: read(REFUSED),
        }
    }
}

/// Reads the object, with the maps of this folder. `gate` is the one that `gate_select` is for.
fn object_for(
    folder: &Path,
    gate: Option<GateId>,
) -> Result<(Object, BTreeMap<String, OwnedFd>), BpfError> {
    let mut object = Object::parse(GATE_OBJECT).map_err(BpfError::object)?;
    let number = gate.map_or(0, |gate| gate.0).to_ne_bytes();
    let globals: HashMap<&str, (&[u8], bool)> = [("GATE", (number.as_slice(), true))].into();
    object.patch_map_data(globals).map_err(BpfError::object)?;
    with_maps(object, &|name| {
        MAPS.contains(&name).then(|| folder.join(name))
    })
}

/// Attaches the programs of this build, unless they are, and then removes those of others.
fn attach(object: &Object, folder: &Path, root: &Cgroup) -> Result<(), BpfError> {
    let mut build = DefaultHasher::new();
    GATE_OBJECT.hash(&mut build);
    let own = folder.join(format!("links-{:016x}", build.finish()));
    let (complete, _) = PROGRAMS[PROGRAMS.len() - 1];
    if !own.join(complete).exists() {
        pins::remove(&own);
        std::fs::create_dir(&own).map_err(BpfError::NoPlace)?;
        for (name, kind) in PROGRAMS {
            let program = load_program(object, name, kind)?;
            let link = calls::link_to_cgroup(program.as_fd(), root.as_fd(), kind);
            let link = link.map_err(|source| BpfError::Attach {
                program: name,
                source,
            })?;
            calls::pin(link.as_fd(), &own.join(name)).map_err(|source| BpfError::Pin {
                object: name,
                source,
            })?;
        }
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path != own {
            pins::remove(&path);
        }
    }
    Ok(())
}

/// Attaches a program to the reuseport group of a listening socket (socket(7)). It stays as long as
/// the group.
fn attach_to_group(program: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> io::Result<()> {
    let number = program.as_raw_fd();
    // SAFETY: the value is an integer of the size that is passed.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_EBPF,
            std::ptr::from_ref(&number).cast(),
            4,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn take(maps: &mut BTreeMap<String, OwnedFd>, name: &'static str) -> Result<Map, BpfError> {
    let failed = |source| BpfError::Map { map: name, source };
    let map = maps.remove(name).ok_or(BpfError::Missing(name))?;
    Map::from_map_data(MapData::from_fd(map).map_err(failed)?).map_err(failed)
}

fn key(cgroup: CgroupId, port: u32) -> [u8; 16] {
    let key = MemberKey {
        cgroup: cgroup.0,
        port,
        zero: 0,
    };
    key.to_bytes()
}

fn remove_if_there(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    match calls::remove(map, key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
