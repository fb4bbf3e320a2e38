//! The time and the noise of a decision. The core has no clock and no random numbers of its own.

use enforcer_model::units::MonoTime;

/// The time of a decision, and a random number for its jitter.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: MonoTime,
    pub noise: u64,
}
