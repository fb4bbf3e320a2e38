//! Quantities of Kubernetes: `500m` CPUs, `128Mi` or `1G` of memory.

/// Returns CPUs in thousandths.
pub(super) fn cpu(text: &str) -> Option<u64> {
    let thousandths = match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok()?,
        None => text.parse::<f64>().ok()? * 1000.0,
    };
    whole(thousandths)
}

/// Returns bytes.
pub(super) fn memory(text: &str) -> Option<u64> {
    let (digits, factor) = split(text)?;
    whole(digits.parse::<f64>().ok()? * factor)
}

fn split(text: &str) -> Option<(&str, f64)> {
    const UNITS: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("m", 1e-3),
        ("e", f64::NAN),
        ("E", 1e18),
    ];
    for (unit, factor) in UNITS {
        if let Some(digits) = text.strip_suffix(unit) {
            return Some((digits, factor));
        }
    }
    Some((text, 1.0))
}

fn whole(number: f64) -> Option<u64> {
    // A part of a unit counts as a whole one, as in Kubernetes.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (0.0..1e18).contains(&number).then(|| number.ceil() as u64)
}

/// Returns bytes as the manifest writes them, with a unit where one fits.
pub(super) fn size(bytes: u64) -> String {
    for (unit, shift) in [("G", 30), ("M", 20), ("K", 10)] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Returns the limit of the CPU time, as the kubelet asks for it: in a period of 100 ms, and at least 1 ms.
pub(super) fn quota(thousandths: u64) -> String {
    let quota = thousandths.saturating_mul(100).max(1000);
    match quota % 1000 {
        0 => format!("{}%", quota / 1000),
        _ => format!("{quota} 100000"),
    }
}

/// Returns the shares of cgroup v1 that the kubelet computes.
pub(super) fn shares(thousandths: u64) -> u64 {
    (thousandths.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_units() {
        assert_eq!(
            ["500m", "1", "0.25", "2.5"].map(cpu),
            [500, 1000, 250, 2500].map(Some)
        );
        assert_eq!(["x", "-1", "1e30", ""].map(cpu), [None; 4]);
        assert_eq!(
            ["128Mi", "1G", "1.5Gi", "2048", "1e3", "100m"].map(memory),
            [134_217_728, 1_000_000_000, 1_610_612_736, 2048, 1000, 1].map(Some)
        );
        assert_eq!(["", "Mi", "1Xi", "1e", "NaN"].map(memory), [None; 5]);
        assert_eq!(
            [134_217_728, 1_000_000_000, 0, 1536].map(size),
            ["128M", "1000000000", "0", "1536"]
        );
        assert_eq!(
            [1500, 125, 1, 10].map(quota),
            ["150%", "12500 100000", "1%", "1%"]
        );
        assert_eq!([1000, 100, 1].map(shares), [1024, 102, 2]);
    }
}
