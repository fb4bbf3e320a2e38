//! The corpus on the machine itself: what `enforcer examine` finds out about each
//! program on a real CPU, where an emulator distorts the figures. Needs root. The
//! programs run in a mount namespace of their own, with the corpus as their root,
//! and are killed afterwards.
#![allow(
    clippy::unwrap_used,
    reason = "a measurement that can't go on should say where"
)]

use enforcer_model::cpu_loop::Evidence;
use enforcer_model::views::Examination;
use enforcer_tests::corpus::{Expected, FIXTURE, PROGRAMS, Program};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, chdir, chroot, setsid};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LOOKS: usize = 3;
/// The time that an interpreter and its modules need to start.
const WARM_UP: Duration = Duration::from_secs(2);

fn main() {
    let paths: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    let [enforcer, fixture, root, ..] = paths.as_slice() else {
        eprintln!("usage: calibrate ENFORCER FIXTURE CORPUS [PROGRAM]");
        std::process::exit(2);
    };
    let wanted = paths.get(3).map(|name| name.display().to_string());
    println!(
        "| program | is | verdicts | states | P(new) | user | took s | stopped ms | longest ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for program in PROGRAMS {
        let sleeps = program.expected == Expected::Nothing || !program.cgroup.is_empty();
        if sleeps || wanted.as_ref().is_some_and(|wanted| wanted != program.name) {
            continue;
        }
        let mut child = start(program, fixture, root);
        std::thread::sleep(WARM_UP);
        let looks: Vec<Examination> = (0..LOOKS).filter_map(|_| look(enforcer, &child)).collect();
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
        // The process group is ours, so all that is left in it is killed.
        let _ = killpg(group, Signal::SIGKILL);
        child.wait().unwrap();
        println!("{}", row(program, &looks));
    }
}

fn start(program: &Program, fixture: &Path, root: &Path) -> Child {
    let is_ours = program.command[0] == FIXTURE;
    let mut command = Command::new(if is_ours {
        fixture
    } else {
        Path::new(program.command[0])
    });
    command
        .args(&program.command[1..])
        .env_clear()
        .env("PATH", "/usr/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let root = root.to_owned();
    // SAFETY: this program has one thread, so that a fork may do what it likes.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            if !is_ours {
                enter(&root)?;
            }
            Ok(())
        });
    }
    command.spawn().unwrap()
}

/// Makes a root of its own, with the host's devices and processes in it.
fn enter(root: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for folder in ["proc", "dev"] {
        let from = Path::new("/").join(folder);
        mount(
            Some(&from),
            &root.join(folder),
            none,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            none,
        )?;
    }
    mount(
        Some("tmpfs"),
        &root.join("tmp"),
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )?;
    chroot(root)?;
    chdir("/")
}

/// Returns the thread of this session that has used most CPU time.
fn hottest(session: u32) -> Option<(u32, u32)> {
    let numbers = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        names.collect::<Vec<_>>()
    };
    let fields = |path: String| -> Option<Vec<u64>> {
        let stat = fs::read_to_string(path).ok()?;
        let rest = stat.rsplit_once(") ")?.1.to_owned();
        // The numbers begin at the second field after the command: the state is a letter.
        let fields = rest.split(' ').skip(1);
        Some(fields.map(|field| field.parse().unwrap_or(0)).collect())
    };
    let mut found = None;
    for pid in numbers(Path::new("/proc")) {
        let of_session = fields(format!("/proc/{pid}/stat"))
            .is_some_and(|fields| fields.get(2) == Some(&u64::from(session)));
        if !of_session {
            continue;
        }
        for tid in numbers(Path::new(&format!("/proc/{pid}/task"))) {
            let fields = fields(format!("/proc/{pid}/task/{tid}/stat"))?;
            let used = fields.get(10)? + fields.get(11)?;
            found = found.max(Some((used, pid, tid)));
        }
    }
    found.map(|(_, pid, tid)| (pid, tid))
}

fn look(enforcer: &Path, child: &Child) -> Option<Examination> {
    let (pid, tid) = hottest(child.id())?;
    let examined = Command::new(enforcer)
        .args(["examine", &pid.to_string(), &tid.to_string()])
        .output()
        .unwrap();
    serde_json::from_slice(&examined.stdout).ok()
}

fn row(program: &Program, looks: &[Examination]) -> String {
    let range = |numbers: Vec<f64>, digits: usize| {
        let mut numbers = numbers;
        numbers.sort_by(f64::total_cmp);
        match (numbers.first(), numbers.last()) {
            (Some(least), Some(most)) if least < most => {
                format!("{least:.digits$} to {most:.digits$}")
            }
            (Some(only), _) => format!("{only:.digits$}"),
            _ => "–".to_owned(),
        }
    };
    let known = |share: fn(&Evidence) -> Option<f64>| -> Vec<f64> {
        let shares = looks.iter().filter_map(|look| share(&look.evidence));
        shares.collect()
    };
    let seconds = |time: fn(&Evidence) -> Duration, factor: f64| -> Vec<f64> {
        let times = looks.iter().map(|look| time(&look.evidence).as_secs_f64());
        times.map(|seconds| seconds * factor).collect()
    };
    let mut verdicts: Vec<&str> = looks.iter().map(|look| look.verdict.as_str()).collect();
    verdicts.sort_unstable();
    verdicts.dedup();
    let states = looks.iter().map(|look| {
        let Evidence {
            distinct_states,
            snapshots,
            ..
        } = look.evidence;
        format!("{distinct_states}/{snapshots}")
    });
    let states: Vec<String> = states.collect();
    format!(
        "| {} | {:?} | {} | {} | {} | {} | {} | {} | {} |",
        program.name,
        program.expected,
        verdicts.join(", "),
        states.join(" "),
        range(known(|evidence| evidence.new_state_probability), 3),
        range(known(|evidence| evidence.user_share), 2),
        range(seconds(|evidence| evidence.took, 1.0), 1),
        range(seconds(|evidence| evidence.stopped, 1000.0), 0),
        range(seconds(|evidence| evidence.longest_stop, 1000.0), 1),
    )
}
