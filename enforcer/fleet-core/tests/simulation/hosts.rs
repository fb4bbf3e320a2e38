//! The hosts of the simulation: they run what their nodes ask for, and say how it is.

use super::*;

impl World {
    pub(super) fn seen(&self, host: usize) -> BTreeMap<Replica, Seen> {
        let all = self.hosts[host].instances.iter();
        let all = all.map(|(replica, instance)| {
            let is_ready = instance.ends.is_none() && self.now >= instance.ready_at;
            let endpoint = EndpointRecord {
                address: "10.0.0.1".to_owned(),
                port: 80,
            };
            let sick = self.hosts[host].sick;
            let sick = sick.filter(|(_, until)| self.now < *until);
            let sick = sick.filter(|_| replica.workload.as_str() == SICK.1);
            let seen = Seen {
                health: match (is_ready, sick) {
                    (_, Some((since, _))) => Health::Failing {
                        since: since.after(self.actors[self.schedulers + host].ahead),
                    },
                    (true, None) => Health::Ready,
                    (false, None) => Health::Unready { since: None },
                },
                revision: instance.revision,
                endpoints: [(replica.workload.clone(), endpoint)].into(),
                ..Seen::default()
            };
            (replica.clone(), seen)
        });
        all.collect()
    }

    /// Starts the singletons that a host should run, as far as it knows.
    pub(super) fn start_singletons(&mut self, host: usize) {
        let now = self.now;
        let of = &mut self.hosts[host];
        let run = of.run.iter().flat_map(|run| run.wanted.iter());
        let singletons = run.filter(|(_, local)| local.singleton);
        let all = singletons.flat_map(|(workload, local)| {
            local.replicas.keys().map(|index| {
                let replica = Replica {
                    workload: workload.clone(),
                    index: *index,
                };
                (replica, local.revision)
            })
        });
        let all: Vec<(Replica, Revision)> = all.collect();
        for (replica, revision) in all {
            if !of.is_down && now < of.deadline && !of.instances.contains_key(&replica) {
                let instance = Instance {
                    revision,
                    ready_at: now.after(seconds(3)),
                    ends: None,
                };
                of.instances.insert(replica, instance);
            }
        }
    }

    /// Brings a host to what it should run.
    pub(super) fn live(&mut self, host: usize) {
        let now = self.now;
        let of = &mut self.hosts[host];
        if of.is_down {
            return;
        }
        of.instances
            .retain(|_, instance| instance.ends.is_none_or(|ends| now < ends));
        let mut stopped = Vec::new();
        if let Some(run) = of.run.clone() {
            let mut wanted: BTreeMap<Replica, (Revision, bool)> = BTreeMap::new();
            for (workload, local) in &run.wanted {
                for index in local.replicas.keys() {
                    let replica = Replica {
                        workload: workload.clone(),
                        index: *index,
                    };
                    wanted.insert(replica, (local.revision, local.singleton));
                }
            }
            for (replica, instance) in &mut of.instances {
                let is_wanted = match wanted.get(replica) {
                    Some((_, true)) => now < of.deadline,
                    Some((_, false)) => true,
                    None => run.untouched.contains(replica),
                };
                if !is_wanted && instance.ends.is_none() {
                    instance.ends = Some(now.after(STOPS_IN));
                    stopped.push(replica.clone());
                }
                // Another version takes its place where it is.
                if let Some((revision, _)) = wanted.get(replica)
                    && instance.ends.is_none()
                    && instance.revision < *revision
                {
                    instance.revision = *revision;
                    instance.ready_at = now.after(seconds(5));
                }
            }
            for (replica, (revision, singleton)) in wanted {
                let may_start = !singleton || now < of.deadline;
                if may_start && !of.instances.contains_key(&replica) {
                    let instance = Instance {
                        revision,
                        ready_at: now.after(seconds(3)),
                        ends: None,
                    };
                    of.instances.insert(replica, instance);
                }
            }
        }
        for replica in stopped {
            self.check_stop(host, &replica);
        }
        let actor = host + self.schedulers;
        let life = self.actors[actor].life;
        self.deliver(actor, life, Message::Host);
    }
}
