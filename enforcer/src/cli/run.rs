//! `run`: an agent in the foreground, from a manifest to the last workload's end.

use super::{Fault, live, workload};
use crate::api::{self, Api};
use crate::executor::{Executor, error_chain, levels};
use crate::kernel::hierarchy::{self, Tree};
use crate::kernel::pressure::Trigger;
use crate::kernel::{bpf, clock};
use crate::loops;
use crate::manifest_files;
use crate::marks;
use crate::probe::Prober;
use crate::runtime::{Events, Runtime};
use crate::settings::Settings;
use crate::store::history::History;
use crate::store::instances::Instances;
use enforcer_core::Event;
use enforcer_core::spec::Manifest;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

pub(super) fn run(
    settings: &Settings,
    file: &Path,
    (stdout_color, stderr_color): (bool, bool),
) -> Result<(), Fault> {
    let loaded = manifest_files::load(file, stderr_color).map_err(workload::refused)?;
    eprint!("{}", loaded.warnings);
    let failed = |what: &str, error: &dyn std::error::Error| {
        Fault::Failed(format!("failed to {what}: {}", error_chain(error)))
    };
    hierarchy::enter_scope(settings.cgroup_root.as_deref())
        .map_err(|error| failed("enter a delegated scope", &error))?;
    let _lock = lock(settings)?;
    let tree = Tree::prepare(settings.cgroup_root.as_deref(), &asked(&loaded.manifest))
        .map_err(|error| Fault::Failed(format!("failed to {}", error_chain(&error))))?;
    for note in tree.notes() {
        eprintln!("note: {note}");
    }
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| failed("start the runtime", &error))?;
    let ended = runtime.block_on(supervise(
        settings,
        file,
        loaded.manifest,
        tree,
        stdout_color,
    ));
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    ended
}

/// A dozen descriptors a workload add up; workloads get the default again.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    /// `fs.nr_open`, as every kernel has it unless it was changed.
    const MOST: u64 = 1 << 20;
    let descriptors = Resource::RLIMIT_NOFILE;
    if let Ok((_, hard)) = getrlimit(descriptors) {
        let most = hard.max(MOST);
        // Root may go beyond the hard limit; anybody may go up to it.
        if setrlimit(descriptors, most, most).is_err() {
            let _ = setrlimit(descriptors, hard, hard);
        }
    }
}

/// One agent for a runtime folder.
fn lock(settings: &Settings) -> Result<nix::fcntl::Flock<File>, Fault> {
    let folder = settings.runtime_dir();
    let path = folder.join("lock");
    let failed =
        |error: String| Fault::Failed(format!("failed to lock {}: {error}", path.display()));
    std::fs::create_dir_all(&folder).map_err(|error| failed(error.to_string()))?;
    let file = File::create(&path).map_err(|error| failed(error.to_string()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|_| {
        failed("another agent holds it; stop that one, or use another --runtime-dir".to_owned())
    })
}

/// The controllers that the manifest can't do without, each with a file that
/// asks for it.
fn asked(manifest: &Manifest) -> BTreeMap<&'static str, &'static str> {
    let of_workloads = manifest.workloads.values().map(|spec| &spec.limits);
    of_workloads
        .chain([&manifest.host.limits])
        .flat_map(|limits| limits.controllers().collect::<Vec<_>>())
        .collect()
}

async fn supervise(
    settings: &Settings,
    file: &Path,
    manifest: Manifest,
    tree: Tree,
    color: bool,
) -> Result<(), Fault> {
    let boot_id = clock::boot_id();
    let instances = Instances::open(settings.runtime_dir().join("instances"), boot_id.clone())
        .map_err(|error| Fault::Failed(format!("failed to open the runtime folder: {error}")))?;
    let parent = tree
        .workloads()
        .id()
        .map_err(|error| Fault::Failed(format!("failed to {}", error_chain(&error))))?;
    let (events, messages) = Events::channel();
    let attached = bpf::attach(
        settings.ebpf,
        (parent, tree.workloads()),
        (settings.sample_scope, settings.sample_hz),
    );
    let ring = attached
        .as_ref()
        .ok()
        .map(|attached| Arc::clone(&attached.ring));
    let suspects = attached.as_ref().ok().and_then(|attached| {
        let found = attached.suspects.as_ref().ok();
        found.map(|(suspects, _)| Arc::clone(suspects))
    });
    let history = Arc::new(History::new(&boot_id));
    let executor = Executor::new(
        tree,
        instances,
        settings.state_dir().join("logs"),
        (ring, suspects),
        events.clone(),
    );
    executor
        .write_host_limits(&manifest.parent_host())
        .map_err(|error| {
            Fault::Failed(format!("failed to limit all workloads together: {error}"))
        })?;
    let socket = settings.socket();
    let listener = api::listen(&socket).map_err(|error| {
        Fault::Failed(format!("failed to listen on {}: {error}", socket.display()))
    })?;
    let printer = {
        let history = Arc::clone(&history);
        tokio::spawn(async move { live::print(&history, color).await })
    };
    tokio::task::yield_now().await;
    watch_kernel(attached, &events, &executor);
    let stalls = watch_pressure(&events, &executor);
    tokio::spawn(levels::tick(Arc::clone(&executor)));
    let prober = Prober::new(Arc::clone(&executor));
    tokio::spawn(api::serve(
        listener,
        Api::new(
            events.clone(),
            Arc::clone(&executor),
            Arc::clone(&prober),
            Arc::clone(&history),
            file.to_owned(),
        ),
    ));
    events.send(Event::Configure {
        manifest,
        prune: false,
    });
    stop_on_signal(&events)?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    Runtime::new(Arc::clone(&executor), prober, Arc::clone(&history), cpus)
        .run(messages)
        .await;
    // Nothing may poll a trigger of a cgroup that goes: some kernels of 5.x and 6.1 use
    // its memory after that (fixed by a change of 6.2 to kernel/sched/psi.c).
    for stall in stalls {
        stall.abort();
        let _ = stall.await;
    }
    // Removals are the last actions, and wait in their queues.
    let closing = Arc::clone(&executor);
    let closed = tokio::task::spawn_blocking(move || closing.close());
    let _ = closed.await;
    drop(history);
    printer.abort();
    let _ = std::fs::remove_file(socket);
    Ok(())
}

/// Sets the edges going that see what the kernel sees, or says why they can't.
fn watch_kernel(
    attached: Result<bpf::Attached, bpf::BpfError>,
    events: &Events,
    executor: &Arc<Executor>,
) {
    let degraded = |what: &str, why: String| {
        events.send(Event::Degraded {
            what: what.to_owned(),
            why,
        });
    };
    const POLLED: &str = "CPU loops are looked for in /proc once a second, and none is proved";
    tokio::spawn(loops::follow(Arc::clone(executor)));
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
    events.send(Event::EbpfAttached(true));
    if let Some(logger) = attached.logger.take() {
        tokio::spawn(crate::telemetry::relay_ebpf_log(logger));
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
    let workloads = executor.tree.workloads();
    let armed = [Trigger::of_host(), Trigger::of_cgroup(workloads)];
    let armed = armed.into_iter().filter_map(|trigger| {
        let told = |error: &std::io::Error| {
            tracing::info!("no trigger for memory pressure: {error}");
        };
        trigger.inspect_err(told).ok()
    });
    armed
        .map(|trigger| tokio::spawn(crate::watch::stalls(trigger, events.clone())))
        .collect()
}

/// Ctrl-C and SIGTERM stop the workloads, each with its grace.
fn stop_on_signal(events: &Events) -> Result<(), Fault> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind)
            .map_err(|error| Fault::Failed(format!("failed to listen for signals: {error}")))?;
        let events = events.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                events.send(Event::Shutdown);
            }
        });
    }
    Ok(())
}
