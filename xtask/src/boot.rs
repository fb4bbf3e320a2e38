//! Boots a guest, relays what it prints, and returns how its job ended.

use crate::accelerator;
use crate::console::{self, Outcome, Silence};
use crate::guest::Accelerator;
use crate::guest::{Boot, Running};
use crate::progress::say;
use anyhow::Result;
use std::path::PathBuf;

/// Enough for every tier, and less than the 2 GiB from which the tests start a thousand
/// workloads.
pub(crate) const MEMORY_MIB: u32 = 2048;
/// Enough for a thousand workloads, or for a Debian in memory that runs few tests.
pub(crate) const LARGE_MEMORY_MIB: u32 = 3072;
/// Enough for a whole Debian in memory. The kernel gives half of it to files, of which the larger image fills 0.9 GiB.
pub(crate) const DEBIAN_MEMORY_MIB: u32 = 4096;

/// The state that all boots of a run share.
pub(crate) struct Machine {
    pub(crate) qemu: PathBuf,
    /// The image that proves an accelerator.
    pub(crate) hello: PathBuf,
    /// The accelerator where KVM does not work.
    pub(crate) otherwise: Accelerator,
    /// The silence after which a guest counts as stuck.
    pub(crate) silence: Silence,
}

impl Machine {
    /// Boots a guest, and relays its console until it has ended or a line is `enough`.
    ///
    /// A guest that dies by a failure of KVM is booted once more under emulation, and KVM
    /// is not used for that kernel again. A guest whose kernel hangs before anything of ours
    /// runs is booted once more as well: that says nothing about enforcer.
    ///
    /// # Errors
    /// If QEMU cannot be started.
    pub(crate) fn boot(
        &self,
        boot: &Boot<'_>,
        mut enough: impl FnMut(&str) -> bool,
    ) -> Result<Outcome> {
        let chosen = accelerator::choose(&self.qemu, boot.kernel, &self.hello, self.otherwise);
        let mut outcome = self.run(boot, chosen, &mut enough)?;
        if outcome.never_booted() {
            let kernel = boot.kernel;
            say(
                "vm",
                &format!("kernel {kernel}: it hung while it booted; booting again"),
            );
            outcome = self.run(boot, chosen, &mut enough)?;
        }
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
        Ok(console::watch(
            &mut running,
            boot.label,
            self.silence,
            enough,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::stand_in;
    use crate::kernels::Kernel;
    use std::path::Path;
    use std::time::Duration;

    fn machine(silence: Silence) -> Machine {
        Machine {
            qemu: stand_in::qemu(),
            hello: PathBuf::from("/no/hello"),
            otherwise: Accelerator::Emulation,
            silence,
        }
    }

    fn boot<'a>(kernel: &'a Kernel, initramfs: &'a Path) -> Boot<'a> {
        Boot {
            kernel,
            initramfs,
            job: "test",
            options: "",
            memory_mib: 64,
            disk: None,
            label: "",
        }
    }

    #[test]
    fn a_guest_that_hangs_before_its_first_line_is_booted_again() {
        let kernel = stand_in::kernel("hangs-at-first");
        accelerator::disprove(&kernel, "a test");
        let marker = std::env::temp_dir().join(format!("enforcer-hangs-{}", std::process::id()));
        let silence = Silence {
            before_first_line: Duration::from_secs(5),
            later: Duration::from_secs(600),
        };
        let outcome = machine(silence).boot(&boot(&kernel, &marker), |_| false);
        assert!(outcome.expect("an outcome").verdict().is_ok());
        std::fs::remove_file(marker).expect("the first boot made it");
    }

    #[test]
    fn a_guest_that_falls_silent_later_is_not() {
        let kernel = stand_in::kernel("falls-silent");
        accelerator::disprove(&kernel, "a test");
        let silence = Silence {
            before_first_line: Duration::from_secs(600),
            later: Duration::from_secs(1),
        };
        let outcome = machine(silence).boot(&boot(&kernel, Path::new("/no")), |_| false);
        let error = outcome.expect("an outcome").verdict().expect_err("silence");
        let expected = "the guest printed nothing for 1 s after the line \"a last word\"";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_guest_that_kvm_fails_later_is_booted_again_under_emulation() {
        let kernel = stand_in::kernel("dies-later");
        accelerator::assume_proved(&kernel);
        let machine = machine(Silence::DEFAULT);
        let boot = boot(&kernel, Path::new("/no/initramfs"));
        let outcome = machine.boot(&boot, |_| false).expect("an outcome");
        assert!(outcome.verdict().is_ok());
        // The results of the broken boot do not count.
        assert_eq!(outcome.passed, 1);
        let again = accelerator::choose(&machine.qemu, &kernel, &machine.hello, machine.otherwise);
        assert_eq!(again, Accelerator::Emulation);
    }
}
