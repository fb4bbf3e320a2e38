//! Finds the metrics, labels and values of an expression that a scrape lacks: Prometheus answers a
//! misspelt name with nothing, and no rule over it ever fires.

/// Returns the first of them, in words. Only our own metrics are looked for, and of labels only
/// those that the scrape itself brings.
pub(super) fn missing(expression: &str, scrape: &str) -> Option<String> {
    let mut rest = expression;
    while let Some(begin) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        rest = &rest[begin..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if !name.starts_with("enforcer_") && !name.starts_with("process_") {
            continue;
        }
        let samples: Vec<&str> = scrape
            .lines()
            .filter(|line| {
                let after = line.strip_prefix(name);
                after.is_some_and(|after| after.starts_with(['{', ' ']))
            })
            .collect();
        if samples.is_empty() {
            return Some(format!("the metric {name}"));
        }
        let Some(matchers) = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next())
        else {
            continue;
        };
        for matcher in matchers.split(", ") {
            let end = matcher.find(|c| !is_part(c)).unwrap_or(matcher.len());
            let (label, value) = matcher.split_at(end);
            // These are the server's.
            if label == "job" || label == "instance" {
                continue;
            }
            let has = |text: &str| samples.iter().any(|sample| sample.contains(text));
            if !has(&format!("{label}=\"")) {
                return Some(format!("the label {label} of {name}"));
            }
            let exact = value.strip_prefix("=\"");
            if exact.is_some() && !has(matcher) {
                return Some(format!("{matcher} of {name}"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn what_is_misspelt_is_found() {
        let scrape =
            "# HELP enforcer_a x\nenforcer_a{workload=\"web\",state=\"up\"} 1\nprocess_b 2\n";
        let check = |expression: &str, expected: Option<&str>| {
            assert_eq!(
                missing(expression, scrape).as_deref(),
                expected,
                "{expression}"
            );
        };
        check(
            "sum by (state) (rate(enforcer_a{state=\"up\", job=~\".*\"}[5m])) / process_b > 0",
            None,
        );
        check("enforcer_a{state=~\"down|up\"} == 1", None);
        check("up == 0 or enforcer_aa > 1", Some("the metric enforcer_aa"));
        check(
            "enforcer_a{stat=\"up\"}",
            Some("the label stat of enforcer_a"),
        );
        check("enforcer_a{state=\"u\"}", Some("state=\"u\" of enforcer_a"));
    }
}
