//! The limits of attached services, which their owner sets by its own command. What a service has had before is recorded first, so
//! that this agent or the next one can have it given back.

use super::LIMITS;
use crate::executor::Executor;
use crate::executor::queue::Work;
use enforcer_core::ReplicaId;
use enforcer_core::event::{AgentEvent, COMMAND_LIMIT, Event, LimitChange, TakenOver};
use enforcer_core::limits::Limits;
use enforcer_core::owner::{OwnerLimits, Values, asked_values, default_of, is_set};
use enforcer_core::spec::{Attach, Commands, Mode, WorkloadSpec};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::{attached, clock, limits};
use std::sync::Arc;
use std::time::Duration;

/// The time in which an owner brings to the kernel what its command has accepted.
const IN_EFFECT: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);

impl Executor {
    /// Has the owner of a service set these limits, and give back what is not limited any more. A service that does not run gets them when
    /// it does.
    pub(in crate::executor) fn limit_service(
        self: &Arc<Self>,
        workload: &ReplicaId,
        spec: &WorkloadSpec,
        limits: &Limits,
    ) -> Result<Vec<LimitChange>, String> {
        let Some(service) = &spec.attach else {
            return Ok(Vec::new());
        };
        let mut wanted = match spec.mode {
            Mode::Enforce => asked_values(limits),
            Mode::Observe => Values::new(),
        };
        let can_set = service.limits();
        wanted.retain(|file, _| can_set.contains(&file.as_str()));
        let known = self.handover.owner_limits(workload);
        let known = known.filter(|known| known.service == *service);
        if wanted.is_empty() && known.is_none() {
            return Ok(Vec::new());
        }
        let mut owner = known.unwrap_or_else(|| OwnerLimits::new(service.clone()));
        self.have_set(workload, spec.commands, (&mut owner, &wanted))
    }

    /// Has the owner of a service give back all limits.
    pub(in crate::executor) fn give_limits_back(self: &Arc<Self>, workload: &ReplicaId) {
        let Some(mut owner) = self.handover.owner_limits(workload) else {
            return;
        };
        let service = owner.service.clone();
        let none = Values::new();
        let ceiling = WorkloadSpec::default().commands;
        if let Err(error) = self.have_set(workload, ceiling, (&mut owner, &none)) {
            let what = "attach".to_owned();
            let why = format!("{workload}: the limits of {service} were not given back: {error}");
            self.send(Event::Agent(AgentEvent::Degraded { what, why }));
        }
        // Nobody asks for it any more.
        owner.keep(&none);
        self.keep_owner_limits(workload, &owner);
    }

    /// Has the limits given back of services that an agent before has let go, and has died then.
    pub(in crate::executor) fn give_left_limits_back(self: &Arc<Self>, known: &[TakenOver]) {
        for workload in self.handover.all_owner_limits() {
            if known.iter().all(|one| one.workload != workload) {
                self.queue(Work::GiveBack(workload));
            }
        }
    }

    /// Waits until the limits are given back of the services that were let go.
    pub(in crate::executor) fn finish_giving_back(&self) {
        let until = clock::now().after(COMMAND_LIMIT);
        while !self.handover.all_owner_limits().is_empty()
            && !self.is_idle()
            && clock::now() < until
        {
            clock::pause(AGAIN);
        }
    }

    fn have_set(
        self: &Arc<Self>,
        workload: &ReplicaId,
        ceiling: Commands,
        (owner, wanted): (&mut OwnerLimits, &Values),
    ) -> Result<Vec<LimitChange>, String> {
        let files = owner.files(wanted);
        let read = |cgroup: &Cgroup| -> Values {
            let value = |file: &String| {
                let value = limits::present(cgroup, file);
                (file.clone(), value.unwrap_or_else(|| default_of(file)))
            };
            files.iter().map(value).collect()
        };
        let look = || {
            let found =
                self.with_cgroup(workload, |cgroup| cgroup.is_foreign().then(|| read(cgroup)));
            found.flatten()
        };
        let present = look().unwrap_or_default();
        let change = owner.change(wanted, &present);
        self.keep_owner_limits(workload, owner);
        if !change.is_empty() {
            let service = &owner.service;
            let container =
                self.with_cgroup(workload, |cgroup| attached::container(service, cgroup));
            let container = container.unwrap_or_default();
            let Some(command) = owner.service.set_limits(&change, container) else {
                return Err(format!("{} has no owner that sets limits", owner.service));
            };
            let ran = self.run_of_owner(workload, (&owner.service, ceiling), (LIMITS, command));
            self.runtime.block_on(ran)?;
            if !present.is_empty() {
                await_values(&owner.service, &change, look)?;
            }
        }
        owner.keep(wanted);
        self.keep_owner_limits(workload, owner);
        let changes = change.into_iter().filter_map(|(file, to)| {
            let from = present.get(&file)?.clone();
            Some(LimitChange { file, from, to })
        });
        Ok(changes.collect())
    }

    fn keep_owner_limits(&self, workload: &ReplicaId, owner: &OwnerLimits) {
        if let Err(error) = self.handover.keep_owner_limits(workload, owner) {
            tracing::error!("{workload}: what its owner has set is not recorded: {error}");
        }
    }
}

/// Waits until the kernel has what the owner was asked for.
fn await_values(
    service: &Attach,
    change: &Values,
    look: impl Fn() -> Option<Values>,
) -> Result<(), String> {
    let until = clock::now().after(IN_EFFECT);
    loop {
        // It may have ended meanwhile. The owner has the values for its next start.
        let Some(present) = look() else {
            return Ok(());
        };
        let mut all = change.iter();
        let missing = all.find_map(|(file, asked)| {
            let found = present.get(file)?;
            (!is_set(file, asked, found)).then_some((file, asked, found))
        });
        let Some((file, asked, found)) = missing else {
            return Ok(());
        };
        if clock::now() >= until {
            return Err(format!(
                "the owner of {service} has accepted {file} {asked}, and the kernel has {found}"
            ));
        }
        clock::pause(AGAIN);
    }
}
