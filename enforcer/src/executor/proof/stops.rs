//! The series of stops: it reads one thread about a hundred times, and at last finds out what else
//! could end its loop. It must run on a thread that ends right after it: the kernel then releases
//! the traced thread, whatever its state.

use crate::report::error_chain;
use enforcer_core::cpu_loop::waits::{Outcome, call_name, is_exec, outcome};
use enforcer_core::cpu_loop::{
    ENOUGH_CALLS, Evidence, GAP, GAP_PER_STOP, MAX_SNAPSHOTS, MAX_STOPPED, Outside, PROOF_TIME,
    Recurrence, Suspect, breaks_the_proof, outside_of_sleep,
};
use enforcer_core::units::MonoTime;
use enforcer_kernel::clock;
use enforcer_kernel::memory_state::{MemoryError, MemoryState};
use enforcer_kernel::perf::clock_reads::ClockReads;
use enforcer_kernel::perf::thread::Samples;
use enforcer_kernel::ptrace::{Stop, Tracee};
use enforcer_kernel::threads::{self, ThreadState};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, DefaultHasher, Hasher as _, RandomState};
use std::time::Duration;

/// The most things outside of a loop that are reported.
const MOST_OUTSIDE: usize = 16;
pub(super) const TOO_LITTLE_TIME: &str = "there was too little CPU time for it";

/// The series of stops.
pub(super) struct Proof<'a> {
    suspect: &'a Suspect,
    until: MonoTime,
    states: Recurrence,
    noise: RandomState,
    calls: HashMap<u64, u32>,
    idle_calls: u32,
    neutral_calls: u32,
    /// The call that the thread is in.
    call: Option<u64>,
    signals: u32,
    major_faults: u64,
    /// The CPU time that it was given so far.
    ran: Duration,
    pub(super) stops: u64,
    stopped: Duration,
    last_stop: Duration,
    longest_stop: Duration,
    pages: u64,
    reads_clock: bool,
    clocks: Option<ClockReads>,
    outside: Vec<Outside>,
}

impl<'a> Proof<'a> {
    pub(super) fn new(suspect: &'a Suspect, begun: MonoTime) -> Self {
        Self {
            suspect,
            until: begun.after(PROOF_TIME),
            states: Recurrence::default(),
            noise: RandomState::new(),
            calls: HashMap::new(),
            idle_calls: 0,
            neutral_calls: 0,
            call: None,
            signals: 0,
            major_faults: 0,
            ran: Duration::ZERO,
            stops: 0,
            stopped: Duration::ZERO,
            last_stop: Duration::ZERO,
            longest_stop: Duration::ZERO,
            pages: 0,
            reads_clock: false,
            clocks: None,
            outside: Vec::new(),
        }
    }

    /// Follows the thread until something is proved; the error says why not.
    pub(super) fn run(&mut self, samples: &Samples) -> Result<(), String> {
        let thread = self.suspect.thread;
        if let Some(tracer) = threads::tracer(thread.pid, thread.tid) {
            return Err(format!("it is traced already, by process {tracer}"));
        }
        let others = threads::others(thread);
        let mut memory = None;
        let mut tracee = Tracee::seize(thread.tid).map_err(ptrace_failed)?;
        let outcome = self.follow(&mut tracee, &mut memory);
        self.stops = tracee.stops();
        drop(tracee);
        if let Some(memory) = &memory {
            self.reads_clock |= samples
                .addresses
                .keys()
                .any(|address| memory.vdso.contains(address));
        }
        self.keep_outside(memory);
        self.look_around(&others);
        outcome
    }

    fn follow(
        &mut self,
        tracee: &mut Tracee,
        memory: &mut Option<MemoryState>,
    ) -> Result<(), String> {
        let mut next = clock::now().after(self.gap());
        let mut asked = false;
        loop {
            // A thread in the middle of a call is left alone: it may sleep there, and a stop would
            // wake it.
            let wait_until = if asked || self.call.is_some() {
                self.until
            } else {
                next.min(self.until)
            };
            let Some(stop) = tracee.wait(wait_until).map_err(ptrace_failed)? else {
                if clock::now() >= self.until {
                    return Err(TOO_LITTLE_TIME.to_owned());
                }
                asked = true;
                tracee.interrupt().map_err(ptrace_failed)?;
                continue;
            };
            let stopped = clock::now();
            let stop_again = |this: &mut Self| this.count_stop(clock::now().since(stopped));
            let done = match stop {
                Stop::Asked => {
                    asked = false;
                    let looked = self.look(tracee, memory);
                    looked.inspect_err(|_| stop_again(self))?;
                    None
                }
                Stop::CallEntry { number } => {
                    self.call = Some(number);
                    self.states.input();
                    None
                }
                Stop::CallExit { result } => {
                    // The call may have mapped memory that must be hashed as well.
                    self.keep_outside(memory.take());
                    self.call_returned(result)
                }
                Stop::Signal => {
                    self.signals += 1;
                    self.states.input();
                    None
                }
                Stop::Group => Some(Err("another process has stopped it".to_owned())),
                Stop::Gone => Some(Err("it has ended".to_owned())),
            };
            if let Some(done) = done {
                return done;
            }
            tracee.resume().map_err(ptrace_failed)?;
            self.count_stop(clock::now().since(stopped));
            if stop == Stop::Asked {
                if let Some(done) = self.after_look() {
                    return done;
                }
                next = clock::now().after(self.gap());
            }
        }
    }

    /// Takes one snapshot of the stopped thread.
    fn look(
        &mut self,
        tracee: &mut Tracee,
        memory: &mut Option<MemoryState>,
    ) -> Result<(), String> {
        let ran = threads::cpu_time(self.suspect.thread).unwrap_or_default();
        let since = ran.saturating_sub(std::mem::replace(&mut self.ran, ran));
        let Some(memory) = memory else {
            // This begins while the thread is stopped. Otherwise the thread would wait for the lock
            // of its own memory, and that is a sleep.
            let begun = MemoryState::begin(self.suspect.thread.pid);
            let begun = begun.map_err(|error| error_chain(&error))?;
            if self.clocks.is_none() {
                let tid = self.suspect.thread.tid;
                self.clocks = Some(ClockReads::watch(tid, begun.vdso.start));
            }
            *memory = Some(begun);
            return Ok(());
        };
        self.reads_clock |= memory.vdso.contains(&tracee.instruction());
        let state = self.state(tracee, memory)?;
        self.states.note(clock::now(), state, since);
        Ok(())
    }

    fn keep_outside(&mut self, memory: Option<MemoryState>) {
        for outside in memory.into_iter().flat_map(|memory| memory.outside) {
            if !self.outside.contains(&outside) {
                self.outside.push(outside);
            }
        }
    }

    fn state(&mut self, tracee: &mut Tracee, memory: &mut MemoryState) -> Result<u64, String> {
        let mut state = DefaultHasher::new();
        tracee
            .registers(|bytes| state.write(bytes))
            .map_err(ptrace_failed)?;
        let pages = memory
            .hash(&mut state)
            .map_err(|error: MemoryError| error_chain(&error))?;
        self.pages = self.pages.max(pages);
        Ok(state.finish())
    }

    /// Returns the result if the last snapshot was the last one needed.
    fn after_look(&mut self) -> Option<Result<(), String>> {
        let faults = threads::counters(self.suspect.thread).map(|now| now.major_faults);
        if faults
            != Some(std::mem::replace(
                &mut self.major_faults,
                faults.unwrap_or(0),
            ))
        {
            self.states.input();
        }
        if self.clocks.as_ref().is_some_and(ClockReads::any) {
            self.reads_clock = true;
        }
        if self.reads_clock {
            return Some(Err("it reads a clock".to_owned()));
        }
        if self.states.proves() {
            return Some(Ok(()));
        }
        let why = if self.states.is_hopeless() {
            "no state was found again: it is at work, or its loop is a long one"
        } else if self.states.snapshots() >= MAX_SNAPSHOTS {
            "its state recurs too seldom"
        } else if self.stopped >= MAX_STOPPED {
            "looking further would stop it for too long"
        } else {
            return None;
        };
        Some(Err(why.to_owned()))
    }

    fn call_returned(&mut self, result: i64) -> Option<Result<(), String>> {
        self.states.input();
        // The first one may be met on its way out.
        let number = self.call.take()?;
        if is_exec(number, result) {
            return Some(Err("it has become another program".to_owned()));
        }
        *self.calls.entry(number).or_default() += 1;
        match outcome(number, result) {
            Outcome::Idle => self.idle_calls += 1,
            Outcome::Neutral => self.neutral_calls += 1,
            Outcome::Done => {}
        }
        let enough = self.calls.values().sum::<u32>() >= ENOUGH_CALLS;
        enough.then(|| Err("it makes system calls all the time".to_owned()))
    }

    fn count_stop(&mut self, stop: Duration) {
        self.stopped += stop;
        self.last_stop = stop;
        self.longest_stop = self.longest_stop.max(stop);
    }

    /// Returns the time for which the thread runs until the next stop.
    fn gap(&self) -> Duration {
        let (least, most) = GAP;
        let span = (most - least).as_nanos().max(1);
        let noise = u128::from(self.noise.hash_one(self.states.snapshots())) % span;
        let random = least + Duration::from_nanos(u64::try_from(noise).unwrap_or(0));
        random.max(self.last_stop * GAP_PER_STOP)
    }

    /// Notes what else could end the loop.
    fn look_around(&mut self, before: &[ThreadState]) {
        let thread = self.suspect.thread;
        let outside = &mut self.outside;
        if self.reads_clock {
            outside.push(Outside::Clock);
        }
        if threads::may_be_signalled(thread.pid) {
            outside.push(Outside::Timer);
        }
        if threads::has_io_uring(thread.pid) {
            outside.push(Outside::DeviceMapping("an io_uring".to_owned()));
        }
        let now = threads::others(thread);
        let name = |state: &ThreadState| format!("{} (tid {})", state.command, state.tid);
        for gone in before
            .iter()
            .filter(|old| now.iter().all(|new| new.tid != old.tid))
        {
            outside.push(Outside::ThreadRan(name(gone)));
        }
        for state in &now {
            let known = before.iter().find(|old| old.tid == state.tid);
            let rested = known.is_some_and(|old| old.switches == state.switches);
            if rested {
                outside.extend(outside_of_sleep(state.sleep, name(state)));
            } else {
                outside.push(Outside::ThreadRan(name(state)));
            }
        }
        // A reason that breaks the proof must not be lost, and each one is enough.
        outside.sort_by_key(|entry| !breaks_the_proof(entry));
        outside.truncate(MOST_OUTSIDE);
    }

    pub(super) fn report(self, evidence: &mut Evidence) {
        evidence.snapshots = self.states.snapshots();
        evidence.distinct_states = self.states.distinct();
        evidence.recurrences = self.states.recurrences();
        evidence.recurs = self.states.proves();
        evidence.signals = self.signals;
        evidence.pages_hashed = self.pages;
        evidence.stopped = self.stopped;
        evidence.longest_stop = self.longest_stop;
        evidence.outside = self.outside;
        evidence.calls.all = self.calls.values().sum();
        evidence.calls.idle = self.idle_calls;
        evidence.calls.neutral = self.neutral_calls;
        let mut calls: Vec<(u64, u32)> = self.calls.into_iter().collect();
        calls.sort_by_key(|(number, times)| (std::cmp::Reverse(*times), *number));
        let names = calls.into_iter().take(5);
        evidence.calls.names = names.map(|(number, _)| call_name(number)).collect();
    }
}

fn ptrace_failed(error: std::io::Error) -> String {
    format!("ptrace failed: {error}")
}
