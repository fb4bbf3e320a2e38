//! The commands that boot one guest after another: the demo, measurements, a shell.

use crate::accelerator;
use crate::boot::{LARGE_MEMORY_MIB, MEMORY_MIB, Machine};
use crate::compile::{Programs, vm_programs};
use crate::console::Silence;
use crate::guest::Accelerator;
use crate::guest::Boot;
use crate::image::{self, Contents};
use crate::kernels::{self, Kernel, MAIN};
use crate::package::{self, Compression};
use crate::progress::{Phase, say};
use crate::{debian, guard, setup};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};

/// The measurement that runs beside a whole Debian.
const SCRAPE: &str = "scrape";
const OUTPUTS: &str = "outputs";
/// The measurements beside systemd: `side` for all, `side/PART` for one.
const SIDE: &str = "side";
/// The same, compared with the recorded ratios.
const GUARD: &str = "guard";
/// It takes hours.
const GATE: &str = "gate";
/// The measurement that needs no VM: a VM's disk is none.
const HISTORY: &str = "history";
/// The benchmark of a fleet's decisions, which needs no kernel.
const FLEET: &str = "fleet";

/// Builds what a boot needs, and downloads the kernels meanwhile.
fn prepare(
    kernel: Option<&str>,
    otherwise: Accelerator,
) -> Result<(Programs, Vec<Kernel>, Machine)> {
    let downloads = || -> Result<_> {
        let _phase = Phase::begin("downloads");
        Ok((setup::qemu()?, kernels::matrix(kernel)?))
    };
    let (programs, downloaded) = std::thread::scope(|scope| {
        let downloads = scope.spawn(downloads);
        let _phase = Phase::begin("compile");
        (vm_programs(), downloads.join())
    });
    let programs = programs?;
    let (qemu, matrix) = setup::joined(downloaded)?;
    let machine = Machine {
        qemu: qemu.into(),
        hello: image::hello(&programs)?,
        otherwise,
        silence: Silence::DEFAULT,
    };
    Ok((programs, matrix.kernels, machine))
}

/// Shows the main job on one kernel.
///
/// # Errors
/// If something cannot be built or downloaded, or the demo fails.
pub(crate) fn demo(kernel: Option<&str>) -> Result<()> {
    let kernel = kernel.unwrap_or(MAIN);
    let wanted = Some(kernel);
    let (programs, kernels, machine) = match prepare(wanted, Accelerator::Emulation) {
        Err(error) if kernel == MAIN => {
            say("demo", &format!("{error:#}; taking another kernel"));
            prepare(None, Accelerator::Emulation)?
        }
        prepared => prepared?,
    };
    let kernel = kernels.first().context("no kernel")?;
    let initramfs = image::pack(kernel, &programs, Contents::Demo)?;
    {
        let _phase = Phase::begin("demo");
        let boot = boot(kernel, &initramfs, "demo", MEMORY_MIB);
        machine.boot(&boot, |_| false)?.verdict()?;
    }
    println!(
        "\nNext:\n  \
         cargo xtask vm                 a shell in such a VM, with `enforcer` in it\n  \
         cargo test -p enforcer-core    the tests of every decision, without a VM\n  \
         cargo xtask package            a Debian package to install"
    );
    Ok(())
}

/// Shows a fleet of five hosts in one kernel, of which one is lost.
///
/// # Errors
/// If the VM cannot be started, or the fleet does not do what it should.
pub(crate) fn demo_fleet() -> Result<()> {
    let host = debian::HOSTS[0];
    let (programs, kernels, machine) = prepare(Some(host.kernel), Accelerator::Emulation)?;
    let packages = [
        package::debian(1, Compression::Fast)?,
        package::debian_fleet(Compression::Fast)?,
    ];
    let kernel = kernels.first().context("no kernel")?;
    let initramfs = debian::pack(host, &kernel.modules, &programs, &packages)?;
    let options = "systemd.unit=demo.target systemd.show_status=no systemd.getty_auto=no";
    let boot = Boot {
        options,
        ..boot(kernel, &initramfs, "demo/fleet", LARGE_MEMORY_MIB)
    };
    let _phase = Phase::begin("demo");
    machine.boot(&boot, |_| false)?.verdict()?;
    println!("\nNext: docs/fleet.md says how to run one on hosts of your own.");
    Ok(())
}

fn boot<'a>(kernel: &'a Kernel, initramfs: &'a Path, job: &'a str, memory_mib: u32) -> Boot<'a> {
    Boot {
        kernel,
        initramfs,
        job,
        options: "",
        memory_mib,
        disk: None,
        label: "",
    }
}

/// Measures on every kernel, one after another.
///
/// # Errors
/// If a guest fails.
pub(crate) fn bench(
    name: Option<&str>,
    kernel: Option<&str>,
    before: Option<PathBuf>,
) -> Result<()> {
    if name == Some(HISTORY) {
        return crate::compile::history_bench();
    }
    if name == Some(FLEET) {
        return crate::compile::fleet_bench();
    }
    if let Some(part) = name.and_then(|name| name.strip_prefix(SIDE)) {
        return bench_side((0, part.trim_start_matches('/')), kernel, false);
    }
    if name == Some(GATE) {
        // This host has nginx and HAProxy.
        return bench_side((1, GATE), kernel, false);
    }
    if name == Some(GUARD) {
        return bench_side((0, ""), kernel, true);
    }
    let (mut programs, kernels, machine) = prepare(kernel, Accelerator::ConcurrentEmulation)?;
    programs.agent_before = before;
    for kernel in &kernels {
        println!("kernel {kernel}");
        let contents = match name {
            Some(SCRAPE | OUTPUTS) => Contents::WithDebian,
            _ => Contents::Tests,
        };
        let initramfs = image::pack(kernel, &programs, contents)?;
        let job = format!("bench:{}", name.unwrap_or_default());
        let memory_mib = match kernel.series.as_str() {
            MAIN => LARGE_MEMORY_MIB,
            _ => MEMORY_MIB,
        };
        let boot = boot(kernel, &initramfs, &job, memory_mib);
        machine.boot(&boot, |_| false)?.verdict()?;
    }
    Ok(())
}

/// Prints the steps of a restart with their times, on every kernel.
///
/// # Errors
/// If a guest fails.
pub(crate) fn trace(kernel: Option<&str>) -> Result<()> {
    let (mut programs, kernels, machine) = prepare(kernel, Accelerator::ConcurrentEmulation)?;
    programs.agent_with_failpoints = crate::compile::test_programs()?.agent_with_failpoints;
    for kernel in &kernels {
        println!("kernel {kernel}");
        let initramfs = image::pack(kernel, &programs, Contents::Tests)?;
        let boot = boot(kernel, &initramfs, "bench:trace", MEMORY_MIB);
        machine.boot(&boot, |_| false)?.verdict()?;
    }
    Ok(())
}

/// Measures beside systemd, in a Debian that has it, on every kernel. If `guards`, fails if a ratio is
/// worse than the recorded one.
fn bench_side((host, part): (usize, &str), kernel: Option<&str>, guards: bool) -> Result<()> {
    let (programs, kernels, machine) = prepare(kernel, Accelerator::ConcurrentEmulation)?;
    let packages = [package::debian(1, Compression::Fast)?];
    let initramfs = debian::pack(debian::HOSTS[host], &[], &programs, &packages)?;
    for kernel in &kernels {
        println!("kernel {kernel}");
        let job = format!("side/{part}");
        let options = "systemd.unit=bench.target systemd.show_status=no systemd.getty_auto=no";
        let boot = Boot {
            options,
            ..boot(kernel, &initramfs, &job, LARGE_MEMORY_MIB)
        };
        let mut ratios = guard::Ratios::new();
        let outcome = machine.boot(&boot, |line| {
            guard::collect(line, &mut ratios);
            false
        })?;
        outcome.verdict()?;
        if guards {
            guard::check(kernel, &ratios)?;
        }
    }
    Ok(())
}

/// Reports what the agent finds out about the corpus on this machine's own CPUs.
///
/// # Errors
/// If a program cannot be built or run.
pub(crate) fn calibrate(program: Option<&str>) -> Result<()> {
    let programs = vm_programs()?;
    let mut command = std::process::Command::new(&programs.calibrate);
    command
        .args([&programs.agent, &programs.fixture, &crate::corpus::tree()?])
        .args(program);
    crate::process::run(&mut command)
}

/// A shell in a VM.
///
/// # Errors
/// If the VM cannot be started.
pub(crate) fn shell(kernel: Option<&str>) -> Result<()> {
    let (programs, kernels, machine) =
        prepare(Some(kernel.unwrap_or(MAIN)), Accelerator::Emulation)?;
    let kernel = kernels.first().context("no kernel")?;
    let initramfs = image::pack(kernel, &programs, Contents::Shell)?;
    let chosen = accelerator::choose(&machine.qemu, kernel, &machine.hello, machine.otherwise);
    let boot = boot(kernel, &initramfs, "shell", MEMORY_MIB);
    let mut command = boot.command(&machine.qemu, chosen);
    say(
        "vm",
        &format!("kernel {kernel}; leave with `exit`, or with Ctrl-A X"),
    );
    crate::process::run(&mut command)
}
