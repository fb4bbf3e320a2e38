//! `top`: the live screen of all workloads. `model.rs` decides what is shown, and `screen.rs` how.
//! This module speaks to the terminal and to the agent.

mod columns;
mod model;
mod row;
mod screen;

use super::{client, escaped};
use crate::fault::Fault;
use crate::sentence;
use crate::settings::Settings;
use enforcer_kernel::clock;
use enforcer_kernel::signal::Ends;
use enforcer_model::Record;
use enforcer_model::detail::Kind;
use enforcer_model::requests::Throttle;
use enforcer_model::views::Workloads;
use model::{Ask, Details, Model, News};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// The time between two checks of the keyboard.
const GLANCE: Duration = Duration::from_millis(100);
/// An agent that has not answered for two intervals and this time is shown as silent.
const PATIENCE: Duration = Duration::from_secs(1);
/// The width of the table in a pipe, beside the names. It has room for every column.
const WIDE: u16 = 160;
/// Events of a workload that its details show.
const EVENTS: u32 = 40;

/// The options of `top`.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// Print once, and end
    #[arg(long)]
    no_stream: bool,
    /// The time between two readings
    #[arg(long, value_name = "TIME", default_value = "2s")]
    interval: String,
}

pub(super) fn top(settings: &Settings, wanted: &Wanted, color: bool) -> Result<(), Fault> {
    let interval = enforcer_manifest::parse_duration(&wanted.interval)
        .ok()
        .filter(|interval| *interval >= GLANCE)
        .ok_or_else(|| {
            Fault::Usage(format!(
                "`{}` is no interval: expected a duration like 2s, of 100ms at least",
                wanted.interval
            ))
        })?;
    if wanted.no_stream {
        return once(settings);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Fault::Usage(
            "this is no terminal; `enforcer top --no-stream` prints once".to_owned(),
        ));
    }
    // This comes before the screen is taken over, so that the error of a missing agent is printed
    // as usual.
    let first = rows(settings)?;
    let ends = Ends::watch()
        .map_err(|error| Fault::Failed(format!("failed to wait for signals: {error}")))?;
    let (asks, asked) = channel();
    let (report, news) = channel();
    let own = settings.clone();
    let spawned = std::thread::Builder::new()
        .name("agent".to_owned())
        .spawn(move || serve(&own, interval, &asked, &report));
    spawned.map_err(|error| Fault::Failed(format!("failed to start a thread: {error}")))?;
    let mut model = Model::new(color);
    model.learn(News::Rows(first));
    let unusable = |error| Fault::Failed(format!("failed to use the terminal: {error}"));
    let mut terminal = ratatui::try_init().map_err(unusable)?;
    let ended = watch(&mut terminal, (&mut model, interval), (&asks, &news), &ends);
    ratatui::restore();
    ended.map_err(unusable)
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    (model, interval): (&mut Model, Duration),
    (asks, news): (&Sender<Ask>, &Receiver<News>),
    ends: &Ends,
) -> std::io::Result<()> {
    let mut heard = clock::now();
    while !model.has_ended() && !ends.has_come() {
        let silent = clock::now().since(heard);
        if silent > interval * 2 + PATIENCE {
            model.learn(News::Silent(silent.as_secs()));
        }
        terminal.draw(|frame| screen::draw(model, frame))?;
        if event::poll(GLANCE)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            for ask in model.press(key.code, key.modifiers) {
                let _ = asks.send(ask);
            }
        }
        while let Ok(one) = news.try_recv() {
            heard = clock::now();
            model.learn(one);
        }
    }
    Ok(())
}

/// Asks the agent, so that one that hangs leaves the keyboard alone.
fn serve(settings: &Settings, interval: Duration, asked: &Receiver<Ask>, report: &Sender<News>) {
    let mut shown: Option<String> = None;
    loop {
        let ask = match asked.recv_timeout(interval) {
            Ok(ask) => ask,
            Err(RecvTimeoutError::Timeout) => Ask::Rows,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut answers = Vec::new();
        match ask {
            Ask::Rows => {}
            Ask::Details(name) => shown = name,
            Ask::Act {
                name,
                what,
                throttle,
            } => {
                let (settings, reported) = (settings.clone(), report.clone());
                let act = move || {
                    reported.send(News::Told(act(&settings, &name, what, throttle.as_ref())))
                };
                // The time that a request takes, such as a workload's grace, does not count as
                // silence.
                let spawned = std::thread::Builder::new()
                    .name("act".to_owned())
                    .spawn(act);
                if let Err(error) = spawned {
                    answers.push(News::Told(format!("failed to start a thread: {error}")));
                }
            }
        }
        answers.push(match rows(settings) {
            Ok(rows) => News::Rows(rows),
            Err(fault) => News::Trouble(fault.text()),
        });
        if let Some(name) = &shown
            && let Ok(events) = details(settings, name)
        {
            answers.push(News::Details(name.clone(), events));
        }
        for answer in answers {
            if report.send(answer).is_err() {
                return;
            }
        }
    }
}

/// Carries out a request, and returns its result in words.
fn act(settings: &Settings, name: &str, what: &str, throttle: Option<&Throttle>) -> String {
    let route = format!("/v1/workloads/{}/{what}", escaped(name));
    let answer = match throttle {
        Some(throttle) => client::post(settings, &route, throttle),
        None => client::order(settings, &route),
    };
    match answer {
        Ok(_) => format!("{name}: {what}: done"),
        Err(fault) => format!("{name}: {what}: {}", sentence::plain(&fault.text())),
    }
}

fn rows(settings: &Settings) -> Result<Workloads, Fault> {
    client::get(settings, "/v1/workloads?all=true")?.read()
}

/// Asks for a workload's last events, and for its last loop wherever that is.
fn details(settings: &Settings, name: &str) -> Result<Details, Fault> {
    let route = format!("/v1/events?workload={}", escaped(name));
    let events = client::get(settings, &format!("{route}&last={EVENTS}"))?.read()?;
    let route = format!("{route}&kind={}&last=1", Kind::CpuLoop);
    let loops: Vec<Record> = client::get(settings, &route)?.read()?;
    let last_loop = loops.into_iter().next_back().map(Box::new);
    Ok(Details { events, last_loop })
}

/// Prints the table once as text. CPU time covers about one second.
fn once(settings: &Settings) -> Result<(), Fault> {
    let mut model = Model::new(false);
    rows(settings)?;
    // The agent gives no rates of less than a second, and the two readings take time themselves.
    clock::pause(Duration::from_millis(1200));
    model.learn(News::Rows(rows(settings)?));
    let wide = WIDE.saturating_add(model.longest_name());
    let width = match ratatui::crossterm::terminal::size() {
        Ok((width, _)) if width > 0 && std::io::stdout().is_terminal() => width,
        _ => wide,
    };
    let height = u16::try_from(model.count() + 2).unwrap_or(u16::MAX);
    print!(
        "{}",
        printed(width, height, |frame| screen::table_alone(&model, frame))
    );
    Ok(())
}

/// Returns the lines that a screen of this size would show.
fn printed(width: u16, height: u16, draw: impl FnOnce(&mut ratatui::Frame<'_>)) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(draw);
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let line: String = (0..width)
            .filter_map(|x| buffer.cell((x, y)).map(|cell| cell.symbol()))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
