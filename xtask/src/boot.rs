//! Boots a guest, relays what it prints, and returns how its job ended.

use crate::accelerator::{self, Accelerator};
use crate::console::{self, Outcome};
use crate::guest::{Boot, Running};
use crate::progress::say;
use anyhow::Result;
use std::path::PathBuf;
use std::time::Duration;

/// Enough for every tier, and less than the 2 GiB from which the tests start a thousand
/// workloads.
pub(crate) const MEMORY_MIB: u32 = 2048;
/// Enough for a thousand workloads, or for a whole Debian in memory.
pub(crate) const LARGE_MEMORY_MIB: u32 = 3072;
/// A guest that prints nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(300);

/// What every boot of a run shares.
pub(crate) struct Machine {
    pub(crate) qemu: PathBuf,
    /// The image that proves an accelerator.
    pub(crate) hello: PathBuf,
    /// The accelerator where KVM does not work.
    pub(crate) otherwise: Accelerator,
    /// How many times slower than usual this host is known to be.
    pub(crate) slowness: u32,
}

impl Machine {
    /// Boots, and relays until the guest has ended or a line is `enough`.
    ///
    /// A guest that dies by a failure of KVM is booted once more under emulation, and KVM
    /// is not used for that kernel again.
    ///
    /// # Errors
    /// If QEMU cannot be started, or the guest falls silent.
    pub(crate) fn boot(
        &self,
        boot: &Boot<'_>,
        mut enough: impl FnMut(&str) -> bool,
    ) -> Result<Outcome> {
        let chosen = accelerator::choose(&self.qemu, boot.kernel, &self.hello, self.otherwise);
        let outcome = self.run(boot, chosen, &mut enough)?;
        let Some(error) = outcome
            .kvm_error
            .as_ref()
            .filter(|_| chosen == Accelerator::Kvm)
        else {
            return Ok(outcome);
        };
        let reason = format!("a guest died under KVM ({error})");
        say(
            "vm",
            &format!(
                "kernel {}: booting again under emulation, because {reason}",
                boot.kernel
            ),
        );
        accelerator::disprove(boot.kernel, &reason);
        self.run(boot, self.otherwise, &mut enough)
    }

    fn run(
        &self,
        boot: &Boot<'_>,
        accelerator: Accelerator,
        enough: &mut impl FnMut(&str) -> bool,
    ) -> Result<Outcome> {
        let mut command = boot.command(&self.qemu, accelerator);
        let mut running = Running::start(&mut command)?;
        console::watch(&mut running, boot.label, SILENCE * self.slowness, enough)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::stand_in;
    use std::path::Path;

    #[test]
    fn a_guest_that_kvm_fails_later_is_booted_again_under_emulation() {
        let kernel = stand_in::kernel("dies-later");
        accelerator::assume_proved(&kernel);
        let machine = Machine {
            qemu: stand_in::qemu(),
            hello: PathBuf::from("/no/hello"),
            otherwise: Accelerator::Emulation,
            slowness: 1,
        };
        let boot = Boot {
            kernel: &kernel,
            initramfs: Path::new("/no/initramfs"),
            job: "test",
            options: "",
            memory_mib: 64,
            disk: None,
            label: "",
        };
        let outcome = machine.boot(&boot, |_| false).expect("an outcome");
        assert!(outcome.verdict().is_ok());
        // The results of the broken boot do not count.
        assert_eq!(outcome.passed, 1);
        let again = accelerator::choose(&machine.qemu, &kernel, &machine.hello, machine.otherwise);
        assert_eq!(again, Accelerator::Emulation);
    }
}
