//! What `top` knows, and what a key makes of it. No terminal and no agent is needed to
//! try it.

use super::super::sentence;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// One workload.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) health: String,
    pub(super) ready: bool,
    pub(super) throttle: String,
    /// Of what it may use.
    pub(super) cpu_share: f64,
    /// Of one CPU.
    pub(super) cpu_percent: f64,
    /// Of its periods.
    pub(super) held_percent: f64,
    pub(super) memory: u64,
    pub(super) memory_max: Option<u64>,
    pub(super) swap: u64,
    pub(super) swap_max: Option<u64>,
    /// Shares of the last 10 s in which some of it waited: CPU, memory, I/O.
    pub(super) waited: [Option<f64>; 3],
    pub(super) pids: Option<u64>,
    pub(super) restarts: u64,
    pub(super) oom_kills: u64,
    pub(super) reason: String,
}

impl Row {
    fn of(workload: &Value, cpus: f64) -> Self {
        let text = |key: &str| sentence::plain(workload[key].as_str().unwrap_or("-"));
        let number = |key: &str| workload[key].as_u64().unwrap_or(0);
        let percent = |key: &str| workload[key].as_f64().unwrap_or(0.0);
        let allowed = workload["cpu_max_percent"].as_f64();
        let allowed = allowed.unwrap_or(cpus * 100.0).max(0.1);
        Self {
            name: text("name"),
            state: text("state"),
            health: text("health"),
            ready: workload["ready"] == true,
            throttle: text("throttle"),
            cpu_share: percent("cpu_percent") / allowed * 100.0,
            cpu_percent: percent("cpu_percent"),
            held_percent: percent("cpu_throttled_percent"),
            memory: number("memory_bytes"),
            memory_max: workload["memory_max_bytes"].as_u64(),
            swap: number("swap_bytes"),
            swap_max: workload["swap_max_bytes"].as_u64(),
            waited: ["cpu", "memory", "io"].map(|of| workload["waiting_percent"][of].as_f64()),
            pids: workload["pids"].as_u64(),
            restarts: number("restarts"),
            oom_kills: number("oom_kills"),
            reason: text("reason"),
        }
    }

    /// Of its limit, from 0 to 1; `None` without one.
    pub(super) fn memory_share(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss)]
        let share = |max: u64| self.memory as f64 / max.max(1) as f64;
        self.memory_max.map(share)
    }

    fn is_in_trouble(&self) -> bool {
        !matches!(self.state.as_str(), "running" | "starting" | "stopped")
            || self.health == "unhealthy"
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    Cpu,
    Memory,
    Restarts,
    /// What is in trouble first.
    State,
}

impl Order {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::Restarts => "restarts",
            Self::State => "state",
        }
    }

    fn compare(self, one: &Row, other: &Row) -> Ordering {
        let most_first = |of: fn(&Row) -> f64| of(other).total_cmp(&of(one));
        let order = match self {
            Self::Name => Ordering::Equal,
            Self::Cpu => most_first(|row| row.cpu_percent),
            Self::Memory => other.memory.cmp(&one.memory),
            Self::Restarts => other.restarts.cmp(&one.restarts),
            Self::State => {
                let rank = |row: &Row| (!row.is_in_trouble(), row.state.clone());
                rank(one).cmp(&rank(other))
            }
        };
        order.then_with(|| one.name.cmp(&other.name))
    }
}

/// What is to be asked of the agent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ask {
    Rows,
    /// Whose details are shown from now on.
    Details(Option<String>),
    Act {
        name: String,
        what: &'static str,
        body: Option<Value>,
    },
}

/// What has come of it.
pub(super) enum News {
    Rows(Value),
    Details(String, Value),
    /// The agent doesn't answer.
    Trouble(String),
    /// What became of an act.
    Told(String),
}

/// What the keys mean.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    Watching,
    Filtering,
    /// A question that `y` answers.
    Asking(&'static str),
    /// How much a throttle leaves.
    Throttling(String),
}

pub(super) struct Model {
    rows: Vec<Row>,
    pub(super) order: Order,
    pub(super) filter: String,
    /// By name, so that it stays with its workload wherever that goes.
    selected: Option<String>,
    pub(super) details: Option<(String, Value)>,
    /// Lines of the details that were scrolled past.
    pub(super) scrolled: u16,
    pub(super) mode: Mode,
    pub(super) trouble: Option<String>,
    pub(super) told: Option<String>,
    pub(super) color: bool,
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
            told: None,
            color,
            ended: false,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    /// Those that pass the filter, in order.
    pub(super) fn shown(&self) -> Vec<&Row> {
        let wanted = |row: &&Row| {
            self.filter.is_empty()
                || row.name.contains(&self.filter)
                || row.state.contains(&self.filter)
                || row.health.contains(&self.filter)
        };
        let mut shown: Vec<&Row> = self.rows.iter().filter(wanted).collect();
        shown.sort_by(|one, other| self.order.compare(one, other));
        shown
    }

    /// Which of them is selected.
    pub(super) fn place(&self, shown: &[&Row]) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        shown.iter().position(|row| row.name == *selected)
    }

    pub(super) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// How many there are in each state.
    pub(super) fn states(&self) -> BTreeMap<&str, usize> {
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
                let cpus = answer["cpus"].as_f64().unwrap_or(1.0);
                let listed = answer["workloads"].as_array().into_iter().flatten();
                self.rows = listed.map(|one| Row::of(one, cpus)).collect();
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
            News::Told(text) => self.told = Some(text),
        }
    }

    /// A key, and what is to be asked of the agent for it.
    pub(super) fn press(&mut self, key: KeyCode, modifiers: KeyModifiers) -> Vec<Ask> {
        if key == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL) {
            self.ended = true;
            return Vec::new();
        }
        self.told = None;
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
            Mode::Asking(what) => {
                self.mode = Mode::Watching;
                match (key, self.selected.clone()) {
                    (KeyCode::Char('y'), Some(name)) => vec![Ask::Act {
                        name,
                        what,
                        body: None,
                    }],
                    _ => Vec::new(),
                }
            }
            Mode::Throttling(mut typed) => match key {
                KeyCode::Char(c) if c.is_ascii_digit() && typed.len() < 6 => {
                    typed.push(c);
                    self.mode = Mode::Throttling(typed);
                    Vec::new()
                }
                KeyCode::Backspace => {
                    typed.pop();
                    self.mode = Mode::Throttling(typed);
                    Vec::new()
                }
                KeyCode::Enter if !typed.is_empty() => {
                    self.mode = Mode::Watching;
                    let act = |name| Ask::Act {
                        name,
                        what: "throttle",
                        body: Some(json!({ "cpu": format!("{typed}%") })),
                    };
                    self.selected.clone().map(act).into_iter().collect()
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
                _ => {}
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
                    self.details = Some((name.clone(), Value::Null));
                    return vec![Ask::Details(Some(name))];
                }
            }
            KeyCode::Char('R') if self.selected.is_some() => self.mode = Mode::Asking("restart"),
            KeyCode::Char('e') if self.selected.is_some() => self.mode = Mode::Asking("release"),
            KeyCode::Char('t') if self.selected.is_some() => {
                self.mode = Mode::Throttling(String::new());
            }
            _ => {}
        }
        Vec::new()
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
