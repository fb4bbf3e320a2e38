//! The columns of `top`: their widths, the screen width that each needs, and their contents.

use super::row::Row;
use enforcer_core::WorkloadState;
use enforcer_core::health::Health;
use ratatui::layout::Alignment;
use ratatui::style::{Color, Modifier, Style};

/// Cells of a bar.
const BAR: usize = 6;
/// The least width of the column of names. No other column may have this width: the screen knows
/// the column of names by it.
pub(super) const NAME: u16 = 16;
/// The width of the column of memory, with its numbers.
const MEMORY: u16 = 19;

/// A column: its head, its width, the screen width that it needs, and its contents.
pub(super) struct Column {
    pub(super) head: &'static str,
    /// Numbers stand at the right.
    pub(super) align: Alignment,
    /// 0 for what the others leave.
    pub(super) width: u16,
    pub(super) from: u16,
    pub(super) cell: fn(&Row) -> String,
    pub(super) style: fn(&Row) -> Style,
}

fn plain(_: &Row) -> Style {
    Style::new()
}

pub(super) const COLUMNS: [Column; 13] = [
    Column {
        head: "NAME",
        align: Alignment::Left,
        width: NAME,
        from: 0,
        cell: |row| row.name.clone(),
        style: |_| Style::new().add_modifier(Modifier::BOLD),
    },
    Column {
        head: "STATE",
        align: Alignment::Left,
        width: 12,
        from: 29,
        cell: |row| row.state.to_string(),
        style: state_style,
    },
    Column {
        head: "HEALTH",
        align: Alignment::Left,
        width: 9,
        from: 39,
        cell: |row| row.health.to_string(),
        style: health_style,
    },
    Column {
        head: "CPU%",
        align: Alignment::Right,
        width: 5,
        from: 45,
        cell: |row| whole(row.cpu_share),
        style: |row| heat(row.cpu_share / 100.0),
    },
    Column {
        head: "THR%",
        align: Alignment::Right,
        width: 5,
        from: 51,
        cell: |row| whole(row.throttled_percent),
        style: |row| heat(row.throttled_percent / 100.0),
    },
    Column {
        head: "MEMORY",
        align: Alignment::Left,
        width: MEMORY,
        from: 71,
        cell: memory,
        style: |row| heat(row.memory_share().unwrap_or(0.0)),
    },
    Column {
        head: "RST",
        align: Alignment::Right,
        width: 4,
        from: 76,
        cell: |row| count(row.restarts),
        style: plain,
    },
    Column {
        head: "OOM",
        align: Alignment::Right,
        width: 4,
        from: 110,
        cell: |row| count(row.oom_kills),
        style: plain,
    },
    Column {
        head: "SWAP",
        align: Alignment::Right,
        width: 12,
        from: 120,
        cell: |row| of(row.swap, row.swap_max),
        style: plain,
    },
    Column {
        head: "WAITS c/m/i",
        align: Alignment::Right,
        width: 11,
        from: 130,
        cell: |row| {
            let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), whole);
            row.waited.map(share).join("/")
        },
        style: |row| {
            heat(
                row.waited
                    .iter()
                    .flatten()
                    .fold(0.0, |most, one| one.max(most))
                    / 100.0,
            )
        },
    },
    Column {
        head: "PIDS",
        align: Alignment::Right,
        width: 5,
        from: 100,
        cell: |row| row.pids.map_or_else(|| "-".to_owned(), count),
        style: plain,
    },
    Column {
        head: "THROTTLE",
        align: Alignment::Left,
        width: 9,
        from: 140,
        cell: |row| row.throttle.as_str().to_owned(),
        style: plain,
    },
    Column {
        head: "LAST REASON",
        align: Alignment::Left,
        width: 0,
        from: 90,
        cell: |row| row.reason.clone(),
        style: plain,
    },
];

fn state_style(row: &Row) -> Style {
    Style::new().fg(match row.state {
        WorkloadState::Running => Color::Green,
        WorkloadState::BreakerOpen | WorkloadState::Failed => Color::Red,
        WorkloadState::BackingOff => Color::Yellow,
        WorkloadState::Pending
        | WorkloadState::Starting
        | WorkloadState::Stopping
        | WorkloadState::Stopped => Color::Reset,
    })
}

fn health_style(row: &Row) -> Style {
    Style::new().fg(match row.health {
        Health::Healthy => Color::Green,
        Health::Degraded => Color::Yellow,
        Health::Unhealthy => Color::Red,
        Health::Unknown => Color::Reset,
    })
}

fn heat(share: f64) -> Style {
    Style::new().fg(match share {
        hot if hot >= 0.95 => Color::Red,
        warm if warm >= 0.85 => Color::Yellow,
        _ => Color::Reset,
    })
}

pub(super) fn whole(number: f64) -> String {
    format!("{number:.0}")
}

fn of(used: u64, max: Option<u64>) -> String {
    let max = max.map_or_else(String::new, |max| format!("/{}", short(max)));
    format!("{}{max}", short(used))
}

/// Four characters at most, rounded down.
fn short(bytes: u64) -> String {
    let units = [
        (1 << 40, 'T'),
        (1 << 30, 'G'),
        (1 << 20, 'M'),
        (1 << 10, 'K'),
    ];
    let fitting = units.into_iter().find(|(unit, _)| bytes >= *unit);
    let Some((unit, letter)) = fitting else {
        return bytes.to_string();
    };
    let tenths = u128::from(bytes) * 10 / u128::from(unit);
    if tenths < 100 && tenths % 10 != 0 {
        return format!("{}.{}{letter}", tenths / 10, tenths % 10);
    }
    format!("{}{letter}", tenths / 10)
}

fn memory(row: &Row) -> String {
    let bar = row.memory_share().map_or_else(String::new, |share| {
        let filled = (0..BAR).filter(|cell| {
            #[expect(clippy::cast_precision_loss)]
            let at = (*cell as f64 + 0.5) / BAR as f64;
            share >= at
        });
        let filled = filled.count();
        format!("{}{} ", "█".repeat(filled), "░".repeat(BAR - filled))
    });
    // The bar at the left, the numbers at the right.
    let room = usize::from(MEMORY) - BAR - 1;
    format!(
        "{bar:<0$}{1:>room$}",
        BAR + 1,
        of(row.memory, row.memory_max)
    )
}

/// Four characters at most.
fn count(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{}k", number / 1000),
        _ => format!("{}m", (number / 1_000_000).min(999)),
    }
}

/// Cuts a text to this width, and marks the cut.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most - 1).collect();
    format!("{kept}…")
}
