//! `cargo xtask`: the commands a developer types. Each lives in its own file; this one
//! only reads the command line.
#![allow(clippy::disallowed_methods, reason = "a tool may read the time")]

mod accelerator;
mod apt;
mod boot;
mod burden;
mod compile;
mod console;
mod corpus;
mod debian;
mod fuzz;
mod guard;
mod guest;
mod image;
mod initramfs;
mod kernels;
mod package;
mod power;
mod process;
mod progress;
mod prometheus;
mod report;
mod setup;
mod tidy;
mod tiers;
mod tools;
mod tree;
mod unpack;
mod vm;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;

/// Builds, boots, tests and measures enforcer.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get what the rest needs: rust-src, bpf-linker, QEMU, kernels, packages
    Setup,
    /// Compile the eBPF programs to target/bpf/enforcer.o
    BuildEbpf,
    /// Compile the agent, with its eBPF programs inside
    Build,
    /// Make the agent's Debian package
    Package,
    /// Show the main job on a real kernel, in a VM; `demo fleet` shows five hosts with etcd between them
    Demo {
        what: Option<Shown>,
        #[command(flatten)]
        kernel: Kernel,
    },
    /// Run every test, or those that are named
    ///
    /// Without a name: the host's tests, the VM's on each kernel of the matrix, a power cut
    /// on each, and a Debian 12 and a Debian 13 with systemd.
    Test {
        /// Tiers (host, vm, power, systemd), parts of the names of VM tests, or
        /// systemd/NAME; separated by commas
        #[arg(value_delimiter = ',')]
        names: Vec<String>,
        #[command(flatten)]
        kernel: Kernel,
        /// Burden this host with a busy process per CPU meanwhile
        #[arg(long)]
        slow_host: bool,
    },
    /// Measure, each figure beside its floor, in the VM
    Bench {
        /// One measurement; `history` and `fleet` run on this machine itself, `gate` takes an hour, and
        /// `guard` compares `side` with docs/benchmarks.toml
        name: Option<String>,
        #[command(flatten)]
        kernel: Kernel,
        /// For `pairs`: another build of the agent, which is measured in turn with this one
        #[arg(long, value_name = "BINARY", required_if_eq("name", "pairs"))]
        before: Option<std::path::PathBuf>,
        /// For `restart`: the time of each step
        #[arg(long)]
        trace: bool,
    },
    /// Run every fuzz target, without another toolchain
    Fuzz {
        /// The seconds that each target runs
        #[arg(default_value_t = 20)]
        seconds: u32,
    },
    /// Report what the agent finds out about looping and working programs on this
    /// machine's own CPUs (as root)
    Calibrate { name: Option<String> },
    /// Open a shell in a VM, or run one of its tests
    Vm {
        #[command(flatten)]
        kernel: Kernel,
        /// Run the tests with this in their names instead
        #[arg(long)]
        test: Option<String>,
    },
    /// Check the metrics, the rules and the dashboard with Prometheus' own programs
    Prometheus,
    /// Check the rules of docs/ARCHITECTURE.md
    Tidy,
    /// Check formatting and run clippy, without a warning
    Lint,
}

#[derive(Args)]
struct Kernel {
    /// One kernel: a series of the matrix (6.1, 6.12, newest) or a version
    #[arg(long = "kernel", env = "ENFORCER_KERNEL", value_name = "V")]
    wanted: Option<String>,
}

/// Something else to show than the main job.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Shown {
    Fleet,
}

fn main() -> ExitCode {
    progress::start();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup => setup::everything(),
        Command::BuildEbpf => compile::ebpf().map(|object| println!("{}", object.display())),
        Command::Build => compile::agent().map(|binary| println!("{}", binary.display())),
        Command::Package => {
            let best = package::Compression::Best;
            println!("{}", package::debian(1, best)?.display());
            println!("{}", package::debian_fleet(best)?.display());
            Ok(())
        }
        Command::Demo { what: None, kernel } => vm::demo(kernel.wanted.as_deref()),
        Command::Demo {
            what: Some(Shown::Fleet),
            ..
        } => vm::demo_fleet(),
        Command::Test {
            names,
            kernel,
            slow_host,
        } => tiers::run(&tiers::Request {
            names,
            kernel: kernel.wanted,
            slow_host,
        }),
        Command::Bench {
            name,
            kernel,
            before,
            trace: false,
        } => vm::bench(name.as_deref(), kernel.wanted.as_deref(), before),
        Command::Bench {
            kernel,
            trace: true,
            ..
        } => vm::trace(kernel.wanted.as_deref()),
        Command::Fuzz { seconds } => fuzz::run_all(seconds),
        Command::Calibrate { name } => vm::calibrate(name.as_deref()),
        Command::Vm {
            kernel,
            test: Some(name),
        } => tiers::run(&tiers::Request {
            names: vec![name],
            kernel: kernel.wanted,
            slow_host: false,
        }),
        Command::Vm { kernel, test: None } => vm::shell(kernel.wanted.as_deref()),
        Command::Prometheus => prometheus::check(),
        Command::Tidy => tidy::run(),
        Command::Lint => compile::lint(),
    }
}
