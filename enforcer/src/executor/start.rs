//! A start from the cgroup to the program's first instruction, in the order that
//! leaves nothing unlimited and nothing unrecorded.

use super::output::KeptPipe;
use super::{Executor, Registered, launch};
use crate::failpoint::failpoint;
use crate::report::error_chain;
use crate::store::handover::RunningInstance;
use crate::watch;
use enforcer_core::WorkloadName;
use enforcer_core::event::{Cause, CgroupId, Event, InstanceEvent, InstanceId, StartError};
use enforcer_core::limits::Limits;
use enforcer_core::oom::Counters;
use enforcer_core::spec::WorkloadSpec;
use enforcer_kernel::cgroupfs::{Cgroup, CgroupError};
use enforcer_kernel::counters::CounterReader;
use enforcer_kernel::spawn::{Launch, Patience};
use enforcer_kernel::{clock, limits, process, spawn, usage};
use parking_lot::Mutex;
use std::sync::Arc;

/// A workload's cgroup, its id, and what reads its counters.
pub(super) type OpenCgroup = (Arc<Cgroup>, CgroupId, Arc<Mutex<CounterReader>>);

impl Executor {
    pub(super) fn start(
        self: &Arc<Self>,
        workload: &WorkloadName,
        instance: InstanceId,
        wanted: (&Arc<WorkloadSpec>, &Limits),
        cause: Cause,
    ) {
        let started = self.try_start(workload, instance, wanted, cause);
        // A request to give up may come after the end of the start that it names.
        self.aborted.lock().retain(|(name, _)| name != workload);
        if let Err(error) = started {
            // That would cost the workload a start of its budget for nothing.
            self.end_without_tree();
            self.events.send(Event::Instance(
                workload.clone(),
                instance,
                InstanceEvent::StartFailed { error },
            ));
        }
    }

    fn try_start(
        self: &Arc<Self>,
        workload: &WorkloadName,
        instance: InstanceId,
        (spec, effective): (&Arc<WorkloadSpec>, &Limits),
        cause: Cause,
    ) -> Result<(), StartError> {
        let until = clock::now().after(spec.start_timeout);
        let (cgroup, id, reader) = self.open_fit_cgroup(workload)?;
        limits::apply(&cgroup, effective).map_err(|error| StartError {
            stage: "apply the limits".to_owned(),
            errno: error.errno(),
            error: error_chain(&error),
        })?;
        failpoint!("start-limited");
        let launch = self.launch(workload, spec, cause)?;
        let identity = &launch.identity;
        let owner = launch.switch_user.then_some((identity.uid, identity.gid));
        let output = self.open_output(workload, spec, owner)?;
        let counters = self.read_counters(&reader)?;
        let waiting = spawn::spawn(&launch, &cgroup, &output.file).map_err(|error| StartError {
            stage: "create the process".to_owned(),
            errno: std::error::Error::source(&error)
                .and_then(|source| source.downcast_ref::<std::io::Error>())
                .and_then(std::io::Error::raw_os_error),
            error: error_chain(&error),
        })?;
        let pid = waiting.pid;
        failpoint!("start-forked");
        let start_ticks = process::start_ticks(pid).unwrap_or(0);
        if let Some(ring) = &self.ring {
            ring.watch(pid, start_ticks);
        }
        let recorded = self.handover.record(&RunningInstance {
            workload: workload.clone(),
            instance,
            pid,
            start_ticks,
            cgroup: id,
            output: output.pipe.as_ref().map(|pipe| pipe.inode),
        });
        if let Err(error) = recorded {
            // A process that is not recorded must not run.
            waiting.abandon();
            return Err(io_failure("record the instance", &error));
        }
        failpoint!("start-recorded");
        // While this descriptor is open, the holder waits for its end.
        drop(output.file);
        // From here on its events can be told apart, so they may be sent.
        self.register(
            workload,
            (Arc::clone(&cgroup), id, Arc::clone(&reader)),
            (pid, start_ticks),
            output.pipe,
            (spec, Some(launch)),
        );
        if let Some(entry) = self.registry().get_mut(workload) {
            entry.given(effective);
        }
        let kills = counters.oom_kill;
        self.events.send(Event::Instance(
            workload.clone(),
            instance,
            InstanceEvent::Prepared {
                cgroup: id,
                counters,
            },
        ));
        let wanted = (workload.clone(), instance);
        let patience = Patience {
            until,
            limit: spec.start_timeout,
            is_aborted: &|| self.aborted.lock().contains(&wanted),
            explain: &|| {
                let frozen = cgroup.is_frozen().unwrap_or(false);
                frozen.then(|| "its cgroup is frozen (cgroup.freeze is 1)".to_owned())
            },
        };
        let released = waiting.release(&spec.command[0], &patience);
        let released = released.map_err(|error| {
            self.handover.forget(workload);
            self.explain_memory(error, &reader, kills)
        });
        let pidfd = Arc::new(released?);
        failpoint!("start-released");
        if let Some(entry) = self.registry().get_mut(workload) {
            entry.pidfd = Some(Arc::clone(&pidfd));
        }
        self.events.send(Event::Instance(
            workload.clone(),
            instance,
            InstanceEvent::Started { pid },
        ));
        let exit = watch::exit(pidfd, self.events.clone(), workload.clone(), instance);
        self.runtime.spawn(exit);
        Ok(())
    }

    /// Prepares what the child needs. A restart after a failure uses what the last start used, if
    /// the spec is the same. Every other start reads accounts and files of variables again.
    fn launch(
        &self,
        workload: &WorkloadName,
        spec: &Arc<WorkloadSpec>,
        cause: Cause,
    ) -> Result<Arc<Launch>, StartError> {
        if cause.is_failure()
            && let Some((of, launch)) = self
                .registry()
                .get(workload)
                .and_then(|entry| entry.launch.clone())
            && Arc::ptr_eq(&of, spec)
        {
            return Ok(launch);
        }
        launch::prepare(workload, spec).map(Arc::new)
    }

    /// Aborts a start that is no longer wanted, and kills what it has made.
    pub(super) fn abort_start(&self, workload: WorkloadName, instance: InstanceId) {
        self.aborted.lock().insert((workload.clone(), instance));
        if let Some(Err(error)) = self.with_cgroup(&workload, Cgroup::kill) {
            tracing::error!("{workload}: failed to {}", error_chain(&error));
        }
    }

    /// Explains a start that the kernel ended for lack of memory.
    fn explain_memory(
        &self,
        error: StartError,
        reader: &Mutex<CounterReader>,
        kills_before: u64,
    ) -> StartError {
        let now = reader.lock().read();
        if now.is_ok_and(|now| now.oom_kill > kills_before) {
            return StartError {
                error:
                    "the kernel killed it before it ran: memory.max is too small for the program"
                        .to_owned(),
                ..error
            };
        }
        error
    }

    /// Opens the workload's cgroup and makes it fit to take a process: workloads may build cgroups
    /// of their own below it, and people freeze it. If that cannot be undone, the cgroup is made
    /// anew.
    fn open_fit_cgroup(
        self: &Arc<Self>,
        workload: &WorkloadName,
    ) -> Result<OpenCgroup, StartError> {
        let open = self.open_cgroup(workload)?;
        let fit = open.0.make_fit().and_then(|()| open.0.takes_processes());
        if matches!(fit, Ok(true)) {
            return Ok(open);
        }
        let workloads = self.tree.workloads();
        let failed = |error: CgroupError| StartError {
            stage: "make the cgroup fit for another start".to_owned(),
            errno: error.errno(),
            error: error_chain(&error),
        };
        workloads
            .remove_child(workload.as_str())
            .map_err(|error| failed(fit.err().unwrap_or(error)))?;
        self.open_cgroup(workload)
    }

    /// Returns the workload's cgroup and its readers: the ones it has, or new ones.
    fn open_cgroup(self: &Arc<Self>, workload: &WorkloadName) -> Result<OpenCgroup, StartError> {
        let known = self.registry().get(workload).map(|entry| {
            (
                Arc::clone(&entry.cgroup),
                entry.id,
                Arc::clone(&entry.counters),
            )
        });
        let removed = match known {
            Some(known) if known.0.is_there() => return Ok(known),
            Some(_) => true,
            None => false,
        };
        let failed = |error: CgroupError| StartError {
            stage: "create the cgroup".to_owned(),
            errno: error.errno(),
            error: error_chain(&error),
        };
        let (cgroup, id, reader) = self.open_workload(workload).map_err(failed)?;
        if removed {
            let open = (Arc::clone(&cgroup), id, Arc::clone(&reader));
            self.replace_cgroup(workload, open);
        }
        Ok((cgroup, id, reader))
    }

    pub(super) fn open_workload(&self, workload: &WorkloadName) -> Result<OpenCgroup, CgroupError> {
        let cgroup = self.tree.workloads().ensure_child(workload.as_str())?;
        let cgroup = Arc::new(cgroup);
        let id = cgroup.id()?;
        let reader = CounterReader::new(Arc::clone(&cgroup), Arc::clone(self.tree.ancestors()));
        Ok((cgroup, id, Arc::new(Mutex::new(reader))))
    }

    fn read_counters(&self, reader: &Mutex<CounterReader>) -> Result<Counters, StartError> {
        reader.lock().read().map_err(|error| StartError {
            stage: "read the counters".to_owned(),
            errno: error.errno(),
            error: error_chain(&error),
        })
    }

    pub(super) fn register(
        self: &Arc<Self>,
        workload: &WorkloadName,
        (cgroup, id, counters): OpenCgroup,
        (pid, start_ticks): (u32, u64),
        output: Option<KeptPipe>,
        (spec, launch): (&Arc<WorkloadSpec>, Option<Arc<Launch>>),
    ) {
        let launch = launch.map(|launch| (Arc::clone(spec), launch));
        let own = Arc::clone(spec);
        let begun = (clock::now(), usage::read_cpu(&cgroup));
        self.watch_cgroup(workload);
        let mut registry = self.registry();
        if let Some(entry) = registry.get_mut(workload) {
            if (entry.pid, entry.start_ticks) != (pid, start_ticks) {
                self.forget_exit(entry.pid, entry.start_ticks);
            }
            entry.pid = pid;
            entry.start_ticks = start_ticks;
            entry.adopted = false;
            entry.begun = begun;
            entry.pidfd = None;
            entry.output = output;
            entry.launch = launch;
            entry.spec = own;
            self.watch_loops(entry, spec);
            return;
        }
        let watch = watch::memory_events(
            Arc::clone(&cgroup),
            Arc::clone(&counters),
            self.events.clone(),
            workload.clone(),
        );
        let watch = Some(self.runtime.spawn(watch).abort_handle());
        let mut entry = Registered {
            cgroup,
            id,
            counters,
            pid,
            start_ticks,
            adopted: false,
            begun,
            pidfd: None,
            output,
            spec: own,
            limits: None,
            levels: None,
            loop_budget: None,
            launch,
            watch,
        };
        self.watch_loops(&mut entry, spec);
        registry.insert(workload.clone(), entry);
    }
}

pub(super) fn io_failure(stage: &str, error: &std::io::Error) -> StartError {
    StartError {
        stage: stage.to_owned(),
        errno: error.raw_os_error(),
        error: spawn::describe(error),
    }
}
