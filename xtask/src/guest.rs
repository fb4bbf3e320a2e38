//! A QEMU process: its command line and its output.

use crate::kernels::Kernel;
use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// The kernel command line of every guest. Its second line saves an emulated CPU a quarter of its
/// work (`docs/decisions/0012`): it switches off mitigations of faults that only real CPUs have, a
/// fifth level of page tables, and the clearing of the kernel's own memory.
const KERNEL_OPTIONS: &str = "console=ttyS0 panic=-1 quiet loglevel=1 psi=1 \
    mitigations=off no5lvl init_on_alloc=0";

/// The way in which a guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    /// Emulation, all virtual CPUs on one thread of the host. Two threads run into code
    /// that the other one is just patching, as a kernel does whenever a controller, a quota
    /// or a tracepoint is first used: an oops that no real CPU makes.
    Emulation,
    /// Emulation, each virtual CPU on a thread of its own: what is measured needs real
    /// concurrency, and a boot that the emulator breaks is only booted again.
    ConcurrentEmulation,
}

impl Accelerator {
    /// Returns the value of QEMU's `-accel`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Emulation => "tcg,thread=single",
            Self::ConcurrentEmulation => "tcg,thread=multi",
        }
    }

    /// Returns the value of QEMU's `-cpu`. A CPU with fast string operations has the kernel clear and
    /// copy memory with `rep movsb`, which the emulator executes byte by byte. Without them the kernel
    /// takes eight bytes at a time (`docs/decisions/0012` has the figures).
    fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "max",
            Self::Emulation | Self::ConcurrentEmulation => "max,-erms",
        }
    }
}

/// A boot of a kernel with one job.
pub(crate) struct Boot<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
    /// The job of the guest's init; see `tests/src/bin/init.rs`.
    pub(crate) job: &'a str,
    /// More for the kernel's command line.
    pub(crate) options: &'a str,
    pub(crate) memory_mib: u32,
    /// A raw image that becomes `/dev/vda`.
    pub(crate) disk: Option<&'a Path>,
    /// The label before each line that the guest prints.
    pub(crate) label: &'a str,
}

impl Boot<'_> {
    /// Returns the command that boots it.
    pub(crate) fn command(&self, qemu: &Path, accelerator: Accelerator) -> Command {
        let mut command = Command::new(qemu);
        command
            .args(["-accel", accelerator.as_str()])
            .args(["-cpu", accelerator.cpu(), "-smp", "2"])
            .args(["-m", &self.memory_mib.to_string()])
            .args(["-nographic", "-no-reboot", "-nic", "none"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            .arg(format!(
                "{KERNEL_OPTIONS} enforcer.job={} {}",
                self.job, self.options
            ));
        if let Some(disk) = self.disk {
            command
                .arg("-drive")
                .arg(format!("file={},format=raw,if=virtio", disk.display()));
        }
        command
    }
}

/// Returns whether a line of QEMU says that KVM itself has failed.
pub(crate) fn is_kvm_error(line: &str) -> bool {
    let line = line.to_lowercase();
    [
        "kvm internal error",
        "kvm run failed",
        "kvm: entry failed",
        "kvm_run failed",
    ]
    .iter()
    .any(|fault| line.contains(fault))
}

/// A line that was printed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line of the guest, on its serial console.
    Console(String),
    /// A line of QEMU itself, on its stderr.
    Qemu(String),
}

/// A QEMU process that is killed when this is dropped.
pub(crate) struct Running {
    process: Child,
    lines: Receiver<Line>,
}

/// Nothing was printed for the given time.
#[derive(Debug)]
pub(crate) struct Silent;

impl Running {
    /// Starts QEMU.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start QEMU")?;
        let (sender, lines) = channel();
        let (Some(console), Some(errors)) = (process.stdout.take(), process.stderr.take()) else {
            bail!("QEMU has no console");
        };
        read_lines(console, sender.clone(), Line::Console);
        read_lines(errors, sender, Line::Qemu);
        Ok(Self { process, lines })
    }

    /// Returns the next line; `None` once QEMU has ended and everything was read.
    ///
    /// # Errors
    /// If nothing is printed in time.
    pub(crate) fn next_line(&mut self, timeout: Duration) -> Result<Option<Line>, Silent> {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(Silent),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A guest that has ended by itself need not be killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_lines(
    from: impl Read + Send + 'static,
    to: Sender<Line>,
    wrap: impl Fn(String) -> Line + Send + 'static,
) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if to.send(wrap(text)).is_err() {
                break;
            }
        }
    });
}
