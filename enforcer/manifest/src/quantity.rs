//! Text to quantity, one function a unit. An error is what was expected, as a
//! fragment for the caret's label.

use enforcer_model::units::{Bytes, CpuQuota, Limit, Percent};
use std::time::Duration;

type Parsed<T> = Result<T, String>;

/// Reads `1536M`, `1.5G`, `512Ki` or `1048576`. Suffixes are binary, as in the kernel.
pub(super) fn bytes(text: &str) -> Parsed<Bytes> {
    const EXPECTED: &str =
        "a size like 512M or 1.5G (K, M, G, T are binary; plain numbers are bytes)";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "Ki" | "k" => 10,
        "M" | "Mi" | "m" => 20,
        "G" | "Gi" | "g" => 30,
        "T" | "Ti" | "t" => 40,
        "KB" | "MB" | "GB" | "TB" | "kB" | "mb" | "gb" | "kb" => {
            return Err(format!(
                "{EXPECTED}; write `{}{}` for the binary unit",
                digits,
                text[digits.len()..][..1].to_uppercase()
            ));
        }
        _ => return Err(EXPECTED.to_owned()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.len() > 6 || (digits.contains('.') && (fraction.is_empty() || shift == 0)) {
        return Err(EXPECTED.to_owned());
    }
    let whole: u128 = number(whole).ok_or(EXPECTED)?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| EXPECTED)?);
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        number(fraction).ok_or(EXPECTED)?
    };
    let total = whole
        .checked_mul(scale)
        .and_then(|total| total.checked_add(fraction))
        .and_then(|total| total.checked_mul(1 << shift))
        .ok_or(EXPECTED)?
        / scale;
    match u64::try_from(total) {
        Ok(total) if i64::try_from(total).is_ok() => Ok(Bytes(total)),
        Ok(_) | Err(_) => Err("a size below 8 EiB".to_owned()),
    }
}

fn number(text: &str) -> Option<u128> {
    // `parse` alone would also take a sign.
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

pub(super) fn bytes_or_max(text: &str) -> Parsed<Limit<Bytes>> {
    if text == "max" {
        return Ok(Limit::Max);
    }
    match bytes(text) {
        Ok(Bytes(huge)) if huge >= NO_LIMIT => Ok(Limit::Max),
        Ok(bytes) => Ok(Limit::At(bytes)),
        Err(expected) => Err(format!("{expected}, or max")),
    }
}

/// The size from which on the kernel understands `max`: `PAGE_COUNTER_MAX` pages of 4 KiB
/// (include/linux/page_counter.h). cgroup v1 shows this number if there is no limit.
const NO_LIMIT: u64 = 9_223_372_036_854_771_712;

/// Reads `20ms`, `1.5s`, `10m` or `1h30m`.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    const EXPECTED: &str = "a duration like 400ms, 10s or 1h30m";
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| format!("{EXPECTED}; a unit is missing"))?;
        let tail = &rest[digits..];
        let length = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let micros: f64 = match &tail[..length] {
            "us" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            "m" | "min" => 60e6,
            "h" => 3600e6,
            "d" => 86_400e6,
            _ => return Err(EXPECTED.to_owned()),
        };
        let value: f64 = rest[..digits].parse().map_err(|_| EXPECTED)?;
        let part = Duration::try_from_secs_f64((value * micros).round() / 1e6)
            .map_err(|_| "a duration below a hundred years")?;
        total = total.checked_add(part).ok_or(EXPECTED)?;
        rest = &tail[length..];
    }
    if total > Duration::from_secs(100 * 365 * 86_400) {
        return Err("a duration below a hundred years".to_owned());
    }
    Ok(total)
}

pub(super) fn percent(text: &str) -> Parsed<Percent> {
    const EXPECTED: &str = "a whole percentage like 90%";
    let digits = text.strip_suffix('%').ok_or(EXPECTED)?;
    match number(digits).and_then(|value| u32::try_from(value).ok()) {
        Some(value) if value <= 1_000_000 => Ok(Percent(value)),
        Some(_) | None => Err(EXPECTED.to_owned()),
    }
}

/// Reads a percentage of a whole, at most 100.
pub(super) fn share(text: &str) -> Parsed<Percent> {
    match percent(text)? {
        Percent(value) if value <= 100 => Ok(Percent(value)),
        Percent(_) => Err("a percentage from 0% to 100%".to_owned()),
    }
}

/// Reads the share of one CPU that a throttle leaves. The kernel takes no quota below 1 ms, which
/// is 1 % of its period.
pub(super) fn throttle(text: &str) -> Parsed<Percent> {
    match percent(text)? {
        Percent(0) => Err("a percentage of one CPU, at least 1%".to_owned()),
        percent => Ok(percent),
    }
}

/// Reads `150%` of one CPU, the kernel's `150000 100000`, or `max`.
pub(super) fn cpu_max(text: &str) -> Parsed<CpuQuota> {
    const EXPECTED: &str =
        "a percentage of one CPU like 150%, the kernel's `150000 100000`, or max";
    // kernel/sched/core.c: a quota is at least 1 ms, a period 1 ms to 1 s.
    let quota = |text: &str| match text {
        "max" => Ok(Limit::Max),
        digits => match number(digits).and_then(|value| u64::try_from(value).ok()) {
            Some(micros) if micros >= 1000 => Ok(Limit::At(micros)),
            Some(_) => Err("a quota of at least 1000 microseconds".to_owned()),
            None => Err(EXPECTED.to_owned()),
        },
    };
    if text.ends_with('%') {
        return match percent(text)? {
            Percent(0) => Err("at least 1%".to_owned()),
            share => Ok(CpuQuota::of_one_cpu(share)),
        };
    }
    match text.split_once(' ') {
        None if text == "max" => Ok(CpuQuota {
            quota: Limit::Max,
            period: CpuQuota::DEFAULT_PERIOD,
        }),
        None => Err(format!("{EXPECTED}; a bare number has no unit")),
        Some((micros, period)) => {
            match number(period.trim()).and_then(|value| u64::try_from(value).ok()) {
                Some(period @ 1000..=1_000_000) => Ok(CpuQuota {
                    quota: quota(micros)?,
                    period,
                }),
                Some(_) => Err("a period from 1000 to 1000000 microseconds".to_owned()),
                None => Err(EXPECTED.to_owned()),
            }
        }
    }
}

pub(super) fn integer(text: &str, range: std::ops::RangeInclusive<u64>) -> Parsed<u64> {
    match number(text).and_then(|value| u64::try_from(value).ok()) {
        Some(value) if range.contains(&value) => Ok(value),
        Some(_) | None if *range.end() == u64::MAX => {
            Err(format!("a whole number, {} or more", range.start()))
        }
        Some(_) | None => Err(format!(
            "a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// Reads permissions as an octal number of one to four digits.
pub(crate) fn permissions(text: &str) -> Result<u32, String> {
    let digits = (1..=4).contains(&text.len());
    let number = u32::from_str_radix(text, 8).ok();
    let number = number.filter(|number| digits && *number <= 0o777);
    number.ok_or_else(|| "an octal number from 0000 to 0777".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let good = [
            ("0", 0),
            ("1536M", 1_610_612_736),
            ("1.5G", 1_610_612_736),
            ("64Ki", 65_536),
            ("1000000", 1_000_000),
        ];
        for (text, expected) in good {
            assert_eq!(bytes(text), Ok(Bytes(expected)), "{text}");
        }
        for text in [
            "", "M", "-1", "+1", "1.5", "1.M", "12Q", "1 M", "512MB", "9000000T", "1e3",
        ] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_kernel_takes_for_no_limit_is_max() {
        for text in ["max", "9223372036854771712", "9223372036854775807"] {
            assert_eq!(bytes_or_max(text), Ok(Limit::Max), "{text}");
        }
        let most = bytes_or_max("9223372036854771711");
        assert_eq!(most, Ok(Limit::At(Bytes(9_223_372_036_854_771_711))));
        assert!(bytes_or_max("9223372036854775808").is_err());
    }

    #[test]
    fn durations() {
        let good = [
            ("400ms", 400),
            ("1.5s", 1500),
            ("1h30m", 5_400_000),
            ("0s", 0),
            ("2min", 120_000),
        ];
        for (text, millis) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1.2.3s",
            "5 s",
            "1w",
            "99999999999999999999h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn quotas() {
        assert_eq!(
            cpu_max("150%"),
            Ok(CpuQuota {
                quota: Limit::At(150_000),
                period: 100_000
            })
        );
        assert_eq!(
            cpu_max("50000 200000"),
            Ok(CpuQuota {
                quota: Limit::At(50_000),
                period: 200_000
            })
        );
        assert_eq!(
            cpu_max("max"),
            Ok(CpuQuota {
                quota: Limit::Max,
                period: 100_000
            })
        );
        for text in [
            "1.5",
            "150",
            "0%",
            "999 100000",
            "50000 10",
            "50000 2000000",
            "x 100000",
            "50000 x",
        ] {
            assert!(cpu_max(text).is_err(), "{text}");
        }
    }
}
