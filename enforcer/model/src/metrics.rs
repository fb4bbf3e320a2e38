//! The metrics as JSON: the answer to `GET /v1/metrics`.

use crate::words::words;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Every metric of one scrape. The agent writes one metric after another, and has no list of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Metrics<L = Vec<Metric>> {
    pub schema: u32,
    pub metrics: L,
}

/// One metric, with a sample for each set of labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: MetricKind,
    pub help: String,
    pub samples: Vec<Sample>,
}

words! {
    pub enum MetricKind {
        Counter = "counter",
        Gauge = "gauge",
        Histogram = "histogram",
    }
}

/// The value of a counter or of a gauge, or the distribution of a histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    #[serde(flatten)]
    pub distribution: Option<Distribution>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    pub buckets: Vec<Bucket>,
    pub sum: f64,
    pub count: u64,
}

/// The number of observations up to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    pub le: f64,
    pub count: u64,
}
