//! The faults of the simulation, as a seed chooses them.

use super::*;

/// What may happen, in the order of [`World::fault`].
const FAULTS: [&str; 14] = [
    "partition",
    "lost answers",
    "lost requests",
    "pause of a scheduler",
    "kill",
    "loss of a host",
    "stall of etcd",
    "change of etcd's leader",
    "compaction",
    "drain or its end",
    "another version",
    "kill of all schedulers",
    "full database",
    "failing replicas",
];

impl World {
    pub(super) fn fault(&mut self) {
        if self.now >= self.faults_until {
            return;
        }
        let wait = self.millis(500, 40_000);
        self.at(wait, Event::Fault);
        let actors = self.actors.len() as u64;
        let actor = usize::try_from(self.random.below(actors)).expect("an actor");
        let time = match self.random.below(3) {
            0 => self.millis(100, 3000),
            1 => self.millis(3000, 20_000),
            _ => self.millis(20_000, 90_000),
        };
        let until = self.now.after(time);
        let host = actor.checked_sub(self.schedulers);
        let kind = self.random.below(14);
        let what = FAULTS[usize::try_from(kind).unwrap_or(0)];
        self.note(|| format!("{what} of {actor} for {time:?}"));
        *self.faults.entry(what).or_default() += 1;
        match (kind, host) {
            (0, _) => {
                self.actors[actor].no_requests_until = until;
                self.actors[actor].no_answers_until = until;
            }
            (1, _) => self.actors[actor].no_answers_until = until,
            (2, _) => self.actors[actor].no_requests_until = until,
            (3, None) => self.actors[actor].paused_until = until,
            (4, _) => self.restart(actor, time.min(seconds(20))),
            (5, Some(host)) => self.lose(host, time),
            (6, _) => self.store_down_until = self.now.after(time.min(seconds(60))),
            (7, _) => self.store.change_leader(self.now),
            (8, _) => {
                let at = self.store.revision();
                let _ = self.store.handle(self.now, Request::Compact(at));
            }
            (9, Some(host)) => {
                let key = Key::Drain(node_id(host));
                match self.random.below(2) {
                    0 => self.put(&key, DrainRecord::default().encode()),
                    _ => self.delete(&key),
                }
            }
            (10, _) => {
                let (workload, replicas, singleton) = WORKLOADS[actor % WORKLOADS.len()];
                let more = u32::try_from(self.random.below(2)).unwrap_or(0);
                let replicas = if singleton { 1 } else { replicas + more };
                let key = Key::Desired(name(workload));
                self.put(&key, desired(replicas, singleton).encode());
            }
            (11, _) => {
                let others = self.schedulers;
                for actor in 0..others {
                    self.restart(actor, seconds(2));
                }
            }
            (13, _) => self.hosts[SICK.0].sick = Some((self.now, self.now.after(time * 5))),
            (12, _) => {
                self.store.fill(true);
                self.at(time.min(seconds(60)), Event::Room);
            }
            _ => {}
        }
    }

    /// Kills a program, and starts it again after a while.
    pub(super) fn restart(&mut self, actor: usize, after: Duration) {
        let schedulers = self.schedulers;
        // One in four finds another time.
        let is_set = self.random.below(4) == 0;
        let ahead = AHEAD[usize::try_from(self.random.below(4)).unwrap_or(0)];
        let of = &mut self.actors[actor];
        if is_set {
            of.ahead = ahead;
        }
        of.life += 1;
        of.watch = None;
        of.waiting.clear();
        of.paused_until = Time::default();
        of.program = match actor.checked_sub(schedulers) {
            Some(host) => Program::Node(Box::new(new_node(host))),
            None => Program::Scheduler(Box::new(new_scheduler())),
        };
        let life = of.life;
        self.at(after, Event::Message(actor, life, Message::Woken));
    }

    /// Has a host lose its power, and start again after a while.
    pub(super) fn lose(&mut self, host: usize, time: Duration) {
        let of = &mut self.hosts[host];
        if of.is_down {
            return;
        }
        *of = Host {
            // Its clock begins anew, and with it every deadline.
            is_down: true,
            ..Host::default()
        };
        let actor = host + self.schedulers;
        self.restart(actor, time);
        self.actors[actor].no_answers_until = Time::default();
        // It is there again with its program.
        self.hosts[host].is_down = false;
        self.hosts[host].deadline = Time::default();
    }
}
