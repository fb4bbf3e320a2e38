//! Finds the kernels of the test matrix in the distribution's packages and unpacks them
//! under `target/vm/kernels`.
//!
//! A package's exact name changes with every security update, so it is resolved through
//! the metapackage of the series. Debian has two layouts. Up to 6.12 one package holds the
//! image (`boot/vmlinuz-V`) and the modules (`lib/modules/V`). Since 7.0 the image package
//! only depends on `linux-binary-V` (`usr/lib/modules/V/vmlinuz`) and `linux-modules-V`
//! (compressed modules). Ubuntu splits the modules off as `linux-modules-V`.

use crate::apt::{self, Release};
use crate::process::target;
use crate::progress::say;
use crate::unpack;
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A series of the matrix with the places where it may be packaged, best first.
struct Series {
    name: &'static str,
    sources: &'static [Source],
}

/// A metapackage in a suite of a Debian release.
struct Source {
    codename: &'static str,
    /// The ending of the suite's name after the codename.
    suite: Option<&'static str>,
    metapackage: &'static str,
    /// A part of the name of this series' image packages.
    pattern: &'static str,
}

const CLOUD: &str = "linux-image-cloud-amd64";
const BACKPORTS: Option<&str> = Some("-backports");

/// The kernels that people run today: those of Debian 12 and 13, and the newest that
/// Debian packages for a release.
const MATRIX: &[Series] = &[
    Series {
        name: OLDEST,
        sources: &[Source {
            codename: "bookworm",
            suite: None,
            metapackage: CLOUD,
            pattern: "-6.1.",
        }],
    },
    Series {
        name: MAIN,
        sources: &[
            Source {
                codename: "trixie",
                suite: None,
                metapackage: CLOUD,
                pattern: "-6.12.",
            },
            Source {
                codename: "bookworm",
                suite: None,
                metapackage: "linux-image-6.12-cloud-amd64",
                pattern: "-6.12.",
            },
        ],
    },
    Series {
        name: NEWEST,
        sources: &[Source {
            codename: "trixie",
            suite: BACKPORTS,
            metapackage: CLOUD,
            pattern: "linux-image-",
        }],
    },
];

/// The oldest series of the matrix.
pub(crate) const OLDEST: &str = "6.1";
/// The series with the longest tests; see `tests/src/plan.rs`.
pub(crate) const MAIN: &str = "6.12";
/// The series that Debian's next release will have.
pub(crate) const NEWEST: &str = "newest";
/// The kernels of the machine's own distribution, used if none of Debian's is available.
const OWN_METAPACKAGES: &[&str] = &["linux-image-virtual", "linux-image-generic"];
/// The series of such a kernel.
const OWN: &str = "distribution";

/// The modules that tests load: swap in a VM without a disk, a disk, lists of
/// sockets, and a network between namespaces. Each follows those that it needs.
pub(crate) const MODULES: [&str; 10] = [
    "loop",
    "inet_diag",
    "tcp_diag",
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "veth",
];

/// A kernel ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) series: String,
    /// The version as in `uname -r`.
    pub(crate) version: String,
    pub(crate) image: PathBuf,
    /// The modules of [`MODULES`] that are not built in.
    pub(crate) modules: Vec<PathBuf>,
}

/// The kernels of this machine's matrix, and the series that it cannot have.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) kernels: Vec<Kernel>,
    /// Each missing series with the reason.
    pub(crate) missing: Vec<(String, String)>,
}

/// Returns the whole matrix, or the one kernel that is wanted by its series or its version.
///
/// # Errors
/// If the wanted kernel, or every kernel, cannot be had.
pub(crate) fn matrix(wanted: Option<&str>) -> Result<Matrix> {
    let mut matrix = Matrix {
        kernels: Vec::new(),
        missing: Vec::new(),
    };
    let names_series = MATRIX.iter().any(|series| Some(series.name) == wanted);
    for series in MATRIX {
        // A version may be any series', so all of them are looked at.
        if names_series && Some(series.name) != wanted {
            continue;
        }
        match ensure(series.name, || resolve_debian(series)) {
            Ok(kernel) => matrix.kernels.push(kernel),
            Err(error) => matrix
                .missing
                .push((series.name.to_owned(), format!("{error:#}"))),
        }
    }
    if matrix.kernels.is_empty() {
        say(
            "kernels",
            "Debian's kernels cannot be had here; using the distribution's own",
        );
        match ensure(OWN, resolve_own) {
            Ok(kernel) => matrix.kernels.push(kernel),
            Err(error) => matrix.missing.push((OWN.to_owned(), format!("{error:#}"))),
        }
    }
    for (series, reason) in &matrix.missing {
        say("kernels", &format!("{series} is unavailable: {reason}"));
    }
    let names: Vec<String> = matrix.kernels.iter().map(Kernel::to_string).collect();
    if let Some(wanted) = wanted {
        matrix.kernels.retain(|kernel| kernel.is(wanted));
        matrix.missing.clear();
    }
    if matrix.kernels.is_empty() {
        bail!(
            "no kernel `{}`; there is: {}",
            wanted.unwrap_or("of the matrix"),
            names.join(", ")
        );
    }
    Ok(matrix)
}

impl Kernel {
    /// Returns whether this is the kernel of a series, or of a version or its beginning.
    fn is(&self, wanted: &str) -> bool {
        let rest = self.version.strip_prefix(wanted);
        self.series == wanted
            || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '+']))
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.series, self.version)
    }
}

/// The packages of one kernel, and the release that has them.
struct Resolved {
    release: Arc<Release>,
    suite: Option<&'static str>,
    version: String,
    packages: Vec<String>,
}

/// Returns the kernel of a series, and downloads it if it is missing.
fn ensure(series: &str, resolve: impl FnOnce() -> Result<Resolved>) -> Result<Kernel> {
    let folder = target().join("vm/kernels").join(series);
    if let Some(kernel) = read_stamp(series, &folder) {
        return Ok(kernel);
    }
    let resolved = resolve()?;
    say(
        "kernels",
        &format!("{series}: downloading {}", resolved.version),
    );
    unpack::clear(&folder)?;
    let tree = folder.join("tree");
    unpack::packages(
        &resolved.release,
        &resolved.packages,
        resolved.suite,
        &tree,
        |_| Ok(()),
    )?;
    let image = folder.join("vmlinuz");
    move_file(&find_image(&tree, &resolved.version)?, &image)?;
    for name in MODULES {
        if let Some(module) = find_module(&tree, &format!("{name}.ko")) {
            move_file(&module, &folder.join(format!("{name}.ko")))?;
        }
    }
    // The other modules are ten times the image, and nothing here loads them.
    unpack::clear(&tree)?;
    let stamp = format!(
        "{} {} {}\n",
        resolved.version,
        checksum(&image)?,
        MODULES.join(",")
    );
    std::fs::write(folder.join("stamp"), stamp).context("failed to write the kernel's stamp")?;
    read_stamp(series, &folder).context("the kernel was unpacked, but its stamp does not fit")
}

/// Returns the kernel that an earlier run left, if it is whole.
fn read_stamp(series: &str, folder: &Path) -> Option<Kernel> {
    let stamp = std::fs::read_to_string(folder.join("stamp")).ok()?;
    let mut words = stamp.split_whitespace();
    let (version, sum, modules) = (words.next()?, words.next()?, words.next()?);
    let image = folder.join("vmlinuz");
    if checksum(&image).ok()? != sum || modules != MODULES.join(",") {
        return None;
    }
    let modules = MODULES.map(|name| folder.join(format!("{name}.ko")));
    Some(Kernel {
        series: series.to_owned(),
        version: version.to_owned(),
        image,
        modules: modules.into_iter().filter(|file| file.is_file()).collect(),
    })
}

fn resolve_debian(series: &Series) -> Result<Resolved> {
    let mut faults = Vec::new();
    for source in series.sources {
        let found = apt::debian(source.codename).and_then(|release| {
            let depends = release.dependencies(source.metapackage, source.suite)?;
            let image = image_package(&depends, source.pattern).with_context(|| {
                format!(
                    "{} of {} leads to no kernel {}",
                    source.metapackage, source.codename, series.name
                )
            })?;
            resolved(release, source.suite, &image)
        });
        match found {
            Ok(found) => return Ok(found),
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    bail!("{}", faults.join("; "))
}

fn resolve_own() -> Result<Resolved> {
    let release = apt::own()?;
    let mut images = OWN_METAPACKAGES.iter().filter_map(|metapackage| {
        let depends = release.dependencies(metapackage, None).ok()?;
        image_package(&depends, "linux-image-")
    });
    let image = images.next().with_context(|| {
        format!(
            "no kernel package found; tried {}",
            OWN_METAPACKAGES.join(", ")
        )
    })?;
    resolved(Arc::clone(&release), None, &image)
}

fn resolved(release: Arc<Release>, suite: Option<&'static str>, image: &str) -> Result<Resolved> {
    let depends = release.dependencies(image, suite)?;
    Ok(Resolved {
        version: image.trim_start_matches("linux-image-").to_owned(),
        packages: kernel_packages(image, &depends),
        release,
        suite,
    })
}

/// Returns the dependencies that `apt-cache depends` lists.
fn depends(printed: &str) -> impl Iterator<Item = &str> {
    printed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
}

/// Returns the image package that a metapackage leads to.
fn image_package(printed: &str, pattern: &str) -> Option<String> {
    let mut images = depends(printed).filter(|name| name.starts_with("linux-image-"));
    images
        .find(|name| name.contains(pattern))
        .map(str::to_owned)
}

/// Returns the packages that hold the image and the modules of an image package with these
/// dependencies: all of the kernel's own, in either layout.
fn kernel_packages(image: &str, printed: &str) -> Vec<String> {
    let parts = ["linux-binary-", "linux-modules-"];
    let version = image.trim_start_matches("linux-image-");
    let others = depends(printed).filter(|name| {
        parts
            .iter()
            .any(|part| name.strip_prefix(part) == Some(version))
    });
    std::iter::once(image)
        .chain(others)
        .map(str::to_owned)
        .collect()
}

fn checksum(file: &Path) -> Result<String> {
    let bytes =
        std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn move_file(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to)
        .with_context(|| format!("failed to move {} to {}", from.display(), to.display()))
}

/// Returns a module below a folder, compressed or not.
fn find_module(folder: &Path, wanted: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    for entry in entries.flatten() {
        let path = entry.path();
        let found = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_module(&path, wanted)
        } else {
            let name = entry.file_name().to_string_lossy().into_owned();
            let rest = name.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                .then_some(path)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn find_image(tree: &Path, version: &str) -> Result<PathBuf> {
    let places = [
        format!("boot/vmlinuz-{version}"),
        format!("usr/lib/modules/{version}/vmlinuz"),
        format!("lib/modules/{version}/vmlinuz"),
    ];
    places
        .iter()
        .map(|place| tree.join(place))
        .find(|file| file.is_file())
        .with_context(|| {
            format!(
                "no kernel image in the packages; looked for {}",
                places.join(", ")
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_in_one_package_is_resolved() {
        let meta = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-50-cloud-amd64\n";
        let image = image_package(meta, "-6.1.").expect("an image");
        let depends = "linux-image-6.1.0-50-cloud-amd64\n  Depends: kmod\n |Depends: linux-initramfs-tool\n  Depends: <linux-initramfs-tool>\n    dracut\n";
        assert_eq!(
            kernel_packages(&image, depends),
            ["linux-image-6.1.0-50-cloud-amd64"]
        );
    }

    #[test]
    fn a_kernel_in_three_packages_is_resolved() {
        let meta = "linux-image-cloud-amd64\n  Depends: linux-image-7.3.4+deb13-cloud-amd64\n";
        let image = image_package(meta, "linux-image-").expect("an image");
        let depends = "linux-image-7.3.4+deb13-cloud-amd64\n  Depends: linux-binary-7.3.4+deb13-cloud-amd64\n  Depends: linux-modules-7.3.4+deb13-cloud-amd64\n  Depends: kmod\n";
        assert_eq!(
            kernel_packages(&image, depends),
            [
                "linux-image-7.3.4+deb13-cloud-amd64",
                "linux-binary-7.3.4+deb13-cloud-amd64",
                "linux-modules-7.3.4+deb13-cloud-amd64"
            ]
        );
    }

    /// In the form in which Ubuntu 24.04's apt answers; no Ubuntu machine was at hand.
    #[test]
    fn ubuntus_kernel_is_resolved() {
        let meta = "linux-image-virtual\n  Depends: linux-image-6.8.0-60-generic\n";
        let image = image_package(meta, "linux-image-").expect("an image");
        let depends = "linux-image-6.8.0-60-generic\n  Depends: kmod\n  Depends: linux-base\n  Depends: linux-modules-6.8.0-60-generic\n";
        assert_eq!(
            kernel_packages(&image, depends),
            [
                "linux-image-6.8.0-60-generic",
                "linux-modules-6.8.0-60-generic"
            ]
        );
    }

    #[test]
    fn another_series_is_not_taken_for_the_wanted_one() {
        let meta = "linux-image-cloud-amd64\n  Depends: linux-image-6.12.30+deb13-cloud-amd64\n";
        assert_eq!(image_package(meta, "-6.1."), None);
    }

    #[test]
    fn a_kernel_is_selected_by_series_and_by_version() {
        let kernel = Kernel {
            series: NEWEST.to_owned(),
            version: "7.3.4+deb13-cloud-amd64".to_owned(),
            image: PathBuf::new(),
            modules: Vec::new(),
        };
        assert!(kernel.is("newest") && kernel.is("7.3") && kernel.is("7.3.4+deb13-cloud-amd64"));
        assert!(!kernel.is("7.31") && !kernel.is("6.1"));
    }
}
