//! The number of replicas follows their use.
//!
//! ```text
//! desired = ceil(replicas × use ÷ target)
//! ```
//!
//! `use` is the mean of the replicas that are ready, and the larger wish of CPU and memory counts. A use
//! within 10 % of the target changes nothing. More replicas are added at once. Fewer are wanted only after
//! five minutes, and then as many as were wanted at most in that time.

use super::{Group, Index};
use crate::units::{Bytes, MonoTime, Percent};
use std::collections::BTreeMap;
use std::time::Duration;

/// The time between two looks.
const PACE: Duration = Duration::from_secs(15);
/// The time for which fewer replicas must have been enough.
const CALM: Duration = Duration::from_secs(300);

/// The use of one replica at a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// The CPU time since the instance began.
    pub(crate) cpu: Option<Duration>,
    /// The number of CPUs that `cpu.max` allows; 1 without it.
    pub(crate) cpus: f64,
    /// A share of `memory.max`.
    pub(crate) memory: Option<Percent>,
}

/// The memory that more replicas may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// The memory that all workloads together do not use; `None` if that is not limited.
    pub(crate) free: Option<Bytes>,
    /// The most that one replica may use.
    pub(crate) of_one: Option<Bytes>,
}

/// The readings of the last look. They are not kept for another agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Readings {
    at: Option<MonoTime>,
    cpu: BTreeMap<Index, Duration>,
}

/// Another number of replicas, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rescaled {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) why: String,
}

impl Group {
    /// Takes a reading of the replicas that are ready. Returns a change of their number.
    pub(crate) fn measure(
        &mut self,
        readings: &BTreeMap<Index, Reading>,
        room: Room,
        now: MonoTime,
    ) -> Option<Rescaled> {
        let bounds = self.asked.replicas?;
        if bounds.cpu.is_none() && bounds.memory.is_none() {
            return None;
        }
        let since = self.readings.at;
        if since.is_some_and(|at| now.since(at) < PACE) {
            return None;
        }
        let before = std::mem::replace(
            &mut self.readings,
            Readings {
                at: Some(now),
                cpu: readings
                    .iter()
                    .filter_map(|(index, reading)| Some((*index, reading.cpu?)))
                    .collect(),
            },
        );
        let took = now.since(since?).as_secs_f64();
        // The replicas of a rollout come and go.
        if self.rollout.is_some() {
            return None;
        }
        let cpu = readings.iter().filter_map(|(index, reading)| {
            let used = reading.cpu?.checked_sub(*before.cpu.get(index)?)?;
            let allowed = took * reading.cpus;
            (allowed > 0.0).then(|| used.as_secs_f64() / allowed * 100.0)
        });
        let memory = readings.values();
        let memory = memory.filter_map(|reading| Some(f64::from(reading.memory?.0)));
        let wishes = [
            ("CPU", bounds.cpu, mean(cpu)),
            ("memory", bounds.memory, mean(memory)),
        ];
        let present = self.wanted?;
        let wish = wishes
            .into_iter()
            .filter_map(|(what, target, used)| {
                let (target, used) = (f64::from(target?.0.max(1)), used?);
                let why = format!("{what} use is {used:.0}% of {target:.0}%");
                Some((desired(present, used / target), why))
            })
            .max_by_key(|(count, _)| *count);
        let (count, why) = wish?;
        let count = count.clamp(bounds.min, bounds.max);
        if count >= present {
            self.lower = None;
            return self.grow(count, why, room);
        }
        let (since, most) = self.lower.unwrap_or((now, count));
        self.lower = Some((since, most.max(count)));
        if now.since(since) < CALM {
            return None;
        }
        self.lower = None;
        let to = most.max(count);
        self.wanted = Some(to);
        Some(Rescaled {
            from: present,
            to,
            why: format!("{why}, for {} minutes", CALM.as_secs() / 60),
        })
    }

    /// Adds replicas, as far as the host has room for them.
    fn grow(&mut self, count: u16, why: String, room: Room) -> Option<Rescaled> {
        let present = self.wanted?;
        let fitting = room.free.zip(room.of_one).map(|(free, of_one)| {
            let more = free.0 / of_one.0.max(1);
            present.saturating_add(u16::try_from(more).unwrap_or(u16::MAX))
        });
        let to = count.min(fitting.unwrap_or(u16::MAX));
        if to <= present {
            return None;
        }
        self.wanted = Some(to);
        let why = match to < count {
            true => format!("{why}, and the host has no room for {count}"),
            false => why,
        };
        Some(Rescaled {
            from: present,
            to,
            why,
        })
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// Returns the number of replicas at which the use would meet its target.
fn desired(present: u16, ratio: f64) -> u16 {
    if (ratio - 1.0).abs() <= 0.1 {
        return present;
    }
    let count = (f64::from(present) * ratio).ceil();
    // Saturates; there are fifteen at most.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let count = count.clamp(0.0, f64::from(u16::MAX)) as u16;
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Replicas, WorkloadSpec};
    use std::sync::Arc;

    fn group(min: u16, max: u16) -> Group {
        let replicas = Replicas {
            min,
            max,
            cpu: Some(Percent(50)),
            memory: Some(Percent(80)),
        };
        let spec = WorkloadSpec {
            replicas: Some(replicas),
            ..WorkloadSpec::default()
        };
        Group::new(Arc::new(spec), None, MonoTime(0))
    }

    /// Measures for some seconds, with this use of CPU time, and returns the changes.
    fn run(group: &mut Group, seconds: std::ops::Range<u64>, used: f64, room: Room) -> Vec<String> {
        let mut changes = Vec::new();
        for second in seconds.step_by(5) {
            let reading = Reading {
                cpu: Some(Duration::from_secs_f64(used * second as f64)),
                cpus: 1.0,
                memory: Some(Percent(10)),
            };
            let readings = [(Some(0), reading), (Some(1), reading)].into();
            let now = MonoTime(second * 1_000_000_000);
            if let Some(change) = group.measure(&readings, room, now) {
                changes.push(format!(
                    "{second} s: {} to {}: {}",
                    change.from, change.to, change.why
                ));
            }
        }
        changes
    }

    #[test]
    fn more_are_added_at_once_and_fewer_after_a_while() {
        let mut group = group(2, 6);
        let all = Room::default();
        assert_eq!(run(&mut group, 0..60, 0.52, all), [""; 0], "it is near");
        let mut busy = group.clone();
        busy.readings = Readings::default();
        let grown = run(&mut busy, 60..90, 0.9, all);
        assert_eq!(grown, ["75 s: 2 to 4: CPU use is 90% of 50%"]);
        busy.readings = Readings::default();
        let shrunk = run(&mut busy, 90..450, 0.1, all);
        assert_eq!(
            shrunk,
            ["405 s: 4 to 2: memory use is 10% of 80%, for 5 minutes"]
        );
    }

    #[test]
    fn the_host_must_have_room_for_more() {
        let mut group = group(2, 6);
        let room = |free: u64| Room {
            free: Some(Bytes(free << 20)),
            of_one: Some(Bytes(100 << 20)),
        };
        assert_eq!(run(&mut group, 0..30, 0.9, room(99)), [""; 0]);
        let grown = run(&mut group, 30..60, 0.9, room(150));
        let expected = "30 s: 2 to 3: CPU use is 90% of 50%, and the host has no room for 4";
        assert_eq!(grown.first().map(String::as_str), Some(expected));
    }

    #[test]
    fn the_rule_is_the_well_known_one() {
        assert_eq!(desired(2, 1.8), 4);
        assert_eq!(desired(3, 1.09), 3);
        assert_eq!(desired(3, 1.11), 4);
        assert_eq!(desired(4, 0.5), 2);
        assert_eq!(desired(4, 0.0), 0);
    }
}
