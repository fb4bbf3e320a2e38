//! Reports to a service manager, if there is one (sd_notify(3)): that the agent is ready, its
//! status, and, from the runtime's own loop, that it is alive.

use sd_notify::NotifyState;
use std::time::Duration;
use tokio::process::Command;

/// The ticks of the runtime between two reports of the status.
const STATUS_EVERY: u32 = 5;
/// The time that the agent asks for when its end begins, and again with each report of the status.
/// The graces of the workloads decide how long the end takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The service manager that has started this agent.
#[derive(Debug)]
pub(crate) struct Manager {
    /// The ticks between two signs of life; 0 if the manager wants none.
    alive_every: u32,
    ticks: u32,
    status: String,
    /// The workloads are stopping, and the agent with the last of them.
    ending: bool,
}

impl Manager {
    /// Returns the manager that has started this agent; `None` for a shell.
    pub(crate) fn found(tick: Duration) -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        // Twice as often as it must be.
        let alive_every = sd_notify::watchdog_enabled().map_or(0, |patience| {
            // A patience shorter than a tick can't be met better than at every one.
            ((patience / 2).as_millis() / tick.as_millis()).max(1)
        });
        Some(Self {
            alive_every: u32::try_from(alive_every).unwrap_or(u32::MAX),
            ticks: 0,
            status: String::new(),
            ending: false,
        })
    }

    /// Counts a tick of the runtime, and reports to the manager.
    pub(crate) fn tick(&mut self, status: impl FnOnce() -> String) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.alive_every > 0 && self.ticks.is_multiple_of(self.alive_every) {
            report(&[NotifyState::Watchdog]);
        }
        if self.ticks % STATUS_EVERY == 1 {
            if self.ending {
                report(&[extension()]);
            }
            let status = status();
            if status != self.status {
                report(&[NotifyState::Status(&status)]);
                self.status = status;
            }
        }
    }
}

impl Manager {
    /// Reports that the end has begun. It takes as long as the graces of the workloads.
    pub(crate) fn ending(&mut self) {
        self.ending = true;
        report(&[extension()]);
    }
}

fn extension() -> NotifyState<'static> {
    let micros = u32::try_from(PATIENCE.as_micros()).unwrap_or(u32::MAX);
    NotifyState::ExtendTimeoutUsec(micros)
}

/// Returns whether a service manager has started this agent, and will start another one.
pub(crate) fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Returns whether the host is shutting down, as its service manager reports it.
pub(crate) async fn host_goes_down() -> bool {
    if !is_managed() {
        return false;
    }
    let asked = Command::new("systemctl")
        .arg("is-system-running")
        .kill_on_drop(true)
        .output();
    // A manager that cannot answer is not about to shut down.
    match tokio::time::timeout(Duration::from_secs(10), asked).await {
        Ok(Ok(said)) => {
            let state = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            let error = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            tracing::info!("the service manager says that the host is `{state}` {error}");
            state == "stopping"
        }
        Ok(Err(error)) => {
            tracing::warn!("failed to ask whether the host goes down: {error}");
            false
        }
        Err(_) => {
            tracing::warn!("the service manager doesn't say whether the host goes down");
            false
        }
    }
}

/// Reports that the start or the reload of this process is done.
pub(crate) fn ready() {
    report(&[NotifyState::Ready]);
}

/// Reports that the manifest is read again; [`ready`] reports the end of that.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => report(&[NotifyState::Reloading, now]),
        Err(_) => report(&[NotifyState::Reloading]),
    }
}

pub(crate) fn stopping() {
    report(&[NotifyState::Stopping]);
}

fn report(states: &[NotifyState<'_>]) {
    // Without a manager this has no effect.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager did not get the state: {error}");
    }
}
