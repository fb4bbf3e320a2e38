//! Defines what the fork server has to know about a child, and how the agent sends it: as numbers
//! of 32 and 64 bits in this host's byte order, and as byte strings, each behind its length.

use super::Launch;
use super::child::MOST_SOCKETS;
use super::view::{MOST_MOUNTS, MountOrder, OwnOrders, Root, SourceOrder, View, ViewOrders};
use crate::landlock::Ruleset;
use std::ffi::CString;

/// A launch, as the child sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Orders {
    pub command: Vec<CString>,
    pub environment: Vec<CString>,
    pub directory: CString,
    pub oom_score_adj: CString,
    pub uid: libc::uid_t,
    pub gid: libc::gid_t,
    pub groups: Vec<libc::gid_t>,
    /// Bit n is capability n.
    pub capabilities: u64,
    pub rlimits: Vec<(u8, u64)>,
    pub umask: libc::mode_t,
    pub nice: Option<libc::c_int>,
    pub switch_user: bool,
    pub bounds_root: bool,
    pub default_nofile: bool,
    pub no_new_privs: bool,
    pub hides_memory: bool,
    pub view: ViewOrders,
    /// The number of sockets that come with it.
    pub sockets: usize,
    pub paths: Option<Ruleset>,
    /// Filters of system calls, an instruction each.
    pub filters: Vec<Vec<u64>>,
}

impl Orders {
    pub(super) fn of(launch: &Launch, view: &View, sockets: usize) -> Self {
        let identity = &launch.identity;
        let declared = launch.capabilities.iter();
        Self {
            command: launch.command.clone(),
            environment: launch.environment.clone(),
            directory: launch.directory.clone(),
            oom_score_adj: launch.oom_score_adj.clone(),
            uid: identity.uid.as_raw(),
            gid: identity.gid.as_raw(),
            groups: identity.groups.iter().map(|gid| gid.as_raw()).collect(),
            capabilities: declared.fold(0, |mask, number| mask | 1 << number),
            rlimits: launch.rlimits.clone(),
            umask: launch.umask,
            nice: launch.nice,
            switch_user: launch.switch_user,
            bounds_root: launch.bounds_root,
            default_nofile: launch.default_nofile,
            no_new_privs: launch.no_new_privs,
            hides_memory: launch.hides_memory,
            view: view.orders(),
            sockets,
            paths: launch.paths.clone(),
            filters: launch.filters.iter().map(|one| one.0.clone()).collect(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder(Vec::new());
        for list in [&self.command, &self.environment] {
            out.strings(list);
        }
        out.string(&self.directory);
        out.string(&self.oom_score_adj);
        out.word(self.uid);
        out.word(self.gid);
        out.count(self.groups.len());
        self.groups.iter().for_each(|gid| out.word(*gid));
        out.long(self.capabilities);
        out.count(self.rlimits.len());
        for (resource, limit) in &self.rlimits {
            out.word((*resource).into());
            out.long(*limit);
        }
        out.word(self.umask);
        out.word(self.nice.is_some().into());
        out.word(self.nice.unwrap_or_default().cast_unsigned());
        for flag in [
            self.switch_user,
            self.bounds_root,
            self.default_nofile,
            self.no_new_privs,
            self.hides_memory,
        ] {
            out.word(flag.into());
        }
        match &self.view {
            ViewOrders::Hosts => out.word(0),
            ViewOrders::Another => out.word(1),
            ViewOrders::Own(own) => {
                out.word(2);
                out.view(own);
            }
        }
        out.count(self.sockets);
        out.option(self.paths.as_ref(), Encoder::paths);
        out.count(self.filters.len());
        for filter in &self.filters {
            out.count(filter.len());
            filter.iter().for_each(|one| out.long(*one));
        }
        out.0
    }

    /// `None` if the bytes are not what `encode` makes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Decoder(bytes);
        let orders = Self {
            command: from.list(Decoder::string)?,
            environment: from.list(Decoder::string)?,
            directory: from.string()?,
            oom_score_adj: from.string()?,
            uid: from.word()?,
            gid: from.word()?,
            groups: from.list(Decoder::word)?,
            capabilities: from.long()?,
            rlimits: from.list(|from| Some((from.word()?.try_into().ok()?, from.long()?)))?,
            umask: from.word()?,
            nice: {
                let is_set = from.flag()?;
                let nice = from.word()?.cast_signed();
                is_set.then_some(nice)
            },
            switch_user: from.flag()?,
            bounds_root: from.flag()?,
            default_nofile: from.flag()?,
            no_new_privs: from.flag()?,
            hides_memory: from.flag()?,
            view: match from.word()? {
                0 => ViewOrders::Hosts,
                1 => ViewOrders::Another,
                2 => ViewOrders::Own(Box::new(from.view()?)),
                _ => return None,
            },
            sockets: from.count().filter(|count| *count <= MOST_SOCKETS)?,
            paths: from.option(Decoder::paths)?,
            filters: from.list(|from| from.list(Decoder::long))?,
        };
        (from.0.is_empty() && !orders.command.is_empty()).then_some(orders)
    }
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn word(&mut self, number: u32) {
        self.0.extend(number.to_ne_bytes());
    }

    fn long(&mut self, number: u64) {
        self.0.extend(number.to_ne_bytes());
    }

    fn count(&mut self, count: usize) {
        self.long(count as u64);
    }

    fn option<T>(&mut self, value: Option<&T>, one: impl FnOnce(&mut Self, &T)) {
        self.word(value.is_some().into());
        if let Some(value) = value {
            one(self, value);
        }
    }

    fn paths(&mut self, ruleset: &Ruleset) {
        self.long(ruleset.handled);
        self.long(ruleset.of_files);
        self.long(ruleset.scopes);
        self.count(ruleset.rules.len());
        for (path, rights) in &ruleset.rules {
            self.string(path);
            self.long(*rights);
        }
    }

    fn view(&mut self, own: &OwnOrders) {
        self.option(own.root.as_ref(), |out, root| {
            out.string(&root.folder);
            out.string(&root.stage);
            out.word(root.read_only.into());
        });
        self.option(own.hostname.as_ref(), Self::string);
        self.word(own.read_only.into());
        self.count(own.mounts.len());
        for mount in &own.mounts {
            self.string(&mount.at);
            self.word(mount.is_optional.into());
            self.word(mount.no_exec.into());
            self.option(mount.below.as_ref(), |out, (above, parts)| {
                out.count(*above);
                out.strings(parts);
            });
            match &mount.source {
                SourceOrder::Given => self.word(0),
                SourceOrder::Hosts { path, read_only } => {
                    self.word(1);
                    self.string(path);
                    self.word((*read_only).into());
                }
                SourceOrder::Memory { options, read_only } => {
                    self.word(2);
                    self.word((*read_only).into());
                    self.count(options.len());
                    for (key, value) in options {
                        self.string(key);
                        self.string(value);
                    }
                }
                SourceOrder::Devices => self.word(3),
                SourceOrder::ReadOnly => self.word(4),
                SourceOrder::Processes => self.word(5),
                SourceOrder::Own { path, read_only } => {
                    self.word(6);
                    self.string(path);
                    self.word((*read_only).into());
                }
            }
        }
    }

    fn strings(&mut self, strings: &[CString]) {
        self.count(strings.len());
        strings.iter().for_each(|string| self.string(string));
    }

    fn string(&mut self, string: &CString) {
        self.count(string.as_bytes().len());
        self.0.extend(string.as_bytes());
    }
}

struct Decoder<'b>(&'b [u8]);

impl Decoder<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn word(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.array()?))
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.array()?))
    }

    fn count(&mut self) -> Option<usize> {
        self.long()?.try_into().ok()
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.word()? != 0)
    }

    fn string(&mut self) -> Option<CString> {
        let length = self.count()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        CString::new(string).ok()
    }

    fn option<T>(&mut self, one: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.flag()? {
            true => one(self).map(Some),
            false => Some(None),
        }
    }

    fn paths(&mut self) -> Option<Ruleset> {
        Some(Ruleset {
            handled: self.long()?,
            of_files: self.long()?,
            scopes: self.long()?,
            rules: self.list(|from| Some((from.string()?, from.long()?)))?,
        })
    }

    fn view(&mut self) -> Option<OwnOrders> {
        let root = self.option(|from| {
            Some(Root {
                folder: from.string()?,
                stage: from.string()?,
                read_only: from.flag()?,
            })
        });
        let own = OwnOrders {
            root: root?,
            hostname: self.option(Self::string)?,
            read_only: self.flag()?,
            mounts: self.list(Self::mount)?,
        };
        (own.mounts.len() <= MOST_MOUNTS).then_some(own)
    }

    fn mount(&mut self) -> Option<MountOrder> {
        Some(MountOrder {
            at: self.string()?,
            is_optional: self.flag()?,
            no_exec: self.flag()?,
            below: self.option(|from| Some((from.count()?, from.list(Self::string)?)))?,
            source: match self.word()? {
                0 => SourceOrder::Given,
                1 => SourceOrder::Hosts {
                    path: self.string()?,
                    read_only: self.flag()?,
                },
                2 => SourceOrder::Memory {
                    read_only: self.flag()?,
                    options: self.list(|from| Some((from.string()?, from.string()?)))?,
                },
                3 => SourceOrder::Devices,
                4 => SourceOrder::ReadOnly,
                5 => SourceOrder::Processes,
                6 => SourceOrder::Own {
                    path: self.string()?,
                    read_only: self.flag()?,
                },
                _ => return None,
            },
        })
    }

    fn list<T>(&mut self, one: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.count()?;
        (0..count).map(|_| one(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> OwnOrders {
        let mount = |source| MountOrder {
            source,
            at: c"/run/web".to_owned(),
            below: Some((3, vec![c"web".to_owned()])),
            is_optional: false,
            no_exec: true,
        };
        let hosts = SourceOrder::Hosts {
            path: c"/srv".to_owned(),
            read_only: true,
        };
        let options = vec![(c"size".to_owned(), c"1m".to_owned())];
        let devices = MountOrder {
            below: None,
            is_optional: true,
            ..mount(SourceOrder::Devices)
        };
        OwnOrders {
            root: Some(Root {
                folder: c"/srv/tree".to_owned(),
                read_only: true,
                stage: c"/run/enforcer/root".to_owned(),
            }),
            mounts: vec![
                mount(SourceOrder::Given),
                mount(hosts),
                mount(SourceOrder::Memory {
                    options,
                    read_only: true,
                }),
                mount(SourceOrder::ReadOnly),
                mount(SourceOrder::Processes),
                mount(SourceOrder::Own {
                    path: c"/home/web".to_owned(),
                    read_only: false,
                }),
                devices,
            ],
            hostname: Some(c"web".to_owned()),
            read_only: true,
        }
    }

    fn orders() -> Orders {
        Orders {
            command: vec![c"/bin/sh".to_owned(), c"-c".to_owned(), c"".to_owned()],
            environment: vec![c"LATIN=\xe4".to_owned()],
            directory: c"/".to_owned(),
            oom_score_adj: c"-5".to_owned(),
            uid: 1,
            gid: u32::MAX,
            groups: vec![3, 4],
            capabilities: 1 << 40,
            rlimits: vec![(7, u64::MAX)],
            umask: 0o027,
            nice: Some(-5),
            switch_user: true,
            bounds_root: false,
            default_nofile: true,
            no_new_privs: false,
            hides_memory: true,
            view: ViewOrders::Own(Box::new(own())),
            sockets: 2,
            paths: Some(Ruleset {
                handled: 15,
                of_files: 7,
                scopes: 3,
                rules: vec![(c"/usr".to_owned(), 5)],
            }),
            filters: vec![vec![6, u64::MAX], vec![1]],
        }
    }

    #[test]
    fn orders_arrive_as_they_were_sent() {
        let mut sent = orders();
        assert_eq!(Orders::decode(&sent.encode()), Some(sent.clone()));
        for view in [ViewOrders::Hosts, ViewOrders::Another] {
            sent.view = view;
            assert_eq!(Orders::decode(&sent.encode()), Some(sent.clone()));
        }
    }

    #[test]
    fn other_bytes_are_no_orders() {
        let bytes = orders().encode();
        for end in 0..bytes.len() {
            assert_eq!(Orders::decode(&bytes[..end]), None, "{end}");
        }
        assert_eq!(Orders::decode(&[bytes.as_slice(), &[0]].concat()), None);
        assert_eq!(Orders::decode(&[0xff; 64]), None);
    }
}
