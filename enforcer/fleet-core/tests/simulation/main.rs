//! Schedulers and nodes over a simulated etcd, under faults that a seed chooses. The same seed gives the same run.
//!
//! `SEEDS=100000 cargo test -p enforcer-fleet-core --release --test simulation` runs more of them, and `SEED=7` one with its log.

mod checks;
mod faults;
mod hosts;
#[path = "../random/mod.rs"]
mod random;

use enforcer_fleet_core::fleet::{Desired, Health, Resources};
use enforcer_fleet_core::node::{self, Asked, Node, Rules, Seen};
use enforcer_fleet_core::record::{
    AssignedRecord, DesiredRecord, DrainRecord, EndpointRecord, Key, Mode, NodeRecord, Record,
};
use enforcer_fleet_core::scheduler::{self, Scheduler};
use enforcer_fleet_core::store::simulated::Simulated;
use enforcer_fleet_core::store::{
    Answer, Change, Keys, Operation, Request, Revision, StoreError, Transaction,
};
use enforcer_fleet_core::{NodeId, Replica, Settings, Time};
use enforcer_model::WorkloadName;
use random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const PREFIX: &str = "fleet/";
const GRACE: Duration = Duration::from_secs(30);
/// The time in which a singleton ends, and a margin.
const MARGIN: Duration = Duration::from_secs(10);
const STOPS_IN: Duration = Duration::from_secs(2);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn name(text: &str) -> WorkloadName {
    WorkloadName::parse(text).expect("a name")
}

/// The rules of a host, which may refuse a workload.
struct HostRules(Option<&'static str>);

impl Rules for HostRules {
    fn refused(
        &mut self,
        asked: &BTreeMap<&WorkloadName, Asked<'_>>,
    ) -> BTreeMap<WorkloadName, String> {
        let refused = asked.keys().filter(|name| Some(name.as_str()) == self.0);
        refused
            .map(|name| ((*name).clone(), "not here".to_owned()))
            .collect()
    }
}

/// The times by which clocks are ahead, once somebody has set them.
const AHEAD: [Duration; 4] = [
    Duration::from_secs(3600),
    Duration::from_secs(3601),
    Duration::ZERO,
    Duration::from_secs(7200),
];

/// The host that refuses a workload, and the host where another one fails.
const REFUSING: (usize, &str) = (2, "job");
const SICK: (usize, &str) = (1, "web");

/// An instance on a host.
#[derive(Clone, Debug)]
struct Instance {
    revision: Revision,
    ready_at: Time,
    /// It ends then.
    ends: Option<Time>,
}

#[derive(Default)]
struct Host {
    is_down: bool,
    run: Option<node::Run>,
    instances: BTreeMap<Replica, Instance>,
    /// Singletons end before this.
    deadline: Time,
    /// The time in which a workload fails here.
    sick: Option<(Time, Time)>,
}

enum Program {
    Scheduler(Box<Scheduler>),
    Node(Box<Node<HostRules>>),
}

/// A program with its link to the store.
struct Actor {
    program: Program,
    /// The number of its starts. What is for an older one is dropped.
    life: u64,
    is_dead: bool,
    /// The time by which its clock is ahead. A program reads the wall clock at its start, and counts from there by the boot clock.
    ahead: Duration,
    paused_until: Time,
    /// Requests, and answers, are lost until then.
    no_requests_until: Time,
    no_answers_until: Time,
    watch: Option<(Keys, Revision, u64)>,
    waiting: Vec<(u64, Message)>,
    /// The number of its next alarm. An earlier one does nothing.
    alarm: u64,
}

#[derive(Clone, Debug)]
enum Message {
    OfScheduler(scheduler::Call, Result<Answer, StoreError>),
    OfNode(node::Call, Result<Answer, StoreError>),
    Watched(Result<Vec<Change>, StoreError>),
    Woken,
    Host,
}

/// A call of either kind of program.
#[derive(Clone, Debug)]
enum Call {
    OfScheduler(scheduler::Call),
    OfNode(node::Call),
}

enum Event {
    Request(usize, u64, Call, Request),
    Message(usize, u64, Message),
    /// The watch of an actor looks for changes.
    Watch(usize, u64, u64),
    /// A request whose sender has given it up.
    Late(Request),
    /// An actor's alarm.
    Alarm(usize, u64, u64),
    /// A host looks at what it should run. It does so twice a second, and when it is told so.
    Host(usize, bool),
    Fault,
    /// The database has room again.
    Room,
}

struct World {
    random: Random,
    now: Time,
    store: Simulated,
    store_down_until: Time,
    events: BTreeMap<(Time, u64), Event>,
    number: u64,
    actors: Vec<Actor>,
    hosts: Vec<Host>,
    schedulers: usize,
    log: Vec<String>,
    has_log: bool,
    faults_until: Time,
    faults: BTreeMap<&'static str, u64>,
    /// The number of heartbeats' writes, to find others.
    writes: u64,
}

const WORKLOADS: [(&str, u32, bool); 3] = [("web", 4, false), ("db", 1, true), ("job", 2, false)];

fn desired(replicas: u32, singleton: bool) -> DesiredRecord {
    DesiredRecord {
        scheduling: Desired {
            replicas,
            needs: Resources {
                memory_bytes: 100,
                cpu_millis: 10,
            },
            singleton,
            ..Desired::default()
        },
        mode: Mode::Enforce,
        workload: serde_json::json!({}),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let hosts = 3 + usize::try_from(random.below(4)).unwrap_or(0);
        let schedulers = 2;
        let mut world = Self {
            now: Time(seconds(1000)),
            store: Simulated::default(),
            store_down_until: Time::default(),
            events: BTreeMap::new(),
            number: 0,
            actors: Vec::new(),
            hosts: Vec::new(),
            schedulers,
            log: Vec::new(),
            has_log: std::env::var("SEED").is_ok(),
            faults_until: Time(seconds(1000 + 900)),
            faults: BTreeMap::new(),
            writes: 0,
            random,
        };
        for _ in 0..schedulers {
            world.add(Program::Scheduler(Box::new(new_scheduler())));
        }
        for number in 0..hosts {
            world.hosts.push(Host::default());
            world.add(Program::Node(Box::new(new_node(number))));
        }
        for (workload, replicas, singleton) in WORKLOADS {
            world.put(
                &Key::Desired(name(workload)),
                desired(replicas, singleton).encode(),
            );
        }
        world.at(seconds(20), Event::Fault);
        world
    }

    fn add(&mut self, program: Program) {
        self.actors.push(Actor {
            program,
            life: 0,
            is_dead: false,
            ahead: AHEAD[0],
            paused_until: Time::default(),
            no_requests_until: Time::default(),
            no_answers_until: Time::default(),
            watch: None,
            waiting: Vec::new(),
            alarm: 0,
        });
        let actor = self.actors.len() - 1;
        self.at(Duration::ZERO, Event::Message(actor, 0, Message::Woken));
        if actor >= self.schedulers {
            self.at(Duration::ZERO, Event::Host(actor - self.schedulers, true));
        }
    }

    fn at(&mut self, wait: Duration, event: Event) {
        self.number += 1;
        self.events
            .insert((self.now.after(wait), self.number), event);
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.random.below(to - from))
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.has_log {
            let line = format!("{:9.3} {}", self.now.0.as_secs_f64(), text());
            self.log.push(line);
        }
    }

    fn put(&mut self, key: &Key, value: Vec<u8>) {
        let put = Operation::Put {
            key: format!("{PREFIX}{key}"),
            value,
            lease: None,
        };
        let transaction = Transaction {
            then: vec![put],
            ..Transaction::default()
        };
        let done = self.store.handle(self.now, Request::Transact(transaction));
        // A database that is full takes nothing.
        drop(done);
        self.stir();
    }

    fn delete(&mut self, key: &Key) {
        let delete = Operation::Delete(Keys::One(format!("{PREFIX}{key}")));
        let transaction = Transaction {
            then: vec![delete],
            ..Transaction::default()
        };
        let done = self.store.handle(self.now, Request::Transact(transaction));
        done.expect("a write");
        self.stir();
    }

    /// Has every watch look for changes.
    fn stir(&mut self) {
        for actor in 0..self.actors.len() {
            if let Some((_, _, number)) = self.actors[actor].watch {
                let life = self.actors[actor].life;
                let wait = self.millis(1, 50);
                self.at(wait, Event::Watch(actor, life, number));
            }
        }
    }

    fn run(&mut self, until: Time) {
        while let Some((&(at, number), _)) = self.events.first_key_value() {
            if at > until {
                break;
            }
            let event = self.events.remove(&(at, number)).expect("the first one");
            let before = self.store.revision();
            self.now = at;
            self.store.pass(at);
            self.step(event);
            if self.store.revision() != before {
                self.check_store();
                self.stir();
            }
            self.check_singletons();
        }
        self.now = until;
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Request(actor, life, call, request) => self.serve(actor, life, call, request),
            Event::Message(actor, life, message) => self.deliver(actor, life, message),
            Event::Watch(actor, life, number) => self.look(actor, life, number),
            Event::Late(request) => {
                let _ = self.store.handle(self.now, request);
            }
            Event::Alarm(actor, life, number) => {
                if self.actors[actor].alarm == number {
                    self.deliver(actor, life, Message::Woken);
                }
            }
            Event::Host(host, again) => {
                if again {
                    self.at(Duration::from_millis(500), Event::Host(host, true));
                }
                self.live(host);
            }
            Event::Fault => self.fault(),
            Event::Room => self.store.fill(false),
        }
    }

    fn serve(&mut self, actor: usize, life: u64, call: Call, request: Request) {
        let now = self.now;
        let is_lost = now < self.actors[actor].no_requests_until;
        let is_lost = is_lost || now < self.store_down_until;
        if is_lost && self.random.below(4) == 0 {
            let wait = self.millis(1, 30_000);
            self.at(wait, Event::Late(request.clone()));
        }
        let answer = if is_lost {
            Err(StoreError::Unavailable("no answer".to_owned()))
        } else {
            let is_write = matches!(request, Request::Transact(_));
            let is_heartbeat = is_heartbeat(&request);
            let before = self.store.revision();
            let answer = self.store.handle(now, request);
            if is_write && !is_heartbeat && self.store.revision() != before {
                self.writes += 1;
            }
            answer
        };
        let is_lost = now < self.actors[actor].no_answers_until;
        let (answer, wait) = match answer {
            Err(StoreError::Unavailable(why)) => {
                (Err(StoreError::Unavailable(why)), self.millis(100, 8000))
            }
            // The change is made, and nobody is told.
            _ if is_lost => (
                Err(StoreError::Unavailable("no answer".to_owned())),
                self.millis(100, 8000),
            ),
            answer => (answer, self.millis(1, 30)),
        };
        let message = match call {
            Call::OfScheduler(call) => Message::OfScheduler(call, answer),
            Call::OfNode(call) => Message::OfNode(call, answer),
        };
        self.at(wait, Event::Message(actor, life, message));
    }

    fn look(&mut self, actor: usize, life: u64, number: u64) {
        let of = &mut self.actors[actor];
        let Some((keys, from, present)) = of.watch.clone() else {
            return;
        };
        if of.life != life || present != number {
            return;
        }
        let is_cut = self.now < of.no_answers_until
            || self.now < of.no_requests_until
            || self.now < self.store_down_until;
        let found = match is_cut {
            // The kernel notices after a while that nobody answers.
            true => {
                of.watch = None;
                let error = StoreError::Unavailable("the watch has ended".to_owned());
                let wait = self.millis(1000, 25_000);
                let message = Message::Watched(Err(error));
                self.at(wait, Event::Message(actor, life, message));
                return;
            }
            false => self.store.changes(&keys, from),
        };
        match &found {
            Ok(changes) => match changes.last() {
                Some(last) => {
                    let next = last.revision().next();
                    self.actors[actor].watch = Some((keys, next, number));
                }
                None => return,
            },
            Err(_) => self.actors[actor].watch = None,
        }
        self.deliver(actor, life, Message::Watched(found));
    }

    fn deliver(&mut self, actor: usize, life: u64, message: Message) {
        let now = self.now;
        let of = &mut self.actors[actor];
        if of.is_dead || of.life != life {
            return;
        }
        if now < of.paused_until {
            of.waiting.push((life, message));
            if of.waiting.len() == 1 {
                let wait = of.paused_until.since(now);
                self.at(wait, Event::Message(actor, life, Message::Woken));
            }
            return;
        }
        let waiting = std::mem::take(&mut of.waiting);
        for (life, message) in waiting.into_iter().chain([(life, message)]) {
            if self.actors[actor].life == life {
                self.tell(actor, message);
            }
        }
    }

    fn tell(&mut self, actor: usize, message: Message) {
        let ahead = self.actors[actor].ahead;
        let now = self.now.after(ahead);
        let life = self.actors[actor].life;
        let seen = actor
            .checked_sub(self.schedulers)
            .map(|host| self.seen(host));
        match &mut self.actors[actor].program {
            Program::Scheduler(scheduler) => {
                let input = match message {
                    Message::OfScheduler(call, answer) => scheduler::Input::Answer(call, answer),
                    Message::Watched(changes) => scheduler::Input::Watched(changes),
                    Message::OfNode(..) | Message::Woken | Message::Host => scheduler::Input::Woken,
                };
                let outputs = scheduler.handle(now, input);
                let wake = scheduler.wake();
                for output in outputs {
                    match output {
                        scheduler::Output::Call(call, request) => {
                            self.send(actor, Call::OfScheduler(call), request);
                        }
                        scheduler::Output::Watch(keys, from) => self.follow(actor, keys, from),
                        scheduler::Output::Tell(news) => {
                            self.note(|| format!("scheduler {actor}: {news:?}"));
                        }
                    }
                }
                self.wake(actor, life, wake);
            }
            Program::Node(node) => {
                let input = match message {
                    Message::OfNode(call, answer) => node::Input::Answer(call, answer),
                    Message::Watched(changes) => node::Input::Watched(changes),
                    Message::Host => node::Input::Host(seen.unwrap_or_default()),
                    Message::OfScheduler(..) | Message::Woken => node::Input::Woken,
                };
                let outputs = node.handle(now, input);
                let wake = node.wake();
                let host = actor - self.schedulers;
                for output in outputs {
                    match output {
                        node::Output::Call(call, request) => {
                            self.send(actor, Call::OfNode(call), request);
                        }
                        node::Output::Watch(keys, from) => self.follow(actor, keys, from),
                        node::Output::Run(run) => {
                            self.note(|| format!("host {host}: {:?}", shown(&run)));
                            self.hosts[host].run = Some(run);
                            self.at(Duration::ZERO, Event::Host(host, false));
                        }
                        node::Output::LeaseUntil(until) => {
                            let until = Time(until.0.saturating_sub(MARGIN + ahead));
                            let of = &mut self.hosts[host];
                            of.deadline = of.deadline.max(until);
                            // An agent starts at once what has had no time.
                            self.start_singletons(host);
                            self.check_singletons();
                        }
                        node::Output::Failed(error) => {
                            self.note(|| format!("node {host}: {error}"));
                        }
                    }
                }
                self.wake(actor, life, wake);
            }
        }
    }

    fn wake(&mut self, actor: usize, life: u64, at: Option<Time>) {
        if let Some(at) = at {
            let at = Time(at.0.saturating_sub(self.actors[actor].ahead));
            // What is due has been done, or the program would spin.
            assert!(
                at > self.now,
                "{actor} wakes at {at:?}, and it is {:?}",
                self.now
            );
            let wait = at.since(self.now);
            let alarm = self.number + 1;
            self.actors[actor].alarm = alarm;
            self.at(wait, Event::Alarm(actor, life, alarm));
        }
    }

    fn send(&mut self, actor: usize, call: Call, request: Request) {
        let life = self.actors[actor].life;
        let wait = self.millis(1, 30);
        self.at(wait, Event::Request(actor, life, call, request));
    }

    fn follow(&mut self, actor: usize, keys: Keys, from: Revision) {
        self.number += 1;
        let number = self.number;
        self.actors[actor].watch = Some((keys, from, number));
        let life = self.actors[actor].life;
        let wait = self.millis(1, 50);
        self.at(wait, Event::Watch(actor, life, number));
    }
}

const CAPACITY: u64 = 500;

fn node_id(number: usize) -> NodeId {
    NodeId::parse(&format!("host-{number}")).expect("a name")
}

fn new_scheduler() -> Scheduler {
    let settings = Settings {
        grace: GRACE,
        failing_for: seconds(60),
        ..Settings::default()
    };
    Scheduler::new(PREFIX.to_owned(), settings).comparing()
}

fn new_node(number: usize) -> Node<HostRules> {
    let about = NodeRecord {
        capacity: Resources {
            memory_bytes: CAPACITY,
            cpu_millis: 1000,
        },
        ..NodeRecord::default()
    };
    let rules = HostRules((number == REFUSING.0).then_some(REFUSING.1));
    Node::new(PREFIX.to_owned(), node_id(number), GRACE, about, rules)
}

fn is_heartbeat(request: &Request) -> bool {
    let Request::Transact(transaction) = request else {
        return false;
    };
    transaction.then.iter().all(|operation| match operation {
        Operation::Put { key, .. } => key.starts_with(&format!("{PREFIX}nodes/")),
        Operation::Delete(_) | Operation::Get(_) => false,
    })
}

fn shown(run: &node::Run) -> Vec<String> {
    let wanted = run.wanted.iter();
    let wanted = wanted.flat_map(|(workload, local)| {
        let all = local.replicas.keys();
        all.map(move |index| format!("{workload}/{index}@{}", local.revision.0))
    });
    let untouched = run.untouched.iter().map(|replica| format!("({replica})"));
    wanted.chain(untouched).collect()
}

fn simulate(seed: u64) -> BTreeMap<&'static str, u64> {
    let mut world = World::new(seed);
    let ends = world.faults_until;
    world.run(ends);
    // All is well again.
    for host in 0..world.hosts.len() {
        world.delete(&Key::Drain(node_id(host)));
    }
    world.run(ends.after(seconds(2000)));
    world.check_settled();
    let writes = world.writes;
    world.run(ends.after(seconds(2600)));
    if world.writes != writes {
        let more = world.writes - writes;
        world.fail(&format!("{more} writes at rest"));
    }
    world.check_settled();
    for line in &world.log {
        println!("{line}");
    }
    world.faults
}

#[test]
fn nothing_runs_twice_and_everything_settles() {
    if let Some(seed) = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        simulate(seed);
        return;
    }
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let seeds = std::env::var("SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(20) {
        match std::panic::catch_unwind(|| simulate(seed)) {
            Ok(of_seed) => {
                for (what, count) in of_seed {
                    *faults.entry(what).or_default() += count;
                }
            }
            Err(_) => panic!("SEED={seed}"),
        }
    }
    println!("{faults:#?}");
}
