//! Replicas: rollouts, rollbacks and the number of them, in a world where each replica takes its time.

use super::*;
use crate::event::{Detail, Drained, HungThread, RolloutState};
use crate::group::{Group, GroupRequest};
use crate::name::WorkloadName;
use crate::probe::{Failure, Outcome};
use crate::spec::{Check, Listen, OnFailure, Port, Probe, ProbeName, Replicas, Rollout};

/// The name of a version whose replicas never come up.
const BROKEN: &str = "/bin/false";

/// Everything that the agent's edges would do, and what they keep.
struct World {
    supervisor: Supervisor,
    now: u64,
    /// The answers that are due, by their time.
    due: Vec<(u64, Event)>,
    wake: Option<u64>,
    kept: BTreeMap<ReplicaId, String>,
    kept_groups: BTreeMap<WorkloadName, String>,
    last: (Seq, InstanceId),
    /// The instances whose program runs.
    running: BTreeMap<ReplicaId, (InstanceId, String)>,
    reported: String,
    /// The fewest replicas that were ready at a time.
    least_ready: usize,
    most: usize,
    /// The replicas that answer nothing.
    hung: BTreeSet<ReplicaId>,
    /// The kinds of the events of `web/1`.
    of_one: Vec<String>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            supervisor: Supervisor::new(4),
            now: 0,
            due: Vec::new(),
            wake: None,
            kept: BTreeMap::new(),
            kept_groups: BTreeMap::new(),
            last: (Seq(0), InstanceId(0)),
            running: BTreeMap::new(),
            reported: String::new(),
            least_ready: usize::MAX,
            most: 0,
            hung: BTreeSet::new(),
            of_one: Vec::new(),
        };
        world.tell(Event::Agent(AgentEvent::EbpfAttached(true)));
        world
    }

    fn apply(&mut self, spec: WorkloadSpec) {
        self.tell(configure(spec));
    }

    fn tell(&mut self, event: Event) {
        let moment = Moment {
            now: MonoTime(self.now),
            noise: 0,
        };
        let decision = self.supervisor.handle(moment, event);
        self.wake = decision.wake.map(|wake| wake.0);
        for (name, kept) in &decision.checkpoints {
            match kept {
                Some(kept) => {
                    self.last.1 = self.last.1.max(kept.instance());
                    let text = serde_json::to_string(kept).expect("it can be written");
                    self.kept.insert(name.clone(), text);
                }
                None => drop(self.kept.remove(name)),
            }
        }
        for (name, kept) in &decision.groups {
            match kept {
                Some(kept) => {
                    let text = serde_json::to_string(kept).expect("it can be written");
                    self.kept_groups.insert(name.clone(), text);
                }
                None => drop(self.kept_groups.remove(name)),
            }
        }
        for transition in &decision.transitions {
            self.last.0 = self.last.0.max(transition.seq);
            if transition.workload == Some(name("web/1")) {
                self.of_one.push(transition.detail.kind().to_owned());
            }
            if let Detail::Rollout(change) = &transition.detail {
                let seconds = self.now / 1_000_000_000;
                let ready = change.ready;
                self.reported.push_str(&format!(
                    "{seconds} s: {}, {ready} ready: {}\n",
                    change.state, change.why
                ));
            }
        }
        for action in decision.actions {
            self.take(action);
        }
        for run in decision.probes {
            let is_hung = self.hung.contains(&run.workload);
            let outcome = match is_hung {
                true => Outcome::Failed(Failure {
                    why: "no answer within 1s".to_owned(),
                    ..Failure::default()
                }),
                false => Outcome::Passed,
            };
            let event = InstanceEvent::Probed {
                probe: run.probe,
                run: run.run,
                outcome,
                took: Duration::from_millis(10),
            };
            self.later(10, Event::Instance(run.workload, run.instance, event));
        }
    }

    fn later(&mut self, millis: u64, event: Event) {
        self.due.push((self.now + millis * 1_000_000, event));
    }

    fn take(&mut self, action: Action) {
        let Action::Workload(WorkloadAction {
            workload,
            instance,
            change,
            ..
        }) = action
        else {
            return;
        };
        let of = |event| Event::Instance(workload.clone(), instance, event);
        match change {
            WorkloadChange::Step(Step::Start { spec, .. }) => {
                let cgroup = CgroupId(instance.0);
                let counters = Counters::default();
                self.later(100, of(InstanceEvent::Prepared { cgroup, counters }));
                let program = spec.command[0].clone();
                if program == BROKEN {
                    let error = StartError {
                        stage: "execute the program".to_owned(),
                        errno: None,
                        error: "no such file".to_owned(),
                    };
                    self.later(200, of(InstanceEvent::StartFailed { error }));
                } else {
                    let pid = 100 + u32::try_from(instance.0).expect("small");
                    self.later(200, of(InstanceEvent::Started { pid }));
                    let program = spec.command.join(" ");
                    self.running.insert(workload.clone(), (instance, program));
                }
            }
            WorkloadChange::Step(Step::Signal { .. } | Step::KillTree) => {
                self.running.remove(&workload);
                self.later(300, of(InstanceEvent::MainExited));
            }
            WorkloadChange::Step(Step::Reap) => {
                let status = ExitStatus::Code(0);
                let counters = Counters::default();
                self.later(50, of(InstanceEvent::Reaped { status, counters }));
            }
            WorkloadChange::Aside(Aside::Collect) => {
                let threads = vec![HungThread {
                    pid: 7,
                    tid: 7,
                    name: "web".to_owned(),
                    state: "S".to_owned(),
                    call: Some("futex".to_owned()),
                    kernel_stack: Vec::new(),
                    at: None,
                }];
                self.later(500, of(InstanceEvent::Collected { threads }));
            }
            WorkloadChange::Aside(Aside::Drain { .. }) => {
                let drained = Drained {
                    took: Duration::from_secs(1),
                    connections: 0,
                    left: 0,
                    unknown: None,
                };
                self.later(1000, of(InstanceEvent::Drained { drained }));
            }
            WorkloadChange::Aside(_) | WorkloadChange::Step(_) => {}
        }
    }

    /// Lets this much time pass, with everything that is due.
    fn pass(&mut self, seconds: u64) {
        let end = self.now + seconds * 1_000_000_000;
        loop {
            let next = self.due.iter().map(|(at, _)| *at).min();
            let at = [next, self.wake].into_iter().flatten().min();
            let Some(at) = at.filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            match self.due.iter().position(|(due, _)| *due <= self.now) {
                Some(found) => {
                    let (_, event) = self.due.remove(found);
                    self.tell(event);
                }
                None => self.tell(Event::Agent(AgentEvent::Wake)),
            }
            let ready = self.ready();
            self.least_ready = self.least_ready.min(ready);
            self.most = self.most.max(self.running.len());
        }
        self.now = end;
    }

    fn ready(&self) -> usize {
        self.supervisor.views().filter(|view| view.ready).count()
    }

    /// Counts the fewest that are ready from here on.
    fn watch(&mut self) {
        (self.least_ready, self.most) = (self.ready(), self.running.len());
    }

    fn names(&self) -> String {
        let views = self.supervisor.views();
        let shown = views.map(|view| {
            let program = self.running.get(&view.name);
            let program = program.map_or("-", |(_, program)| program.as_str());
            format!("{} {} {program}", view.name, view.state)
        });
        shown.collect::<Vec<_>>().join("; ")
    }

    /// The agent dies, and another one takes over.
    fn crash(&mut self) {
        self.supervisor = Supervisor::new(4);
        self.due.clear();
        let found = |name: &ReplicaId| match self.running.get(name) {
            Some((instance, _)) => {
                let pid = 100 + u32::try_from(instance.0).expect("small");
                Found::Running(CgroupId(instance.0), Counters::default(), pid)
            }
            None => Found::Nothing,
        };
        let taken = self.kept.iter().map(|(workload, text)| TakenOver {
            workload: workload.clone(),
            checkpoint: serde_json::from_str(text).expect("it was written so"),
            found: found(workload),
        });
        let group = |(name, text): (&WorkloadName, &String)| {
            let group: Group = serde_json::from_str(text).expect("it was written so");
            (name.clone(), group)
        };
        let event = AgentEvent::TakeOver {
            workloads: taken.collect(),
            groups: self.kept_groups.iter().map(group).collect(),
            last: self.last,
        };
        self.tell(Event::Agent(event));
        self.tell(Event::Agent(AgentEvent::EbpfAttached(true)));
    }
}

fn web(program: &str, replicas: Option<u16>) -> WorkloadSpec {
    WorkloadSpec {
        command: vec![program.to_owned(), "{replica}".to_owned()],
        replicas: replicas.map(Replicas::fixed),
        ports: [("http".to_owned(), Port::plain(8080))].into(),
        ..spec()
    }
}

fn group_request(request: GroupRequest) -> Event {
    Event::Group(name(WEB).workload().clone(), request)
}

fn up(replicas: u16) -> World {
    let mut world = World::new();
    world.apply(web("/bin/one", Some(replicas)));
    world.pass(5);
    assert_eq!(world.ready(), usize::from(replicas));
    world.watch();
    world
}

#[test]
fn replicas_have_their_numbers() {
    let world = up(3);
    let expected = "web/0 running /bin/one 0; web/1 running /bin/one 1; web/2 running /bin/one 2";
    assert_eq!(world.names(), expected);
    let manifest = world.supervisor.manifest();
    assert_eq!(
        manifest,
        super::manifest(&[(WEB, web("/bin/one", Some(3)))])
    );
}

#[test]
fn another_version_takes_the_place_of_each_replica_in_turn() {
    let mut world = up(3);
    world.apply(web("/bin/two", Some(3)));
    world.pass(60);
    let expected = "web/0 running /bin/two 0; web/1 running /bin/two 1; web/2 running /bin/two 2";
    assert_eq!(world.names(), expected);
    assert_eq!((world.least_ready, world.most), (3, 4));
    expect![[r#"
        5 s: began, 3 ready: replicas to replace: 3
        9 s: completed, 3 ready: it took 4.8 s
    "#]]
    .assert_eq(&world.reported);
}

#[test]
fn a_restart_of_all_goes_on_one_by_one() {
    let mut world = up(2);
    let before = world.running.clone();
    world.tell(request(Request::Restart));
    world.pass(60);
    assert_eq!((world.least_ready, world.most), (2, 3));
    for (name, (instance, _)) in &world.running {
        assert_ne!(before[name].0, *instance, "{name} was not restarted");
    }
    assert_eq!(world.running.len(), 2);
}

#[test]
fn a_version_that_does_not_come_up_is_rolled_back_and_remembered() {
    let mut world = up(3);
    world.apply(web(BROKEN, Some(3)));
    world.pass(600);
    let expected = "web/0 running /bin/one 0; web/1 running /bin/one 1; web/2 running /bin/one 2";
    assert_eq!(world.names(), expected);
    assert_eq!(world.least_ready, 3);
    let differs = |world: &World| {
        let group = world.supervisor.group(name(WEB).workload());
        group.expect("a group").differs
    };
    assert!(differs(&world));
    // The same file changes nothing.
    world.reported.clear();
    world.apply(web(BROKEN, Some(3)));
    world.pass(600);
    assert_eq!(world.reported, "");
    // A person may insist.
    world.tell(group_request(GroupRequest::Retry));
    world.pass(600);
    assert!(world.reported.contains("failed"), "{}", world.reported);
    world.apply(web("/bin/one", Some(3)));
    world.pass(60);
    assert!(!differs(&world));
    assert_eq!(world.least_ready, 3);
}

#[test]
fn a_rollout_that_may_miss_one_needs_no_surge() {
    let mut world = World::new();
    let rules = Rollout {
        max_surge: 0,
        max_unavailable: 1,
        min_ready: Duration::from_secs(5),
        ..Rollout::default()
    };
    let of = |program: &str| WorkloadSpec {
        rollout: rules.clone(),
        ..web(program, Some(3))
    };
    world.apply(of("/bin/one"));
    world.pass(30);
    world.watch();
    world.apply(of("/bin/two"));
    world.pass(60);
    assert_eq!((world.least_ready, world.most), (2, 3));
    let expected = "web/0 running /bin/two 0; web/1 running /bin/two 1; web/2 running /bin/two 2";
    assert_eq!(world.names(), expected);
}

#[test]
fn a_failed_rollout_may_stand_still() {
    let mut world = World::new();
    let rules = Rollout {
        on_failure: OnFailure::Pause,
        deadline: Duration::from_secs(20),
        ..Rollout::default()
    };
    let of = |program: &str| WorkloadSpec {
        rollout: rules.clone(),
        ..web(program, Some(2))
    };
    world.apply(of("/bin/one"));
    world.pass(30);
    world.watch();
    world.apply(of(BROKEN));
    world.pass(120);
    assert_eq!(world.least_ready, 2);
    let state = |world: &World| {
        let group = world.supervisor.group(name(WEB).workload());
        group.expect("a group").rollout
    };
    assert_eq!(state(&world), Some(RolloutState::Paused));
    world.tell(group_request(GroupRequest::Undo));
    world.pass(60);
    assert_eq!(state(&world), None);
    assert_eq!(
        world.names(),
        "web/0 running /bin/one 0; web/1 running /bin/one 1"
    );
    assert_eq!(world.least_ready, 2);
}

#[test]
fn the_number_follows_the_manifest_and_a_person() {
    let mut world = up(2);
    world.tell(group_request(GroupRequest::Scale(4)));
    world.pass(10);
    assert_eq!(world.ready(), 4);
    world.tell(group_request(GroupRequest::Scale(1)));
    world.pass(10);
    assert_eq!(world.names(), "web/0 running /bin/one 0");
    world.apply(web("/bin/one", Some(3)));
    world.pass(10);
    assert_eq!(world.ready(), 3);
}

#[test]
fn the_numbers_may_be_those_of_one_host_among_several() {
    let mut world = World::new();
    let of = |program: &str, indexes: &[u16]| WorkloadSpec {
        replicas: Some(Replicas::fixed(indexes.len().try_into().expect("few"))),
        replica_indexes: indexes.iter().copied().collect(),
        rollout: Rollout {
            max_surge: 0,
            max_unavailable: 1,
            ..Rollout::default()
        },
        ..web(program, None)
    };
    world.apply(of("/bin/one", &[2, 40]));
    world.pass(10);
    assert_eq!(
        world.names(),
        "web/2 running /bin/one 2; web/40 running /bin/one 40"
    );
    world.tell(group_request(GroupRequest::Scale(1)));
    assert_eq!(world.ready(), 2);
    world.watch();
    // 25 has the place of 40, which ends first.
    world.apply(of("/bin/one", &[2, 25]));
    world.pass(10);
    assert_eq!(
        world.names(),
        "web/2 running /bin/one 2; web/25 running /bin/one 25"
    );
    assert_eq!(world.most, 2);
    world.apply(of("/bin/two", &[2, 25]));
    world.pass(30);
    assert_eq!(world.ready(), 2);
    assert_eq!((world.least_ready, world.most), (1, 2));
}

#[test]
fn a_workload_gets_and_loses_replicas_without_a_gap() {
    let mut world = World::new();
    world.apply(web("/bin/one", None));
    world.pass(5);
    world.watch();
    world.apply(web("/bin/one", Some(2)));
    world.pass(30);
    assert_eq!(
        world.names(),
        "web/0 running /bin/one 0; web/1 running /bin/one 1"
    );
    world.apply(web("/bin/one", None));
    world.pass(30);
    assert_eq!(world.names(), "web running /bin/one {replica}");
    assert!(world.least_ready >= 1);
    assert_eq!(world.supervisor.group(name(WEB).workload()), None);
    assert!(world.kept_groups.is_empty());
}

#[test]
fn one_instance_with_a_socket_and_replicas_never_run_at_once() {
    let listening = |replicas: Option<u16>| {
        let mut spec = web("/bin/one", replicas);
        spec.ports.clear();
        let socket = Listen {
            tcp: Some("127.0.0.1:8080".parse().expect("an address")),
            unix: None,
            mode: Listen::MODE,
            group: None,
            backlog: 16,
            is_of_each: replicas.is_some(),
        };
        spec.listen.insert("api".to_owned(), socket);
        spec
    };
    let mut world = World::new();
    world.apply(listening(None));
    world.pass(5);
    for (replicas, most) in [(Some(2), 2), (None, 1)] {
        world.apply(listening(replicas));
        for _ in 0..60 {
            world.pass(1);
            let kinds: BTreeSet<bool> = world
                .running
                .keys()
                .map(|one| one.index().is_some())
                .collect();
            assert!(kinds.len() <= 1, "{}", world.names());
        }
        assert_eq!(world.ready(), most, "{}", world.names());
    }
    assert_eq!(world.names(), "web running /bin/one {replica}");
}

#[test]
fn a_replica_that_hangs_alone_is_looked_at_before_it_is_restarted() {
    let mut world = World::new();
    let check = Check::Tcp {
        host: "127.0.0.1".to_owned(),
        port: 8080,
    };
    let mut spec = web("/bin/one", Some(2));
    spec.probes.insert(ProbeName::Liveness, Probe::of(check));
    world.apply(spec);
    world.pass(30);
    world.of_one.clear();
    world.hung.insert(name("web/1"));
    world.pass(40);
    world.hung.clear();
    world.pass(30);
    world.of_one.retain(|kind| kind != "health");
    let kinds = world.of_one.join(" ");
    assert_eq!(kinds, "stop ready hang exit restart start ready");
    // All of them hang: that has another cause.
    world.of_one.clear();
    world.hung.extend([name("web/0"), name("web/1")]);
    world.pass(60);
    assert!(world.of_one.iter().any(|kind| kind == "stop"));
}

#[test]
fn a_changed_file_restarts_replicas_one_by_one() {
    let mut world = World::new();
    let mut spec = web("/bin/one", Some(2));
    spec.reload_on = vec!["/etc/web.conf".to_owned()];
    world.apply(spec);
    world.pass(10);
    world.watch();
    let before = world.running.clone();
    for replica in ["web/0", "web/1"] {
        let path = "/etc/web.conf".to_owned();
        let event = WorkloadEvent::FileChanged { path };
        world.tell(Event::Workload(name(replica), event));
    }
    world.pass(60);
    assert_eq!((world.least_ready, world.most), (2, 3));
    assert!(
        before
            .iter()
            .all(|(name, (instance, _))| world.running[name].0 != *instance)
    );
}

#[test]
fn all_replicas_stop_and_start_together() {
    let mut world = up(2);
    world.tell(request(Request::Stop));
    world.pass(10);
    assert_eq!(world.names(), "web/0 stopped -; web/1 stopped -");
    world.tell(request(Request::Start));
    world.pass(10);
    assert_eq!(world.ready(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is applied, whenever the agent dies: a rollout never leaves fewer replicas ready than it may,
    /// never runs more than it may, and ends with what the manifest says, unless that never comes up.
    #[test]
    fn a_rollout_keeps_its_bounds(
        steps in prop::collection::vec((0_u8..5, 0_u64..8), 1..12),
        replicas in 1_u16..5,
        surge in 0_u16..3,
        unavailable in 0_u16..3,
    ) {
        let rules = Rollout {
            max_surge: surge,
            max_unavailable: unavailable.max(u16::from(surge == 0)),
            min_ready: Duration::from_secs(1),
            ..Rollout::default()
        };
        let of = |program: &str| WorkloadSpec {
            rollout: rules.clone(),
            ..web(program, Some(replicas))
        };
        let mut world = World::new();
        world.apply(of("/bin/one"));
        world.pass(20);
        world.watch();
        let mut wanted = "/bin/one";
        for (step, seconds) in steps {
            match step {
                0 => wanted = "/bin/one",
                1 => wanted = "/bin/two",
                2 => wanted = BROKEN,
                3 => {
                    world.tell(request(Request::Restart));
                    world.pass(seconds);
                    continue;
                }
                _ => {
                    world.crash();
                    world.pass(seconds);
                    continue;
                }
            }
            world.apply(of(wanted));
            world.pass(seconds);
        }
        world.pass(3600);
        let floor = usize::from(replicas.saturating_sub(rules.max_unavailable));
        prop_assert!(world.least_ready >= floor, "{} of {floor}", world.least_ready);
        prop_assert!(world.most <= usize::from(replicas + surge), "{} ran", world.most);
        prop_assert_eq!(world.ready(), usize::from(replicas));
        for (name, (_, program)) in &world.running {
            if wanted != BROKEN {
                prop_assert!(program.starts_with(wanted), "{} runs {}", name, program);
            }
        }
    }
}
