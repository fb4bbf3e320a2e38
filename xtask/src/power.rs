//! A power cut in the middle of writing, and what the next boot finds.

use crate::boot::{MEMORY_MIB, Machine};
use crate::compile::Programs;
use crate::console::Outcome;
use crate::guest::Boot;
use crate::image::{self, Contents};
use crate::kernels::Kernel;
use crate::process::target;
use anyhow::{Context as _, Result, bail};

/// Kills a guest that writes to a disk, as a power cut does, and lets the next one check
/// that everything is there that was reported as durable.
///
/// # Errors
/// If a guest fails, or ends before enough was written.
pub(crate) fn cut(machine: &Machine, programs: &Programs, kernel: &Kernel) -> Result<Outcome> {
    /// Durable events after which the cut comes.
    const ENOUGH: u64 = 200;
    let disk = target().join(format!("vm/power-{}.img", kernel.series));
    let file = std::fs::File::create(&disk)
        .with_context(|| format!("failed to create {}", disk.display()))?;
    file.set_len(64 << 20)
        .with_context(|| format!("failed to size {}", disk.display()))?;
    let initramfs = image::pack(kernel, programs, Contents::Tests)?;
    let boot = |job: &str, enough: &mut dyn FnMut(&str) -> bool| {
        let boot = Boot {
            kernel,
            initramfs: &initramfs,
            job,
            options: "",
            memory_mib: MEMORY_MIB,
            disk: Some(&disk),
            label: &format!("{:<6} | ", kernel.series),
        };
        machine.boot(&boot, enough)
    };
    let mut durable = 0;
    let cut = boot("power:write", &mut |line| {
        if let Some(seq) = line.strip_prefix("@@durable ") {
            durable = seq.trim().parse().unwrap_or(durable);
        }
        durable >= ENOUGH
    })?;
    if durable < ENOUGH {
        let why = cut.verdict().err();
        let why = why.map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        bail!("before the cut, {durable} of {ENOUGH} events were durable: {why}");
    }
    let outcome = boot(&format!("power:read:{durable}"), &mut |_| false);
    let _ = std::fs::remove_file(disk);
    outcome
}
