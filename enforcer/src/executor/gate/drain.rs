//! The wait for the end of the connections at a workload's ports, before it is stopped.

use crate::executor::Executor;
use enforcer_core::WorkloadName;
use enforcer_core::event::{CgroupId, Drained, Event, InstanceEvent, InstanceId};
use enforcer_kernel::clock;
use enforcer_kernel::connections::{self, LocalSocket};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The shortest drain: a connection whose handshake is under way takes a round trip.
const ROUND_TRIP: Duration = Duration::from_secs(1);
/// The pause between two looks at the connections: the kernel goes through all of them.
const LOOK: Duration = Duration::from_millis(100);

impl Executor {
    pub(in crate::executor) async fn drain(
        self: Arc<Self>,
        (workload, instance): (WorkloadName, InstanceId),
        limit: Duration,
    ) {
        let begun = clock::now();
        let cgroup = self.instances.get(&workload).map(|found| found.open.id);
        // Those of the running instance: the manifest may name others by now.
        let ports: Vec<u16> = {
            let table = self.gates.table.lock();
            let known = table.of.get(&workload).into_iter();
            let ports = known.flat_map(|known| known.ports.values());
            ports.map(|of| of.port).collect()
        };
        let mut first = None;
        let (left, unknown) = loop {
            let asked = ports.clone();
            let counted = tokio::task::spawn_blocking(move || count(&asked, cgroup)).await;
            let counted = counted.unwrap_or_else(|error| Err(io::Error::other(error)));
            let took = clock::now().since(begun);
            match counted {
                Ok(left) => {
                    first.get_or_insert(left);
                    if took >= limit || (left == 0 && took >= ROUND_TRIP) {
                        break (left, None);
                    }
                }
                Err(error) if took >= limit => break (0, Some(error.to_string())),
                Err(_) => {}
            }
            tokio::time::sleep(LOOK.min(limit.saturating_sub(took))).await;
        };
        let drained = Drained {
            took: clock::now().since(begun),
            connections: first.unwrap_or(0),
            left,
            unknown,
        };
        let event = InstanceEvent::Drained { drained };
        self.events.send(Event::Instance(workload, instance, event));
    }
}

/// Counts the connections of an instance: those that it has accepted, and those in its queues. A
/// connection that waits has neither an inode nor its cgroup.
fn count(ports: &[u16], cgroup: Option<CgroupId>) -> io::Result<u32> {
    let is_its = |one: &&LocalSocket| one.inode != 0 || (cgroup.is_some() && one.cgroup == cgroup);
    let mut count = 0;
    for port in ports {
        let open = connections::open(*port)?;
        count += u32::try_from(open.iter().filter(is_its).count()).unwrap_or(u32::MAX);
    }
    Ok(count)
}
