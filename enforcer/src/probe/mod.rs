//! Carries out the checks that the core asks for, and sends it the answers. Each check is a task of
//! its own with one deadline, so that a thousand that hang delay no other. The core decides what an
//! answer means.

mod dial;
mod file;
mod grpc;
pub(crate) mod http;
mod lateness;
mod way;

pub(crate) use dial::Pass;
pub(crate) use http::post;
pub(crate) use lateness::Lateness;
pub(crate) use way::Target;

use crate::executor::{Executor, ShortCommand};
use crate::tls::Trust;
use enforcer_core::event::{Event, InstanceEvent, ProbeRun};
use enforcer_core::probe::{Failure, Outcome};
use enforcer_core::spec::{Check, Probe};
use enforcer_core::units::human_duration;
use enforcer_kernel::clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

#[derive(Debug)]
pub(crate) struct Prober {
    executor: Arc<Executor>,
    /// Looks at files: one that hangs keeps a thread.
    looks: Arc<Semaphore>,
    pub(crate) lateness: Lateness,
}

/// The most files that are checked at a time.
const LOOKS: usize = 64;

impl Prober {
    pub(crate) fn new(executor: Arc<Executor>) -> Arc<Self> {
        Arc::new(Self {
            executor,
            looks: Arc::new(Semaphore::new(LOOKS)),
            lateness: Lateness::default(),
        })
    }

    /// Starts a check, and does not wait for it.
    pub(crate) fn ask(self: &Arc<Self>, run: ProbeRun) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let begun = clock::now();
            this.lateness.record(begun.since(run.due));
            let outcome = match run.spec.probes.get(&run.probe) {
                Some(probe) => this.carry_out(&run, probe).await,
                None => Outcome::Unknown("the manifest has no such probe any more".to_owned()),
            };
            this.executor.send(Event::Instance(
                run.workload,
                run.instance,
                InstanceEvent::Probed {
                    probe: run.probe,
                    run: run.run,
                    outcome,
                    took: clock::now().since(begun),
                },
            ));
        });
    }

    /// Finds a Unix socket in the workload's files. Only a missing one is the workload's fault.
    async fn socket<'p>(
        &self,
        run: &ProbeRun,
        path: &'p str,
        timeout: Duration,
    ) -> Result<Target<'p>, Outcome> {
        let (executor, workload) = (Arc::clone(&self.executor), run.workload.clone());
        let (looks, asked) = (Arc::clone(&self.looks), path.to_owned());
        let find = async {
            let one = looks.acquire_owned().await;
            let find = tokio::task::spawn_blocking(move || {
                let _one = one;
                executor.find_place(&workload, &asked)
            });
            find.await
        };
        let unknown = |why: String| Outcome::Unknown(format!("{path}: {why}"));
        match tokio::time::timeout(timeout, find).await {
            Err(_) => Err(unknown("it was not found in time".to_owned())),
            Ok(Err(error)) => Err(unknown(error.to_string())),
            Ok(Ok(Ok(place))) => Ok(Target::Unix {
                path,
                place: Arc::new(place),
            }),
            Ok(Ok(Err(error))) => {
                let why = enforcer_kernel::spawn::describe(&error);
                Err(match error.kind() {
                    std::io::ErrorKind::NotFound => failed(format!("{path}: {why}"), false),
                    _ => unknown(why),
                })
            }
        }
    }

    /// Returns the pass of a probe to its own workload's ports.
    fn pass(&self, run: &ProbeRun) -> Pass {
        if !run.spec.has_gate() {
            return Pass::default();
        }
        let (executor, workload) = (Arc::clone(&self.executor), run.workload.clone());
        Pass(Some(Arc::new(move |from, to| {
            executor.direct(&workload, from, to);
        })))
    }

    async fn carry_out(self: &Arc<Self>, run: &ProbeRun, probe: &Probe) -> Outcome {
        let timeout = probe.timeout;
        let mut outcome = match &probe.check {
            Check::Http {
                host,
                port,
                unix,
                path,
                headers,
            } => {
                let target = match (unix, port) {
                    (Some(path), _) => self.socket(run, path, timeout).await,
                    (None, port) => Ok(Target::Tcp {
                        host,
                        port: port.unwrap_or(80),
                        pass: self.pass(run),
                    }),
                };
                match target {
                    Ok(target) => http::ask(&target, path, headers, timeout).await,
                    Err(outcome) => outcome,
                }
            }
            Check::Https {
                host,
                port,
                path,
                headers,
                server_name,
                ca_file,
                insecure,
            } => {
                let target = Target::Tls {
                    host,
                    port: *port,
                    pass: self.pass(run),
                    name: server_name.as_deref().unwrap_or(host),
                    trust: match ca_file {
                        _ if *insecure => Trust::Anything,
                        Some(path) => Trust::File(path.clone()),
                        None => Trust::Host,
                    },
                };
                http::ask(&target, path, headers, timeout).await
            }
            Check::Grpc {
                host,
                port,
                service,
            } => {
                let target = Target::Tcp {
                    host,
                    port: *port,
                    pass: self.pass(run),
                };
                grpc::ask(&target, service.as_deref(), timeout).await
            }
            Check::Tcp { host, port } => dial::ask((host, *port), self.pass(run), timeout).await,
            Check::Exec { command } => self.execute(run, command, timeout).await,
            Check::File { path, fresh_within } => {
                let look = (path.clone(), *fresh_within);
                let (executor, workload) = (Arc::clone(&self.executor), run.workload.clone());
                let find = move |path: &str| executor.find_place(&workload, path);
                file::ask(&self.looks, find, look, timeout).await
            }
            Check::Cgroup { .. } => self.work(run).await,
            // The core answers it.
            Check::Notify { .. } => Outcome::Unknown("nothing to ask".to_owned()),
        };
        if let Outcome::Failed(failure) = &mut outcome
            && failure.slow
        {
            let (executor, name) = (Arc::clone(&self.executor), run.workload.clone());
            let load = tokio::task::spawn_blocking(move || executor.load_of(&name)).await;
            failure.load = load.unwrap_or_default();
        }
        outcome
    }

    /// Runs a command as the workload's user, in a cgroup of its own.
    async fn execute(&self, run: &ProbeRun, command: &[String], limit: Duration) -> Outcome {
        let command = ShortCommand {
            workload: Some(run.workload.clone()),
            what: run.probe.as_str().into(),
            spec: Arc::clone(&run.spec),
            command: command.to_vec(),
            environment: Vec::new(),
            limit,
        };
        match self.executor.run_command(command).await {
            Err(error) => Outcome::Unknown(error),
            Ok(ran) if ran.succeeded() => Outcome::Passed,
            // The ceiling of commands, or the host's memory, says nothing about the workload.
            Ok(ran) if ran.was_oom_killed() => Outcome::Unknown(ran.describe()),
            Ok(ran) => failed(ran.describe(), ran.timed_out()),
        }
    }

    async fn work(&self, run: &ProbeRun) -> Outcome {
        let (executor, name) = (Arc::clone(&self.executor), run.workload.clone());
        match tokio::task::spawn_blocking(move || executor.work_of(&name)).await {
            Ok(Some(work)) => Outcome::Did(work),
            Ok(None) | Err(_) => Outcome::Unknown("its cgroup can't be read".to_owned()),
        }
    }
}

fn failed(why: String, slow: bool) -> Outcome {
    Outcome::Failed(Failure {
        why,
        slow,
        ..Failure::default()
    })
}

/// Returns the outcome of a check whose time is over before `what` happened.
fn too_late(what: &str, timeout: Duration) -> Outcome {
    failed(format!("{what} within {}", human_duration(timeout)), true)
}

#[cfg(test)]
mod tests;
