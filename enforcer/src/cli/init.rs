//! `init`: a first manifest from what runs on this host. The list and the questions go to standard error,
//! and the manifest to standard output.

use super::ps::table;
use crate::fault::Fault;
use crate::report::error_chain;
use enforcer_core::units::{Bytes, human_duration};
use enforcer_import::running::{self, Running, What};
use enforcer_kernel::running as host;
use enforcer_kernel::running::Used;
use enforcer_kernel::signal::Ends;
use nix::unistd::geteuid;
use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

/// The pause between two looks at what is used.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Wanted {
    /// What is to be looked after: the names or the process ids of the list [default: they are asked for]
    names: Vec<String>,
    /// Watch what runs for this long
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = super::learn::time)]
    watch: Duration,
    /// Take everything of the list
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

/// Something that runs, and where its use is read.
struct Candidate {
    what: What,
    /// `None` for a program.
    cgroup: Option<PathBuf>,
    first: Used,
    most: Used,
    last: Used,
}

impl Candidate {
    fn new(what: What, cgroup: Option<PathBuf>) -> Self {
        let mut made = Self {
            what,
            cgroup,
            first: Used::default(),
            most: Used::default(),
            last: Used::default(),
        };
        made.first = made.read();
        made.look();
        made
    }

    fn read(&self) -> Used {
        match (&self.what, &self.cgroup) {
            (What::Program { pid, .. }, _) => host::used_by_program(*pid),
            (What::Service(_), Some(path)) => host::used_by_service(path),
            (What::Service(_), None) => Used::default(),
        }
    }

    fn look(&mut self) {
        self.last = self.read();
        self.most.memory = self.most.memory.max(self.last.memory);
        self.most.tasks = self.most.tasks.max(self.last.tasks);
    }

    fn running(&self, time: Duration) -> Running {
        let used = self.last.cpu.saturating_sub(self.first.cpu);
        Running {
            what: self.what.clone(),
            cpu_percent: used.as_secs_f64() / time.as_secs_f64() * 100.0,
            peak: self.most.memory,
            tasks: self.most.tasks,
        }
    }
}

pub(super) fn init(wanted: &Wanted) -> Result<(), Fault> {
    if !geteuid().is_root() {
        return Err(Fault::NotPermitted(
            "only root sees what all users and engines run".to_owned(),
        ));
    }
    let mut candidates = candidates()?;
    let time = human_duration(wanted.watch);
    eprintln!("watching what runs for {time}; Ctrl-C ends that earlier");
    let begun = enforcer_kernel::clock::now();
    watch(&mut candidates, wanted.watch)?;
    let watched = enforcer_kernel::clock::now()
        .since(begun)
        .max(Duration::from_millis(1));
    let mut all: Vec<Running> = candidates.iter().map(|one| one.running(watched)).collect();
    // What uses most comes first.
    all.sort_by_key(|one| std::cmp::Reverse(one.peak));
    if all.is_empty() {
        return Err(Fault::Failed(
            "nothing runs that enforcer could look after".to_owned(),
        ));
    }
    let picked = match (wanted.all, wanted.names.as_slice()) {
        (true, _) => all.iter().collect(),
        (false, []) => {
            eprint!("{}", listed(&all));
            asked(&all)?
        }
        (false, names) => chosen(&all, names).map_err(Fault::Usage)?,
    };
    let picked: Vec<Running> = picked.into_iter().cloned().collect();
    let seconds = Duration::from_secs(watched.as_secs().max(1));
    print!("{}", running::manifest(&picked, &human_duration(seconds)));
    Ok(())
}

fn candidates() -> Result<Vec<Candidate>, Fault> {
    let services = host::services();
    let services =
        services.map_err(|error| Fault::Failed(format!("failed to {}", error_chain(&error))))?;
    let programs = host::programs(&services);
    let services = services
        .into_iter()
        .filter(|(service, _)| !service.is_protected())
        .map(|(service, path)| Candidate::new(What::Service(service), Some(path)));
    let programs = programs.into_iter().map(|program| {
        let what = What::Program {
            pid: program.pid,
            command: program.command,
            user: program.user,
            directory: program.directory,
        };
        Candidate::new(what, None)
    });
    Ok(services.chain(programs).collect())
}

fn watch(candidates: &mut [Candidate], time: Duration) -> Result<(), Fault> {
    let failed = |error| Fault::Failed(format!("failed to wait: {error}"));
    let ends = Ends::watch().map_err(failed)?;
    let begun = enforcer_kernel::clock::now();
    loop {
        let left = time.saturating_sub(enforcer_kernel::clock::now().since(begun));
        let ended = ends.comes_within(LOOK.min(left));
        candidates.iter_mut().for_each(Candidate::look);
        if ended || left.is_zero() {
            return Ok(());
        }
    }
}

/// Returns the list that a person picks from.
fn listed(all: &[Running]) -> String {
    let head = ["", "NAME", "OF", "CPU", "MEMORY", "TASKS"].map(str::to_owned);
    let rows = all.iter().enumerate().map(|(index, one)| {
        let of = match &one.what {
            What::Service(service) => service.parts().0.to_owned(),
            What::Program { pid, user, .. } => format!("process {pid} of {user}"),
        };
        [
            (index + 1).to_string(),
            one.name(),
            of,
            format!("{:.1}%", one.cpu_percent),
            Bytes(one.peak.0).to_string(),
            one.tasks.to_string(),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    table(&rows)
}

/// Asks which of them are to be looked after.
fn asked(all: &[Running]) -> Result<Vec<&Running>, Fault> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        let text =
            "name what is to be looked after, such as `enforcer init nginx.service`, or use --all";
        return Err(Fault::Usage(text.to_owned()));
    }
    loop {
        eprint!("Numbers or names, separated by blanks: ");
        let mut line = String::new();
        let read = input.lock().read_line(&mut line);
        let read = read.map_err(|error| Fault::Failed(format!("failed to read: {error}")))?;
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if read == 0 || words.is_empty() {
            return Err(Fault::Usage("nothing was chosen".to_owned()));
        }
        match chosen(all, &words) {
            Ok(picked) => return Ok(picked),
            Err(why) => eprintln!("{why}"),
        }
    }
}

/// Returns what was chosen: by a number of the list, a process id or a name.
fn chosen<'a>(all: &'a [Running], words: &[String]) -> Result<Vec<&'a Running>, String> {
    let mut picked: BTreeSet<usize> = BTreeSet::new();
    for word in words {
        let number = word
            .parse::<usize>()
            .ok()
            .and_then(|one| one.checked_sub(1));
        let is_named = |one: &Running| match &one.what {
            What::Program { pid, .. } => one.name() == *word || pid.to_string() == *word,
            What::Service(_) => one.name() == *word || one.name() == format!("{word}.service"),
        };
        let named: Vec<usize> = (0..all.len()).filter(|at| is_named(&all[*at])).collect();
        match (named.as_slice(), number.filter(|at| *at < all.len())) {
            ([one], _) => _ = picked.insert(*one),
            ([], Some(at)) => _ = picked.insert(at),
            ([], None) => return Err(format!("`{word}` is none of them")),
            (several, _) => {
                return Err(format!(
                    "{} of them are called {word}: name one by its process id",
                    several.len()
                ));
            }
        }
    }
    Ok(picked.into_iter().map(|at| &all[at]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::spec::Attach;

    fn program(pid: u32, name: &str) -> Running {
        Running {
            what: What::Program {
                pid,
                command: vec![format!("/usr/bin/{name}")],
                user: "web".to_owned(),
                directory: None,
            },
            cpu_percent: 1.25,
            peak: Bytes(20 << 20),
            tasks: 3,
        }
    }

    #[test]
    fn one_is_chosen_by_its_number_its_name_or_its_process_id() {
        let all = [
            Running {
                what: What::Service(Attach::Systemd("nginx.service".to_owned())),
                ..program(1, "nginx")
            },
            program(4711, "python3"),
            program(4712, "python3"),
        ];
        let names = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            chosen(&all, &words).map(|picked| {
                picked
                    .iter()
                    .map(|one| one.name())
                    .collect::<Vec<_>>()
                    .join(" ")
            })
        };
        assert_eq!(
            names(&["1", "4712"]).as_deref(),
            Ok("nginx.service python3")
        );
        assert_eq!(
            names(&["nginx", "nginx.service"]).as_deref(),
            Ok("nginx.service")
        );
        assert_eq!(
            names(&["python3"]),
            Err("2 of them are called python3: name one by its process id".to_owned())
        );
        assert_eq!(names(&["4"]), Err("`4` is none of them".to_owned()));
        let shown = listed(&all);
        assert!(
            shown.contains("2  python3        process 4711 of web  1.2%  20M     3"),
            "{shown}"
        );
    }
}
