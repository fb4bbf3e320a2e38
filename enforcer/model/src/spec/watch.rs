//! What is watched beside exits and OOM kills.

use super::{Rung, Threshold};
use crate::settings::Setting;
use crate::shapes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The thresholds that are watched beside exits and OOM kills.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Watch {
    /// The detection of CPU loops, or `off`.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::OrOff<CpuLoopWatch>")]
    pub cpu_loop: Option<CpuLoopWatch>,
    /// The levels of the working set as a share of `memory.max`, or `off`.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::OrOff<Threshold>")]
    pub memory: Option<Threshold>,
    /// The levels of CPU time as a share of `cpu.max`, or of all CPUs if the workload has no limit. The
    /// default is `off`.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::OrOff<Threshold>")]
    pub cpu: Option<Threshold>,
}

/// The CPU time after which a thread is suspected of a loop, and the responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct CpuLoopWatch {
    /// The CPU time without a voluntary sleep after which a thread is suspected.
    #[schemars(with = "shapes::Time")]
    pub after: Duration,
    /// The ladder of responses, mildest first.
    #[schemars(with = "shapes::Ladder")]
    pub respond: Vec<Rung>,
    /// The time for which each rung holds before the next.
    #[schemars(with = "shapes::Time")]
    pub step: Duration,
    /// With `true`, a thread that is only over its budget is answered like a proved loop.
    pub assume_loop: bool,
}

impl Watch {
    /// Returns the CPU time between two sleeps after which a thread is suspected; `None` if loops
    /// are not watched for.
    #[must_use]
    pub fn loop_budget(&self) -> Option<Duration> {
        self.cpu_loop.as_ref().map(|watch| watch.after)
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            cpu_loop: Some(CpuLoopWatch::default()),
            memory: Some(Threshold::MEMORY),
            cpu: None,
        }
    }
}

impl Default for CpuLoopWatch {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(10),
            respond: vec![Rung::Demote],
            step: Duration::from_secs(5),
            assume_loop: false,
        }
    }
}
