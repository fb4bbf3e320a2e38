//! What a workload in `sandbox: strict` reaches over the network.

use crate::settings::{Setting, displayed};
use crate::shapes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// What a workload may bind and connect to; everything else is refused with `EPERM`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Network {
    /// Ports to listen on, such as `tcp/8080`, or `any`. The default is none.
    #[schemars(with = "shapes::Binds")]
    pub bind: Vec<Bind>,
    /// Peers: `any`, `loopback`, `resolver` (the name servers of `/etc/resolv.conf`), or addresses
    /// such as `10.0.0.0/8:5432` and `[2001:db8::/32]:443`. The default is `[loopback, resolver]`.
    #[schemars(with = "shapes::Texts")]
    pub connect: Vec<Peer>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            bind: Vec::new(),
            connect: vec![Peer::Loopback, Peer::Resolver],
        }
    }
}

impl Network {
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// What a workload may bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Bind {
    Any,
    Port(Protocol, u16),
}

/// What a workload may connect to, and send datagrams to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Peer {
    Any,
    /// The addresses 127.0.0.0/8 and ::1.
    Loopback,
    /// The name servers of `/etc/resolv.conf`, on port 53.
    Resolver,
    Block(Block, Option<u16>),
}

/// The addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub address: IpAddr,
    /// The number of bits.
    pub prefix: u8,
}

displayed!(Bind, Peer);

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Port(protocol, port) => write!(f, "{}/{port}", protocol.as_str()),
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Loopback => f.write_str("loopback"),
            Self::Resolver => f.write_str("resolver"),
            Self::Block(block, None) => block.fmt(f),
            Self::Block(block, Some(port)) if block.address.is_ipv6() => {
                write!(f, "[{block}]:{port}")
            }
            Self::Block(block, Some(port)) => write!(f, "{block}:{port}"),
        }
    }
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "any, tcp/PORT or udp/PORT, such as tcp/8080";
        if text == "any" {
            return Ok(Self::Any);
        }
        let protocol = [Protocol::Tcp, Protocol::Udp];
        let found = protocol.into_iter().find_map(|protocol| {
            let port = text.strip_prefix(protocol.as_str())?.strip_prefix('/')?;
            Some(Self::Port(protocol, number(port).filter(|port| *port > 0)?))
        });
        found.ok_or_else(|| EXPECTED.to_owned())
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "any, loopback, resolver, or addresses: 10.0.0.0/8, 10.0.0.0/8:5432, 2001:db8::/32 or \
             [2001:db8::/32]:443";
        match text {
            "any" => return Ok(Self::Any),
            "loopback" => return Ok(Self::Loopback),
            "resolver" => return Ok(Self::Resolver),
            _ => {}
        }
        let is_v6 = text.starts_with('[') || text.matches(':').count() > 1;
        let split = match text.strip_prefix('[') {
            Some(rest) => rest
                .split_once("]:")
                .map(|(block, port)| (block, Some(port))),
            None if is_v6 => Some((text, None)),
            None => Some(match text.split_once(':') {
                Some((block, port)) => (block, Some(port)),
                None => (text, None),
            }),
        };
        let (block, port) = split.ok_or_else(|| EXPECTED.to_owned())?;
        let port = match port {
            None => None,
            Some(port) => Some(
                number(port)
                    .filter(|port| *port > 0)
                    .ok_or_else(|| EXPECTED.to_owned())?,
            ),
        };
        let block = block.parse::<Block>()?;
        match block.address.is_ipv6() == is_v6 {
            true => Ok(Self::Block(block, port)),
            false => Err(EXPECTED.to_owned()),
        }
    }
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| {
            "an address, or addresses such as 10.0.0.0/8; names are not looked up".to_owned()
        })?;
        let most = if address.is_ipv6() { 128 } else { 32 };
        let prefix = match prefix {
            None => most,
            Some(prefix) => number(prefix)
                .and_then(|prefix| u8::try_from(prefix).ok())
                .filter(|prefix| *prefix <= most)
                .ok_or_else(|| format!("a prefix from 0 to {most}"))?,
        };
        let block = Self { address, prefix };
        let first = block.first();
        match first == address {
            true => Ok(block),
            false => Err(format!(
                "the first address of the block, as in {first}/{prefix}"
            )),
        }
    }
}

impl Block {
    /// Returns the first address of the block.
    fn first(self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        }
    }
}

/// Reads a number without a sign or a leading zero.
fn number(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_plain && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// Implements the conversions that serde uses.
macro_rules! as_text {
    ($($Type:ty),+) => {
        $(impl From<$Type> for String {
            fn from(value: $Type) -> Self {
                value.to_string()
            }
        }

        impl TryFrom<String> for $Type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        })+
    };
}

as_text!(Bind, Peer);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_was_read() {
        for text in ["any", "tcp/1", "udp/65535"] {
            assert_eq!(text.parse::<Bind>().expect("a bind").to_string(), text);
        }
        let peers = [
            "any",
            "loopback",
            "resolver",
            "10.0.0.0/8",
            "10.0.0.0/8:5432",
            "0.0.0.0/0",
            "192.168.1.7/32:1",
            "2001:db8::/32",
            "::/0",
            "[2001:db8::/32]:443",
        ];
        for text in peers {
            assert_eq!(text.parse::<Peer>().expect("a peer").to_string(), text);
        }
        assert_eq!(
            "10.1.2.3:80".parse::<Peer>().expect("a peer").to_string(),
            "10.1.2.3/32:80"
        );
        assert_eq!(
            "::1".parse::<Peer>().expect("a peer").to_string(),
            "::1/128"
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "tcp",
            "tcp/",
            "tcp/0",
            "tcp/65536",
            "tcp/+1",
            "tcp/01",
            "sctp/1",
            "8080",
            "Any",
        ] {
            assert!(text.parse::<Bind>().is_err(), "{text}");
        }
        let peers = [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/8:0",
            "10.0.0.0/8:",
            "2001:db8::1/32",
            "2001:db8::/129",
            "[2001:db8::/32]",
            "[10.0.0.0/8]:80",
            "10.0.0.0/08",
        ];
        for text in peers {
            assert!(text.parse::<Peer>().is_err(), "{text}");
        }
        let error = "10.0.0.1/8".parse::<Peer>().expect_err("no block");
        assert_eq!(error, "the first address of the block, as in 10.0.0.0/8");
    }
}
