//! The command line: what each command is called and takes. Each command's work
//! is in a file of its own, or a question to the agent.

mod client;
mod doctor;
mod events;
mod examine;
mod format;
mod hold;
mod import;
mod init;
mod learn;
pub(crate) mod logs;
mod manual;
mod probe;
mod prospect;
mod ps;
mod replicas;
mod sandbox;
mod status;
mod top;
mod workload;

use crate::agent::{self, Manner};
use crate::failpoint::failpoint;
use crate::fault::Fault;
use crate::settings::{Color, Settings};
use clap::{Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use enforcer_client::http::escaped;
use enforcer_client::short;
use enforcer_core::spec::Sandbox;
use format::Output;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Limits, watches and restarts workloads through cgroup v2 and eBPF.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

/// The arguments of a command are built only when it is parsed.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    /// Run the agent in the foreground with live lines; Ctrl-C stops the workloads
    Run {
        #[arg(short, long, value_name = "FILE|FOLDER")]
        file: PathBuf,
    },
    /// Run the agent as a daemon; its workloads run on when it ends
    Daemon {
        #[arg(long, value_name = "FILE|FOLDER")]
        manifest: PathBuf,
    },
    /// End the agent; the workloads run on, unless `--workloads` is given
    Shutdown {
        /// Stop the workloads first, each with its grace
        #[arg(long)]
        workloads: bool,
    },
    /// Check manifests
    Validate {
        #[arg(required = true, value_name = "FILE|FOLDER")]
        files: Vec<PathBuf>,
    },
    /// Show the changes that a manifest would make, without making them
    Plan {
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Show, instead of the plan, what this sandbox would change for each workload, and the key that
        /// allows it
        #[arg(long, value_name = "LEVEL", value_parser = sandbox::level)]
        sandbox: Option<Sandbox>,
        #[command(flatten)]
        output: Output,
    },
    /// Show the differences; exits with 0 if there are none, with 1 if there are some, and with
    /// 2 on an error
    Diff {
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Make the agent read its manifest again and carry out the changes; it answers when the kernel
    /// has the new limits, or says after 10 s which it lacks and exits with 1
    Apply {
        /// Install this file in the agent's manifest first
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Stop and remove workloads that the manifest no longer names
        #[arg(long)]
        prune: bool,
        /// Accept a memory.max that is lowered below the memory in use
        #[arg(long)]
        force: bool,
    },
    /// List the workloads
    Ps {
        #[command(flatten)]
        output: Output,
    },
    /// Show the workloads on a live screen
    Top {
        #[command(flatten)]
        wanted: top::Wanted,
    },
    /// Show the state of one workload; exits with 3 if it is unhealthy or not running
    Status {
        workload: String,
        #[command(flatten)]
        output: Output,
    },
    /// Check whether this host is fit for the agent; each fault has its cure
    Doctor {
        #[command(flatten)]
        output: Output,
    },
    /// Show everything about one workload, with its limits as requested and as effective
    Inspect {
        workload: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show the events
    Events {
        #[command(flatten)]
        wanted: events::Wanted,
        #[command(flatten)]
        output: Output,
    },
    /// Explain the last thing that happened to a workload, back to its first cause
    Why {
        workload: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show a workload's output
    Logs {
        workload: String,
        #[command(flatten)]
        wanted: logs::Wanted,
    },
    /// Start a workload
    Start { workload: String },
    /// Stop a workload: its signal, its grace, then the whole tree
    Stop { workload: String },
    /// Stop and start a workload
    Restart { workload: String },
    /// Print a first manifest of what runs on this host, which is picked from a list
    Init {
        #[command(flatten)]
        wanted: init::Wanted,
    },
    /// Turn the files of others into a manifest; exits with 1 if a key has no meaning here, or needs you
    Import {
        #[command(subcommand)]
        wanted: import::Wanted,
    },
    /// Change the number of a workload's replicas
    Scale { workload: String, replicas: u16 },
    /// Look after the rollout of a workload with replicas
    Rollout {
        #[command(subcommand)]
        wanted: replicas::Wanted,
    },
    /// Make a workload take its new configuration without a restart, as its `reload` says
    Reload { workload: String },
    /// Show what a sandbox promises, or learn what a workload needs in one
    Sandbox {
        #[command(subcommand)]
        wanted: sandbox::Wanted,
    },
    /// Kill a workload's whole tree at once
    Kill { workload: String },
    /// Limit a workload to a share of one CPU, until `release`
    Throttle {
        workload: String,
        #[arg(long, value_name = "PERCENT")]
        cpu: String,
    },
    /// Undo throttles and demotions of a workload
    Release { workload: String },
    /// Ask a workload's probes now; exits with 3 if one of them fails
    Probe {
        workload: String,
        #[command(flatten)]
        output: Output,
    },
    /// Examine one thread of any process, as the agent would, and print the evidence
    #[command(hide = true)]
    Examine {
        pid: u32,
        /// A thread of the process [default: the first]
        tid: Option<u32>,
    },
    /// Empty folders of this user (the agent runs this as a workload's user)
    #[command(hide = true)]
    Clear {
        /// A folder that is never emptied
        home: String,
        paths: Vec<String>,
    },
    /// Keep the workloads' outputs and their cgroup while agents come and go (for a service
    /// manager); SIGTERM stops the workloads, each with its grace
    #[command(hide = true)]
    Hold {
        #[command(flatten)]
        wanted: hold::Wanted,
    },
    /// Print a script that completes this command line in a shell
    Completions { shell: manual::Shell },
    /// Print the manual page, or write a page for every command
    Man {
        /// The folder for enforcer.1, enforcer-run.1, …
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
    /// Read a file of variables (the agent runs this)
    #[command(hide = true)]
    ReadSettings,
    /// Find the names of a stack's frames (the agent runs this)
    #[command(hide = true)]
    Symbolize,
}

/// Runs the command line and returns the exit code that scripts rely on.
pub(crate) fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let Some(code) = short::run(&arguments) {
        return code;
    }
    let arguments = parse();
    failpoint!("command-parsed");
    // These commands go on when their output is closed.
    let lives_on = matches!(
        arguments.command,
        Command::Run { .. } | Command::Daemon { .. } | Command::Hold { .. }
    );
    if !lives_on {
        enforcer_kernel::signal::end_on_broken_pipes();
    }
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            fault.print();
            fault.exit_code()
        }
    }
}

/// Parses the command line. A usage error ends the process with 2, which is clap's own code for it.
///
/// Every option of [`Settings`] is copied into every command that clap knows. So if the first
/// argument names a command, clap gets that one alone, which halves the time of a short command.
fn parse() -> Arguments {
    let first = std::env::args_os().nth(1);
    let first = first.as_deref().and_then(std::ffi::OsStr::to_str);
    let mut all = first.and_then(narrow).unwrap_or_else(Arguments::command);
    let matches = all.try_get_matches_from_mut(std::env::args_os());
    let matches = matches.unwrap_or_else(|error| error.exit());
    let arguments = Arguments::from_arg_matches(&matches);
    let arguments = arguments.unwrap_or_else(|error| error.format(&mut all).exit());
    // To free it part by part takes time, and no one needs the memory.
    std::mem::forget((all, matches));
    arguments
}

/// Returns a parser that knows no more than this first argument needs; `None` if that may be everything.
fn narrow(first: &str) -> Option<clap::Command> {
    let program = clap::Command::new("enforcer").version(env!("CARGO_PKG_VERSION"));
    if ["-V", "--version"].contains(&first) {
        return Some(program);
    }
    let commands = Command::augment_subcommands(clap::Command::new("enforcer"));
    let named = commands.find_subcommand(first)?.clone();
    // To free it part by part takes time.
    std::mem::forget(commands);
    let alone = program.subcommand_required(true).subcommand(named);
    Some(Settings::augment_args(alone))
}

fn dispatch(Arguments { settings, command }: Arguments) -> Result<(), Fault> {
    let stderr_color = use_color(settings.color, std::io::stderr().is_terminal());
    let stdout_color = use_color(settings.color, std::io::stdout().is_terminal());
    match command {
        Command::Run { file } => {
            let manner = Manner::Foreground {
                color: stdout_color,
            };
            agent::supervise(&settings, &file, manner, stderr_color)
        }
        Command::Daemon { manifest } => {
            agent::supervise(&settings, &manifest, Manner::Daemon, stderr_color)
        }
        Command::Shutdown { workloads } => workload::shutdown(&settings, workloads),
        Command::Validate { files } => workload::validate(&files, stderr_color),
        Command::Plan {
            file,
            sandbox: Some(level),
            output,
        } => sandbox::plan(&file, level, output, stderr_color),
        Command::Plan { file, output, .. } => {
            workload::plan(&settings, &file, output, stderr_color)
        }
        Command::Apply { file, prune, force } => {
            workload::apply(&settings, file.as_deref(), prune, force)
        }
        Command::Ps { output } => ps::ps(&settings, output),
        Command::Top { wanted } => top::top(&settings, &wanted, stdout_color),
        Command::Status { workload, output } => status::status(&settings, &workload, output),
        Command::Doctor { output } => doctor::doctor(&settings, output),
        Command::Inspect { workload, output } => workload::inspect(&settings, &workload, output),
        Command::Events { wanted, output } => {
            events::events(&settings, &wanted, output, stdout_color)
        }
        Command::Why { workload, output } => {
            events::why(&settings, &workload, output, stdout_color)
        }
        Command::Logs { workload, wanted } => logs::logs(&settings, &workload, &wanted),
        Command::Diff { file } => workload::diff(&settings, &file, stderr_color),
        Command::Start { workload } => workload::request(&settings, &workload, "start"),
        Command::Stop { workload } => workload::request(&settings, &workload, "stop"),
        Command::Restart { workload } => workload::request(&settings, &workload, "restart"),
        Command::Init { wanted } => init::init(&wanted),
        Command::Import { wanted } => import::import(&wanted),
        Command::Scale { workload, replicas } => replicas::scale(&settings, &workload, replicas),
        Command::Rollout { wanted } => replicas::rollout(&settings, &wanted),
        Command::Reload { workload } => workload::request(&settings, &workload, "reload"),
        Command::Sandbox { wanted } => sandbox::run(&settings, &wanted),
        Command::Kill { workload } => workload::request(&settings, &workload, "kill"),
        Command::Throttle { workload, cpu } => workload::throttle(&settings, &workload, &cpu),
        Command::Release { workload } => workload::request(&settings, &workload, "release"),
        Command::Examine { pid, tid } => examine::examine(pid, tid.unwrap_or(pid)),
        Command::Clear { home, paths } => workload::clear(&home, &paths),
        Command::Probe { workload, output } => probe::probe(&settings, &workload, output),
        Command::Hold { wanted } => hold::hold(&settings, wanted),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::manual(folder.as_deref()),
        Command::ReadSettings => enforcer_kernel::settings_file::answer()
            .map_err(|error| Fault::Failed(format!("failed to answer: {error}"))),
        Command::Symbolize => crate::executor::proof::symbolize::answer()
            .map_err(|error| Fault::Failed(format!("{error:#}"))),
    }
}

fn use_color(color: Color, terminal: bool) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    }
}
