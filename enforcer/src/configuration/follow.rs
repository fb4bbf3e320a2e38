//! Reads the manifest again on SIGHUP and when the file has changed. A manifest with a fault
//! changes nothing: the one before stays in force.

use super::Configuration;
use crate::service;
use enforcer_core::Event;
use enforcer_core::event::AgentEvent;
use enforcer_kernel::inotify::FolderWatch;
use enforcer_kernel::ready;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::signal::unix::{SignalKind, signal};

/// An editor writes a file in several steps, and a person several files.
const SETTLED: Duration = Duration::from_millis(500);

/// The time between two checks whether the folder is another one. The kernel does not report that a
/// folder further up was replaced.
const LOOK: Duration = Duration::from_secs(60);

/// Reads again whenever there is a reason to, for as long as the agent lives.
pub(crate) async fn follow(configuration: Arc<Configuration>) {
    let mut asked = match signal(SignalKind::hangup()) {
        Ok(asked) => asked,
        Err(error) => {
            tracing::error!("SIGHUP can't be listened for: {error}; use `enforcer apply`");
            return;
        }
    };
    let folder = folder_of(&configuration.path);
    let watch = FolderWatch::new(&folder).and_then(|watch| {
        let polled = ready::watch(&watch, Interest::READABLE)?;
        Ok((watch, polled))
    });
    let watch = watch.inspect_err(|error| {
        tracing::warn!(
            "changes of {} are not seen: {error}; use `enforcer apply`, or SIGHUP",
            folder.display()
        );
    });
    let mut watch = watch.ok();
    // Whatever changed between its first reading and now.
    read_again(&configuration).await;
    let mut looks = tokio::time::interval(LOOK);
    loop {
        let changed = async {
            match &mut watch {
                Some((watch, polled)) => {
                    while let Ok(mut readable) = polled.readable().await {
                        readable.clear_ready();
                        if watch
                            .read()
                            .iter()
                            .any(|file| concerns(&configuration.path, file.as_deref()))
                        {
                            return;
                        }
                    }
                    std::future::pending().await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = asked.recv() => {}
            _ = looks.tick() => {
                let is_other = watch.as_mut().is_some_and(|(watch, _)| watch.look_again());
                if !is_other {
                    continue;
                }
            }
            () = changed => {
                // Whatever comes within that time belongs to it.
                let mut settled = tokio::time::interval(SETTLED);
                settled.tick().await;
                settled.tick().await;
                if let Some((watch, _)) = &mut watch {
                    let _ = watch.read();
                }
            }
        }
        service::reloading();
        read_again(&configuration).await;
        service::ready();
    }
}

async fn read_again(configuration: &Arc<Configuration>) {
    if let Err(error) = configuration.reload().await {
        let why = without_its_lines(&error.to_string());
        tracing::error!("the manifest was refused: {why}");
        configuration
            .events
            .send(Event::Agent(AgentEvent::ManifestRefused { why }));
    }
}

/// Returns the fault and its place without the text of the line, which may be a secret.
fn without_its_lines(drawn: &str) -> String {
    const MOST: usize = 2000;
    let reported = drawn
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("error") || line.starts_with("-->") || !line.contains('|'));
    let reported: Vec<&str> = reported.filter(|line| !line.is_empty()).collect();
    reported.join("; ").chars().take(MOST).collect()
}

fn folder_of(manifest: &Path) -> PathBuf {
    if manifest.is_dir() {
        return manifest.to_owned();
    }
    match manifest.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Returns whether a file of the folder may belong to the manifest. In a folder of manifests any
/// file may, because links lead anywhere. An entry without a name stands for the folder itself, or
/// for dropped events.
fn concerns(manifest: &Path, file: Option<&str>) -> bool {
    let Some(file) = file else {
        return true;
    };
    manifest.is_dir() || manifest.file_name().is_some_and(|name| name == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_in_the_manifest_is_not_reported() {
        let drawn = "error: unknown key `pasword`\n --> web.yaml:3:5\n  |\n3 |     pasword: hunter2\n  |     ^^^^^^^ expected one of …";
        let reported = without_its_lines(drawn);
        assert_eq!(reported, "error: unknown key `pasword`; --> web.yaml:3:5");
    }
}
