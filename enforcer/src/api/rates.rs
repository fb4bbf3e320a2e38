//! Percentages of CPU time between two readings. They are neither of a single moment nor of the
//! time since the last request.

use super::Api;
use crate::inbox::Question;
use enforcer_core::ReplicaId;
use enforcer_core::units::MonoTime;
use enforcer_kernel::clock;
use enforcer_kernel::usage::{self, Usage};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// The two readings before, for percentages. The last one that is a second old counts, so that two
/// clients do not spoil each other's; and none is older than a minute.
#[derive(Debug, Default)]
pub(crate) struct UsageSamples(Mutex<HashMap<ReplicaId, [(MonoTime, Usage); 2]>>);

/// The shortest time that a percentage covers.
const SHORTEST: Duration = Duration::from_secs(1);
/// The time between two readings without a request, and so the longest time that a percentage
/// covers.
const LONGEST: Duration = Duration::from_secs(60);

/// The CPU time of all workloads together in [`LONGEST`] below which theirs are not read: a thousandth
/// of a CPU.
const WORTH_READING: Duration = Duration::from_millis(60);

impl UsageSamples {
    fn learn(&self, name: &ReplicaId, now: MonoTime, usage: Usage) {
        let mut samples = self.0.lock();
        let known = samples.entry(name.clone()).or_insert([(now, usage); 2]);
        if now.since(known[1].0) >= SHORTEST {
            *known = [known[1], (now, usage)];
        }
    }

    /// Takes the last readings as those of now, because hardly any CPU time was used since.
    fn renew(&self, now: MonoTime) {
        for [_, last] in self.0.lock().values_mut() {
            last.0 = now;
        }
    }

    /// Returns the last reading of this instance that is old enough.
    fn before(
        &self,
        name: &ReplicaId,
        begun: MonoTime,
        now: MonoTime,
    ) -> Option<(MonoTime, Usage)> {
        let samples = self.0.lock();
        let known = samples.get(name)?.iter().rev();
        let mut known = known.filter(|(at, _)| *at >= begun);
        known.find(|(at, _)| now.since(*at) >= SHORTEST).copied()
    }

    /// CPU and throttled periods in percent, since the last reading of this
    /// instance, or since it began.
    pub(super) fn rates(
        &self,
        name: &ReplicaId,
        begun: (MonoTime, Usage),
        now: MonoTime,
        usage: &Usage,
    ) -> (f64, f64) {
        let (since, before) = self.before(name, begun.0, now).unwrap_or(begun);
        let elapsed = now.since(since);
        self.learn(name, now, *usage);
        let ratio = |part: u64, whole: f64| {
            if whole > 0.0 {
                rounded(part, whole)
            } else {
                0.0
            }
        };
        let cpu = ratio(
            usage.cpu_usec.saturating_sub(before.cpu_usec),
            elapsed.as_secs_f64() * 1e6,
        );
        let periods = usage.periods.saturating_sub(before.periods);
        let throttled = usage
            .throttled_periods
            .saturating_sub(before.throttled_periods);
        (cpu, ratio(throttled, as_float(periods)))
    }
}

/// Reads the CPU time of all workloads once a minute, for as long as the agent lives. So a
/// percentage covers about a minute at most, and not the time since the last request. While all
/// workloads together use next to nothing, one reading is enough for all.
pub(crate) async fn stay_recent(api: Api) {
    let mut turns = tokio::time::interval(LONGEST);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut used = Duration::ZERO;
    loop {
        turns.tick().await;
        let now = api.executor.cpu_time_of_all();
        let spent = now.saturating_sub(std::mem::replace(&mut used, now));
        if spent < WORTH_READING {
            api.usage.renew(clock::now());
            continue;
        }
        let Some(views) = api.events.ask(Question::Views).await else {
            return;
        };
        let api = api.clone();
        let read = tokio::task::spawn_blocking(move || {
            let named: HashSet<ReplicaId> = views.into_iter().map(|view| view.name).collect();
            api.usage.0.lock().retain(|name, _| named.contains(name));
            for name in named {
                let cgroup = api.executor.instances.cgroup(&name);
                if let Some(cgroup) = cgroup {
                    let usage = usage::read_cpu(&cgroup);
                    // A cgroup that has just gone cannot be read.
                    if usage.cpu_usec > 0 {
                        api.usage.learn(&name, clock::now(), usage);
                    }
                }
            }
        });
        if let Err(error) = read.await {
            tracing::error!("the workloads' CPU time was not read: {error}");
        }
    }
}

/// Returns a percentage, rounded to one decimal.
fn rounded(part: u64, whole: f64) -> f64 {
    (as_float(part) / whole * 1000.0).round() / 10.0
}

fn as_float(number: u64) -> f64 {
    // Exact below 2^53: 285 years in microseconds.
    #[expect(clippy::cast_precision_loss)]
    let float = number as f64;
    float
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the percentages at these milliseconds, for a workload that uses a whole CPU from 10
    /// s on.
    fn reported(asked: &[u64]) -> Vec<f64> {
        let samples = UsageSamples::default();
        let name = ReplicaId::parse("web").expect("a name");
        let at = |millis: u64| (MonoTime(millis * 1_000_000), usage_at(millis));
        let rates = asked.iter().map(|millis| {
            let (now, usage) = at(*millis);
            samples.rates(&name, at(0), now, &usage).0
        });
        rates.collect()
    }

    fn usage_at(millis: u64) -> Usage {
        Usage {
            cpu_usec: millis.saturating_sub(10_000) * 1000,
            ..Usage::default()
        }
    }

    #[test]
    fn a_share_is_of_a_second_at_least() {
        // Since it began, and from then on since it was last asked.
        assert_eq!(
            reported(&[5_000, 10_000, 11_000, 13_000]),
            [0.0, 0.0, 100.0, 100.0]
        );
        // A second request right after the first covers more than the time between them.
        assert_eq!(reported(&[9_500, 11_500, 11_501]), [0.0, 75.0, 75.0]);
    }
}
