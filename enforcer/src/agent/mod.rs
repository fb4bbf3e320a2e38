//! An agent, from what another one has left and a manifest to its end: of itself alone,
//! or of its workloads as well.

mod ground;
mod live;

use crate::alerting;
use crate::api::{self, Api};
use crate::configuration::dormant::Dormant;
use crate::configuration::{Configuration, files, follow};
use crate::executor::marks;
use crate::executor::{Executor, drift, levels};
use crate::fault::Fault;
use crate::inbox::Events;
use crate::loops;
use crate::probe::Prober;
use crate::report::error_chain;
use crate::runtime::{Ended, Runtime};
use crate::service;
use crate::settings::Settings;
use crate::store::database::Database;
use crate::store::handover::{Handover, Legacy};
use crate::store::history::History;
use crate::telemetry::Telemetry;
use enforcer_core::event::{AgentEvent, Found, HostEvent, Prune};
use enforcer_core::spec::{Host, Manifest};
use enforcer_core::{Event, ReplicaId};
use enforcer_kernel::hierarchy::{self, Tree};
use enforcer_kernel::pressure::Trigger;
use enforcer_kernel::{bpf, capabilities, clock, init, own_process};
use ground::{asked, inherited, lock, open_history};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// The fate of the workloads when the agent is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// In the foreground, with live lines. The workloads end with the agent.
    Foreground { color: bool },
    /// In the background. The workloads run on.
    Daemon,
}

/// Supervises until it is asked to end.
pub(crate) fn supervise(
    settings: &Settings,
    file: &Path,
    manner: Manner,
    stderr_color: bool,
) -> Result<(), Fault> {
    init::leave_first_process()
        .map_err(|error| Fault::Failed(format!("failed to leave the first process: {error}")))?;
    if manner == Manner::Daemon {
        // The signal is handled later. Until then the manifest is read anyway.
        enforcer_kernel::signal::ignore_hangups();
    }
    let (dormant, mut found) = Dormant::open(&settings.state_dir(), file);
    if manner != Manner::Daemon {
        // A person says which files are meant.
        dormant.wake();
        found.clear();
    }
    let (loaded, fault) = match manner {
        Manner::Foreground { .. } => (files::load(file, stderr_color).map_err(Fault::from)?, None),
        // Files may be put there later; and one with a fault does not stop what runs.
        Manner::Daemon => {
            files::load_readable(file, &dormant.names(), &settings.delegate, stderr_color)
        }
    };
    eprint!("{}", loaded.warnings);
    if let Some(fault) = &fault {
        eprintln!("failed to read all of the manifest; what can be read is in force:\n{fault}");
    }
    let failed = |what: &str, error: &dyn std::error::Error| {
        Fault::Failed(format!("failed to {what}: {}", error_chain(error)))
    };
    let unable =
        |error: &dyn std::error::Error| Fault::Failed(format!("failed to {}", error_chain(error)));
    hierarchy::enter_scope(settings.cgroup_root.as_deref())
        .map_err(|error| failed("enter a delegated scope", &error))?;
    capabilities::give_up_the_others()
        .map_err(|error| failed("give up the capabilities that are not needed", &error))?;
    let _lock = lock(settings)?;
    let boot_id = clock::boot_id();
    let (handover, legacy) =
        Handover::open(&settings.runtime_dir(), &boot_id).map_err(|error| unable(&error))?;
    let inherited = inherited(settings, &legacy)?;
    let requested = settings.cgroup_root.as_deref();
    let tree = Tree::prepare(requested, &asked(&loaded.manifest), &inherited)
        .map_err(|error| unable(&error))?;
    let database = Database::at(&settings.state_dir(), settings.retention())
        .map_err(|error| unable(&error))?;
    let (root, made) = tree.root();
    handover
        .describe(root, made)
        .map_err(|error| unable(&error))?;
    for note in tree.notes() {
        eprintln!("note: {note}");
    }
    own_process::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| failed("start the runtime", &error))?;
    let agent = Agent {
        settings,
        file,
        manner,
        boot_id,
        tree,
        handover: Arc::new(handover),
        legacy,
        database,
        is_partial: fault.is_some(),
        has_host: loaded.has_host,
        has_alerts: loaded.has_alerts,
        dormant: (Arc::new(dormant), found),
    };
    let ended = runtime.block_on(agent.run(loaded.manifest));
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    ended
}

/// Everything that exists before the first event.
struct Agent<'a> {
    settings: &'a Settings,
    file: &'a Path,
    manner: Manner,
    boot_id: String,
    tree: Tree,
    handover: Arc<Handover>,
    legacy: Legacy,
    database: Database,
    /// Parts of the manifest have faults, and are not in force.
    is_partial: bool,
    /// Its `host` section could be read.
    has_host: bool,
    has_alerts: bool,
    /// Files of it that wait for an `apply`, and those of them that were found just now.
    dormant: (Arc<Dormant>, BTreeSet<String>),
}

impl Agent<'_> {
    /// Takes over what an earlier agent left, applies the manifest, and decides until the end.
    async fn run(mut self, manifest: Manifest) -> Result<(), Fault> {
        let (events, messages) = Events::channel();
        let attached = self.attach()?;
        let pins = attached.as_ref().ok();
        let pins = pins.and_then(|attached| attached.pins.as_ref().ok().cloned());
        let history = open_history(
            self.settings,
            &self.boot_id,
            &mut self.legacy,
            self.database,
        );
        let executor = executor(
            self.settings,
            self.tree,
            &self.handover,
            attached.as_ref().ok(),
            &events,
        );
        let host = manifest.parent_host();
        // The unreadable `host` section may ask for less than the defaults give, so the limits
        // that the last agent wrote stay.
        let keeps_ceiling = self.is_partial && !self.has_host && !self.legacy.workloads.is_empty();
        if !keeps_ceiling {
            executor.write_host_limits(&host).map_err(|error| {
                Fault::Failed(format!("failed to limit all workloads together: {error}"))
            })?;
        }
        let socket = self.settings.socket();
        let listener = api::listen(&socket).map_err(|error| {
            Fault::Failed(format!("failed to listen on {}: {error}", socket.display()))
        })?;
        let printer = print_live(self.manner, &history);
        tokio::task::yield_now().await;
        resume_reported(&events, &host, &history).await;
        take_over(attached, self.legacy, &events, &executor).await?;
        executor.report_of_protection(&host);
        let alerts = self.settings.state_dir().join("alerts");
        let deliver = alerting::deliver(Arc::clone(&executor), Arc::clone(&history), alerts);
        tokio::spawn(deliver);
        let stalls = watch_pressure(&events, &executor);
        let telemetry = Arc::<Telemetry>::default();
        let prober = Prober::new(Arc::clone(&executor));
        let (dormant, found) = self.dormant;
        let configuration = Configuration::new(
            (self.file, self.settings.delegate.clone()),
            dormant,
            Arc::clone(&executor),
            events.clone(),
        );
        let api = Api::new(
            events.clone(),
            Arc::clone(&executor),
            Arc::clone(&prober),
            (Arc::clone(&history), Arc::clone(&telemetry)),
            Arc::clone(&configuration),
        );
        report_dormant(&events, &found);
        let (begun, is_partial) = (Arc::clone(&configuration), self.is_partial);
        let manifest = tokio::task::spawn_blocking(move || begun.begin(manifest, is_partial)).await;
        let manifest = manifest.map_err(|error| Fault::Failed(error.to_string()))?;
        if let Some(address) = self.settings.listen.0 {
            tokio::spawn(api::public::serve(address, api.clone()));
        }
        tokio::spawn(api::stay_recent(api.clone()));
        tokio::spawn(api::serve(listener, api));
        events.send(Event::Agent(match self.is_partial {
            true => AgentEvent::ConfigureReadable {
                manifest,
                keeps_ceiling,
                has_alerts: self.has_alerts,
            },
            false => AgentEvent::Configure {
                manifest,
                prune: Prune::Nothing,
            },
        }));
        tokio::spawn(levels::tick(Arc::clone(&executor)));
        tokio::spawn(Arc::clone(&executor).watch_files());
        tokio::spawn(Arc::clone(&configuration).look_for_services());
        if self.manner == Manner::Daemon {
            tokio::spawn(follow::follow(configuration));
        }
        end_on_signal(&events, self.manner)?;
        let edges = (Arc::clone(&executor), prober);
        let kept = (Arc::clone(&history), self.handover);
        let runtime = Runtime::new(edges, kept, telemetry, cpus());
        let ended = runtime.run(messages).await;
        end_triggers(stalls).await;
        if ended == Ended::WithWorkloads {
            remove_what_is_left(&executor, pins).await;
        }
        let _ = tokio::task::spawn_blocking(move || history.close()).await;
        if let Some(printer) = printer {
            printer.abort();
        }
        let _ = std::fs::remove_file(socket);
        Ok(())
    }

    /// Loads and attaches the eBPF programs. The inner error is the reason to do without them.
    fn attach(&self) -> Result<Result<bpf::Attached, bpf::BpfError>, Fault> {
        let workloads = self.tree.workloads();
        let parent = workloads
            .id()
            .map_err(|error| Fault::Failed(format!("failed to {}", error_chain(&error))))?;
        let settings = self.settings;
        Ok(bpf::attach(
            settings.ebpf.into(),
            (parent, workloads),
            (settings.sample_scope.into(), settings.sample_hz),
        ))
    }
}

/// Makes the executor, which owns the cgroups and the rings of the eBPF programs.
fn executor(
    settings: &Settings,
    tree: Tree,
    handover: &Arc<Handover>,
    attached: Option<&bpf::Attached>,
    events: &Events,
) -> Arc<Executor> {
    let ring = attached.map(|attached| Arc::clone(&attached.ring));
    let suspects = attached.and_then(|attached| attached.suspects.as_ref().ok());
    let suspects = suspects.map(|(suspects, _)| Arc::clone(suspects));
    Executor::new(
        tree,
        Arc::clone(handover),
        (settings.state_dir().join("logs"), settings.runtime_dir()),
        (ring, suspects),
        events.clone(),
    )
}

/// Prints live lines, if the agent runs in the foreground.
fn print_live(manner: Manner, history: &Arc<History>) -> Option<JoinHandle<()>> {
    let Manner::Foreground { color } = manner else {
        return None;
    };
    let history = Arc::clone(history);
    Some(tokio::spawn(
        async move { live::print(&history, color).await },
    ))
}

/// Reports the files that were not read, because an older version did not read them.
fn report_dormant(events: &Events, files: &BTreeSet<String>) {
    for name in files {
        let what = "manifest".to_owned();
        let why = format!(
            "{name} was not read by the version before this one, which read *.yaml alone; \
             it is read from the next `enforcer apply` on"
        );
        events.send(Event::Agent(AgentEvent::Degraded { what, why }));
    }
}

fn cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus).unwrap_or(u32::MAX)
}

/// Closes the triggers of memory pressure. No one may poll a trigger of a cgroup that is being
/// removed: some kernels of 5.x and 6.1 use its memory after that (fixed in Linux 6.2,
/// kernel/sched/psi.c).
async fn end_triggers(stalls: Vec<JoinHandle<()>>) {
    for stall in stalls {
        stall.abort();
        let _ = stall.await;
    }
}

/// Waits for the removals, which are the last actions and wait in their queues, and removes the
/// pins of the eBPF programs.
async fn remove_what_is_left(executor: &Arc<Executor>, pins: Option<bpf::Pins>) {
    let closing = Arc::clone(executor);
    let _ = tokio::task::spawn_blocking(move || closing.close()).await;
    if let Some(pins) = pins {
        pins.remove();
    }
}

/// Hands what was left to the core before anything else: before the records of the time between two
/// agents, and before the manifest.
async fn take_over(
    attached: Result<bpf::Attached, bpf::BpfError>,
    legacy: Legacy,
    events: &Events,
    executor: &Arc<Executor>,
) -> Result<(), Fault> {
    events.send(Event::Agent(AgentEvent::EbpfAttached(attached.is_ok())));
    let finder = Arc::clone(executor);
    let (last, groups) = (legacy.last, legacy.groups);
    let found = tokio::task::spawn_blocking(move || finder.adopt(legacy.workloads));
    let failed = |error: String| Fault::Failed(format!("failed to {error}; what runs runs on"));
    let workloads = found
        .await
        .map_err(|error| failed(format!("find what was left: {error}")))?
        .map_err(|error| failed(error_chain(&error)))?;
    // Replicas share the sockets of their workload.
    let known = workloads.iter().flat_map(|taken| {
        let all = ReplicaId::from(taken.workload.workload().clone());
        [taken.workload.clone(), all]
    });
    executor.expect_sockets_of(known.collect());
    let keeper = Arc::clone(executor);
    let connect = move || {
        let connected = keeper.connect_holder();
        keeper.resume_gate();
        connected
    };
    let connected = tokio::task::spawn_blocking(connect).await;
    if !matches!(connected, Ok(Ok(()))) {
        tokio::spawn(Arc::clone(executor).replace_holder(0));
    }
    let running = workloads.iter().filter_map(|taken| match taken.found {
        Found::Running(..) => Some((taken.workload.clone(), taken.checkpoint.instance())),
        Found::Nothing | Found::Cgroup(..) | Found::Ended(..) => None,
    });
    let running = running.collect();
    events.send(Event::Agent(AgentEvent::TakeOver {
        workloads,
        groups,
        last,
    }));
    executor.watch_adopted(running);
    // The core knows the workloads from here on.
    let hearer = Arc::clone(executor);
    let _ = tokio::task::spawn_blocking(move || hearer.recall_notices()).await;
    watch_kernel(attached, events, executor);
    Ok(())
}

/// Resumes the conditions that another agent has reported. They hold until they end.
async fn resume_reported(events: &Events, host: &Host, history: &Arc<History>) {
    let reported = Arc::clone(history);
    let read = move || {
        (
            alerting::standing(&reported),
            alerting::host_stood(&reported),
        )
    };
    let (standing, stood) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
    events.send(Event::Host(HostEvent::Stood(stood, host.watch.clone())));
    events.send(Event::Agent(AgentEvent::AlertsStand {
        standing,
        alerts: Arc::clone(&host.alerts),
    }));
}

/// Sets the edges going that see what the kernel sees, or says why they can't.
fn watch_kernel(
    attached: Result<bpf::Attached, bpf::BpfError>,
    events: &Events,
    executor: &Arc<Executor>,
) {
    let degraded = |what: &str, why: String| {
        events.send(Event::Agent(AgentEvent::Degraded {
            what: what.to_owned(),
            why,
        }));
    };
    const POLLED: &str = "CPU loops are looked for in /proc once a second, and none is proved";
    tokio::spawn(loops::follow(Arc::clone(executor)));
    tokio::spawn(drift::follow(Arc::clone(executor)));
    let mut attached = match attached {
        Ok(attached) => attached,
        Err(error) => {
            let error = error_chain(&error);
            let why =
                format!("{error}; OOM kills are seen by the kernel's counters alone; {POLLED}");
            degraded("ebpf", why);
            tokio::spawn(loops::poll(Arc::clone(executor)));
            return;
        }
    };
    if let Err(error) = &attached.pins {
        let why = format!(
            "{}; reports of OOM kills and exits while no agent runs will lack names and codes",
            error_chain(error)
        );
        degraded("pins", why);
    }
    if let Some(messages) = attached.messages.take() {
        tokio::spawn(messages.relay());
    }
    let ring = Arc::clone(&attached.ring);
    tokio::spawn(marks::follow(ring, Arc::clone(executor)));
    match std::mem::replace(&mut attached.suspects, Err(bpf::BpfError::Off)) {
        Ok((suspects, clock)) => {
            tokio::spawn(loops::sample(suspects, clock, Arc::clone(executor)));
        }
        Err(error) => {
            degraded("cpu_loop", format!("{}; {POLLED}", error_chain(&error)));
            tokio::spawn(loops::poll(Arc::clone(executor)));
        }
    }
    // Detached only when the process ends.
    std::mem::forget(attached);
}

/// Has the kernel wake us when everything waits for memory: on the host, and among
/// the workloads. Where it can't, the readings of the tick are all there is.
fn watch_pressure(events: &Events, executor: &Arc<Executor>) -> Vec<JoinHandle<()>> {
    let reader = Arc::clone(executor);
    let read = Arc::new(move || reader.measure_all());
    let workloads = executor.tree.workloads();
    let armed = [Trigger::of_host(), Trigger::of_cgroup(workloads)];
    let armed = armed.into_iter().filter_map(|trigger| {
        let reported = |error: &std::io::Error| {
            tracing::info!("no trigger for memory pressure: {error}");
        };
        trigger.inspect_err(reported).ok()
    });
    armed
        .map(|trigger| {
            tokio::spawn(crate::watch::stalls(
                trigger,
                events.clone(),
                Arc::clone(&read),
            ))
        })
        .collect()
}

/// Ctrl-C and SIGTERM: in the foreground the workloads are stopped, each with its grace,
/// and in the background where the whole host is going down.
fn end_on_signal(events: &Events, manner: Manner) -> Result<(), Fault> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind)
            .map_err(|error| Fault::Failed(format!("failed to listen for signals: {error}")))?;
        let events = events.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let with_workloads = match manner {
                    Manner::Foreground { .. } => true,
                    // They would else be killed with whatever is left on the host.
                    Manner::Daemon => service::host_goes_down().await,
                };
                events.send(if with_workloads {
                    Event::Agent(AgentEvent::Shutdown)
                } else {
                    Event::Agent(AgentEvent::Leave)
                });
            }
        });
    }
    Ok(())
}
