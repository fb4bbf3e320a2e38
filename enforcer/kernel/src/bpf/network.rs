//! Filters what the processes of a cgroup bind and connect to.
//!
//! The rules are the program: each becomes a few comparisons with constants, as in a packet filter. So
//! nothing but the cgroup holds them, whatever becomes of the agent, and they end with the cgroup
//! (BPF_PROG_ATTACH; Linux 4.17 for bind(2) and connect(2), 4.18 for datagrams).

use super::assembly::{Assembly, Condition, Register};
use super::calls::{self, Hook, Kind, Refused, USER_IP4, USER_IP6, USER_PORT};
use crate::cgroupfs::Cgroup;
use aya_obj::generated::bpf_insn;
use enforcer_model::spec::{Bind, Block, Network, Peer, Protocol};
use parking_lot::Mutex;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;

/// The port of name servers.
const DOMAIN: u16 = 53;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("load `{program}`")]
    Load {
        program: &'static str,
        source: Refused,
    },
    #[error("attach `{program}` to the cgroup")]
    Attach {
        program: &'static str,
        source: io::Error,
    },
    #[error("look for older filters of the cgroup")]
    Query(#[source] io::Error),
    #[error("detach an older filter of the cgroup")]
    Detach(#[source] io::Error),
}

/// The rules of one cgroup. A call that no rule allows is refused with `EPERM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    bind: Vec<Allowed>,
    connect: Vec<Allowed>,
}

/// `None` stands for every one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Allowed {
    protocol: Option<Protocol>,
    block: Option<Block>,
    port: Option<u16>,
}

impl Rules {
    /// Makes the rules, with the addresses of the name servers.
    #[must_use]
    pub fn of(network: &Network, resolvers: &[IpAddr]) -> Self {
        let any = Allowed::default();
        let bind = network.bind.iter().map(|bind| match bind {
            Bind::Any => any,
            Bind::Port(protocol, port) => Allowed {
                protocol: Some(*protocol),
                port: Some(*port),
                block: None,
            },
        });
        // A datagram socket gets a port without bind(2) as well, by its first message.
        let unnamed = Allowed {
            protocol: Some(Protocol::Udp),
            port: Some(0),
            block: None,
        };
        let connect = network.connect.iter().flat_map(|peer| match peer {
            Peer::Any => vec![any],
            Peer::Loopback => [
                block(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
                whole(Ipv6Addr::LOCALHOST.into()),
            ]
            .map(|block| Allowed {
                block: Some(block),
                ..any
            })
            .to_vec(),
            Peer::Resolver => {
                let servers = resolvers.iter();
                let servers = servers.map(|address| Allowed {
                    block: Some(whole(*address)),
                    port: Some(DOMAIN),
                    protocol: None,
                });
                servers.collect()
            }
            Peer::Block(block, port) => vec![Allowed {
                block: Some(*block),
                port: *port,
                protocol: None,
            }],
        });
        Self {
            bind: bind.chain([unnamed]).collect(),
            connect: connect.collect(),
        }
    }
}

fn block(address: IpAddr, prefix: u8) -> Block {
    Block { address, prefix }
}

fn whole(address: IpAddr) -> Block {
    block(address, if address.is_ipv6() { 128 } else { 32 })
}

/// The filters of one cgroup.
#[derive(Debug)]
pub struct NetworkFilters(Mutex<Known>);

/// The filters that a cgroup is known to have.
#[derive(Debug, PartialEq)]
enum Known {
    /// An agent before may have attached filters, or an attempt has failed in between.
    Unknown,
    Exactly(Option<Rules>),
}

impl NetworkFilters {
    #[must_use]
    pub fn of_new_cgroup() -> Self {
        Self(Mutex::new(Known::Exactly(None)))
    }

    #[must_use]
    pub fn of_older_cgroup() -> Self {
        Self(Mutex::new(Known::Unknown))
    }

    /// Gives the cgroup these filters and no others. It is never without any meanwhile.
    ///
    /// # Errors
    /// If a program cannot be loaded, attached or detached. Each hook then has the older one or the new one.
    pub fn set(&self, cgroup: &Cgroup, wanted: Option<&Rules>) -> Result<(), NetworkError> {
        let mut known = self.0.lock();
        if matches!(&*known, Known::Exactly(rules) if rules.as_ref() == wanted) {
            return Ok(());
        }
        *known = Known::Unknown;
        for (hook, name) in HOOKS {
            match replace(cgroup, hook, name, wanted) {
                // A kernel without such filters has none to remove, and neither has an agent that
                // may not attach any.
                Err(NetworkError::Query(error))
                    if wanted.is_none() && is_without_filters(&error) =>
                {
                    break;
                }
                replaced => replaced?,
            }
        }
        *known = Known::Exactly(wanted.cloned());
        Ok(())
    }
}

fn is_without_filters(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [libc::EINVAL, libc::ENOSYS, libc::EPERM]
        .map(Some)
        .contains(&number)
}

/// The hooks, and the names of their programs, which the kernel cuts at 15 bytes.
const HOOKS: [(Hook, &str); 6] = [
    (Hook::Bind4, "enforcer_bind4"),
    (Hook::Bind6, "enforcer_bind6"),
    (Hook::Connect4, "enforcer_conn4"),
    (Hook::Connect6, "enforcer_conn6"),
    (Hook::Send4, "enforcer_send4"),
    (Hook::Send6, "enforcer_send6"),
];

/// Attaches the program of one hook beside the older one, and detaches that afterwards.
fn replace(
    cgroup: &Cgroup,
    hook: Hook,
    name: &'static str,
    wanted: Option<&Rules>,
) -> Result<(), NetworkError> {
    let older = calls::attached(cgroup.as_fd(), hook).map_err(NetworkError::Query)?;
    if let Some(rules) = wanted {
        let loaded = calls::load_program(
            name,
            Kind::CgroupAddress(hook),
            &program(hook, rules),
            c"Dual MIT/GPL",
        );
        let loaded = loaded.map_err(|source| NetworkError::Load {
            program: name,
            source,
        })?;
        let attached = calls::attach_to_cgroup(loaded.as_fd(), cgroup.as_fd(), hook);
        attached.map_err(|source| NetworkError::Attach {
            program: name,
            source,
        })?;
    }
    for id in older {
        let detached = calls::program_of(id).and_then(|program| {
            match calls::program_info(program.as_fd())?.is_called(name) {
                true => calls::detach_from_cgroup(program.as_fd(), cgroup.as_fd(), hook),
                false => Ok(()),
            }
        });
        match detached {
            // It was detached meanwhile, as those of a watch are.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            detached => detached.map_err(NetworkError::Detach)?,
        }
    }
    Ok(())
}

/// The registers of a program after its beginning.
const CONTEXT: Register = 1;
const PROTOCOL: Register = 2;
const PORT: Register = 3;
/// Four of them, of which IPv4 uses the first.
const ADDRESS: Register = 6;

/// Returns the program of a hook. It returns 1 for what is allowed.
fn program(hook: Hook, rules: &Rules) -> Vec<bpf_insn> {
    let is_v6 = hook.is_v6();
    let mut program = Assembly::default();
    let mut allow = Assembly::default();
    allow.exit(1);
    if matches!(hook, Hook::Send4 | Hook::Send6) {
        allow_answers(&mut program, rules, &allow);
    }
    program
        .load_word(PROTOCOL, CONTEXT, calls::PROTOCOL)
        .load_word(PORT, CONTEXT, USER_PORT);
    let allowed = match hook {
        Hook::Bind4 | Hook::Bind6 => &rules.bind,
        Hook::Connect4 | Hook::Connect6 | Hook::Send4 | Hook::Send6 => {
            let offsets = match is_v6 {
                true => &[USER_IP6, USER_IP6 + 4, USER_IP6 + 8, USER_IP6 + 12][..],
                false => &[USER_IP4],
            };
            for (register, offset) in (ADDRESS..).zip(offsets) {
                program.load_word(register, CONTEXT, *offset);
            }
            &rules.connect
        }
    };
    // An IPv6 socket connects to IPv4 by addresses below ::ffff:0:0/96, which the rules for IPv6 do
    // not open.
    let is_of_v6 =
        |rule: &&Allowed| matches!(rule.block, Some(Block { address, .. }) if address.is_ipv6());
    let (of_v6, others): (Vec<_>, Vec<_>) = allowed.iter().partition(is_of_v6);
    let mapped = Allowed {
        block: Some(block(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(), 96)),
        ..Allowed::default()
    };
    let mut refuse = Assembly::default();
    refuse.exit(0);
    let others = others.into_iter().map(|rule| (rule, &allow));
    let of_v6 = of_v6.into_iter().map(|rule| (rule, &allow));
    let has_address = !matches!(hook, Hook::Bind4 | Hook::Bind6);
    let mapped = has_address.then_some((&mapped, &refuse));
    let in_order = others.chain(mapped).chain(of_v6);
    for (rule, outcome) in in_order {
        match conditions(rule, is_v6) {
            None => {}
            Some(none) if none.is_empty() => {
                // The kernel refuses a program with instructions that nothing reaches.
                program.exit(1);
                return program.finish();
            }
            Some(conditions) => drop(program.if_all(&conditions, outcome)),
        }
    }
    program.exit(0);
    program.finish()
}

/// Allows what a socket sends that is bound to a declared port: a server answers its clients, at
/// whatever address they are.
fn allow_answers(program: &mut Assembly, rules: &Rules, allow: &Assembly) {
    // A field of `struct bpf_sock`.
    const SOURCE_PORT: i16 = 44;
    let declared = rules.bind.iter();
    let declared = declared.filter(|bind| bind.protocol == Some(Protocol::Udp));
    program
        .load_long(PORT, CONTEXT, calls::SOCKET)
        .load_word(PORT, PORT, SOURCE_PORT);
    for port in declared
        .filter_map(|bind| bind.port)
        .filter(|port| *port > 0)
    {
        let is_bound = Condition {
            register: PORT,
            mask: u32::MAX,
            // In this host's byte order.
            value: port.into(),
        };
        program.if_all(&[is_bound], allow);
    }
}

/// Returns the conditions of a rule; `None` if no address of this family fulfils it.
fn conditions(rule: &Allowed, is_v6: bool) -> Option<Vec<Condition>> {
    let mut all = Vec::new();
    let exactly = |register, value| Condition {
        register,
        mask: u32::MAX,
        value,
    };
    if let Some(protocol) = rule.protocol {
        let number = match protocol {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
        };
        all.push(exactly(PROTOCOL, number.unsigned_abs()));
    }
    if let Some(port) = rule.port {
        // In network byte order, in the first two bytes.
        all.push(exactly(PORT, port.to_be().into()));
    }
    if let Some(Block { address, prefix }) = rule.block {
        let words: &[(u32, u32)] = match (address, is_v6) {
            (IpAddr::V4(address), false) => &[(address.to_bits(), mask(prefix, 0))],
            (IpAddr::V6(_), false) => return None,
            (IpAddr::V4(address), true) => &words(address.to_ipv6_mapped(), prefix + 96),
            (IpAddr::V6(address), true) => &words(address, prefix),
        };
        let of_words = (ADDRESS..).zip(words).filter(|(_, (_, mask))| *mask != 0);
        all.extend(of_words.map(|(register, (word, mask))| Condition {
            register,
            mask: mask.to_be(),
            value: (word & mask).to_be(),
        }));
    }
    Some(all)
}

/// Returns the words of an address, each with its mask.
fn words(address: Ipv6Addr, prefix: u8) -> [(u32, u32); 4] {
    let bits = address.to_bits();
    [0_u8, 1, 2, 3].map(|index| {
        let word = (bits >> (96 - 32 * u32::from(index))) & u128::from(u32::MAX);
        (u32::try_from(word).unwrap_or(0), mask(prefix, index * 32))
    })
}

/// Returns the mask of a word that begins at this bit of an address.
fn mask(prefix: u8, begin: u8) -> u32 {
    let bits = u32::from(prefix.saturating_sub(begin).min(32));
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(bind: &[&str], connect: &[&str]) -> Network {
        Network {
            bind: bind
                .iter()
                .map(|text| text.parse().expect("a bind"))
                .collect(),
            connect: connect
                .iter()
                .map(|text| text.parse().expect("a peer"))
                .collect(),
        }
    }

    #[test]
    fn a_rule_compares_the_bits_of_its_prefix() {
        let rule = |text: &str| {
            let rules = Rules::of(&network(&[], &[text]), &[]);
            rules.connect[0]
        };
        let of = |register: u8, mask: [u8; 4], value: [u8; 4]| Condition {
            register,
            mask: u32::from_ne_bytes(mask),
            value: u32::from_ne_bytes(value),
        };
        let port = of(PORT, [0xff; 4], [0x15, 0x38, 0, 0]);
        let v4 = conditions(&rule("10.128.0.0/9:5432"), false).expect("conditions");
        assert_eq!(v4, [port, of(ADDRESS, [0xff, 0x80, 0, 0], [10, 128, 0, 0])]);
        let mapped = conditions(&rule("10.128.0.0/9:5432"), true).expect("conditions");
        assert_eq!(
            mapped,
            [
                port,
                of(ADDRESS, [0xff; 4], [0; 4]),
                of(ADDRESS + 1, [0xff; 4], [0; 4]),
                of(ADDRESS + 2, [0xff; 4], [0, 0, 0xff, 0xff]),
                of(ADDRESS + 3, [0xff, 0x80, 0, 0], [10, 128, 0, 0]),
            ]
        );
        let v6 = conditions(&rule("2001:db8::/33"), true).expect("conditions");
        assert_eq!(
            v6,
            [
                of(ADDRESS, [0xff; 4], [0x20, 0x01, 0x0d, 0xb8]),
                of(ADDRESS + 1, [0x80, 0, 0, 0], [0; 4]),
            ]
        );
        assert_eq!(conditions(&rule("2001:db8::/33"), false), None);
        assert_eq!(conditions(&rule("0.0.0.0/0"), false), Some(Vec::new()));
        assert_eq!(conditions(&rule("any"), true), Some(Vec::new()));
    }

    #[test]
    fn the_usual_rules_are_loopback_and_the_name_servers() {
        let servers = [IpAddr::from([192, 0, 2, 1]), Ipv6Addr::LOCALHOST.into()];
        let rules = Rules::of(&Network::default(), &servers);
        assert_eq!(rules.bind.len(), 1);
        let ports: Vec<Option<u16>> = rules.connect.iter().map(|rule| rule.port).collect();
        assert_eq!(ports, [None, None, Some(53), Some(53)]);
    }

    #[test]
    fn every_jump_stays_inside() {
        let all = ["any", "loopback", "10.0.0.0/8:5432", "[2001:db8::/45]:443"];
        let rules = Rules::of(&network(&["tcp/80", "any"], &all), &[]);
        for (hook, name) in HOOKS {
            let program = program(hook, &rules);
            for (at, one) in program.iter().enumerate() {
                let is_jump = one.code & 7 == 6;
                let to = at + 1 + usize::try_from(one.off).expect("forward");
                assert!(!is_jump || to < program.len(), "{name} {at}");
            }
            assert_eq!(program.last().map(|one| one.code), Some(0x95), "{name}");
            assert!(hook as u32 > 9 || program.len() < 20, "{name}");
        }
    }
}
