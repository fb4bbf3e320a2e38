//! Properties that hold over any sequence of events.

use super::*;
use crate::event::{Door, Hook};

/// An event from outside the core. Actions are answered in any order and at any time.
#[derive(Clone, Debug)]
enum Stimulus {
    Answer,
    Exit(bool),
    Request(u8),
    Change(bool),
    Stale(u8),
    Wait(u32),
    Suspect(u32),
    Evidence(Verdict),
    Slept(u32),
    /// A probe that is under way has passed, has failed or could not be carried out.
    Probe(u8),
    /// A hook has ended.
    Hook,
    /// A file of `reload_on` has changed.
    File,
    /// Another manifest does not name the workload, and prunes it or does not.
    Unname(bool),
    /// The host's memory, in percent.
    Memory(u32),
    /// The agent dies, and another one takes over. The values say whether a start that is under way
    /// succeeds, and whether the instance ends meanwhile.
    Crash(bool, bool),
}

fn step() -> impl Strategy<Value = Stimulus> {
    prop_oneof![
        4 => Just(Stimulus::Answer),
        3 => any::<bool>().prop_map(Stimulus::Exit),
        1 => (0..7u8).prop_map(Stimulus::Request),
        1 => any::<bool>().prop_map(Stimulus::Change),
        1 => (0..4u8).prop_map(Stimulus::Stale),
        2 => (1..100_000u32).prop_map(Stimulus::Wait),
        2 => (0..4u32).prop_map(Stimulus::Suspect),
        2 => prop_oneof![
            Just(Verdict::OverBudget),
            Just(Verdict::SyscallSpin),
            Just(Verdict::DeadLoop)
        ].prop_map(Stimulus::Evidence),
        1 => (0..4u32).prop_map(Stimulus::Slept),
        4 => (0..5u8).prop_map(Stimulus::Probe),
        3 => Just(Stimulus::Hook),
        1 => Just(Stimulus::File),
        1 => any::<bool>().prop_map(Stimulus::Unname),
        1 => (0..101u32).prop_map(Stimulus::Memory),
        2 => any::<(bool, bool)>().prop_map(|(begun, ended)| Stimulus::Crash(begun, ended)),
    ]
}

/// A stand-in for the executor, with at most one instance and the answers that it still owes.
#[derive(Default)]
struct World {
    owed: Vec<(InstanceId, &'static str)>,
    alive: BTreeSet<InstanceId>,
    starts: Vec<MonoTime>,
    proofs: Vec<(Thread, MonoTime)>,
    probes: Vec<crate::event::ProbeRun>,
    hooks: Vec<(Hook, InstanceId)>,
    /// The instances whose connections are to end.
    drains: Vec<InstanceId>,
    /// The state of the gate.
    door: Option<Door>,
    /// The stop signal was sent, or the tree killed, since the instance began.
    asked_to_end: bool,
    /// The limits that the kernel was given last.
    limits: Option<Limits>,
    /// The checkpoint for a later agent, in its written form.
    kept: BTreeMap<ReplicaId, String>,
    last: (Seq, InstanceId),
}

impl World {
    /// Returns the state that another agent finds after this one has died.
    fn crash(&mut self, begun: bool, ended: bool) -> Event {
        let counters = Counters::default();
        let cgroup = CgroupId(7);
        let found = match (self.alive.first().copied(), self.owed.pop()) {
            // The gate closes with the agent, or was open already.
            (Some(_), Some((_, "start"))) if !begun => {
                self.alive.clear();
                Found::Cgroup(cgroup, counters)
            }
            (Some(_), Some((_, "reap"))) => Found::Ended(cgroup, counters, 100),
            (Some(_), _) if ended => Found::Ended(cgroup, counters, 100),
            (Some(_), _) => Found::Running(cgroup, counters, 100),
            (None, Some(_)) => Found::Cgroup(cgroup, counters),
            (None, None) => Found::Nothing,
        };
        self.owed.clear();
        self.proofs.clear();
        self.probes.clear();
        self.hooks.clear();
        self.drains.clear();
        self.asked_to_end = false;
        let taken = |(workload, text): (&ReplicaId, &String)| TakenOver {
            workload: workload.clone(),
            checkpoint: serde_json::from_str(text).expect("it was written so"),
            found: found.clone(),
        };
        Event::Agent(AgentEvent::TakeOver {
            workloads: self.kept.iter().map(taken).collect(),
            groups: Vec::new(),
            last: self.last,
        })
    }

    fn keep(&mut self, decision: &Decision) {
        for (name, checkpoint) in &decision.checkpoints {
            match checkpoint {
                Some(checkpoint) => {
                    self.last.1 = self.last.1.max(checkpoint.instance());
                    let text = serde_json::to_string(checkpoint).expect("it can be written");
                    self.kept.insert(name.clone(), text);
                }
                None => drop(self.kept.remove(name)),
            }
        }
        let seqs = decision.transitions.iter().map(|transition| transition.seq);
        self.last.0 = seqs.max().unwrap_or_default().max(self.last.0);
    }

    fn take(&mut self, now: MonoTime, decision: &Decision) {
        self.keep(decision);
        for action in &decision.actions {
            assert!(action.reason().seq.0 > 0, "no action without a reason");
            let Action::Workload(action) = action else {
                continue;
            };
            match &action.change {
                WorkloadChange::Step(Step::Start { limits, .. }) => {
                    self.asked_to_end = false;
                    self.limits = Some((**limits).clone());
                    assert!(self.alive.is_empty(), "a second live instance");
                    assert!(self.owed.is_empty(), "an action while another is under way");
                    self.alive.insert(action.instance);
                    self.owed.push((action.instance, "start"));
                    if action.reason.cause.is_failure() {
                        self.starts.push(now);
                    }
                }
                WorkloadChange::Step(Step::Reap) => self.owed.push((action.instance, "reap")),
                WorkloadChange::Step(Step::RemoveCgroup) => {
                    assert!(self.alive.is_empty(), "removed under a live instance")
                }
                WorkloadChange::Step(Step::WriteLimits { limits, .. }) => {
                    self.limits = Some((**limits).clone())
                }
                WorkloadChange::Step(Step::Investigate { suspect }) => {
                    // What doesn't come back loses its turn.
                    let lost = Duration::from_secs(30);
                    self.proofs.retain(|(_, since)| now.since(*since) < lost);
                    self.proofs.push((suspect.thread, now));
                    assert!(
                        self.proofs.len() <= PROOFS_AT_ONCE,
                        "too many proofs at once"
                    );
                }
                WorkloadChange::Aside(Aside::SetDoor { door }) => self.door = Some(*door),
                WorkloadChange::Aside(Aside::Drain { .. }) => {
                    assert_ne!(
                        self.door,
                        Some(Door::Open),
                        "new connections during a drain"
                    );
                    assert!(!self.asked_to_end, "a drain after the signal");
                    self.drains.push(action.instance);
                }
                WorkloadChange::Aside(Aside::RunHook { hook, .. }) => {
                    let instance = action.instance;
                    let announces = |hook: Hook| matches!(hook, Hook::OnReady | Hook::OnUnready);
                    let overlaps = |&(other, of): &(Hook, InstanceId)| match hook {
                        Hook::OnReady | Hook::OnUnready => announces(other),
                        Hook::Reload => other == Hook::Reload,
                        Hook::AfterStart | Hook::BeforeStop => (other, of) == (*hook, instance),
                    };
                    assert!(
                        !self.hooks.iter().any(overlaps),
                        "{hook:?} overlaps with itself"
                    );
                    self.hooks.push((*hook, instance));
                }
                WorkloadChange::Aside(Aside::AskOwner { .. }) => panic!("nothing is attached"),
                WorkloadChange::Aside(Aside::Remedy { .. }) => {
                    assert!(
                        self.owed.is_empty(),
                        "a remedy while an action is under way"
                    );
                    self.owed.push((action.instance, "remedy"));
                }
                WorkloadChange::Step(Step::Signal { .. }) => {
                    assert!(!self.asked_to_end, "asked to end twice");
                    self.asked_to_end = true;
                }
                WorkloadChange::Step(Step::KillTree) => self.asked_to_end = true,
                // The start that is under way is answered all the same.
                WorkloadChange::Aside(Aside::AbortStart) => {
                    let starting = |owed: &str| owed == "start" || owed == "remedy";
                    let starting = self.owed.last().is_some_and(|(_, owed)| starting(owed));
                    assert!(starting, "nothing to abort");
                }
                WorkloadChange::Aside(Aside::ReportStuck | Aside::Collect) => {}
            }
        }
        for run in &decision.probes {
            let same = |other: &crate::event::ProbeRun| {
                other.instance == run.instance && other.probe == run.probe
            };
            // One that is never answered is asked again after its time-out and a while.
            self.probes
                .retain(|other| !same(other) || now.since(other.due) < Duration::from_secs(31));
            assert!(
                !self.probes.iter().any(same),
                "a probe that overlaps with itself"
            );
            self.probes.push(run.clone());
        }
        let seqs: Vec<Seq> = decision
            .transitions
            .iter()
            .map(|transition| transition.seq)
            .collect();
        assert!(seqs.is_sorted(), "records out of order");
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_invariants_hold(steps in prop::collection::vec(step(), 1..300)) {
        let mut supervisor = Supervisor::new(2);
        let mut world = World::default();
        let mut now = MonoTime(0);
        let handle = |supervisor: &mut Supervisor, world: &mut World, now, event| {
            let decision = supervisor.handle(Moment { now, noise: now.0 }, event);
            world.take(now, &decision);
            decision
        };
        let _ = handle(&mut supervisor, &mut world, now, configure(probes::everything()));
        for step in steps {
            let event = match step {
                Stimulus::Answer => match world.owed.pop() {
                    Some((instance, "start")) => started(instance.0),
                    Some((instance, "remedy")) => probes::remedied(instance.0, None),
                    Some((instance, _)) => {
                        world.alive.remove(&instance);
                        world.proofs.clear();
                        reaped(instance.0, ExitStatus::Code(1), 0)
                    }
                    None => Event::Agent(AgentEvent::Wake),
                },
                Stimulus::Exit(fails) => match (world.alive.first(), world.owed.pop()) {
                    (Some(instance), None) => exited(instance.0),
                    (Some(_), Some((instance, "start"))) if fails => {
                        world.alive.remove(&instance);
                        let error = StartError { stage: "x".to_owned(), errno: None, error: "y".to_owned() };
                        Event::Instance(name(WEB), instance, InstanceEvent::StartFailed { error })
                    }
                    (_, owed) => {
                        world.owed.extend(owed);
                        Event::Agent(AgentEvent::Wake)
                    }
                },
                Stimulus::Request(which) => request(
                    [
                        Request::Start,
                        Request::Stop,
                        Request::Restart,
                        Request::Kill,
                        Request::Throttle(Percent(20)),
                        Request::Release,
                        Request::Reload,
                    ][usize::from(which)],
                ),
                Stimulus::Change(command) => {
                    let mut changed = probes::everything();
                    if command {
                        changed.command.push(now.0.to_string());
                    } else {
                        changed.priority = 10;
                    }
                    configure(changed)
                }
                // Answers of instances that are long gone change nothing.
                Stimulus::Stale(which) => {
                    let before = format!("{supervisor:?}");
                    let stale = [started(0), exited(0), reaped(0, ExitStatus::Code(0), 0), prepared(0)];
                    let decision = handle(&mut supervisor, &mut world, now, stale[usize::from(which)].clone());
                    prop_assert!(decision.actions.is_empty() && decision.transitions.is_empty());
                    prop_assert_eq!(before, format!("{supervisor:?}"));
                    continue;
                }
                Stimulus::Suspect(tid) => loops::suspect(tid),
                Stimulus::Evidence(verdict) => match world.proofs.pop() {
                    Some((thread, _)) => loops::evidence(thread.tid, verdict),
                    None => Event::Agent(AgentEvent::Wake),
                },
                Stimulus::Slept(tid) => loops::slept(tid),
                Stimulus::Probe(outcome) => match world.probes.pop() {
                    Some(run) => probes::answer(&run, outcome),
                    None => Event::Agent(AgentEvent::Wake),
                },
                Stimulus::Hook => match (world.hooks.pop(), world.drains.pop()) {
                    (Some((hook, instance)), drain) => {
                        world.drains.extend(drain);
                        probes::hook_ended(hook, instance.0, None)
                    }
                    (None, Some(instance)) => gate::drained(instance.0, 0),
                    (None, None) => Event::Agent(AgentEvent::Wake),
                },
                Stimulus::File => {
                    let path = "/etc/web.conf".to_owned();
                    Event::Workload(name(WEB), WorkloadEvent::FileChanged { path })
                }
                Stimulus::Unname(prune) => Event::Agent(AgentEvent::Configure { manifest: Manifest::default(), prune: if prune { Prune::All } else { Prune::Nothing } }),
                Stimulus::Memory(used) => probes::memory(used),
                Stimulus::Crash(begun, ended) => {
                    let before = supervisor.view(&name(WEB));
                    let manifest = supervisor.manifest();
                    let left = world.crash(begun, ended);
                    let known = !world.kept.is_empty();
                    supervisor = Supervisor::new(2);
                    let _ = handle(&mut supervisor, &mut world, now, left);
                    if let (Some(before), Some(after), true) = (before, supervisor.view(&name(WEB)), known) {
                        prop_assert_eq!(before.restarts, after.restarts);
                        prop_assert_eq!(before.spent, after.spent);
                        prop_assert_eq!(before.instance, after.instance);
                        prop_assert_eq!(before.claims, after.claims);
                        prop_assert_eq!(before.spec, after.spec);
                    }
                    Event::Agent(AgentEvent::Configure { manifest, prune: Prune::Nothing })
                }
                Stimulus::Wait(millis) => {
                    now = now.after(Duration::from_millis(u64::from(millis)));
                    Event::Agent(AgentEvent::Wake)
                }
            };
            let by_hand = matches!(event, Event::Workload(_, WorkloadEvent::Request { .. }));
            let decision = handle(&mut supervisor, &mut world, now, event);
            if by_hand {
                // A person's wish begins a new count.
                world.starts.clear();
            }
            // The kernel has the manifest's limits, and what is claimed, and no more.
            if let (Some(view), false) = (supervisor.view(&name(WEB)), world.alive.is_empty()) {
                let effective = view.claims.effective(&view.spec.limits);
                prop_assert_eq!(world.limits.as_ref(), Some(&effective));
            }
            // Connections get through while it is ready, and at no other time.
            if let Some(view) = supervisor.view(&name(WEB)) {
                prop_assert_eq!(world.door == Some(Door::Open), view.ready);
            }
            // What is due is not put off.
            // What is due is done at once, or put off: never asked for again and again.
            let mut wakes = 0;
            let mut wake = decision.wake;
            while wake.is_some_and(|wake| wake <= now) {
                wakes += 1;
                prop_assert!(wakes < 20, "it wants to be woken for ever");
                wake = handle(&mut supervisor, &mut world, now, Event::Agent(AgentEvent::Wake)).wake;
            }
            let budget = Budget::default();
            let recent = world.starts.iter().filter(|start| now.since(**start) < budget.within).count();
            // The breaker's own trials come on top, one for each cooldown of a minute or more.
            prop_assert!(recent <= usize::try_from(budget.restarts).expect("small") + 5, "{} restarts", recent);
        }
        // Planning what is applied yields nothing.
        let manifest = supervisor.manifest();
        prop_assert!(crate::plan::between(&manifest, &manifest).is_empty());
        let decision = handle(&mut supervisor, &mut world, now, Event::Agent(AgentEvent::Configure { manifest, prune: Prune::Nothing }));
        prop_assert!(decision.actions.is_empty() && decision.transitions.is_empty());
        // Whatever is under way, a shutdown comes to its end.
        let mut finished = handle(&mut supervisor, &mut world, now, Event::Agent(AgentEvent::Shutdown)).finished;
        for _ in 0..50 {
            let event = if let Some((instance, what)) = world.owed.pop() {
                match what {
                    "start" => started(instance.0),
                    "remedy" => probes::remedied(instance.0, None),
                    _ => {
                        world.alive.remove(&instance);
                        reaped(instance.0, ExitStatus::Signal(15), 0)
                    }
                }
            } else if let Some((hook, instance)) = world.hooks.pop() {
                probes::hook_ended(hook, instance.0, None)
            } else if let Some(instance) = world.alive.first().filter(|_| world.asked_to_end) {
                exited(instance.0)
            } else {
                now = now.after(Duration::from_secs(60));
                Event::Agent(AgentEvent::Wake)
            };
            finished |= handle(&mut supervisor, &mut world, now, event).finished;
        }
        prop_assert!(finished, "the shutdown never ends: {supervisor:?}");
    }
}
