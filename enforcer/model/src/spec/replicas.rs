//! Several instances of one workload.

use super::{Check, PortOf, WorkloadSpec};
use crate::limits::Limits;
use crate::settings::Setting;
use crate::shapes;
use crate::units::{Bytes, Limit, Percent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The number of replicas, and how it follows their load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Replicas {
    /// The fewest replicas.
    #[schemars(with = "shapes::Whole<1, 15>")]
    pub min: u16,
    /// The most replicas.
    #[schemars(with = "shapes::Whole<1, 15>")]
    pub max: u16,
    /// The mean use of CPU time that is aimed at, as a share of `cpu.max`, or else of one CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "shapes::Share")]
    pub cpu: Option<Percent>,
    /// The mean use of memory that is aimed at, as a share of `memory.max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "shapes::Share")]
    pub memory: Option<Percent>,
}

impl Replicas {
    /// The most replicas of a workload, those of a rollout included.
    pub const MOST: u16 = 15;

    /// Returns the place of a replica among those of its workload on this host. Two of them never have the same place.
    ///
    /// Only a number of `indexes` may be [`Self::MOST`] or more.
    #[must_use]
    pub const fn place(index: u16) -> u16 {
        index % Self::MOST
    }

    /// Returns this fixed number of replicas.
    #[must_use]
    pub const fn fixed(count: u16) -> Self {
        Self {
            min: count,
            max: count,
            cpu: None,
            memory: None,
        }
    }
}

/// What stands for the number of a replica in the texts of a workload.
pub const PLACE: &str = "{replica}";
/// The variable that has the number of a replica.
pub(crate) const VARIABLE: &str = "ENFORCER_REPLICA";

impl WorkloadSpec {
    /// Returns the limits of all replicas together. What is protected in each must be so above them.
    #[must_use]
    pub fn limits_of_all(&self) -> Limits {
        let mut all = self.replicas_cgroup.clone().unwrap_or_default();
        let most = self.replicas.map_or(1, |replicas| replicas.max);
        let most = u64::from(most.saturating_add(self.rollout.max_surge));
        let together = |of_one: Option<Limit<Bytes>>| {
            of_one.map(|of_one| match of_one {
                Limit::At(bytes) => Limit::At(Bytes(bytes.0.saturating_mul(most))),
                Limit::Max => Limit::Max,
            })
        };
        all.memory_low = all.memory_low.or(together(self.limits.memory_low));
        all.memory_min = all.memory_min.or(together(self.limits.memory_min));
        all
    }

    /// Returns the spec of one replica.
    #[must_use]
    pub fn of_replica(&self, index: u16) -> Self {
        let number = index.to_string();
        let fill = |text: &mut String| {
            if text.contains(PLACE) {
                *text = text.replace(PLACE, &number);
            }
        };
        let mut spec = self.clone();
        let follows = |of: Replicas| of.cpu.is_some() || of.memory.is_some();
        spec.is_scaled = spec.replicas.is_some_and(follows);
        let all = self.limits_of_all();
        spec.replicas_cgroup = (all != Limits::default()).then_some(all);
        spec.replicas = None;
        spec.replica_indexes.clear();
        let hooks = [&mut spec.on_ready, &mut spec.on_unready];
        let reload = spec
            .reload
            .iter_mut()
            .filter_map(|reload| reload.run.as_mut());
        let lists = [
            &mut spec.before_start,
            &mut spec.after_start,
            &mut spec.before_stop,
        ];
        let commands = std::iter::once(&mut spec.command)
            .chain(hooks.into_iter().flatten())
            .chain(reload)
            .chain(lists.into_iter().flatten());
        commands.flatten().for_each(fill);
        spec.environment.values_mut().for_each(fill);
        let sockets = spec.listen.values_mut();
        sockets
            .filter_map(|listen| listen.unix.as_mut())
            .for_each(fill);
        [&mut spec.directory, &mut spec.main_pid_file]
            .into_iter()
            .flatten()
            .for_each(fill);
        spec.environment.insert(VARIABLE.to_owned(), number.clone());
        let each: Vec<u16> = self
            .ports
            .values()
            .filter(|port| port.to == PortOf::Each)
            .map(|port| port.port)
            .collect();
        for port in spec.ports.values_mut() {
            if port.to == PortOf::Each {
                port.port = port.port.saturating_add(Replicas::place(index));
            }
        }
        for probe in spec.probes.values_mut() {
            let own = probe.check.own_port();
            let is_each = own.is_some_and(|port| each.contains(&port));
            match &mut probe.check {
                Check::Http {
                    port: Some(port),
                    path,
                    unix,
                    ..
                } => {
                    if is_each {
                        *port = port.saturating_add(Replicas::place(index));
                    }
                    fill(path);
                    unix.as_mut().into_iter().for_each(fill);
                }
                Check::Http { path, unix, .. } => {
                    fill(path);
                    unix.as_mut().into_iter().for_each(fill);
                }
                Check::Https { port, .. } | Check::Grpc { port, .. } | Check::Tcp { port, .. } => {
                    if is_each {
                        *port = port.saturating_add(Replicas::place(index));
                    }
                }
                Check::Exec { command } => command.iter_mut().for_each(fill),
                Check::File { path, .. } => fill(path),
                Check::Notify { .. } | Check::Cgroup { .. } => {}
            }
        }
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Port, Probe, ProbeName};

    #[test]
    fn a_replica_knows_its_number() {
        let tcp = |port| Check::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        };
        let mut spec = WorkloadSpec {
            replicas: Some(Replicas::fixed(3)),
            command: ["/bin/web", "--name=web-{replica}"]
                .map(str::to_owned)
                .into(),
            environment: [("ID".to_owned(), "{replica}".to_owned())].into(),
            before_start: vec![vec!["/bin/true".to_owned(), "{replica}".to_owned()]],
            ..WorkloadSpec::default()
        };
        let (any, each) = (PortOf::Any, PortOf::Each);
        for (name, port, to) in [("http", 8080, any), ("admin", 9100, each)] {
            let port = Port {
                to,
                ..Port::plain(port)
            };
            spec.ports.insert(name.to_owned(), port);
        }
        spec.probes.insert(ProbeName::Startup, Probe::of(tcp(9100)));
        spec.probes
            .insert(ProbeName::Liveness, Probe::of(tcp(8080)));
        let second = spec.of_replica(2);
        assert_eq!(second.command, ["/bin/web", "--name=web-2"]);
        assert_eq!(second.environment["ID"], "2");
        assert_eq!(second.environment[VARIABLE], "2");
        assert_eq!(second.before_start[0][1], "2");
        assert_eq!(second.ports["http"].port, 8080);
        assert_eq!(second.ports["admin"].port, 9102);
        assert_eq!(second.probes[&ProbeName::Startup].check, tcp(9102));
        assert_eq!(second.probes[&ProbeName::Liveness].check, tcp(8080));
        assert_eq!(second.replicas, None);
    }
}
