//! Boots a kernel with our programs in memory, for a test, a measurement, the
//! demo or a person. How a boot is judged is `console.rs`'s affair.

use crate::compile::{Programs, vm_programs};
use crate::console::{self, Outcome};
use crate::initramfs::Archive;
use crate::kernels::{Kernel, select};
use crate::process::{root, target};
use crate::{VmOptions, setup};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const MEMORY_MIB: u32 = 1024;
/// For a thousand workloads: one kernel is enough for that.
const MUCH_MEMORY_MIB: u32 = 3072;
const MUCH_MEMORY: &str = "6.12";

/// How the virtual CPUs are emulated where there is no KVM.
#[derive(Clone, Copy)]
enum Emulation {
    /// All on one thread of the host. Two threads run into code that the other
    /// one is just patching, as a kernel does whenever a controller, a quota or
    /// a tracepoint is first used: an oops that no real CPU makes.
    Sound,
    /// Each on a thread of its own: what is measured needs real concurrency, and
    /// a boot that the emulator breaks is only booted again.
    Concurrent,
}

/// Shows the main job on the newest kernel.
pub(crate) fn demo(options: &VmOptions) -> Result<()> {
    let programs = prepare()?;
    let kernel = select(options.kernel.as_deref())?
        .pop()
        .context("no kernel")?;
    let initramfs = pack(&kernel, &programs, Contents::Tests)?;
    boot(&kernel, (&initramfs, "demo"), Emulation::Sound, "")?.verdict()
}

/// The name of the tests on a host with systemd, which run in boots of their own.
const SYSTEM: &str = "systemd";
/// That of the power cut: one boot that is cut short, and one that looks.
const POWER: &str = "power";
/// All of them, or `systemd/NAME` for those that have it in their name.
fn is_system(job: &str) -> bool {
    job == SYSTEM
        || job
            .strip_prefix(SYSTEM)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// What else is in a guest.
#[derive(Clone, Copy)]
enum Contents {
    Tests,
    Shell,
    /// The distribution's own programs, to compare with.
    WithDebian,
}

/// What is measured beside other programs.
const SCRAPE: &str = "scrape";
/// What is measured without a VM, whose disk is none.
const HISTORY: &str = "history";

/// Runs the tests on every kernel, all kernels at the same time: one thread of
/// the host each. Then, likewise, those of a host with systemd.
pub(crate) fn test(options: &VmOptions) -> Result<()> {
    let programs = prepare()?;
    let kernels = select(options.kernel.as_deref())?;
    let names = options.test.iter().flat_map(|names| names.split(','));
    let (boots, names): (Vec<&str>, Vec<&str>) =
        names.partition(|name| *name == POWER || is_system(name));
    let all = options.test.is_none();
    let labelled = |kernel: &Kernel| {
        if kernels.len() > 1 {
            format!("{:<5}| ", kernel.series)
        } else {
            String::new()
        }
    };
    let mut tally = Tally::default();
    if all || !names.is_empty() {
        let job = format!("test:{}", names.join(","));
        tally.add(&kernels, |kernel| {
            let initramfs = pack(kernel, &programs, Contents::Tests)?;
            let job = (initramfs.as_path(), job.as_str());
            boot(kernel, job, Emulation::Sound, &labelled(kernel))
        });
    }
    if all || boots.contains(&POWER) {
        tally.add(&kernels, |kernel| {
            power_cut(kernel, &programs, &labelled(kernel))
        });
    }
    let system = boots.iter().copied().find(|name| is_system(name));
    if let Some(job) = system.or(all.then_some(SYSTEM)) {
        let packages = [crate::package::debian(1)?, crate::package::debian(2)?];
        tally.add(&kernels, |kernel| {
            let initramfs = crate::debian::pack(&kernel.series, &programs, &packages)?;
            let job = (initramfs.as_path(), job);
            boot(kernel, job, Emulation::Sound, &labelled(kernel))
        });
    }
    tally.verdict()
}

/// Pulls the plug of a guest that writes to a disk, and has the next one say whether all
/// is there that was said to be.
fn power_cut(kernel: &Kernel, programs: &Programs, label: &str) -> Result<Outcome> {
    /// Events, before the end comes.
    const ENOUGH: u64 = 200;
    let disk = target().join(format!("vm/power-{}.img", kernel.series));
    let file = std::fs::File::create(&disk)
        .with_context(|| format!("failed to create {}", disk.display()))?;
    file.set_len(64 << 20)
        .with_context(|| format!("failed to size {}", disk.display()))?;
    let initramfs = pack(kernel, programs, Contents::Tests)?;
    let mut durable = 0;
    let mut written = qemu(kernel, &initramfs, "power:write", Emulation::Sound)?;
    // As a power cut does: nothing is asked, nothing is waited for.
    relay(with_disk(&mut written, &disk), label, |line| {
        if let Some(seq) = line.strip_prefix("@@durable ") {
            durable = seq.trim().parse().unwrap_or(durable);
        }
        durable >= ENOUGH
    })?;
    if durable < ENOUGH {
        bail!("the guest told of {durable} durable events, and ended before {ENOUGH}");
    }
    let job = format!("power:read:{durable}");
    let mut read = qemu(kernel, &initramfs, &job, Emulation::Sound)?;
    let outcome = relay(with_disk(&mut read, &disk), label, |_| false);
    let _ = std::fs::remove_file(disk);
    outcome
}

fn with_disk<'c>(guest: &'c mut Command, disk: &Path) -> &'c mut Command {
    guest
        .arg("-drive")
        .arg(format!("file={},format=raw,if=virtio", disk.display()))
}

/// What came of the boots.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    kernels: Vec<String>,
}

impl Tally {
    /// One boot of each kernel, all at the same time.
    fn add(&mut self, kernels: &[Kernel], run: impl Fn(&Kernel) -> Result<Outcome> + Sync) {
        let run = &run;
        let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
            let guests: Vec<_> = kernels
                .iter()
                .map(|kernel| scope.spawn(|| run(kernel)))
                .collect();
            let joined = guests.into_iter().map(|guest| guest.join());
            joined
                .map(|joined| joined.unwrap_or_else(|_| bail!("the watching thread panicked")))
                .collect()
        });
        for (kernel, outcome) in kernels.iter().zip(outcomes) {
            let told = outcome.and_then(|outcome| {
                self.passed += outcome.passed;
                self.failed += outcome.failed;
                for panic in &outcome.panics {
                    eprintln!("vm: kernel {}: {panic}", kernel.series);
                }
                outcome.verdict()
            });
            if let Err(error) = told {
                eprintln!("vm: kernel {}: {error:#}", kernel.series);
                self.kernels.push(kernel.series.clone());
            }
        }
    }

    fn verdict(&self) -> Result<()> {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.passed + self.failed == 0 && self.kernels.is_empty() {
            bail!("no test has such a name");
        }
        if self.kernels.is_empty() {
            Ok(())
        } else {
            bail!("the VM's tests failed on {}", self.kernels.join(", "))
        }
    }
}

/// Measures on every kernel, one after another.
pub(crate) fn bench(options: &VmOptions) -> Result<()> {
    if options.test.as_deref() == Some(HISTORY) {
        return crate::compile::history_bench();
    }
    let programs = prepare()?;
    for kernel in select(options.kernel.as_deref())? {
        println!("kernel {} ({})", kernel.series, kernel.package);
        let name = options.test.as_deref().unwrap_or("");
        let job = format!("bench:{name}");
        let contents = match name {
            SCRAPE => Contents::WithDebian,
            _ => Contents::Tests,
        };
        let initramfs = pack(&kernel, &programs, contents)?;
        boot(&kernel, (&initramfs, &job), Emulation::Concurrent, "")?.verdict()?;
    }
    Ok(())
}

/// What is found out about the corpus on this machine's own CPUs.
pub(crate) fn calibrate(program: Option<&str>) -> Result<()> {
    let programs = vm_programs()?;
    let mut command = Command::new(&programs.calibrate);
    command
        .args([&programs.agent, &programs.fixture, &crate::corpus::tree()?])
        .args(program);
    crate::process::run(&mut command)
}

/// A shell, or the one test that was named.
pub(crate) fn interactive(options: &VmOptions) -> Result<()> {
    if options.test.is_some() {
        return test(options);
    }
    let programs = prepare()?;
    let kernel = select(options.kernel.as_deref())?
        .pop()
        .context("no kernel")?;
    eprintln!(
        "vm: kernel {}; leave with `exit`, or Ctrl-A X",
        kernel.series
    );
    let initramfs = pack(&kernel, &programs, Contents::Shell)?;
    crate::process::run(&mut qemu(&kernel, &initramfs, "shell", Emulation::Sound)?)
}

/// Everything that a boot needs, built or fetched where it is missing.
fn prepare() -> Result<Programs> {
    setup::qemu()?;
    vm_programs()
}

fn pack(kernel: &Kernel, programs: &Programs, contents: Contents) -> Result<PathBuf> {
    let mut archive = Archive::new();
    crate::corpus::pack(&mut archive)?;
    for folder in ["etc", "etc/enforcer", "root", "run", "sys", "var"] {
        archive.directory(folder)?;
    }
    // The kernel opens it for the first process before anything is mounted.
    archive.character_device("dev/console", (5, 1))?;
    archive.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    archive.text(
        "etc/group",
        "root:x:0:\nweb:x:1000:\nextra:x:2000:web\nnogroup:x:65534:\n",
    )?;
    let demo = root().join("docs/demo.yaml");
    let text = std::fs::read_to_string(&demo)
        .with_context(|| format!("failed to read {}", demo.display()))?;
    archive.text("etc/enforcer/demo.yaml", &text)?;
    archive.program("init", &programs.init)?;
    archive.program("usr/bin/enforcer", &programs.agent)?;
    archive.program("usr/bin/fixture", &programs.fixture)?;
    archive.program("usr/bin/suite", &programs.suite)?;
    archive.program("usr/bin/bench", &programs.bench)?;
    archive.directory("usr/lib/modules")?;
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.program(&format!("usr/lib/modules/{name}"), module)?;
    }
    let kind = match contents {
        Contents::Tests => "tests",
        Contents::Shell => {
            archive.program("usr/bin/busybox", &setup::busybox()?)?;
            "shell"
        }
        Contents::WithDebian => {
            let tree = crate::debian::tree()?;
            archive.directory("debian")?;
            crate::packages::add(&mut archive, &target().join("vm"), &tree)?;
            "debian-beside"
        }
    };
    let file = target().join(format!("vm/{kind}-{}.cpio", kernel.series));
    archive.write_to(&file)?;
    Ok(file)
}

fn qemu(kernel: &Kernel, initramfs: &Path, job: &str, emulation: Emulation) -> Result<Command> {
    let mut command = Command::new(setup::qemu()?);
    let accelerator = match emulation {
        _ if kvm_works() => "kvm",
        Emulation::Sound => "tcg,thread=single",
        Emulation::Concurrent => "tcg,thread=multi",
    };
    let memory = if kernel.series == MUCH_MEMORY || is_system(job) {
        MUCH_MEMORY_MIB
    } else {
        MEMORY_MIB
    };
    let more = if is_system(job) {
        " systemd.unit=suite.target systemd.show_status=no systemd.getty_auto=no"
    } else {
        ""
    };
    command
        .args(["-accel", accelerator, "-cpu", "max", "-smp", "2"])
        .args([
            "-m",
            &memory.to_string(),
            "-nographic",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 panic=-1 quiet loglevel=1 psi=1 enforcer.job={job}{more}"
        ));
    Ok(command)
}

/// `/dev/kvm` may exist and still abort when it is used, so it is used.
fn kvm_works() -> bool {
    static WORKS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *WORKS.get_or_init(|| {
        if std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return false;
        }
        Command::new("timeout")
            .args([
                "3",
                "qemu-system-x86_64",
                "-accel",
                "kvm",
                "-cpu",
                "max",
                "-display",
                "none",
            ])
            .args(["-serial", "none", "-monitor", "none", "-nic", "none"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            // `timeout` ends it with 124 where it was still running well.
            .is_ok_and(|status| status.code() == Some(124))
    })
}

/// Boots, relays what the guest prints, and returns how it ended.
fn boot(
    kernel: &Kernel,
    (initramfs, job): (&Path, &str),
    emulation: Emulation,
    label: &str,
) -> Result<Outcome> {
    eprintln!("vm: kernel {} ({})", kernel.series, kernel.package);
    let started = Instant::now();
    let outcome = relay(&mut qemu(kernel, initramfs, job, emulation)?, label, |_| {
        false
    });
    eprintln!(
        "vm: kernel {}: {} s",
        kernel.series,
        started.elapsed().as_secs()
    );
    outcome
}

/// Relays what a guest prints until it ends, or a line is enough; then it is gone.
fn relay(guest: &mut Command, label: &str, enough: impl FnMut(&str) -> bool) -> Result<Outcome> {
    let mut guest = guest
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start QEMU")?;
    let outcome = console::watch(&mut guest, label, enough);
    // It has powered off by now, or is past saving.
    let _ = guest.kill();
    let _ = guest.wait();
    outcome
}
