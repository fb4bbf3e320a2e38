//! Reports to a service manager, if there is one (sd_notify(3)): that the agent is ready, its
//! status, and, from the runtime's own loop, that it is alive.

use enforcer_core::units::MonoTime;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::process::Command;

/// The shortest time between two reports of the status.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// The time that the agent asks for when its end begins, and again with each report of the status.
/// The graces of the workloads decide how long the end takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The service manager that has started this agent.
#[derive(Debug)]
pub(crate) struct Manager {
    /// The time between two signs of life, and the next one; `None` if the manager wants none.
    alive: Option<(Duration, MonoTime)>,
    /// The earliest time of the next report of the status.
    status_at: MonoTime,
    status: String,
    /// The workloads are stopping, and the agent with the last of them.
    ending: bool,
}

impl Manager {
    /// Returns the manager that has started this agent; `None` for a shell.
    pub(crate) fn found(now: MonoTime) -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        // Twice as often as it must be.
        let every = sd_notify::watchdog_enabled().map(|patience| patience / 2);
        Some(Self {
            alive: every.map(|every| (every, now.after(every))),
            status_at: now,
            status: String::new(),
            ending: false,
        })
    }

    /// Returns the time of the next report. `is_changed` says that the status may be another one.
    pub(crate) fn due(&self, is_changed: bool) -> Option<MonoTime> {
        let alive = self.alive.map(|(_, at)| at);
        let status = (is_changed || self.ending).then_some(self.status_at);
        [alive, status].into_iter().flatten().min()
    }

    /// Reports a sign of life if it is due.
    pub(crate) fn keep_alive(&mut self, now: MonoTime) {
        if let Some((every, at)) = &mut self.alive
            && *at <= now
        {
            *at = now.after(*every);
            report(&[NotifyState::Watchdog]);
        }
    }

    /// Returns whether a report of the status is due. `is_changed` says that it may be another one.
    pub(crate) fn takes_status(&self, now: MonoTime, is_changed: bool) -> bool {
        (is_changed || self.ending) && self.status_at <= now
    }

    pub(crate) fn report_status(&mut self, now: MonoTime, status: String) {
        self.status_at = now.after(STATUS_EVERY);
        if self.ending {
            report(&[extension()]);
        }
        if status != self.status {
            report(&[NotifyState::Status(&status)]);
            self.status = status;
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
