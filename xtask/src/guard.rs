//! `cargo xtask bench guard`: compares the ratios to systemd and to the floor with the recorded ones.

use crate::kernels::Kernel;
use crate::process::root;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;

/// The recorded ratios: a table for each series of kernels.
const RECORDED: &str = "docs/benchmarks.toml";
/// The factor by which a ratio may be worse than the recorded one.
const TOLERANCE: f64 = 1.15;

/// Ratios by their names; lower is better.
pub(crate) type Ratios = BTreeMap<String, f64>;

/// Takes the ratio from a line of a benchmark: `ratio NAME VALUE`.
pub(crate) fn collect(line: &str, ratios: &mut Ratios) {
    let mut words = line.split_whitespace();
    if let (Some("ratio"), Some(name), Some(value), None) =
        (words.next(), words.next(), words.next(), words.next())
        && let Ok(value) = value.parse()
    {
        ratios.insert(name.to_owned(), value);
    }
}

/// Compares the ratios of one kernel with the recorded ones.
///
/// # Errors
/// If one is worse, or was not measured.
pub(crate) fn check(kernel: &Kernel, measured: &Ratios) -> Result<()> {
    let file = root().join(RECORDED);
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("failed to read {}", file.display()))?;
    let mut recorded: BTreeMap<String, Ratios> =
        toml::from_str(&text).with_context(|| format!("{} has a fault", file.display()))?;
    let Some(recorded) = recorded.remove(&kernel.series) else {
        bail!("{RECORDED} has no ratios of kernel {}", kernel.series);
    };
    let faults = faults(&recorded, measured);
    if faults.is_empty() {
        println!(
            "{} ratios are as recorded, or better than {TOLERANCE} times that",
            recorded.len()
        );
        return Ok(());
    }
    bail!("kernel {}:\n  {}", kernel.series, faults.join("\n  "));
}

fn faults(recorded: &Ratios, measured: &Ratios) -> Vec<String> {
    let fault = |(name, was): (&String, &f64)| match measured.get(name) {
        None => Some(format!("{name} was not measured")),
        Some(is) if *is > was * TOLERANCE => {
            Some(format!("{name} is {is:.2}, and {was:.2} is recorded"))
        }
        Some(_) => None,
    };
    recorded.iter().filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratios(of: &[(&str, f64)]) -> Ratios {
        of.iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn a_line_of_a_ratio_is_read_and_no_other() {
        let mut found = Ratios::new();
        for line in [
            "ratio restart/systemd 0.35",
            "ratio of something",
            "ratio a b",
            "    enforcer / systemd: 0.35",
        ] {
            collect(line, &mut found);
        }
        assert_eq!(found, ratios(&[("restart/systemd", 0.35)]));
    }

    #[test]
    fn a_ratio_that_is_worse_or_missing_is_a_fault() {
        let recorded = ratios(&[("a", 0.5), ("b", 0.5), ("c", 0.5), ("d", 0.5)]);
        let measured = ratios(&[("a", 0.57), ("b", 0.58), ("c", 0.1), ("new", 9.0)]);
        assert_eq!(
            faults(&recorded, &measured),
            ["b is 0.58, and 0.50 is recorded", "d was not measured"]
        );
    }

    #[test]
    fn the_recorded_ratios_can_be_read() {
        let text = std::fs::read_to_string(root().join(RECORDED)).expect("the file");
        let recorded: BTreeMap<String, Ratios> = toml::from_str(&text).expect("ratios");
        assert!(recorded.values().all(|ratios| !ratios.is_empty()));
    }
}
