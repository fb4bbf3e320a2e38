//! The differences between two manifests, as `plan` shows them.

use crate::name::WorkloadName;
use crate::words::words;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

words! {
    /// The cost of a change.
    pub enum Effect {
        /// The change takes effect while the workload runs.
        Live = "live",
        /// The change takes effect at the next start.
        Restart = "restart",
    }
}

/// One setting of a workload or of the host, with its old and its new text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChange {
    pub setting: String,
    /// `None` if the setting had its default.
    pub from: Option<String>,
    /// `None` if the setting gets its default.
    pub to: Option<String>,
    pub effect: Effect,
}

/// The change to one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Add,
    /// The manifest no longer names the workload. It runs on as unmanaged; `--prune` removes it.
    Remove,
    Update(Vec<SettingChange>),
}

/// The effect of applying a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub host: Vec<SettingChange>,
    pub workloads: BTreeMap<WorkloadName, Change>,
    /// The workloads that do not run the manifest's version, because it was rolled back, and that stay so.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rolled_back: BTreeSet<WorkloadName>,
}

impl Plan {
    /// Returns whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.host.is_empty() && self.workloads.is_empty()
    }
}
