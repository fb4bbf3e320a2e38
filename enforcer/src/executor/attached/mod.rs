//! Attached services: the agent finds them, observes them and lets them go. It writes nothing to their cgroups
//! and signals none of their processes.

mod limits;

use super::Executor;
use super::commands::{LIMITS, RECOVERY, ShortCommand, outcome_of};
use super::instances::{Begun, Instance, OpenCgroup};
use super::marks;
use crate::report::error_chain;
use crate::store::handover::Left;
use crate::watch;
use enforcer_core::ReplicaId;
use enforcer_core::event::{
    AgentEvent, COMMAND_LIMIT, CgroupId, Event, ExitStatus, Found, InstanceEvent, InstanceId,
    ProcessId, WorkloadEvent,
};
use enforcer_core::oom::Counters;
use enforcer_core::spec::{Attach, Commands, WorkloadSpec};
use enforcer_kernel::attached;
use enforcer_kernel::bpf::network::NetworkFilters;
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::counters::CounterReader;
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::{clock, usage};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The first and the longest pause between two looks for a service that does not run. A service that its
/// owner restarts is back at once.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_secs(2);
/// The time that the processes beside a main one get to end with it.
const TOGETHER: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Sought {
    /// The instances that are looked for.
    wanted: BTreeMap<ReplicaId, (InstanceId, Arc<WorkloadSpec>)>,
    /// The last counters of each service that has ended. Another cgroup counts from 0 on.
    before: BTreeMap<ReplicaId, (CgroupId, Counters)>,
    /// The starts of units, as systemd counts them.
    invocations: BTreeMap<ReplicaId, String>,
    /// The last reported error about each service that cannot be looked for.
    reported: BTreeMap<ReplicaId, String>,
    /// The instances that have ended while no agent lived.
    gone: BTreeMap<ReplicaId, Gone>,
}

/// An instance whose cgroup is gone, with its counters.
#[derive(Debug)]
struct Gone {
    main: ProcessId,
    cgroup: CgroupId,
    /// The OOM kills whose records were read since.
    kills: u64,
}

impl Gone {
    /// Returns the counters that the records make up.
    fn counters(&self) -> Counters {
        Counters {
            oom_kill: self.kills,
            own_oom: self.kills,
            subtree_oom: self.kills,
            ..Counters::default()
        }
    }
}

impl Sought {
    fn note_invocation(&mut self, workload: &ReplicaId, service: &Attach) {
        match attached::invocation(service) {
            Some(invocation) => self.invocations.insert(workload.clone(), invocation),
            None => self.invocations.remove(workload),
        };
    }
}

/// The meaning of the exit of the main process.
enum After {
    /// Others have run beside it, and run on.
    Next(Arc<PidFd>),
    Ended,
    /// It is observed no more.
    LetGo,
}

impl Executor {
    /// Begins to look for a service.
    pub(super) fn look_for(
        self: &Arc<Self>,
        workload: &ReplicaId,
        instance: InstanceId,
        spec: &Arc<WorkloadSpec>,
    ) {
        let wanted = (instance, Arc::clone(spec));
        self.sought.lock().wanted.insert(workload.clone(), wanted);
        let seek = Arc::clone(self).seek(workload.clone(), instance);
        self.runtime.spawn(seek);
    }

    async fn seek(self: Arc<Self>, workload: ReplicaId, instance: InstanceId) {
        let mut pause = FIRST_LOOK;
        loop {
            let (this, name) = (Arc::clone(&self), workload.clone());
            let look = move || this.try_attach(&name, instance);
            match tokio::task::spawn_blocking(look).await {
                Ok(Ok(true)) | Err(_) => return,
                Ok(Ok(false)) => {}
                Ok(Err(why)) => self.report_unfound(&workload, why),
            }
            tokio::time::sleep(pause).await;
            pause = LAST_LOOK.min(pause.saturating_mul(2));
        }
    }

    /// Reports once why a service cannot be looked for.
    fn report_unfound(&self, workload: &ReplicaId, why: String) {
        let mut sought = self.sought.lock();
        if sought.reported.get(workload) == Some(&why) {
            return;
        }
        sought.reported.insert(workload.clone(), why.clone());
        drop(sought);
        let what = "attach".to_owned();
        let why = format!("{workload}: {why}");
        self.events
            .send(Event::Agent(AgentEvent::Degraded { what, why }));
    }

    /// Returns the spec of a service that is looked for; `None` if it is not looked for any more.
    fn wanted_spec(&self, workload: &ReplicaId, instance: InstanceId) -> Option<Arc<WorkloadSpec>> {
        let sought = self.sought.lock();
        let (wanted, spec) = sought.wanted.get(workload)?;
        (*wanted == instance).then(|| Arc::clone(spec))
    }

    /// Notes another spec of a service that is looked for.
    pub(super) fn look_for_as(&self, workload: &ReplicaId, spec: &Arc<WorkloadSpec>) {
        if let Some((_, wanted)) = self.sought.lock().wanted.get_mut(workload) {
            *wanted = Arc::clone(spec);
        }
    }

    /// Looks for a service once. Returns true if it was found, or is not looked for any more.
    fn try_attach(
        self: &Arc<Self>,
        workload: &ReplicaId,
        instance: InstanceId,
    ) -> Result<bool, String> {
        let Some(spec) = self.wanted_spec(workload, instance) else {
            return Ok(true);
        };
        let Some(service) = &spec.attach else {
            return Ok(true);
        };
        let Some((open, main, pidfd)) = self.find_service(workload, service)? else {
            return Ok(false);
        };
        let pidfd = Arc::new(pidfd);
        let (before, counters) = {
            let mut sought = self.sought.lock();
            // It may have been let go just now, or have another spec.
            let Some((_, spec)) = sought
                .wanted
                .get(workload)
                .filter(|(id, _)| *id == instance)
            else {
                return Ok(true);
            };
            let spec = Arc::clone(spec);
            // Another name of the same service may have been faster.
            self.is_free(workload, service, open.id)?;
            if let Some(ring) = &self.ring {
                ring.attach(open.id);
                ring.watch_on(main);
            }
            // After it, so that each kill is either counted here or reported by its record.
            let counters = open.counters.lock().read().map_err(|error| {
                if let Some(ring) = &self.ring {
                    ring.detach(open.id);
                }
                format!("failed to {}", error_chain(&error))
            })?;
            sought.wanted.remove(workload);
            sought.reported.remove(workload);
            sought.note_invocation(workload, service);
            self.register(workload, begun(instance, open.clone(), main, &spec));
            self.instances.set_main(workload, (main, &pidfd), true);
            self.record_main((workload, instance), main, (open.id, None));
            (sought.before.remove(workload), counters)
        };
        let base = match &before {
            // The agent has not seen how this cgroup began.
            None => counters.clone(),
            Some((cgroup, counters)) if *cgroup == open.id => counters.clone(),
            Some(_) => uncounted(&counters),
        };
        let send = |event| {
            let event = Event::Instance(workload.clone(), instance, event);
            self.events.send(event);
        };
        send(InstanceEvent::Prepared {
            cgroup: open.id,
            counters: base,
        });
        send(InstanceEvent::Started { pid: main.pid });
        if before.is_some() {
            let counted = WorkloadEvent::CountersRead { counters };
            self.events.send(Event::Workload(workload.clone(), counted));
        }
        self.follow_service(workload, instance, pidfd);
        Ok(true)
    }

    /// Finds a service that runs, with its main process.
    fn find_service(
        &self,
        workload: &ReplicaId,
        service: &Attach,
    ) -> Result<Option<(OpenCgroup, ProcessId, PidFd)>, String> {
        let place = attached::locate(service);
        let Some(path) = place.map_err(|error| format!("failed to {}", error_chain(&error)))?
        else {
            return Ok(None);
        };
        if path.starts_with(self.tree.root().0) {
            return Err(format!("{} is enforcer's own cgroup", path.display()));
        }
        // It may go at any time.
        let Ok(cgroup) = Cgroup::open_foreign(&path) else {
            return Ok(None);
        };
        let (Ok(id), Ok(Some(main))) = (cgroup.id(), attached::oldest(&cgroup)) else {
            return Ok(None);
        };
        self.is_free(workload, service, id)?;
        let Ok(Some(pidfd)) = PidFd::of(main) else {
            return Ok(None);
        };
        let cgroup = Arc::new(cgroup);
        let counters = CounterReader::new(Arc::clone(&cgroup), attached::ancestors_of(&path));
        let open = OpenCgroup {
            cgroup,
            id,
            counters: Arc::new(Mutex::new(counters)),
            network: Arc::new(NetworkFilters::of_older_cgroup()),
        };
        Ok(Some((open, main, pidfd)))
    }

    /// Returns an error if a cgroup is looked after under another name.
    fn is_free(
        &self,
        workload: &ReplicaId,
        service: &Attach,
        cgroup: CgroupId,
    ) -> Result<(), String> {
        match self.instances.owner_of(cgroup) {
            Some((other, _)) if other != *workload => {
                Err(format!("{service} is attached as {other} already"))
            }
            _ => Ok(()),
        }
    }

    /// Begins to wait for the end of a service.
    pub(super) fn follow_service(
        self: &Arc<Self>,
        workload: &ReplicaId,
        instance: InstanceId,
        pidfd: Arc<PidFd>,
    ) {
        let follow = Arc::clone(self).follow_to_its_end(workload.clone(), instance, pidfd);
        self.runtime.spawn(follow);
    }

    /// Reports the end of a service: that of its main process and of all that have run beside it.
    async fn follow_to_its_end(
        self: Arc<Self>,
        workload: ReplicaId,
        instance: InstanceId,
        mut pidfd: Arc<PidFd>,
    ) {
        loop {
            watch::ended(&pidfd, &workload).await;
            let (this, name) = (Arc::clone(&self), workload.clone());
            let next = move || this.after_main(&name, instance);
            match tokio::task::spawn_blocking(next).await {
                Ok(After::Next(next)) => pidfd = next,
                Ok(After::LetGo) => return,
                Ok(After::Ended) | Err(_) => break,
            }
        }
        let exited = InstanceEvent::MainExited;
        self.events
            .send(Event::Instance(workload, instance, exited));
    }

    fn after_main(&self, workload: &ReplicaId, instance: InstanceId) -> After {
        let ended_at = clock::boot_ticks();
        let until = clock::now().after(TOGETHER);
        loop {
            let known = self.instances.get(workload);
            let Some(known) = known.filter(|known| known.id == instance) else {
                return After::LetGo;
            };
            let left = attached::oldest(known.cgroup()).ok().flatten();
            // What began later is the next instance. systemd says so itself.
            let begun = self.sought.lock().invocations.get(workload).cloned();
            let is_same = match begun {
                Some(begun) => {
                    let service = known.spec.attach.as_ref();
                    service.and_then(attached::invocation) == Some(begun)
                }
                None => left.is_some_and(|one| one.start_ticks <= ended_at),
            };
            if !is_same || (left.is_none() && clock::now() >= until) {
                return After::Ended;
            }
            // Between the commands of one start, no process may be there for a moment.
            if let Some(main) = left.filter(|_| clock::now() >= until)
                && let Ok(Some(pidfd)) = PidFd::of(main)
            {
                return After::Next(self.take_main(workload, &known, main, pidfd));
            }
            clock::pause(AGAIN);
        }
    }

    /// Collects what is known of a service that has ended, and forgets its cgroup.
    pub(super) fn collect_service(
        self: &Arc<Self>,
        workload: ReplicaId,
        instance: InstanceId,
        ended: &Instance,
    ) {
        // A kill that ended it is known before its end.
        if let Some(ring) = &self.ring {
            marks::drain(ring, self);
        }
        let status = self.past_status(ended.main);
        self.end_probes_of(&workload);
        let counters = ended.open.counters.lock().read().unwrap_or_default();
        let left = (ended.open.id, counters.clone());
        self.sought.lock().before.insert(workload.clone(), left);
        self.forget_service(&workload, ended);
        let reaped = InstanceEvent::Reaped { status, counters };
        self.events
            .send(Event::Instance(workload, instance, reaped));
    }

    /// Has the owner of a service restart it, by the owner's own command and as root.
    pub(super) async fn ask_owner(self: Arc<Self>, workload: ReplicaId, spec: Arc<WorkloadSpec>) {
        let Some(service) = &spec.attach else {
            return;
        };
        let Some(command) = service.restart(attached::has_systemd()) else {
            return;
        };
        let of = (service, spec.commands);
        if let Err(error) = self.run_of_owner(&workload, of, (RECOVERY, command)).await {
            self.send(Event::Workload(
                workload,
                WorkloadEvent::RemedyFailed { error },
            ));
        }
    }

    /// Runs a command of the owner of a service, as that owner, in the place of this name.
    async fn run_of_owner(
        self: &Arc<Self>,
        workload: &ReplicaId,
        (service, ceiling): (&Attach, Commands),
        (what, command): (&'static str, Vec<String>),
    ) -> Result<(), String> {
        let shown = command.join(" ");
        let owner = WorkloadSpec {
            user: Some(service.user().unwrap_or("root").to_owned()),
            commands: ceiling,
            ..WorkloadSpec::default()
        };
        let command = ShortCommand {
            workload: Some(workload.clone()),
            what: what.into(),
            spec: Arc::new(owner),
            command,
            environment: attached::environment(service),
            limit: COMMAND_LIMIT,
        };
        match outcome_of(self.run_command(command).await) {
            Some(error) => Err(format!("`{shown}`: {error}")),
            None => Ok(()),
        }
    }

    fn forget_service(&self, workload: &ReplicaId, known: &Instance) {
        self.instances.stop_watching(workload);
        self.handover.forget(workload);
        self.instances.remove(workload);
        self.unwatch_loops(known.open.id);
        self.forget_exit(known.main);
        if let Some(ring) = &self.ring {
            ring.detach(known.open.id);
        }
    }

    /// Ends the observation of a service, or the search for it. Its owner gives it the limits that it has had before.
    pub(super) fn let_service_go(self: &Arc<Self>, workload: &ReplicaId) {
        self.give_limits_back(workload);
        {
            let mut sought = self.sought.lock();
            sought.wanted.remove(workload);
            sought.before.remove(workload);
            sought.invocations.remove(workload);
            sought.reported.remove(workload);
            if let Some(gone) = sought.gone.remove(workload) {
                self.forget_exit(gone.main);
            }
        }
        let known = self.instances.get(workload);
        if let Some(known) = known.filter(|known| known.cgroup().is_foreign()) {
            self.forget_service(workload, &known);
            self.forget_commands(workload);
        }
    }

    /// Finds a service again that the agent before has looked after.
    pub(super) fn find_again(self: &Arc<Self>, left: &Left) -> Found {
        let checkpoint = &left.checkpoint;
        let (Some(service), Some(recorded)) = (&checkpoint.spec().attach, &left.instance) else {
            return Found::Nothing;
        };
        if recorded.instance != checkpoint.instance() || !checkpoint.has_instance() {
            return Found::Nothing;
        }
        let main = recorded.process();
        let found = self.find_service(&left.workload, service).ok().flatten();
        let found = found.filter(|(open, ..)| open.id == recorded.cgroup);
        let held = PidFd::of(main)
            .ok()
            .flatten()
            .filter(|main| !main.has_exited());
        let read = |open: &OpenCgroup| open.counters.lock().read().ok();
        let found = found.and_then(|(open, ..)| Some((read(&open)?, open)));
        let (Some((counters, open)), Some(pidfd)) = (found, held) else {
            let gone = Gone {
                main,
                cgroup: recorded.cgroup,
                kills: 0,
            };
            self.sought.lock().gone.insert(left.workload.clone(), gone);
            return Found::Nothing;
        };
        if let Some(ring) = &self.ring {
            ring.attach(open.id);
            ring.watch_on(main);
        }
        let id = open.id;
        let begun = begun(recorded.instance, open, main, checkpoint.spec());
        self.register(&left.workload, begun);
        let pidfd = Arc::new(pidfd);
        self.instances
            .set_main(&left.workload, (main, &pidfd), true);
        let mut sought = self.sought.lock();
        sought.note_invocation(&left.workload, service);
        Found::Running(id, counters, main.pid)
    }

    /// Returns whose OOM kill this is, if the cgroup is that of an instance that has ended while no agent
    /// lived. Its counters are gone, so the records are counted.
    pub(super) fn owner_of_gone(&self, cgroup: CgroupId) -> Option<(ReplicaId, Counters)> {
        let mut sought = self.sought.lock();
        let mut all = sought.gone.iter_mut();
        let (workload, gone) = all.find(|(_, gone)| gone.cgroup == cgroup)?;
        gone.kills += 1;
        Some((workload.clone(), gone.counters()))
    }

    /// Returns how an instance ended that no agent has seen end, and its counters.
    pub(super) fn end_of_gone(&self, workload: &ReplicaId) -> Option<(ExitStatus, Counters)> {
        let gone = self.sought.lock().gone.remove(workload)?;
        let status = self.past_status(gone.main);
        self.forget_exit(gone.main);
        self.handover.forget(workload);
        Some((status, gone.counters()))
    }

    /// Has the kernel's programs forget the services that the agent before has looked after, and this one
    /// has not found.
    pub(super) fn sweep_services(&self) {
        if let Some(ring) = &self.ring {
            ring.detach_unless(|cgroup| self.instances.owner_of(cgroup).is_some());
        }
    }
}

fn begun(id: InstanceId, open: OpenCgroup, main: ProcessId, spec: &Arc<WorkloadSpec>) -> Begun {
    Begun {
        id,
        begun: (clock::now(), usage::read_cpu(&open.cgroup)),
        open,
        main,
        output: None,
        spec: Arc::clone(spec),
        launch: None,
    }
}

/// Returns the counters as they were when the cgroup was made.
fn uncounted(counters: &Counters) -> Counters {
    let mut none = counters.clone();
    (none.oom_kill, none.oom_group_kill) = (0, 0);
    (none.own_oom, none.subtree_oom) = (0, 0);
    for below in &mut none.descendants {
        below.oom = 0;
    }
    none
}
