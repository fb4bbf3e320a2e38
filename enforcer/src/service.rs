//! What a service manager is told, where there is one (sd_notify(3)): that the agent is
//! ready, how it stands, and, from the runtime's own loop, that it still turns.

use sd_notify::NotifyState;
use std::time::Duration;

/// How often the manager is told how things stand, in ticks of the runtime.
const STATUS_EVERY: u32 = 5;

/// The manager that waits for word of this agent.
#[derive(Debug)]
pub(crate) struct Manager {
    /// In ticks of the runtime; 0 where it wants no sign of life.
    alive_every: u32,
    ticks: u32,
    status: String,
}

impl Manager {
    /// The one that has started it; `None` for a shell.
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
        })
    }

    /// The runtime has turned once more.
    pub(crate) fn tick(&mut self, status: impl FnOnce() -> String) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.alive_every > 0 && self.ticks.is_multiple_of(self.alive_every) {
            tell(&[NotifyState::Watchdog]);
        }
        if self.ticks % STATUS_EVERY == 1 {
            let status = status();
            if status != self.status {
                tell(&[NotifyState::Status(&status)]);
                self.status = status;
            }
        }
    }
}

/// What was left is taken over, and the manifest is in force.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The manifest is read again; [`ready`] says when that is over.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    // Without a manager this does nothing.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager was not told: {error}");
    }
}
