//! What must hold in the simulation at all times, and once all is well again.

use super::*;

impl World {
    pub(super) fn fail(&self, seed_text: &str) -> ! {
        panic!("{seed_text}\n{}", self.log.join("\n"));
    }

    /// No two instances of a singleton live at once.
    pub(super) fn check_singletons(&self) {
        for (workload, _, singleton) in WORKLOADS {
            if !singleton {
                continue;
            }
            let of = name(workload);
            let mut live: BTreeMap<u32, usize> = BTreeMap::new();
            for host in &self.hosts {
                let all = host.instances.iter();
                let all = all.filter(|(replica, instance)| {
                    replica.workload == of && instance.ends.is_none_or(|ends| self.now < ends)
                });
                for (replica, _) in all {
                    *live.entry(replica.index).or_default() += 1;
                }
            }
            if live.values().any(|count| *count > 1) {
                self.fail(&format!("two instances of {workload}: {live:?}"));
            }
        }
    }

    pub(super) fn assignments(&mut self) -> BTreeMap<(Replica, NodeId), AssignedRecord> {
        let keys = Keys::Prefix(format!("{PREFIX}assigned/"));
        let got = self.store.handle(self.now, Request::Get { keys, at: None });
        let Ok(Answer::Got(got)) = got else {
            panic!("{got:?}");
        };
        let all = got.entries.into_iter().map(|entry| {
            let key = entry.key.strip_prefix(PREFIX).and_then(Key::parse);
            let Some(Key::Assigned(node, replica)) = key else {
                panic!("{}", entry.key);
            };
            let record = AssignedRecord::decode(&entry.value).expect("a record");
            ((replica, node), record)
        });
        all.collect()
    }

    /// No node has more than it has room for, and no replica has two nodes.
    pub(super) fn check_store(&mut self) {
        let all = self.assignments();
        let mut on_node: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut placed: BTreeSet<Replica> = BTreeSet::new();
        for ((replica, node), record) in all {
            *on_node.entry(node).or_default() += 100;
            if record.ends.is_none() && !placed.insert(replica.clone()) {
                self.fail(&format!("{replica} has two nodes"));
            }
        }
        if let Some((node, used)) = on_node.iter().find(|(_, used)| **used > CAPACITY) {
            self.fail(&format!("{node} has {used} of {CAPACITY}"));
        }
    }

    /// Nothing is stopped for any other reason than its assignment, or a singleton's deadline.
    pub(super) fn check_stop(&mut self, host: usize, replica: &Replica) {
        let all = self.assignments();
        let record = all.get(&(replica.clone(), node_id(host)));
        let is_singleton = WORKLOADS
            .iter()
            .any(|(workload, _, singleton)| *singleton && replica.workload.as_str() == *workload);
        let is_assigned = record.is_some_and(|record| record.ends.is_none());
        if is_assigned && !(is_singleton && self.now >= self.hosts[host].deadline) {
            self.fail(&format!("host {host} has stopped {replica} for nothing"));
        }
    }

    /// All replicas run and are ready, each on one node.
    pub(super) fn check_settled(&mut self) {
        let mut wanted = 0;
        for (workload, ..) in WORKLOADS {
            let keys = Keys::One(format!("{PREFIX}{}", Key::Desired(name(workload))));
            let got = self.store.handle(self.now, Request::Get { keys, at: None });
            let Ok(Answer::Got(got)) = got else {
                panic!("{got:?}");
            };
            let record = DesiredRecord::decode(&got.entries[0].value).expect("a record");
            let (revision, count) = (got.entries[0].modified, record.scheduling.replicas);
            wanted += count;
            for index in 0..count {
                let replica = Replica {
                    workload: name(workload),
                    index,
                };
                let on = (0..self.hosts.len()).filter(|host| {
                    let instance = self.hosts[*host].instances.get(&replica);
                    instance.is_some_and(|one| {
                        one.ends.is_none() && self.now >= one.ready_at && one.revision >= revision
                    })
                });
                let on: Vec<usize> = on.collect();
                let refuses = on.contains(&REFUSING.0) && workload == REFUSING.1;
                if on.len() != 1 || refuses {
                    self.fail(&format!("{replica} is ready on {on:?} of {revision:?}"));
                }
            }
        }
        let running: usize = self.hosts.iter().map(|host| host.instances.len()).sum();
        if running != usize::try_from(wanted).expect("a count") {
            self.fail(&format!("{running} instances for {wanted} replicas"));
        }
        if self.assignments().len() != running {
            self.fail("assignments are left");
        }
    }
}
