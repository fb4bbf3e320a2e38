//! Kernels to boot, taken from the distribution's own packages and unpacked
//! under `target/vm/kernels`, never installed. The exact package changes with
//! every security update: it is resolved through the meta package.

use crate::packages::{download_package, refresh_package_lists};
use crate::process::{run_quietly, target};
use crate::setup::say;
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A series that every change is tested on, and the meta packages that lead to
/// it. Debian 12 and 13 name it differently.
struct Series {
    name: &'static str,
    metas: &'static [&'static str],
}

const MATRIX: &[Series] = &[
    Series {
        name: "6.1",
        metas: &["linux-image-cloud-amd64"],
    },
    Series {
        name: "6.12",
        metas: &["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"],
    },
];

/// The modules that the tests load, each after those that it needs: swap on a VM without
/// a disk, and a disk for the one that needs it.
pub(crate) const MODULES: [&str; 7] = [
    "loop",
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
];

/// Where Debian's kernels are not packaged, the distribution's own one.
const FALLBACK: &[&str] = &["linux-image-virtual", "linux-image-generic"];

/// A kernel ready to boot.
pub(crate) struct Kernel {
    pub(crate) series: String,
    pub(crate) package: String,
    pub(crate) image: PathBuf,
    /// The driver that makes a file a disk; `None` where it is built in.
    /// Those of [`MODULES`] that are not built in.
    pub(crate) modules: Vec<PathBuf>,
}

/// One kernel of the matrix, or all of them.
pub(crate) fn select(wanted: Option<&str>) -> Result<Vec<Kernel>> {
    let kernels = all()?;
    let Some(wanted) = wanted else {
        return Ok(kernels);
    };
    let names: Vec<String> = kernels.iter().map(|kernel| kernel.series.clone()).collect();
    let found: Vec<Kernel> = kernels
        .into_iter()
        .filter(|kernel| kernel.series == wanted)
        .collect();
    if found.is_empty() {
        bail!("no kernel `{wanted}`; there is {}", names.join(", "));
    }
    Ok(found)
}

/// Every kernel of the matrix, downloaded where it is missing.
pub(crate) fn all() -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    for series in MATRIX {
        if let Some(kernel) = ensure(series.name, series.metas)? {
            kernels.push(kernel);
        }
    }
    if kernels.len() < MATRIX.len() {
        say("not every kernel of the matrix is packaged here; adding the distribution's own");
        if let Some(kernel) = ensure("distribution", FALLBACK)? {
            kernels.push(kernel);
        }
    }
    if kernels.is_empty() {
        bail!(
            "no kernel package found; tried {} and {}",
            MATRIX
                .iter()
                .flat_map(|series| series.metas)
                .copied()
                .collect::<Vec<_>>()
                .join(", "),
            FALLBACK.join(", ")
        );
    }
    Ok(kernels)
}

fn ensure(series: &str, metas: &[&str]) -> Result<Option<Kernel>> {
    let folder = target().join("vm/kernels").join(series);
    if let Some(kernel) = read_stamp(series, &folder) {
        return Ok(Some(kernel));
    }
    let Some(package) = resolve(series, metas)? else {
        return Ok(None);
    };
    say(&format!("kernel {series}: {package}"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("failed to clear {}", folder.display()))?;
    }
    download_package(&package, &folder)?;
    let image = find_image(&folder.join("boot"))?;
    for name in MODULES {
        if let Some(module) = find_module(&folder, &format!("{name}.ko")) {
            std::fs::copy(&module, folder.join(format!("{name}.ko")))
                .with_context(|| format!("failed to keep {}", module.display()))?;
        }
    }
    // The modules are ten times the image, and nothing of ours loads another.
    for unused in ["lib", "usr"] {
        let path = folder.join(unused);
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("failed to clear {}", path.display()))?;
        }
    }
    let stamp = format!(
        "{package} {} {} {}\n",
        image.display(),
        checksum(&image)?,
        MODULES.join(",")
    );
    std::fs::write(folder.join("stamp"), stamp).context("failed to write the kernel's stamp")?;
    Ok(read_stamp(series, &folder))
}

/// What an earlier run left, if it is whole.
fn read_stamp(series: &str, folder: &Path) -> Option<Kernel> {
    let stamp = std::fs::read_to_string(folder.join("stamp")).ok()?;
    let mut words = stamp.split_whitespace();
    let (package, image, sum) = (words.next()?, PathBuf::from(words.next()?), words.next()?);
    if checksum(&image).ok()? != sum || words.next()? != MODULES.join(",") {
        return None;
    }
    let modules = MODULES.map(|name| folder.join(format!("{name}.ko")));
    Some(Kernel {
        series: series.to_owned(),
        package: package.to_owned(),
        image,
        modules: modules
            .into_iter()
            .filter(|module| module.is_file())
            .collect(),
    })
}

fn checksum(file: &Path) -> Result<String> {
    let bytes =
        std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn resolve(series: &str, metas: &[&str]) -> Result<Option<String>> {
    for attempt in ["with the lists as they are", "after a refresh"] {
        for meta in metas {
            if let Some(package) = dependency_of(meta)
                && (series == "distribution" || package.contains(&format!("-{series}.")))
            {
                return Ok(Some(package));
            }
        }
        if attempt == "with the lists as they are" {
            refresh_package_lists()?;
        }
    }
    Ok(None)
}

fn dependency_of(meta: &str) -> Option<String> {
    let printed =
        run_quietly(Command::new("apt-cache").args(["depends", "--important", meta])).ok()?;
    printed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

fn find_module(folder: &Path, wanted: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    for entry in entries.flatten() {
        let path = entry.path();
        let found = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_module(&path, wanted)
        } else {
            let name = entry.file_name();
            name.to_string_lossy().starts_with(wanted).then_some(path)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn find_image(boot: &Path) -> Result<PathBuf> {
    let entries =
        std::fs::read_dir(boot).with_context(|| format!("failed to read {}", boot.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        {
            return Ok(path);
        }
    }
    bail!("{} holds no vmlinuz-*", boot.display())
}
