//! Makes metrics of their samples. `table.rs` lists the metrics.

use super::counts::{BUCKETS, OfProbe};
use super::scrape::{One, Scrape};
use enforcer_kernel::own_process::OwnProcess;
use enforcer_kernel::statistics::{RESOURCES, Statistics};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// A metric with its samples.
pub(super) struct Family {
    /// The name without the prefix.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) fill: fn(&Scrape, &mut Samples),
}

/// A metric's samples, one after another.
pub(super) struct Samples {
    kind: MetricType,
    metrics: Vec<Metric>,
}

impl Samples {
    pub(super) fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = Metric::from_label(pairs(labels));
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.metrics.push(metric);
    }

    pub(super) fn add_duration(&mut self, labels: &[(&str, &str)], probe: &OfProbe) {
        let mut cumulative = 0;
        let buckets = BUCKETS.iter().zip(probe.took).map(|(bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(probe.answers.iter().sum());
        histogram.set_sample_sum(probe.took_seconds);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

impl Family {
    /// Makes the metric; `None` if it has no sample.
    pub(super) fn gather(&self, scrape: &Scrape) -> Option<MetricFamily> {
        let mut samples = Samples {
            kind: self.kind,
            metrics: Vec::new(),
        };
        (self.fill)(scrape, &mut samples);
        if samples.metrics.is_empty() {
            return None;
        }
        let mut family = MetricFamily::default();
        family.set_name(match self.name.strip_prefix("process_") {
            // These have the same name everywhere.
            Some(_) => self.name.to_owned(),
            None => format!("enforcer_{}", self.name),
        });
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(samples.metrics);
        Some(family)
    }
}

pub(super) const fn counter(
    name: &'static str,
    help: &'static str,
    fill: fn(&Scrape, &mut Samples),
) -> Family {
    let kind = MetricType::COUNTER;
    Family {
        name,
        help,
        kind,
        fill,
    }
}

pub(super) const fn gauge(
    name: &'static str,
    help: &'static str,
    fill: fn(&Scrape, &mut Samples),
) -> Family {
    let kind = MetricType::GAUGE;
    Family {
        name,
        help,
        kind,
        fill,
    }
}

#[expect(clippy::cast_precision_loss)]
pub(super) fn float(number: u64) -> f64 {
    // Exact below 2^53: nine petabytes, or 285 years in microseconds.
    number as f64
}

pub(super) fn seconds(usec: u64) -> f64 {
    float(usec) / 1e6
}

pub(super) fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Makes one sample for each workload that has a value.
pub(super) fn each(scrape: &Scrape, samples: &mut Samples, value: impl Fn(&One) -> Option<f64>) {
    for one in &scrape.workloads {
        if let Some(value) = value(one) {
            samples.add(&one.labels(&[]), value);
        }
    }
}

/// Makes one sample for each workload that has a cgroup, with the kernel's value.
pub(super) fn read(
    scrape: &Scrape,
    samples: &mut Samples,
    value: impl Fn(&Statistics) -> Option<f64>,
) {
    each(scrape, samples, |one| value(one.read.as_ref()?));
}

/// Makes one sample for each workload and each value of another label.
pub(super) fn by<T>(
    scrape: &Scrape,
    samples: &mut Samples,
    label: &str,
    values: impl Fn(&One) -> Vec<(T, f64)>,
) where
    T: AsRef<str>,
{
    for one in &scrape.workloads {
        for (value, sample) in values(one) {
            samples.add(&one.labels(&[(label, value.as_ref())]), sample);
        }
    }
}

pub(super) fn waited(scrape: &Scrape, samples: &mut Samples, of: fn((u64, u64)) -> u64) {
    by(scrape, samples, "resource", |one| {
        let Some(read) = &one.read else {
            return Vec::new();
        };
        let known = RESOURCES.into_iter().zip(read.waited_usec);
        known
            .filter_map(|(resource, waited)| Some((resource, seconds(of(waited?)))))
            .collect()
    });
}

/// Makes one sample of the agent's own process.
pub(super) fn own(
    scrape: &Scrape,
    samples: &mut Samples,
    value: impl Fn(&OwnProcess) -> Option<f64>,
) {
    let value = scrape.own.as_ref().and_then(value);
    value.into_iter().for_each(|value| samples.add(&[], value));
}
