//! Decides whether a guest runs under KVM or under emulation.
//!
//! `/dev/kvm` may be missing, may refuse, or may work for seconds of firmware and die in
//! the guest's kernel. So KVM is proved: the kernel that is wanted boots with a tiny
//! initramfs, and only the line that its first program prints from user space counts.

use crate::guest::{Accelerator, Boot, Line, Running};
use crate::kernels::Kernel;
use crate::progress::say;
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The line that `init` prints when its job is `hello`.
pub(crate) const HELLO: &str = "@@enforcer user space";
/// The longest time of the proof, from the start of QEMU to the line.
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);
const KVM: &str = "/dev/kvm";

/// The reasons why KVM is not used, by kernel version; `None` if it is.
static PROVED: Mutex<BTreeMap<String, Option<String>>> = Mutex::new(BTreeMap::new());

/// Returns the accelerator for this kernel: KVM if it is proved, else `otherwise`.
///
/// The proof happens once for each kernel in a run.
pub(crate) fn choose(
    qemu: &Path,
    kernel: &Kernel,
    hello: &Path,
    otherwise: Accelerator,
) -> Accelerator {
    let mut proved = PROVED.lock().unwrap_or_else(PoisonError::into_inner);
    let refusal = proved.entry(kernel.version.clone()).or_insert_with(|| {
        let refusal = prove(qemu, Path::new(KVM), kernel, hello, PROOF_TIMEOUT).err();
        match &refusal {
            None => say("vm", &format!("kernel {kernel}: KVM works and is used")),
            Some(reason) => say(
                "vm",
                &format!("kernel {kernel}: emulated, because {reason}"),
            ),
        }
        refusal
    });
    match refusal {
        None => Accelerator::Kvm,
        Some(_) => otherwise,
    }
}

/// Takes KVM for proved, as on a machine where it works.
#[cfg(test)]
pub(crate) fn assume_proved(kernel: &Kernel) {
    let mut proved = PROVED.lock().unwrap_or_else(PoisonError::into_inner);
    proved.insert(kernel.version.clone(), None);
}

/// Gives KVM up for the rest of this run.
pub(crate) fn disprove(kernel: &Kernel, reason: &str) {
    let mut proved = PROVED.lock().unwrap_or_else(PoisonError::into_inner);
    proved.insert(kernel.version.clone(), Some(reason.to_owned()));
}

/// Boots a kernel under KVM until its first program has printed its line; the error says
/// why that did not happen.
fn prove(
    qemu: &Path,
    device: &Path,
    kernel: &Kernel,
    hello: &Path,
    timeout: Duration,
) -> Result<(), String> {
    if let Err(error) = std::fs::File::options().read(true).write(true).open(device) {
        return Err(format!("{} cannot be opened: {error}", device.display()));
    }
    let boot = Boot {
        kernel,
        initramfs: hello,
        job: "hello",
        options: "",
        memory_mib: 256,
        disk: None,
        label: "",
    };
    let mut running = Running::start(&mut boot.command(qemu, Accelerator::Kvm))
        .map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let mut last_error = None;
    loop {
        let left = timeout.saturating_sub(begun.elapsed());
        let said = |reason: &str| match &last_error {
            Some(error) => format!("{reason} under KVM ({error})"),
            None => format!("{reason} under KVM"),
        };
        match running.next_line(left) {
            Ok(Some(Line::Console(line))) if line.contains(HELLO) => return Ok(()),
            Ok(Some(Line::Console(_))) => {}
            Ok(Some(Line::Qemu(line))) if crate::guest::is_kvm_error(&line) => {
                return Err(format!("the guest died under KVM: {line}"));
            }
            Ok(Some(Line::Qemu(line))) => last_error = Some(line),
            Ok(None) => return Err(said("QEMU ended before the guest's first program ran")),
            Err(_) => {
                let seconds = timeout.as_secs();
                return Err(said(&format!(
                    "the guest's first program did not run within {seconds} s"
                )));
            }
        }
    }
}

/// What xtask's tests use in the place of QEMU and of a kernel.
#[cfg(test)]
pub(crate) mod stand_in {
    use super::{Kernel, Path};
    use std::path::PathBuf;

    pub(crate) fn qemu() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("stand-in-qemu")
    }

    /// Returns a kernel with which the stand-in behaves like this.
    pub(crate) fn kernel(behaviour: &str) -> Kernel {
        Kernel {
            series: "test".to_owned(),
            version: behaviour.to_owned(),
            image: PathBuf::from(format!("/no/{behaviour}")),
            modules: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits `seconds` for the line; no test passes only because that is short.
    fn prove_within(seconds: u64, behaviour: &str) -> Result<(), String> {
        let (device, hello) = (Path::new("/dev/null"), Path::new("/no/initramfs"));
        let (qemu, kernel) = (stand_in::qemu(), stand_in::kernel(behaviour));
        prove(&qemu, device, &kernel, hello, Duration::from_secs(seconds))
    }

    #[test]
    fn kvm_is_used_where_the_first_program_runs() {
        assert_eq!(prove_within(600, "works"), Ok(()));
    }

    #[test]
    fn kvm_is_not_used_where_qemu_ends_at_once() {
        let reason = prove_within(600, "ends-at-once").expect_err("a reason");
        assert!(
            reason.contains("QEMU ended") && reason.contains("Permission denied"),
            "{reason}"
        );
    }

    #[test]
    fn kvm_is_not_used_where_it_survives_the_firmware_alone() {
        let reason = prove_within(600, "survives-the-firmware").expect_err("a reason");
        assert!(
            reason.contains("KVM internal error. Suberror: 1"),
            "{reason}"
        );
    }

    #[test]
    fn kvm_is_not_used_where_the_guest_hangs() {
        let reason = prove_within(1, "hangs").expect_err("a reason");
        assert!(reason.contains("did not run within 1 s"), "{reason}");
    }

    /// A line of the firmware or of the kernel is not a line from user space.
    #[test]
    fn kvm_is_not_used_where_only_the_kernel_speaks() {
        assert!(prove_within(600, "only-the-kernel-speaks").is_err());
    }

    #[test]
    fn without_the_device_nothing_is_booted() {
        let device = Path::new("/no/such/device");
        let (qemu, hello) = (Path::new("/bin/false"), Path::new("/no"));
        let kernel = stand_in::kernel("works");
        let reason = prove(qemu, device, &kernel, hello, PROOF_TIMEOUT).expect_err("a reason");
        assert!(
            reason.starts_with("/no/such/device cannot be opened"),
            "{reason}"
        );
    }
}
