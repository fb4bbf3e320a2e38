//! The state of `top`, and the effect of each key on it. It needs no terminal and no agent.

use super::row::{Order, Row};
use crate::sentence;
use enforcer_model::Record;
use enforcer_model::requests::Throttle;
use enforcer_model::views::Workloads;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use std::collections::BTreeMap;

/// A request to the agent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ask {
    Rows,
    /// Shows the details of this workload from now on.
    Details(Option<String>),
    Act {
        name: String,
        what: &'static str,
        throttle: Option<Throttle>,
    },
}

/// The events of one workload.
#[derive(Debug, Default)]
pub(super) struct Details {
    /// The last events, the oldest first.
    pub(super) events: Vec<Record>,
    /// The last CPU loop, which may be older than the events.
    pub(super) last_loop: Option<Box<Record>>,
}

/// News for the screen: an answer of the agent, or the lack of one.
pub(super) enum News {
    Rows(Workloads),
    Details(String, Details),
    /// The agent doesn't answer.
    Trouble(String),
    /// The result of a request.
    Told(String),
    /// The agent has been silent for so many seconds.
    Silent(u64),
}

/// The current meaning of the keys.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    Watching,
    Filtering,
    /// A question that `y` answers.
    Asking {
        name: String,
        what: &'static str,
    },
    /// The CPU share of a throttle is being typed.
    Throttling {
        name: String,
        typed: String,
    },
}

pub(super) struct Model {
    rows: Vec<Row>,
    pub(super) order: Order,
    pub(super) filter: String,
    /// The selected workload, by name, so that the selection follows it.
    selected: Option<String>,
    pub(super) details: Option<(String, Details)>,
    /// Lines of the details that were scrolled past.
    pub(super) scrolled: u16,
    pub(super) mode: Mode,
    pub(super) trouble: Option<String>,
    pub(super) reported: Option<String>,
    pub(super) color: bool,
    /// Something was asked for and not answered.
    acting: bool,
    ended: bool,
}

/// Rows that a page key passes.
const PAGE: usize = 15;

impl Model {
    pub(super) fn new(color: bool) -> Self {
        Self {
            rows: Vec::new(),
            order: Order::Name,
            filter: String::new(),
            selected: None,
            details: None,
            scrolled: 0,
            mode: Mode::Watching,
            trouble: None,
            reported: None,
            color,
            acting: false,
            ended: false,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// Returns the width of the longest name, in cells.
    pub(super) fn longest_name(&self) -> u16 {
        let lengths = self.rows.iter().map(|row| row.name.len());
        lengths
            .max()
            .map_or(0, |most| u16::try_from(most).unwrap_or(0))
    }

    /// Returns the rows that pass the filter, in order.
    pub(super) fn shown(&self) -> Vec<&Row> {
        let wanted = |row: &&Row| {
            self.filter.is_empty()
                || row.name.contains(&self.filter)
                || row.state.as_str().contains(&self.filter)
                || row.health.as_str().contains(&self.filter)
        };
        let mut shown: Vec<&Row> = self.rows.iter().filter(wanted).collect();
        shown.sort_by(|one, other| self.order.compare(one, other));
        shown
    }

    /// Returns the position of the selected row.
    pub(super) fn place(&self, shown: &[&Row]) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        shown.iter().position(|row| row.name == *selected)
    }

    pub(super) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Returns the number of workloads in each state.
    pub(super) fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        for row in &self.rows {
            *states.entry(row.state.as_str()).or_default() += 1;
        }
        states
    }

    pub(super) fn learn(&mut self, news: News) {
        match news {
            News::Rows(answer) => {
                self.trouble = None;
                let cpus = u32::try_from(answer.cpus.unwrap_or(1)).unwrap_or(1);
                let listed = answer.workloads.iter();
                self.rows = listed.map(|one| Row::of(one, f64::from(cpus))).collect();
                if self
                    .selected
                    .as_ref()
                    .is_none_or(|name| self.row(name).is_none())
                {
                    self.selected = self.shown().first().map(|row| row.name.clone());
                }
            }
            News::Details(name, found) => {
                if let Some((shown, details)) = &mut self.details
                    && *shown == name
                {
                    *details = found;
                }
            }
            News::Trouble(text) => self.trouble = Some(sentence::plain(&text)),
            News::Told(text) => {
                self.acting = false;
                self.reported = Some(text);
            }
            News::Silent(seconds) => {
                self.trouble = Some(format!("the agent has not answered for {seconds} s"));
            }
        }
    }

    /// Handles a key, and returns the requests to the agent.
    pub(super) fn press(&mut self, key: KeyCode, modifiers: KeyModifiers) -> Vec<Ask> {
        if key == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL) {
            self.ended = true;
            return Vec::new();
        }
        self.reported = None;
        match self.mode.clone() {
            Mode::Watching => self.watching(key),
            Mode::Filtering => {
                match key {
                    KeyCode::Enter => self.mode = Mode::Watching,
                    KeyCode::Esc => {
                        self.filter.clear();
                        self.mode = Mode::Watching;
                    }
                    KeyCode::Backspace => drop(self.filter.pop()),
                    KeyCode::Char(c) if !c.is_control() => self.filter.push(c),
                    _ => {}
                }
                self.select(0);
                Vec::new()
            }
            Mode::Asking { name, what } => {
                self.mode = Mode::Watching;
                match key {
                    KeyCode::Char('y') => self.act(name, what, None),
                    _ => Vec::new(),
                }
            }
            Mode::Throttling { name, mut typed } => match key {
                KeyCode::Char(c) if c.is_ascii_digit() && typed.len() < 6 => {
                    typed.push(c);
                    self.mode = Mode::Throttling { name, typed };
                    Vec::new()
                }
                KeyCode::Backspace => {
                    typed.pop();
                    self.mode = Mode::Throttling { name, typed };
                    Vec::new()
                }
                KeyCode::Enter if !typed.is_empty() => {
                    self.mode = Mode::Watching;
                    let cpu = format!("{typed}%");
                    self.act(name, "throttle", Some(Throttle { cpu }))
                }
                KeyCode::Esc | KeyCode::Enter => {
                    self.mode = Mode::Watching;
                    Vec::new()
                }
                _ => Vec::new(),
            },
        }
    }

    fn watching(&mut self, key: KeyCode) -> Vec<Ask> {
        if self.details.is_some() {
            match key {
                KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => {
                    self.details = None;
                    return vec![Ask::Details(None)];
                }
                KeyCode::Down | KeyCode::Char('j') => {
                    self.scrolled = self.scrolled.saturating_add(1);
                    return Vec::new();
                }
                KeyCode::Up | KeyCode::Char('k') => {
                    self.scrolled = self.scrolled.saturating_sub(1);
                    return Vec::new();
                }
                KeyCode::PageDown => {
                    self.scrolled = self.scrolled.saturating_add(10);
                    return Vec::new();
                }
                KeyCode::PageUp => {
                    self.scrolled = self.scrolled.saturating_sub(10);
                    return Vec::new();
                }
                KeyCode::Char('R' | 'e' | 't') => {}
                // The table isn't seen: nothing in it is changed.
                _ => return Vec::new(),
            }
        }
        let place = self.place(&self.shown()).unwrap_or(0);
        match key {
            KeyCode::Char('q') => self.ended = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('/') => self.mode = Mode::Filtering,
            KeyCode::Char('n') => self.order = Order::Name,
            KeyCode::Char('c') => self.order = Order::Cpu,
            KeyCode::Char('m') => self.order = Order::Memory,
            KeyCode::Char('r') => self.order = Order::Restarts,
            KeyCode::Char('s') => self.order = Order::State,
            KeyCode::Down | KeyCode::Char('j') => self.select(place + 1),
            KeyCode::Up | KeyCode::Char('k') => self.select(place.saturating_sub(1)),
            KeyCode::PageDown => self.select(place + PAGE),
            KeyCode::PageUp => self.select(place.saturating_sub(PAGE)),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Enter => {
                if let Some(name) = self.selected.clone() {
                    self.scrolled = 0;
                    self.details = Some((name.clone(), Details::default()));
                    return vec![Ask::Details(Some(name))];
                }
            }
            KeyCode::Char(letter @ ('R' | 'e' | 't')) => {
                let shown = self.details.as_ref().map(|(name, _)| name.clone());
                if let Some(name) = shown.or_else(|| self.selected.clone()) {
                    self.mode = match letter {
                        't' => Mode::Throttling {
                            name,
                            typed: String::new(),
                        },
                        'R' => Mode::Asking {
                            name,
                            what: "restart",
                        },
                        _ => Mode::Asking {
                            name,
                            what: "release",
                        },
                    };
                }
            }
            _ => {}
        }
        Vec::new()
    }

    /// Sends one request at a time, so that a slow agent is not asked twice.
    fn act(&mut self, name: String, what: &'static str, throttle: Option<Throttle>) -> Vec<Ask> {
        if self.acting {
            self.reported = Some("the one before it is not done yet".to_owned());
            return Vec::new();
        }
        self.acting = true;
        self.reported = Some(format!("{name}: {what} …"));
        vec![Ask::Act {
            name,
            what,
            throttle,
        }]
    }

    fn select(&mut self, place: usize) {
        let shown = self.shown();
        let last = shown.len().saturating_sub(1);
        self.selected = shown.get(place.min(last)).map(|row| row.name.clone());
    }

    pub(super) fn selected(&self) -> Option<&str> {
        self.selected.as_deref()
    }
}
