//! The records that the eBPF programs write and the agent reads: plain,
//! fixed-size and without padding. What they mean is decided elsewhere.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod gate;

/// Raised with every change of a record's shape or of a map's type; it becomes
/// part of the place where maps are pinned.
pub const ABI_VERSION: u32 = 4;

/// The length of a command name in the kernel, `TASK_COMM_LEN`.
pub const COMM_LEN: usize = 16;

/// An offset global that has this value is of a field the kernel doesn't have.
pub const ABSENT: u64 = u64::MAX;

/// [`Record::kind`] of a process that the OOM killer marked as its victim.
pub const MARK: u32 = 1;

/// [`Record::kind`] of a watched process that was moved into another cgroup.
pub const MOVED: u32 = 2;

/// A record of the ring `EVENTS`. Fields that its kind does not have are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// [`MARK`] or [`MOVED`].
    pub kind: u32,
    /// The process, as the initial pid namespace numbers it.
    pub tgid: u32,
    /// The id of the workload's cgroup (the inode of its directory); 0 if the kernel's event does
    /// not have it.
    pub cgroup: u64,
    /// The time of the event, in nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// The start of the process, in nanoseconds of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    pub reserved: u32,
    /// The process whose allocation met the limit (of a mark).
    pub asker_tgid: u32,
    /// The id of that process's cgroup.
    pub asker_cgroup: u64,
    /// The victim's resident anonymous, file and shared memory, its swap
    /// entries, all in pages, and its page tables, in bytes (of a mark).
    pub anon_pages: u64,
    pub file_pages: u64,
    pub shmem_pages: u64,
    pub swap_pages: u64,
    pub pgtables_bytes: u64,
    pub comm: [u8; COMM_LEN],
    pub asker_comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<Record>() == 120);
const _: () = assert!(
    align_of::<Record>() == 8,
    "a ring's entry is aligned to 8 bytes"
);

impl Record {
    /// Reads a record from a ring's bytes; `None` if they are of another size.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_ne_bytes(field(bytes, at));
        let long = |at: usize| u64::from_ne_bytes(field(bytes, at));
        Some(Self {
            kind: word(0),
            tgid: word(4),
            cgroup: long(8),
            time_ns: long(16),
            start_ns: long(24),
            reserved: word(32),
            asker_tgid: word(36),
            asker_cgroup: long(40),
            anon_pages: long(48),
            file_pages: long(56),
            shmem_pages: long(64),
            swap_pages: long(72),
            pgtables_bytes: long(80),
            comm: field(bytes, 88),
            asker_comm: field(bytes, 104),
        })
    }
}

/// [`Watch::state`] of a process that lives, as far as is known.
pub const LIVES: u32 = 0;
/// The last thread of the process has exited.
pub const EXITED: u32 = 1;
/// The last thread has exited, and the process had never executed a program.
pub const NEVER_RAN: u32 = 2;

/// Clock ticks of `/proc/PID/stat` a second, on every architecture that has BTF.
pub const TICKS_PER_SECOND: u64 = 100;

/// An entry of the map `WATCHED`, by pid. The exit of the process is kept until an agent reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Watch {
    /// The start time, as in field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
    /// The wait status, once it has exited.
    pub status: u32,
    /// [`LIVES`], [`EXITED`] or [`NEVER_RAN`].
    pub state: u32,
}

const _: () = assert!(size_of::<Watch>() == 16);

impl Watch {
    /// Returns the bytes of the map's value.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.start_ticks.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.status.to_ne_bytes());
        bytes[12..].copy_from_slice(&self.state.to_ne_bytes());
        bytes
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self {
            start_ticks: u64::from_ne_bytes(field(&bytes, 0)),
            status: u32::from_ne_bytes(field(&bytes, 8)),
            state: u32::from_ne_bytes(field(&bytes, 12)),
        }
    }
}

/// A record of the ring `SUSPECTS`: a thread that has used its workload's budget of CPU time
/// without a voluntary sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Suspect {
    /// The process and the thread, as the initial pid namespace numbers them.
    pub tgid: u32,
    pub tid: u32,
    /// The workload's cgroup id (its directory's inode).
    pub cgroup: u64,
    /// The start of the thread, in nanoseconds of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    /// CPU time since its last voluntary sleep, in nanoseconds.
    pub cpu_ns: u64,
    /// The number of its voluntary sleeps so far (`task_struct.nvcsw`).
    pub nvcsw: u64,
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<Suspect>() == 56);

impl Suspect {
    /// Reads a record from a ring's bytes; `None` if they are of another size.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
        Some(Self {
            tgid: u32::from_ne_bytes(field(bytes, 0)),
            tid: u32::from_ne_bytes(field(bytes, 4)),
            cgroup: u64::from_ne_bytes(field(bytes, 8)),
            start_ns: u64::from_ne_bytes(field(bytes, 16)),
            cpu_ns: u64::from_ne_bytes(field(bytes, 24)),
            nvcsw: u64::from_ne_bytes(field(bytes, 32)),
            comm: field(bytes, 40),
        })
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read_from_its_own_bytes() {
        let bytes: Vec<u8> = (0..120).collect();
        let record = Record::from_bytes(&bytes).expect("the size is right");
        assert_eq!(record.kind, u32::from_ne_bytes([0, 1, 2, 3]));
        assert_eq!(record.reserved, u32::from_ne_bytes([32, 33, 34, 35]));
        assert_eq!(
            record.pgtables_bytes,
            u64::from_ne_bytes([80, 81, 82, 83, 84, 85, 86, 87])
        );
        assert_eq!(record.asker_comm[15], 119);
        assert_eq!(Record::from_bytes(&bytes[1..]), None);
        let watch = Watch {
            start_ticks: 1 << 40,
            status: 0x700,
            state: NEVER_RAN,
        };
        assert_eq!(Watch::from_bytes(watch.to_bytes()), watch);
        let suspect = Suspect::from_bytes(&bytes[..56]).expect("the size is right");
        assert_eq!(suspect.tid, u32::from_ne_bytes([4, 5, 6, 7]));
        assert_eq!(
            suspect.nvcsw,
            u64::from_ne_bytes([32, 33, 34, 35, 36, 37, 38, 39])
        );
        assert_eq!(suspect.comm[15], 55);
        assert_eq!(Suspect::from_bytes(&bytes), None);
    }
}
