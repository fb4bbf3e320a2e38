//! Small Debian hosts with systemd as their first process, for what only such a host shows:
//! the units, the package, and how the host goes down. They are unpacked from the
//! distribution's packages under `target/vm`, never installed, and booted from memory.

use crate::apt::{self, Release};
use crate::compile::Programs;
use crate::image::add_modules;
use crate::initramfs::Archive;
use crate::process::{root, run_quietly, target};
use crate::tree::{self, Contents};
use crate::unpack::add;
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A Debian release that the package is tested on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    /// The name in reports, and of the tree below `target/vm`.
    pub(crate) name: &'static str,
    codename: &'static str,
    /// The series of the kernel that it boots: the one of this release.
    pub(crate) kernel: &'static str,
    /// More packages than [`PACKAGES`].
    more: &'static [&'static str],
}

/// Debian 12 has systemd 252, Debian 13 has 257.
pub(crate) const HOSTS: [Host; 2] = [
    Host {
        name: "debian-12",
        codename: "bookworm",
        kernel: "6.1",
        // Its version is older than the next one's; see `tests/tests/system/fleet.rs`.
        more: &["etcd-server", "haproxy"],
    },
    Host {
        name: "debian-13",
        codename: "trixie",
        kernel: "6.12",
        more: DAEMONS,
    },
];

/// The host that is made of the machine's own distribution where no Debian can be had.
pub(crate) const OWN: Host = Host {
    name: "own-distribution",
    codename: "own",
    kernel: "distribution",
    more: &[],
};

/// The daemons that are run with their stock settings; see `tests/tests/system/daemons.rs` and
/// `strict.rs`. The engines run containers; see `with_engines.rs`.
const DAEMONS: &[&str] = &[
    "crun",
    "dnsmasq-base",
    "docker-cli",
    "docker.io",
    "etcd-server",
    "haproxy",
    "lighttpd",
    "memcached",
    "mosquitto",
    "nginx",
    "nodejs",
    "podman",
    "postgresql",
    "redis-server",
    "tinyproxy-bin",
    "unbound",
];

/// The packages of such a host, and those that install a package there.
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
    "iproute2",
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

/// Files and folders that nothing here opens. PostgreSQL loads LLVM for very large queries only, and the engines need
/// plugins for networks of their own.
const UNUSED: &[&str] = &[
    "usr/include",
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/udev",
    "usr/lib/cni",
    "usr/lib/llvm-19",
    "usr/lib/x86_64-linux-gnu/libLLVM.so.19.1",
    "usr/lib/x86_64-linux-gnu/libz3.so.4",
];

impl Host {
    fn release(self) -> Result<Arc<Release>> {
        match self.codename {
            "own" => apt::own(),
            codename => apt::debian(codename),
        }
    }

    /// Checks whether its packages are available on this machine.
    ///
    /// # Errors
    /// If they cannot.
    pub(crate) fn check(self) -> Result<()> {
        self.release().map(drop)
    }

    /// Returns the unpacked tree, and makes it if it is missing.
    ///
    /// # Errors
    /// If a package cannot be had.
    pub(crate) fn tree(self) -> Result<PathBuf> {
        let packages = [PACKAGES, self.more].concat();
        let contents = Contents {
            name: self.name,
            packages: &packages,
            unused: UNUSED,
        };
        let mut status = String::new();
        let status = std::cell::RefCell::new(&mut status);
        tree::ensure(
            &*self.release()?,
            &contents,
            |file, folder| {
                let lists = folder.join("var/lib/dpkg/info");
                std::fs::create_dir_all(&lists)
                    .with_context(|| format!("failed to create {}", lists.display()))?;
                describe(file, &lists, &mut status.borrow_mut())
            },
            |folder| furnish(folder, &status.borrow()),
        )
    }
}

/// Writes what dpkg would know of a package if it had installed it.
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

/// Makes what the packages' own scripts would have made.
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
    write("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
    write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")?;
    write("var/lib/dpkg/status", status)?;
    write("var/lib/dpkg/available", "")?;
    let old = folder.join("var/run");
    // A package brings an empty folder of that name.
    let _ = std::fs::remove_dir_all(&old);
    std::os::unix::fs::symlink("/run", &old)
        .with_context(|| format!("failed to link {}", old.display()))
}

/// Packs the whole host, with packages, its tests and a kernel's modules, as an archive to boot.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn pack(
    host: Host,
    modules: &[PathBuf],
    programs: &Programs,
    packages: &[PathBuf],
) -> Result<PathBuf> {
    let mut archive = Archive::new();
    let tree = host.tree()?;
    add(&mut archive, &tree, "")?;
    archive.character_device("dev/console", (5, 1))?;
    archive.file("init", &root().join("tests/system/init"))?;
    archive.program("usr/bin/fixture", &programs.fixture)?;
    archive.program("usr/bin/system-suite", &programs.system)?;
    archive.program("usr/bin/bench", &programs.bench)?;
    archive.program("usr/bin/floor", &programs.floor)?;
    let server = crate::prometheus::programs()?.join("prometheus");
    archive.program("usr/bin/prometheus", &server)?;
    add_modules(&mut archive, modules)?;
    for package in packages {
        let name = package.file_name().unwrap_or_default().display();
        archive.file(&format!("root/{name}"), package)?;
    }
    let ours = root().join("tests/system");
    let units = [
        "bench.service",
        "bench.target",
        "demo.service",
        "demo.target",
        "suite.service",
        "suite.target",
        "verdict.service",
    ];
    for unit in units {
        archive.file(&format!("etc/systemd/system/{unit}"), &ours.join(unit))?;
    }
    for script in ["last-act", "verdict"] {
        archive.program(&format!("root/{script}"), &ours.join(script))?;
    }
    let file = target().join(format!("vm/{}.cpio", host.name));
    archive.write_to(&file)?;
    Ok(file)
}
