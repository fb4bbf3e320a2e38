//! What a child sees: its mounts, and the host's name.

use crate::pidfd::PidFd;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The file that is mounted where there is to be nothing.
pub const NOTHING: &str = "/dev/null";

/// The most mounts of a child.
pub const MOST_MOUNTS: usize = 128;

/// The namespaces of a child.
#[derive(Debug, Default)]
pub enum View {
    /// The agent's own.
    #[default]
    Hosts,
    /// Those of this process.
    Of(Arc<PidFd>),
    Own(OwnView),
}

/// A mount namespace of its own. What is mounted on the host later appears in it as well.
#[derive(Debug, Default)]
pub struct OwnView {
    pub root: Option<Root>,
    /// They are attached in this order. All that they show is found before the first one is attached.
    pub mounts: Vec<Mount>,
    pub hostname: Option<CString>,
    /// Nothing of the host's files can be changed, except by the mounts. A root says so itself.
    pub read_only: bool,
}

/// A folder that is the root of what a child sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub folder: CString,
    pub read_only: bool,
    /// A folder of the agent's, which it is attached to until it is the root.
    pub stage: CString,
}

#[derive(Debug)]
pub struct Mount {
    pub source: Source,
    /// It must be there, unless it is below a file system in memory.
    pub at: CString,
    /// The index of the mount that it is below, a file system in memory, and the parts of the rest of
    /// its path.
    pub below: Option<(usize, Vec<CString>)>,
    /// It is left out where the tree has no such place.
    pub is_optional: bool,
    /// Nothing in it can be executed.
    pub no_exec: bool,
}

#[derive(Debug)]
pub enum Source {
    /// A file system that is attached nowhere yet.
    Given(OwnedFd),
    /// A file or a folder of the host's, with what is mounted below it.
    Hosts { path: CString, read_only: bool },
    /// A file or a folder of the workload's own root, as it is before anything is attached. No link
    /// leads out of the root.
    Own { path: CString, read_only: bool },
    /// The place itself, made read-only.
    ReadOnly,
    /// A file system in memory, with the options of tmpfs(5). A read-only one becomes read-only
    /// after the mounts below it are attached.
    Memory {
        options: Vec<(CString, CString)>,
        read_only: bool,
    },
    /// A `/proc` without other users' processes: `hidepid=invisible` of proc(5), since Linux 5.8
    /// for each mount by itself.
    Processes,
    /// A folder with the devices that give no access to hardware.
    Devices,
}

impl View {
    /// Returns whether it serves one child, and not another one if that is lost.
    pub(super) fn serves_once(&self) -> bool {
        matches!(self, Self::Own(_)) && !self.descriptors().is_empty()
    }

    /// Returns the descriptors that a child needs.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Hosts => Vec::new(),
            Self::Of(process) => vec![process.as_fd()],
            Self::Own(own) => {
                let given = own.mounts.iter().filter_map(|mount| match &mount.source {
                    Source::Given(file_system) => Some(file_system.as_fd()),
                    _ => None,
                });
                given.collect()
            }
        }
    }

    pub(super) fn orders(&self) -> ViewOrders {
        match self {
            Self::Hosts => ViewOrders::Hosts,
            Self::Of(_) => ViewOrders::Another,
            Self::Own(own) => ViewOrders::Own(Box::new(OwnOrders {
                root: own.root.clone(),
                mounts: own.mounts.iter().map(Mount::order).collect(),
                hostname: own.hostname.clone(),
                read_only: own.read_only,
            })),
        }
    }

    /// Returns the places of its mounts.
    pub(super) fn places(&self) -> Vec<String> {
        match self {
            Self::Own(own) => own.mounts.iter().map(Mount::describe).collect(),
            Self::Hosts | Self::Of(_) => Vec::new(),
        }
    }

    /// Returns the folder that is the root.
    pub(super) fn root(&self) -> Option<String> {
        match self {
            Self::Own(own) => {
                let root = own.root.as_ref()?;
                Some(root.folder.to_string_lossy().into_owned())
            }
            Self::Hosts | Self::Of(_) => None,
        }
    }
}

impl Mount {
    /// Returns the kernel's interfaces, as a root has them: `/proc`, a `/sys` that cannot be
    /// changed, and the devices without access to hardware.
    pub fn of_the_kernel() -> [Self; 3] {
        let hosts = |path: &CStr, read_only| Source::Hosts {
            path: path.to_owned(),
            read_only,
        };
        let at = |at: &CStr, source| Self {
            source,
            at: at.to_owned(),
            below: None,
            is_optional: true,
            no_exec: false,
        };
        [
            at(c"/proc", hosts(c"/proc", false)),
            at(c"/sys", hosts(c"/sys", true)),
            at(c"/dev", Source::Devices),
        ]
    }

    /// Returns the kernel's interfaces, as a sandbox has them: other users' processes are not seen, and
    /// the kernel's settings cannot be changed.
    pub fn of_a_sandbox() -> Vec<Self> {
        const SETTINGS: [&CStr; 7] = [
            c"/proc/acpi",
            c"/proc/bus",
            c"/proc/fs",
            c"/proc/irq",
            c"/proc/scsi",
            c"/proc/sys",
            c"/proc/sysrq-trigger",
        ];
        let at = |at: &CStr, source| Self {
            source,
            at: at.to_owned(),
            below: None,
            is_optional: true,
            no_exec: false,
        };
        let mut all = vec![
            at(c"/proc", Source::Processes),
            at(
                c"/sys",
                Source::Hosts {
                    path: c"/sys".to_owned(),
                    read_only: true,
                },
            ),
            at(c"/dev", Source::Devices),
        ];
        all.extend(SETTINGS.map(|path| at(path, Source::ReadOnly)));
        all
    }

    fn order(&self) -> MountOrder {
        MountOrder {
            source: match &self.source {
                Source::Given(_) => SourceOrder::Given,
                Source::Hosts { path, read_only } => SourceOrder::Hosts {
                    path: path.clone(),
                    read_only: *read_only,
                },
                Source::Own { path, read_only } => SourceOrder::Own {
                    path: path.clone(),
                    read_only: *read_only,
                },
                Source::ReadOnly => SourceOrder::ReadOnly,
                Source::Memory { options, read_only } => SourceOrder::Memory {
                    options: options.clone(),
                    read_only: *read_only,
                },
                Source::Processes => SourceOrder::Processes,
                Source::Devices => SourceOrder::Devices,
            },
            at: self.at.clone(),
            below: self.below.clone(),
            is_optional: self.is_optional,
            no_exec: self.no_exec,
        }
    }

    fn describe(&self) -> String {
        let at = self.at.to_string_lossy();
        match &self.source {
            Source::Given(_) => format!("its credentials at {at}"),
            Source::Hosts { path, .. } if *path == self.at => at.into_owned(),
            Source::Hosts { path, .. } => format!("{} at {at}", path.to_string_lossy()),
            Source::Own { path, .. } => path.to_string_lossy().into_owned(),
            Source::ReadOnly => format!("{at} read-only"),
            Source::Memory { .. } => format!("tmpfs at {at}"),
            Source::Processes => format!("processes at {at}"),
            Source::Devices => format!("devices at {at}"),
        }
    }
}

/// A view without its descriptors, which come beside it in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum ViewOrders {
    #[default]
    Hosts,
    Another,
    Own(Box<OwnOrders>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OwnOrders {
    pub root: Option<Root>,
    pub mounts: Vec<MountOrder>,
    pub hostname: Option<CString>,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountOrder {
    pub source: SourceOrder,
    pub at: CString,
    pub below: Option<(usize, Vec<CString>)>,
    pub is_optional: bool,
    pub no_exec: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SourceOrder {
    Given,
    Hosts {
        path: CString,
        read_only: bool,
    },
    Own {
        path: CString,
        read_only: bool,
    },
    ReadOnly,
    Memory {
        options: Vec<(CString, CString)>,
        read_only: bool,
    },
    Processes,
    Devices,
}

impl ViewOrders {
    /// Returns the number of descriptors.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Hosts => 0,
            Self::Another => 1,
            Self::Own(own) => {
                let given = own.mounts.iter();
                given
                    .filter(|mount| mount.source == SourceOrder::Given)
                    .count()
            }
        }
    }
}
