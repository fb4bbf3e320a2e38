//! `cargo xtask`: the commands a developer types. Each lives in its own file;
//! this one only reads the command line.

mod compile;
mod console;
mod corpus;
mod debian;
mod fuzz;
mod initramfs;
mod kernels;
mod package;
mod packages;
mod process;
mod prometheus;
mod setup;
mod tidy;
mod tools;
mod vm;

use anyhow::{Context as _, Result, bail};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup             get what the rest needs (rust-src, bpf-linker, QEMU, kernels)
  build-ebpf        compile the eBPF programs to target/bpf/enforcer.o
  build             compile the agent, with its eBPF programs inside
  package           the agent as a Debian package
  demo              show the main job on a real kernel, in a VM
  test [NAME,…]     run every test: the host's, then the VM's on each kernel, then those
                    of a power cut and of a host with systemd; or those that are named
                    (`power`, and `systemd` or `systemd/NAME`: these)
  bench [NAME]      measure, each figure beside its floor, in the VM; `history`: on
                    this machine's own disk
  fuzz [SECONDS]    every fuzz target for so long (20 s), without another toolchain
  calibrate [NAME]  what the agent finds out about looping and working programs on
                    this machine's own CPUs (as root)
  vm [--kernel V] [--test NAME]
                    one VM: a shell, or the named test
  prometheus        what Prometheus says of the metrics, the rules and the dashboard
  tidy              check the rules of docs/ARCHITECTURE.md
  lint              formatting and clippy, without a warning

Kernels: 6.1 and 6.12; `--kernel V` (or ENFORCER_KERNEL=V) takes one of them.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else {
        bail!("no command\n\n{USAGE}");
    };
    match command.as_str() {
        "setup" => setup::everything(),
        "build-ebpf" => compile::ebpf().map(|object| println!("{}", object.display())),
        "build" => compile::agent().map(|binary| println!("{}", binary.display())),
        "package" => package::debian(1).map(|file| println!("{}", file.display())),
        "demo" => vm::demo(&VmOptions::parse(rest)?),
        "test" => {
            let options = VmOptions::parse(rest)?;
            if options.test.is_none() {
                tidy::run()?;
                compile::host_tests()?;
                prometheus::check()?;
            }
            vm::test(&options)
        }
        "bench" => vm::bench(&VmOptions::parse(rest)?),
        "fuzz" => {
            let seconds = rest.first().map_or(Ok(20), |text| text.parse());
            fuzz::run_all(seconds.context("how long each target runs, in seconds")?)
        }
        "calibrate" => vm::calibrate(rest.first().map(String::as_str)),
        "vm" => vm::interactive(&VmOptions::parse(rest)?),
        "prometheus" => prometheus::check(),
        "tidy" => tidy::run(),
        "lint" => compile::lint(),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command `{other}`\n\n{USAGE}"),
    }
}

/// What `demo`, `test`, `bench` and `vm` take.
#[derive(Default)]
struct VmOptions {
    kernel: Option<String>,
    test: Option<String>,
}

impl VmOptions {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            kernel: std::env::var("ENFORCER_KERNEL").ok(),
            test: None,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--kernel" => options.kernel = Some(value_of(argument, rest.next())?),
                "--test" => options.test = Some(value_of(argument, rest.next())?),
                flag if flag.starts_with('-') => bail!("unknown option `{flag}`\n\n{USAGE}"),
                name => options.test = Some(name.to_owned()),
            }
        }
        if let Some(name) = &options.test
            && name.contains(char::is_whitespace)
        {
            bail!("a test's name has no spaces: `{name}`");
        }
        Ok(options)
    }
}

fn value_of(option: &str, value: Option<&String>) -> Result<String> {
    match value {
        Some(value) => Ok(value.clone()),
        None => bail!("`{option}` needs a value\n\n{USAGE}"),
    }
}
