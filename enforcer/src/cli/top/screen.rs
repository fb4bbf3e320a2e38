//! The look of `top`. A column that does not fit is left out whole, a cut text ends in `…`, and the
//! last line says which rows are seen.

use super::columns::{COLUMNS, Column, NAME, cut, whole};
use super::model::{Details, Mode, Model};
use super::row::Row;
use crate::sentence;
use enforcer_core::units::Bytes;
use enforcer_model::Record;
use enforcer_model::detail::Detail;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Paragraph, Row as Cells, Table, TableState, Wrap};

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>) {
    let [head, body, why, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(summary(model), head);
    let shown = model.shown();
    let mut seen = String::new();
    match &model.details {
        Some((name, found)) => details(model, name, found, frame, body),
        None => seen = table(model, &shown, frame, body),
    }
    frame.render_widget(reason(model), why);
    let keys = match &model.mode {
        Mode::Filtering => format!("filter: {}▏  Enter keep, Esc drop", model.filter),
        Mode::Asking { name, what } => {
            format!("{what} {name}?  y yes, any other key no")
        }
        Mode::Throttling { name, typed } => {
            format!("throttle {name} to {typed}▏% of one CPU  Enter do it, Esc leave it")
        }
        Mode::Watching if model.details.is_some() => {
            "Esc back  ↑↓ scroll  R restart  t throttle  e release".to_owned()
        }
        Mode::Watching if foot.width < 110 => {
            "q quit ⏎ more / filter by n c m r s R restart t throttle e release".to_owned()
        }
        Mode::Watching => "q quit  Enter details  / filter  by n name c CPU m memory r restarts s state  R restart  t throttle  e release".to_owned(),
    };
    let style = match model.mode {
        Mode::Watching => Style::new().add_modifier(Modifier::DIM),
        _ => Style::new().add_modifier(Modifier::REVERSED),
    };
    let width = u16::try_from(seen.chars().count()).unwrap_or(0);
    let [left, right] =
        Layout::horizontal([Constraint::Min(1), Constraint::Length(width)]).areas(foot);
    frame.render_widget(Paragraph::new(Span::styled(keys, style)), left);
    frame.render_widget(Paragraph::new(seen), right);
}

/// Draws the summary and the table without the lines below them, for a pipe.
pub(super) fn table_alone(model: &Model, frame: &mut Frame<'_>) {
    let [head, body] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(frame.area());
    frame.render_widget(summary(model), head);
    table(model, &model.shown(), frame, body);
}

fn summary(model: &Model) -> Paragraph<'static> {
    let states: Vec<String> = model
        .states()
        .into_iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let states = if states.is_empty() {
        "no workloads".to_owned()
    } else {
        states.join(", ")
    };
    let mut text = format!("enforcer: {states}; by {}", model.order.word());
    if !model.filter.is_empty() {
        text.push_str(&format!("; only `{}`", model.filter));
    }
    Paragraph::new(Span::styled(
        text,
        Style::new().add_modifier(Modifier::BOLD),
    ))
}

/// Returns the line with the fault, the last result, or the reason of the selected workload's
/// state.
fn reason(model: &Model) -> Paragraph<'static> {
    if let Some(trouble) = &model.trouble {
        let style = styled(model, Style::new().fg(Color::Red));
        return Paragraph::new(Span::styled(format!("as it was before: {trouble}"), style));
    }
    if let Some(reported) = &model.reported {
        return Paragraph::new(reported.clone());
    }
    let selected = model.selected().and_then(|name| model.row(name));
    let text = selected.map(|row| format!("{}: {}", row.name, row.reason));
    Paragraph::new(text.unwrap_or_default())
}

fn styled(model: &Model, style: Style) -> Style {
    if model.color {
        return style;
    }
    Style::new().add_modifier(style.add_modifier)
}

/// Draws the table, and returns in words which rows are seen.
fn table(model: &Model, shown: &[&Row], frame: &mut Frame<'_>, area: Rect) -> String {
    let columns = || COLUMNS.iter().filter(|column| area.width >= column.from);
    let heads = columns().map(|column| Text::from(column.head).alignment(column.align));
    let heads = Cells::new(heads).style(Style::new().add_modifier(Modifier::UNDERLINED));
    let taken: u16 = columns().map(|column| column.width + 1).sum();
    let left = area.width.saturating_sub(taken.saturating_sub(1));
    // The longest name gets what is there, but for half of what the last column has.
    let named = model.longest_name().saturating_sub(NAME);
    let more = match columns().any(|column| column.width == 0) {
        true => named.min(left / 2),
        false => named.min(left),
    };
    let width = |column: &Column| match column.width {
        0 => left - more,
        NAME => NAME + more,
        width => width,
    };
    let place = model.place(shown);
    let visible = usize::from(area.height.saturating_sub(1));
    let first = place.unwrap_or(0).saturating_sub(visible.saturating_sub(1));
    let rows = shown.iter().skip(first).take(visible).map(|row| {
        let cells = columns().map(|column| {
            let style = styled(model, (column.style)(row));
            let cell = cut(&(column.cell)(row), usize::from(width(column)));
            Text::styled(cell, style).alignment(column.align)
        });
        Cells::new(cells.collect::<Vec<_>>())
    });
    let widths = columns().map(|column| Constraint::Length(width(column)));
    let mut state = TableState::default().with_selected(place.map(|place| place - first));
    let table = Table::new(rows, widths)
        .header(heads)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut state);
    let last = (first + visible).min(shown.len());
    match shown.len() {
        0 => String::new(),
        all if all <= visible => format!(" {all}"),
        all => format!(" {}–{last} of {all}", first + 1),
    }
}

fn details(model: &Model, name: &str, found: &Details, frame: &mut Frame<'_>, area: Rect) {
    let mut lines: Vec<Line<'static>> = Vec::new();
    let title = |text: String| {
        Line::from(Span::styled(
            text,
            Style::new().add_modifier(Modifier::BOLD),
        ))
    };
    match model.row(name) {
        Some(row) => {
            lines.push(title(format!(
                "{name}: {}, {}, {}",
                row.state,
                row.health,
                if row.ready { "ready" } else { "not ready" }
            )));
            let max = |max: Option<u64>| {
                max.map_or_else(|| "no limit".to_owned(), |max| Bytes(max).to_string())
            };
            lines.push(Line::from(format!(
                "memory {} of {}, swap {} of {}; {} restarts, {} OOM kills",
                Bytes(row.memory),
                max(row.memory_max),
                Bytes(row.swap),
                max(row.swap_max),
                row.restarts,
                row.oom_kills
            )));
            lines.push(Line::from(format!(
                "CPU {}% of one, {}% of what it may; throttled by cpu.max in {}% of its periods; {} by enforcer",
                whole(row.cpu_percent),
                whole(row.cpu_share),
                whole(row.throttled_percent),
                match row.throttle.as_str() {
                    "none" => "left alone",
                    other => other,
                }
            )));
        }
        None => lines.push(title(format!("{name} is no more"))),
    }
    if let Some(record) = &found.last_loop {
        lines.push(Line::default());
        lines.push(title("the last CPU loop".to_owned()));
        lines.push(event_line(record));
        if let Detail::CpuLoop(found) = &record.detail {
            let stack = found.evidence.stack.iter();
            lines.extend(stack.map(|frame| Line::from(format!("    {}", sentence::plain(frame)))));
        }
    }
    lines.push(Line::default());
    lines.push(title("what happened, the last first".to_owned()));
    lines.extend(found.events.iter().rev().map(event_line));
    let shown = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .scroll((model.scrolled, 0));
    frame.render_widget(shown, area);
}

fn event_line(event: &Record) -> Line<'static> {
    // The day and the second are enough to find it again.
    let time = event.time.strftime("%m-%d %H:%M:%S");
    let text = sentence::line(&[event], false);
    Line::from(format!("{time}  {text}"))
}
