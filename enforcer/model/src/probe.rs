//! The results of checks, and the state that they lead to.

use crate::units::{Bytes, Percent};
use crate::words::words;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

words! {
    /// The result of one check.
    pub enum Answer {
        Passed = "passed",
        Failed = "failed",
        /// The check could not be carried out, and counts neither way.
        Unknown = "unknown",
    }
}

words! {
    /// The state that the answers of a probe have led to.
    pub enum ProbeState {
        Passing = "passing",
        Failing = "failing",
        /// There are not enough answers yet.
        Unknown = "unknown",
    }
}

/// The shares of the last ten seconds in which the workload waited, from its pressure files (Linux
/// 4.20, `psi=1`); `None` without them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// `some` of `cpu.pressure`.
    pub cpu: Option<Percent>,
    /// `full` of `memory.pressure`.
    pub memory: Option<Percent>,
}

/// The work of a whole cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub cpu: Duration,
    /// The bytes that were read and written; `None` without the controller `io`.
    pub io: Option<Bytes>,
}

/// Returns whether no probe may dial this address: link-local ones, where clouds keep the metadata
/// service that gives out a host's credentials, and that service's other addresses.
#[must_use]
pub fn is_forbidden(address: IpAddr) -> bool {
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.octets() == [100, 100, 100, 200],
        IpAddr::V6(address) => {
            let mapped = address.to_ipv4_mapped();
            address.is_unicast_link_local()
                || address == METADATA
                || mapped.is_some_and(|address| is_forbidden(IpAddr::V4(address)))
        }
    }
}
