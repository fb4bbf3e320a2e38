//! `endpoints`: where a service answers, for a person, a file, or HAProxy.

use super::{Fleet, failed, say};
use crate::etcd::Watch;
use enforcer_client::Fault;
use enforcer_fleet_core::endpoints::{Form, haproxy, of_service, servers, show as shown, targets};
use enforcer_fleet_core::fleet::WorkloadName;
use enforcer_fleet_core::store::{Answer, Keys, Request, Revision, StoreError};
use enforcer_fleet_core::view::View;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// The pause after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// The time after which HAProxy is looked at again: one that was started anew has forgotten its servers.
const LOOK: Duration = Duration::from_secs(5);
/// The time for an answer of HAProxy.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    service: String,
    /// Go on with every change
    #[arg(short, long)]
    watch: bool,
    /// The form; `haproxy` changes the servers of a running HAProxy
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// The backend of HAProxy, which has a `server-template`
    #[arg(long, value_name = "NAME", required_if_eq("output", "haproxy"))]
    backend: Option<String>,
    /// HAProxy's socket with `level admin`
    #[arg(long, value_name = "PATH", default_value = "/run/haproxy/admin.sock")]
    socket: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
    Nginx,
    Hosts,
    /// For http_sd and file_sd of Prometheus
    Prometheus,
    Haproxy,
}

impl Output {
    /// Returns the form of a list; `None` if there is no list to print.
    fn form(self) -> Option<Form> {
        Some(match self {
            Self::Table => Form::Table,
            Self::Json => Form::Json,
            Self::Nginx => Form::Nginx,
            Self::Hosts => Form::Hosts,
            Self::Prometheus => Form::Prometheus,
            Self::Haproxy => return None,
        })
    }
}

pub(super) async fn show(fleet: &Fleet, wanted: Wanted) -> Result<(), Fault> {
    let service = super::name(&wanted.service)?;
    let mut following = Following::new(fleet, &service);
    let mut last = None;
    loop {
        let state = following.next().await;
        let view = match state {
            Ok(view) => view,
            // What was told last stays: it is the best that is known.
            Err(error) if wanted.watch => {
                eprintln!("{error}");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(failed(&error)),
        };
        let found = of_service(view, &service);
        let is_new = last.as_ref() != Some(&found);
        let done = match wanted.output.form() {
            Some(form) if is_new => {
                say(shown(&service, &found, form).trim_end());
                Ok(())
            }
            Some(_) => Ok(()),
            None => {
                let backend = wanted.backend.as_deref().unwrap_or_default();
                tell(&wanted.socket, backend, &targets(&found)).await
            }
        };
        match done {
            Ok(()) => last = Some(found),
            Err(why) if wanted.watch => {
                eprintln!("HAProxy: {why}");
                tokio::time::sleep(AGAIN).await;
                following.again();
            }
            Err(why) => return Err(Fault::Failed(format!("HAProxy: {why}"))),
        }
        if !wanted.watch {
            return Ok(());
        }
    }
}

/// The endpoints of a service, change by change.
struct Following<'f> {
    fleet: &'f Fleet,
    keys: Keys,
    view: View,
    watch: Option<Watch>,
}

impl<'f> Following<'f> {
    fn new(fleet: &'f Fleet, service: &WorkloadName) -> Self {
        Self {
            fleet,
            keys: Keys::Prefix(format!("{}endpoints/{service}/", fleet.prefix())),
            view: View::default(),
            watch: None,
        }
    }

    /// Returns the present state once more.
    fn again(&mut self) {
        self.watch = None;
    }

    /// Waits for the first state, or the next one. After a while it returns the present one.
    async fn next(&mut self) -> Result<&View, StoreError> {
        let Some(watch) = &mut self.watch else {
            let from = self.list().await?;
            self.watch = Some(self.fleet.client.watch(&self.keys, from).await?);
            return Ok(&self.view);
        };
        match tokio::time::timeout(LOOK, watch.next()).await {
            Ok(Ok(changes)) => {
                for change in &changes {
                    self.view.take(self.fleet.prefix(), change);
                }
                Ok(&self.view)
            }
            Ok(Err(error)) => {
                self.watch = None;
                Err(error)
            }
            Err(_) => Ok(&self.view),
        }
    }

    async fn list(&mut self) -> Result<Revision, StoreError> {
        let keys = self.keys.clone();
        let answer = self
            .fleet
            .client
            .call(&Request::Get { keys, at: None })
            .await?;
        let Answer::Got(got) = answer else {
            return Err(StoreError::Refused(
                "another answer was expected".to_owned(),
            ));
        };
        self.view = View::default();
        for entry in &got.entries {
            self.view.put(self.fleet.prefix(), entry);
        }
        Ok(got.revision.next())
    }
}

/// Sends a command to HAProxy, and returns its answer.
async fn command(socket: &Path, text: &str) -> Result<String, String> {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{text}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("{}: {error}", socket.display())),
        Err(_) => Err(format!("{}: no answer", socket.display())),
    }
}

/// Brings the servers of a backend to these targets.
async fn tell(
    socket: &Path,
    backend: &str,
    targets: &std::collections::BTreeSet<(String, u16)>,
) -> Result<(), String> {
    let state = command(socket, &format!("show servers state {backend}")).await?;
    let present = servers(&state)?;
    let (commands, without) = haproxy(backend, &present, targets);
    for one in commands {
        let answer = command(socket, &one).await?;
        say(&one);
        // It answers an address with what it has changed, and a state with nothing.
        let is_refused = ["Require", "No such", "Unknown", "invalid", "Permission"];
        if is_refused.iter().any(|word| answer.contains(word)) {
            return Err(format!("`{one}`: {}", answer.trim()));
        }
    }
    match without {
        0 => Ok(()),
        _ => {
            eprintln!(
                "the backend {backend} has {} servers, and {} endpoints: raise the number of its server-template",
                present.len(),
                targets.len()
            );
            Ok(())
        }
    }
}
