//! A probe of one instance: the times of its checks, and the state that its answers lead to. The
//! workload decides what follows.
//!
//! ```text
//! due → under way ─answer→ passed, failed or unknown → due again
//!           └─ no answer, long after its time-out: unknown
//! ```

pub use enforcer_model::probe::{Answer, Load, Work};

use crate::spec::{Check, Probe};
use crate::units::{Bytes, MonoTime, STANDSTILL};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// An edge that hasn't answered this long after the time-out never will.
const LOST: Duration = Duration::from_secs(30);
/// Samples of work that are kept, over the time that is looked back.
const SAMPLES: u32 = 64;

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed(Failure),
    /// The check could not be carried out, through no fault of the workload.
    Unknown(String),
    /// The work that the workload has done in its life. This module judges whether it is enough.
    Did(Work),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    /// No answer came in time. A busy host may be the cause.
    pub slow: bool,
    /// The pressure on the workload at that time.
    pub load: Load,
}

/// The last check.
#[derive(Clone, Debug)]
pub struct Last {
    pub at: MonoTime,
    pub took: Duration,
    pub answer: Answer,
    /// The reason of a failure; empty if the check passed.
    pub why: String,
}

/// The answers of a probe so far, for the next agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    passes: u32,
    failures: u32,
    standing: Option<bool>,
}

/// A probe with its answers so far.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) spec: Probe,
    due: MonoTime,
    /// The number of the asking under way, and since when.
    under_way: Option<(u64, MonoTime)>,
    passes: u32,
    failures: u32,
    /// The state that the answers lead to; `None` before there are enough of them.
    standing: Option<bool>,
    last: Option<Last>,
    work: VecDeque<(MonoTime, Work)>,
    /// The time of the first check after the host or the agent was suspended.
    resumed: Option<MonoTime>,
}

impl Watched {
    pub(crate) fn new(spec: Probe, first: MonoTime) -> Self {
        Self {
            spec,
            due: first,
            under_way: None,
            passes: 0,
            failures: 0,
            standing: None,
            last: None,
            work: VecDeque::new(),
            resumed: None,
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally {
            // More of them say nothing more.
            passes: self.passes.min(self.spec.success_threshold),
            failures: self.failures,
            standing: self.standing,
        }
    }

    /// Goes on with the counts of another agent.
    pub(crate) fn resume(&mut self, tally: Tally) {
        self.passes = tally.passes;
        self.failures = tally.failures;
        self.standing = tally.standing;
    }

    pub(crate) fn standing(&self) -> Option<bool> {
        self.standing
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn last(&self) -> Option<&Last> {
        self.last.as_ref()
    }

    /// Puts the next check off until `earliest`.
    pub(crate) fn put_off(&mut self, earliest: MonoTime) {
        self.due = self.due.max(earliest);
    }

    /// Takes the place of a probe with another check. Until this one has an answer, the state of
    /// the other one holds.
    pub(crate) fn take_over(&mut self, known: &Self) {
        self.standing = known.standing;
    }

    /// Reports the next failures again.
    pub(crate) fn forget_failing(&mut self) {
        if self.standing == Some(false) {
            self.standing = None;
        }
    }

    /// Makes the next check due now, whatever the schedule says.
    pub(crate) fn hasten(&mut self, now: MonoTime) {
        self.due = self.due.min(now);
    }

    /// Returns the time at which the probe acts by itself.
    pub(crate) fn deadline(&self) -> MonoTime {
        match self.under_way {
            Some((_, since)) => since.after(self.spec.timeout).after(LOST),
            None => self.due,
        }
    }

    /// Returns the number of a new check and the time at which it was due, if it is due. It never
    /// overlaps with the one before, and checks that were missed meanwhile are left out. The caller
    /// gives each number once.
    pub(crate) fn begin(&mut self, now: MonoTime, runs: &mut u64) -> Option<(u64, MonoTime)> {
        if self.under_way.is_some() || self.due > now {
            return None;
        }
        // A wait for an earlier check is no lateness.
        let answered = self.last.as_ref().map_or(MonoTime(0), |last| last.at);
        let due = self.due.max(answered);
        if now.since(due) > STANDSTILL {
            // The workload did not run meanwhile, so it cannot have made progress.
            self.resumed = Some(now);
            self.work.clear();
        }
        let next = due.after(self.spec.period);
        self.due = if next > now {
            next
        } else {
            now.after(self.spec.period)
        };
        *runs += 1;
        self.under_way = Some((*runs, now));
        Some((*runs, due))
    }

    /// Returns the number of the check under way, if no answer to it will come any more.
    pub(crate) fn is_lost(&self, now: MonoTime) -> Option<u64> {
        let (run, since) = self.under_way?;
        (since.after(self.spec.timeout).after(LOST) <= now).then_some(run)
    }

    /// Takes an answer. Returns false for one that belongs to no check under way.
    pub(crate) fn answer(
        &mut self,
        now: MonoTime,
        run: u64,
        outcome: &Outcome,
        took: Duration,
    ) -> bool {
        if self.under_way.is_none_or(|(number, _)| number != run) {
            return false;
        }
        self.under_way = None;
        let (answer, why) = match outcome {
            Outcome::Passed => (Answer::Passed, String::new()),
            Outcome::Failed(failure) => (Answer::Failed, failure.why.clone()),
            Outcome::Unknown(why) => (Answer::Unknown, why.clone()),
            Outcome::Did(work) => self.judge(now, *work),
        };
        let (answer, why) = self.excuse(now, answer, why);
        match answer {
            Answer::Passed => {
                self.passes = self.passes.saturating_add(1);
                self.failures = 0;
            }
            Answer::Failed => {
                self.failures = self.failures.saturating_add(1);
                self.passes = 0;
            }
            // Neither for it nor against it.
            Answer::Unknown => {}
        }
        self.last = Some(Last {
            at: now,
            took,
            answer,
            why,
        });
        true
    }

    /// Makes the failure of a `file` check unknown after a suspension: the workload gets a whole
    /// `fresh_within` to touch the file again.
    fn excuse(&self, now: MonoTime, answer: Answer, why: String) -> (Answer, String) {
        let Check::File { fresh_within, .. } = self.spec.check else {
            return (answer, why);
        };
        let stood_still = self
            .resumed
            .is_some_and(|resumed| now.since(resumed) < fresh_within);
        if answer == Answer::Failed && stood_still {
            let why = format!("{why}; that does not count yet, since the host was suspended");
            return (Answer::Unknown, why);
        }
        (answer, why)
    }

    /// Returns the state that the answers lead to, if it differs from the last one.
    pub(crate) fn turn(&mut self, failure_threshold: u32) -> Option<bool> {
        let turned = if self.passes >= self.spec.success_threshold {
            true
        } else if self.failures >= failure_threshold {
            false
        } else {
            return None;
        };
        (self.standing.replace(turned) != Some(turned)).then_some(turned)
    }

    /// Judges whether the workload has done enough within its time.
    fn judge(&mut self, now: MonoTime, work: Work) -> (Answer, String) {
        let Check::Cgroup { cpu, io, within } = self.spec.check else {
            return (Answer::Unknown, "it measured nothing".to_owned());
        };
        // The newest that is old enough is where the count begins.
        let old_enough = |sample: &(MonoTime, Work)| now.since(sample.0) >= within;
        while self.work.get(1).is_some_and(old_enough) {
            self.work.pop_front();
        }
        let begun = self
            .work
            .front()
            .filter(|sample| old_enough(sample))
            .copied();
        let last = self.work.back().map(|sample| sample.0);
        if last.is_none_or(|last| now.since(last) >= within / SAMPLES) {
            self.work.push_back((now, work));
        }
        let Some((_, before)) = begun else {
            return (
                Answer::Unknown,
                "it has not been watched for long enough".to_owned(),
            );
        };
        let used = work.cpu.saturating_sub(before.cpu);
        let moved = match (work.io, before.io) {
            (Some(now), Some(then)) => Bytes(now.0.saturating_sub(then.0)),
            _ if io.is_some() => {
                let why = "the controller `io` is not enabled";
                return (Answer::Unknown, why.to_owned());
            }
            _ => Bytes(0),
        };
        let enough = cpu.is_none_or(|least| used >= least) && io.is_none_or(|least| moved >= least);
        if enough {
            return (Answer::Passed, String::new());
        }
        let why = format!(
            "in {} it used {} of CPU time and moved {moved}",
            crate::units::human_duration(within),
            crate::units::human_duration(used),
        );
        (Answer::Failed, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn at(seconds: u64) -> MonoTime {
        MonoTime(seconds * 1_000_000_000)
    }

    fn probe(failures: u32, passes: u32) -> Probe {
        Probe {
            period: Duration::from_secs(5),
            failure_threshold: failures,
            success_threshold: passes,
            ..Probe::of(Check::Tcp {
                host: "127.0.0.1".to_owned(),
                port: 1,
            })
        }
    }

    /// Answers in order (`+`, `-`, `?`), and where they turn.
    fn check(probe: Probe, answers: &str, expected: &Expect) {
        let (mut watched, mut runs) = (Watched::new(probe, at(0)), 0);
        let mut reported = String::new();
        for (index, answer) in (0..).zip(answers.chars()) {
            let now = at(index * 5);
            let (run, _) = watched.begin(now, &mut runs).expect("due");
            let outcome = match answer {
                '+' => Outcome::Passed,
                '-' => Outcome::Failed(Failure::default()),
                _ => Outcome::Unknown("ours".to_owned()),
            };
            assert!(watched.answer(now, run, &outcome, Duration::ZERO));
            reported.push(answer);
            match watched.turn(watched.spec.failure_threshold) {
                Some(true) => reported.push_str(" passing "),
                Some(false) => reported.push_str(" failing "),
                None => {}
            }
        }
        expected.assert_eq(&reported);
    }

    #[test]
    fn answers_in_a_row_turn_it() {
        check(
            probe(3, 1),
            "--+---+--?-+",
            &expect!["--+ passing --- failing + passing --?- failing + passing "],
        );
        check(
            probe(1, 2),
            "+-+++-",
            &expect!["+- failing ++ passing +- failing "],
        );
    }

    #[test]
    fn it_never_overlaps_and_leaves_out_what_it_missed() {
        let (mut watched, mut runs) = (Watched::new(probe(3, 1), at(10)), 0);
        assert_eq!(watched.begin(at(9), &mut runs), None);
        assert_eq!(watched.begin(at(10), &mut runs), Some((1, at(10))));
        assert_eq!(
            watched.begin(at(15), &mut runs),
            None,
            "the first is under way"
        );
        assert!(!watched.answer(at(16), 7, &Outcome::Passed, Duration::ZERO));
        assert!(watched.answer(at(27), 1, &Outcome::Passed, Duration::ZERO));
        assert_eq!(watched.begin(at(27), &mut runs), Some((2, at(27))));
        assert!(watched.answer(at(27), 2, &Outcome::Passed, Duration::ZERO));
        assert_eq!(watched.deadline(), at(32));
    }

    #[test]
    fn what_is_never_answered_is_given_up() {
        let (mut watched, mut runs) = (Watched::new(probe(3, 1), at(0)), 0);
        let _ = watched.begin(at(0), &mut runs);
        assert_eq!(watched.is_lost(at(30)), None);
        assert_eq!(watched.is_lost(watched.deadline()), Some(1));
    }

    /// Nothing ran while the host was suspended, so that nothing can have been done.
    #[test]
    fn a_suspended_host_is_no_lack_of_progress() {
        let mut watched = Watched::new(
            Probe {
                period: Duration::from_secs(30),
                ..Probe::of(Check::Cgroup {
                    cpu: Some(Duration::from_secs(1)),
                    io: None,
                    within: Duration::from_secs(120),
                })
            },
            at(0),
        );
        let mut runs = 0;
        let mut ask = |seconds: u64, done: u64| {
            let now = at(seconds);
            let (run, _) = watched.begin(now, &mut runs).expect("due");
            let work = Work {
                cpu: Duration::from_secs(done),
                io: None,
            };
            watched.answer(now, run, &Outcome::Did(work), Duration::ZERO);
            watched.last().expect("an answer").answer.as_str()
        };
        for round in 0..=4 {
            ask(round * 30, round);
        }
        assert_eq!(ask(150, 5), "passed");
        // An hour of sleep later it is watched for two minutes before it is judged.
        let after: Vec<&str> = (0..=4).map(|round| ask(3750 + round * 30, 5)).collect();
        assert_eq!(
            after,
            ["unknown", "unknown", "unknown", "unknown", "failed"]
        );
    }

    #[test]
    fn a_file_may_be_touched_again_after_a_suspended_host() {
        let mut watched = Watched::new(
            Probe {
                period: Duration::from_secs(30),
                ..Probe::of(Check::File {
                    path: "/srv/heartbeat".to_owned(),
                    fresh_within: Duration::from_secs(60),
                })
            },
            at(0),
        );
        let mut runs = 0;
        let stale = Outcome::Failed(Failure::default());
        let mut ask = |seconds: u64, outcome: &Outcome| {
            let now = at(seconds);
            let (run, _) = watched.begin(now, &mut runs).expect("due");
            watched.answer(now, run, outcome, Duration::ZERO);
            watched.last().expect("an answer").answer.as_str()
        };
        assert_eq!(ask(0, &Outcome::Passed), "passed");
        assert_eq!(ask(3600, &stale), "unknown");
        assert_eq!(ask(3630, &stale), "unknown");
        assert_eq!(ask(3660, &stale), "failed");
    }

    #[test]
    fn progress_is_what_was_done_within_the_time() {
        let mut watched = Watched::new(
            Probe {
                period: Duration::from_secs(5),
                ..Probe::of(Check::Cgroup {
                    cpu: Some(Duration::from_secs(1)),
                    io: None,
                    within: Duration::from_secs(10),
                })
            },
            at(0),
        );
        let (mut reported, mut runs) = (Vec::new(), 0);
        // It works for fifteen seconds, and then stands still.
        for (round, cpu) in [0, 5, 10, 15, 15, 15, 15].into_iter().enumerate() {
            let now = at(u64::try_from(round).expect("small") * 5);
            let (run, _) = watched.begin(now, &mut runs).expect("due");
            let work = Work {
                cpu: Duration::from_secs(cpu),
                io: None,
            };
            watched.answer(now, run, &Outcome::Did(work), Duration::ZERO);
            reported.push(watched.last().expect("an answer").answer.as_str());
        }
        assert_eq!(
            reported,
            [
                "unknown", "unknown", "passed", "passed", "passed", "failed", "failed"
            ]
        );
    }
}
