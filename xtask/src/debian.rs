//! A small Debian with systemd as its first process, for what only such a host shows: the
//! units, the package, and how the host goes down. Unpacked from the distribution's own
//! packages under `target/vm/debian`, never installed, and booted from memory.

use crate::compile::Programs;
use crate::initramfs::Archive;
use crate::packages::{add, closure, merge_into_usr, unpack_packages};
use crate::process::{root, run_quietly, target};
use crate::setup::say;
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// What such a host has, and what installs a package there.
const PACKAGES: &[&str] = &[
    "apt",
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "libc-bin",
    "passwd",
    "perl-base",
    "sed",
    "sqlite3",
    "systemd",
    "systemd-sysv",
    "tar",
    "tmux",
    "usr-is-merged",
    "util-linux",
];

/// Folders that nothing here opens.
const UNUSED: &[&str] = &[
    "usr/include",
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/zoneinfo",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/udev",
];

/// Both kernels' boots want it.
static MAKING: Mutex<()> = Mutex::new(());

/// The unpacked tree, made where it is missing.
pub(crate) fn tree() -> Result<PathBuf> {
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = target().join("vm/debian");
    let stamp = folder.join("stamp");
    let wanted = PACKAGES.join(" ");
    if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("failed to clear {}", folder.display()))?;
    }
    let packages = closure(PACKAGES)?;
    say(&format!(
        "{} packages for a Debian with systemd",
        packages.len()
    ));
    let mut status = String::new();
    let lists = folder.join("var/lib/dpkg/info");
    std::fs::create_dir_all(&lists)
        .with_context(|| format!("failed to create {}", lists.display()))?;
    unpack_packages(&packages, &folder, |parcel| {
        describe(parcel, &lists, &mut status)
    })?;
    merge_into_usr(&folder)?;
    for unused in UNUSED {
        let path = folder.join(unused);
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("failed to clear {}", path.display()))?;
        }
    }
    furnish(&folder, &status)?;
    std::fs::write(&stamp, wanted).context("failed to write the stamp")?;
    Ok(folder)
}

/// What dpkg would know of a package, had it installed it.
fn describe(parcel: &Path, lists: &Path, status: &mut String) -> Result<()> {
    let control = run_quietly(Command::new("dpkg-deb").arg("-f").arg(parcel))?;
    let field = |name: &str| {
        let found = control.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_default().trim().to_owned()
    };
    let (name, rest) = control.split_once('\n').context("an empty package")?;
    // Writing to a string can't fail.
    let _ = writeln!(status, "{name}\nStatus: install ok installed\n{rest}");
    let package = field("Package:");
    let file = match field("Multi-Arch:").as_str() {
        "same" => format!("{package}:{}.list", field("Architecture:")),
        _ => format!("{package}.list"),
    };
    let listed = run_quietly(Command::new("dpkg-deb").arg("-c").arg(parcel))?;
    let paths = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5)?.strip_prefix('.'));
    let text: String = paths
        .map(|path| match path.trim_end_matches('/') {
            "" => "/.\n".to_owned(),
            path => format!("{path}\n"),
        })
        .collect();
    std::fs::write(lists.join(&file), text).with_context(|| format!("failed to write {file}"))
}

/// What the packages' scripts would have made.
fn furnish(folder: &Path, status: &str) -> Result<()> {
    for place in [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "usr/local/bin",
        "etc/apt/apt.conf.d",
        "etc/systemd/system",
        "var/cache/apt/archives/partial",
        "var/lib/apt/lists/partial",
        "var/lib/dpkg/updates",
        "var/lib/dpkg/triggers",
        "var/log",
    ] {
        std::fs::create_dir_all(folder.join(place))
            .with_context(|| format!("failed to create {place}"))?;
    }
    let master = |name: &str| {
        let file = folder.join("usr/share/base-passwd").join(name);
        std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))
    };
    let write = |path: &str, text: &str| {
        std::fs::write(folder.join(path), text).with_context(|| format!("failed to write {path}"))
    };
    let accounts =
        "web:x:1000:1000::/tmp:/bin/sh\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n";
    write("etc/passwd", &(master("passwd.master")? + accounts))?;
    write("etc/group", &(master("group.master")? + "web:x:1000:\n"))?;
    write("etc/gshadow", "")?;
    write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")?;
    write("var/lib/dpkg/status", status)?;
    write("var/lib/dpkg/available", "")?;
    let old = folder.join("var/run");
    // A package brings an empty folder of that name.
    let _ = std::fs::remove_dir_all(&old);
    std::os::unix::fs::symlink("/run", &old)
        .with_context(|| format!("failed to link {}", old.display()))
}

/// The whole host, with the package and its tests, as an archive to boot.
pub(crate) fn pack(series: &str, programs: &Programs, packages: &[PathBuf]) -> Result<PathBuf> {
    let mut archive = Archive::new();
    let tree = tree()?;
    add(&mut archive, &tree, &tree)?;
    archive.character_device("dev/console", (5, 1))?;
    archive.symlink("init", "usr/lib/systemd/systemd")?;
    archive.program("usr/bin/fixture", &programs.fixture)?;
    archive.program("usr/bin/system-suite", &programs.system)?;
    let server = crate::prometheus::programs()?.join("prometheus");
    archive.program("usr/bin/prometheus", &server)?;
    for (number, package) in (1..).zip(packages) {
        archive.file(&format!("root/enforcer_{number}.deb"), package)?;
    }
    let ours = root().join("tests/system");
    for unit in ["suite.service", "suite.target", "verdict.service"] {
        archive.file(&format!("etc/systemd/system/{unit}"), &ours.join(unit))?;
    }
    for script in ["last-act", "verdict"] {
        archive.program(&format!("root/{script}"), &ours.join(script))?;
    }
    let file = target().join(format!("vm/debian-{series}.cpio"));
    archive.write_to(&file)?;
    Ok(file)
}
