//! Boots a kernel with our programs in memory and judges what it prints. A run
//! counts as passed only by its closing line: a panic, silence or an early end
//! fails it.

use crate::compile::{Programs, vm_programs};
use crate::initramfs::Archive;
use crate::kernels::{Kernel, select};
use crate::process::{root, target};
use crate::{VmOptions, setup};
use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The line that our init prints last, before its exit code.
const VERDICT: &str = "@@enforcer exit=";
/// A guest that prints nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(180);
const MEMORY_MIB: u32 = 1024;

pub(crate) fn demo(options: &VmOptions) -> Result<()> {
    let programs = prepare()?;
    let kernel = select(options.kernel.as_deref())?
        .pop()
        .context("no kernel")?;
    boot(&kernel, &programs, "demo")
}

pub(crate) fn test(options: &VmOptions) -> Result<()> {
    let programs = prepare()?;
    let mut failed = Vec::new();
    for kernel in select(options.kernel.as_deref())? {
        eprintln!("vm: kernel {} ({})", kernel.series, kernel.package);
        let filter = options.test.as_deref().unwrap_or("");
        if let Err(error) = boot(&kernel, &programs, &format!("test:{filter}")) {
            eprintln!("vm: kernel {}: {error:#}", kernel.series);
            failed.push(kernel.series);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("the VM's tests failed on {}", failed.join(", "))
    }
}

pub(crate) fn bench(options: &VmOptions) -> Result<()> {
    let programs = prepare()?;
    for kernel in select(options.kernel.as_deref())? {
        println!("kernel {} ({})", kernel.series, kernel.package);
        let filter = options.test.as_deref().unwrap_or("");
        boot(&kernel, &programs, &format!("bench:{filter}"))?;
    }
    Ok(())
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
    let initramfs = pack(&kernel, &programs, true)?;
    crate::process::run(&mut qemu(&kernel, &initramfs, "shell")?)
}

/// Everything that a boot needs, built or fetched where it is missing.
fn prepare() -> Result<Programs> {
    setup::qemu()?;
    vm_programs()
}

fn pack(kernel: &Kernel, programs: &Programs, shell: bool) -> Result<PathBuf> {
    let mut archive = Archive::new();
    for folder in [
        "bin",
        "dev",
        "etc",
        "etc/enforcer",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
        "var",
    ] {
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
    archive.program("bin/enforcer", &programs.agent)?;
    archive.program("bin/fixture", &programs.fixture)?;
    archive.program("bin/suite", &programs.suite)?;
    archive.program("bin/bench", &programs.bench)?;
    if let Some(module) = &kernel.loop_module {
        archive.directory("lib")?;
        archive.directory("lib/modules")?;
        archive.program("lib/modules/loop.ko", module)?;
    }
    if shell {
        archive.program("bin/busybox", &setup::busybox()?)?;
    }
    let file = target().join(if shell {
        "vm/shell.cpio"
    } else {
        "vm/tests.cpio"
    });
    archive.write_to(&file)?;
    Ok(file)
}

fn qemu(kernel: &Kernel, initramfs: &Path, job: &str) -> Result<Command> {
    let mut command = Command::new(setup::qemu()?);
    let accelerator = if kvm_works() {
        "kvm"
    } else {
        "tcg,thread=multi"
    };
    command
        .args(["-accel", accelerator, "-cpu", "max", "-smp", "2"])
        .args([
            "-m",
            &MEMORY_MIB.to_string(),
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
            "console=ttyS0 panic=-1 quiet loglevel=1 psi=1 enforcer.job={job}"
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

/// Boots, relays what the guest prints, and returns its verdict.
fn boot(kernel: &Kernel, programs: &Programs, job: &str) -> Result<()> {
    let initramfs = pack(kernel, programs, false)?;
    let started = Instant::now();
    let mut guest = qemu(kernel, &initramfs, job)?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start QEMU")?;
    let verdict = watch(&mut guest);
    // It has powered off by now, or is past saving.
    let _ = guest.kill();
    let _ = guest.wait();
    match verdict? {
        0 => {
            eprintln!(
                "vm: kernel {}: done in {} s",
                kernel.series,
                started.elapsed().as_secs()
            );
            Ok(())
        }
        code => bail!("the guest's job failed with code {code}"),
    }
}

fn watch(guest: &mut Child) -> Result<i32> {
    let console = guest.stdout.take().context("QEMU has no console")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(console);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    let mut verdict = None;
    let mut panicked = false;
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                // The firmware clears the screen before the kernel's first line.
                let line = line.rsplit("\u{1b}c").next().unwrap_or(&line);
                panicked |= line.contains("Kernel panic") || line.contains("BUG: ");
                match line.find(VERDICT) {
                    Some(at) => verdict = line[at + VERDICT.len()..].trim().parse::<i32>().ok(),
                    None => println!("{}", clean(line)),
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest printed nothing for {} s", SILENCE.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if panicked {
        bail!("the guest's kernel panicked");
    }
    verdict.context("the guest ended without a verdict")
}

/// Drops the firmware's cursor movements; colours pass.
fn clean(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '\u{1b}' {
            text.push(character);
            continue;
        }
        let mut sequence = String::from(character);
        while let Some(next) = rest.next() {
            sequence.push(next);
            if next.is_ascii_alphabetic() {
                if next == 'm' {
                    text.push_str(&sequence);
                }
                break;
            }
        }
    }
    text
}
