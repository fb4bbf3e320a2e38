//! Reads a distribution's packages through a private apt state below `target/apt`.
//!
//! One [`Release`] is one private apt: its own source list, package lists and cache. The
//! machine's apt configuration, its lists and its installed packages are never changed, so
//! a Debian 13 host can read Debian 12's packages and the other way round, without root.
//! Signatures are checked with the keyring that the machine has.
//!
//! [`crate::unpack`] unpacks what is downloaded here.

use crate::process::{run_quietly, target};
use crate::progress::say;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Package lists that are older than this are fetched again before a name is resolved.
const MAX_LIST_AGE: Duration = Duration::from_secs(24 * 3600);

/// The ending of the name of the suite of backports.
const BACKPORTS: &str = "-backports";

/// The place of the keys of every Debian release on a Debian host.
const DEBIAN_KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// The addresses from which this machine gets Debian's packages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Archives {
    main: String,
    /// The archive of security updates; it is a separate one.
    security: Option<String>,
}

/// A private apt for one release of a distribution.
#[derive(Debug)]
pub(crate) struct Release {
    /// The codename, or `own` for the sources of the machine itself.
    pub(crate) name: String,
    folder: PathBuf,
    /// `None`: the machine's own source list.
    sources: Option<PathBuf>,
}

/// A release with the outcome of opening it: an error is kept, so that it is reported once
/// and not tried again.
type Opened = Vec<(String, Arc<Result<Arc<Release>, String>>)>;

/// Every release that was asked for in this run.
static OPENED: Mutex<Opened> = Mutex::new(Vec::new());

/// Returns the release with this codename, with current package lists.
///
/// # Errors
/// If this machine has no Debian sources, or its keyring does not know the release.
pub(crate) fn debian(codename: &str) -> Result<Arc<Release>> {
    open(codename, || {
        let Some(archives) = machine_archives() else {
            bail!("this machine has no Debian package sources");
        };
        let folder = target().join("apt").join(codename);
        let list = folder.join("sources.list");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
        let keyring = DEBIAN_KEYRINGS.iter().find(|file| Path::new(file).exists());
        let release = Release {
            name: codename.to_owned(),
            folder,
            sources: Some(list.clone()),
        };
        let open_with = |suites: &[&str]| {
            let text = source_list(&archives, codename, suites, keyring.copied());
            write_if_changed(&list, &text)?;
            release.refresh_if_old()
        };
        if let Err(error) = open_with(&["", "-updates", BACKPORTS]) {
            // A mirror may have a release without its backports.
            open_with(&["", "-updates"]).map_err(|_| error)?;
            say("apt", &format!("{codename}{BACKPORTS} is unavailable here"));
        }
        Ok(release)
    })
}

/// Returns the machine's own distribution.
///
/// # Errors
/// If its package lists cannot be fetched.
pub(crate) fn own() -> Result<Arc<Release>> {
    open("own", || {
        let release = Release {
            name: "own".to_owned(),
            folder: target().join("apt/own"),
            sources: None,
        };
        release.refresh_if_old()?;
        Ok(release)
    })
}

/// Returns the release from which tests take ordinary programs: Debian 12's where it can be had, so
/// that every Debian host tests the same versions, else the machine's own.
pub(crate) fn common() -> Result<Arc<Release>> {
    debian("bookworm").or_else(|_| own())
}

fn open(name: &str, make: impl FnOnce() -> Result<Release>) -> Result<Arc<Release>> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = opened.iter().find(|(present, _)| present == name);
    let outcome = if let Some((_, outcome)) = known {
        Arc::clone(outcome)
    } else {
        let outcome = make().map(Arc::new).map_err(|error| format!("{error:#}"));
        let outcome = Arc::new(outcome);
        opened.push((name.to_owned(), Arc::clone(&outcome)));
        outcome
    };
    match outcome.as_ref() {
        Ok(release) => Ok(Arc::clone(release)),
        Err(error) => bail!("{error}"),
    }
}

impl Release {
    /// Makes a command of apt, with the sources, lists and cache of this release.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |name: &str, value: &Path| {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        };
        option("Dir::State", &self.folder.join("state"));
        option("Dir::Cache", &self.folder.join("cache"));
        if let Some(sources) = &self.sources {
            option("Dir::Etc::SourceList", sources);
            option("Dir::Etc::SourceParts", Path::new("/dev/null"));
            option("Dir::Etc::Preferences", Path::new("/dev/null"));
            option("Dir::Etc::PreferencesParts", Path::new("/dev/null"));
        }
        command
            // This resolves dependencies as on a host without installed packages.
            .args(["-o", "Dir::State::status=/dev/null"])
            .args(["-o", "Debug::NoLocking=1"])
            // Root's downloads would else run as a user who may not write below `target/`.
            .args(["-o", "APT::Sandbox::User=root"])
            .args(["-o", "APT::Architecture=amd64"])
            .args(["-o", "APT::Architectures=amd64"])
            .args(["-o", "Acquire::Languages=none"])
            .args(["-o", "Acquire::Retries=3"]);
        command
    }

    fn refresh_if_old(&self) -> Result<()> {
        let stamp = self.folder.join("refreshed");
        let age = std::fs::metadata(&stamp)
            .and_then(|found| found.modified())
            .ok()
            .and_then(|modified| modified.elapsed().ok());
        let sources = self
            .sources
            .as_ref()
            .and_then(|list| std::fs::read(list).ok());
        let same = std::fs::read(&stamp).ok() == Some(sources.unwrap_or_default());
        if same && age.is_some_and(|age| age < MAX_LIST_AGE) {
            return Ok(());
        }
        self.refresh()
    }

    /// Fetches the package lists and checks their signatures.
    fn refresh(&self) -> Result<()> {
        say("apt", &format!("package lists of {}", self.name));
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            let folder = self.folder.join(folder);
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("failed to create {}", folder.display()))?;
        }
        run_quietly(self.apt("apt-get").args(["update", "-q"]))
            .map_err(|error| anyhow::anyhow!("{}", update_fault(&format!("{error:#}"))))
            .with_context(|| format!("failed to read the package lists of {}", self.name))?;
        let sources = match &self.sources {
            Some(list) => std::fs::read(list).unwrap_or_default(),
            None => Vec::new(),
        };
        std::fs::write(self.folder.join("refreshed"), sources).context("failed to write a stamp")
    }

    /// Returns the dependencies of a package, as apt prints them; from the suite with this suffix
    /// where one is named.
    ///
    /// # Errors
    /// If the release has no such package.
    pub(crate) fn dependencies(&self, package: &str, suite: Option<&str>) -> Result<String> {
        let mut command = self.apt("apt-cache");
        if let Some(suite) = suite {
            command.args(["-o", &format!("APT::Default-Release={}{suite}", self.name)]);
        }
        run_quietly(command.args(["depends", "--important", package]))
    }

    /// These packages with all that they need, as on a host where nothing is installed.
    ///
    /// # Errors
    /// If apt cannot resolve them.
    pub(crate) fn closure(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let printed = run_quietly(
            self.apt("apt-get")
                .args(["--print-uris", "-qq"])
                .args(["install", "-y", "--no-install-recommends"])
                .args(wanted),
        )
        .with_context(|| format!("failed to resolve packages of {}", self.name))?;
        let names = package_names(&printed);
        if names.len() < wanted.len() {
            bail!("apt names no packages for {}", wanted.join(", "));
        }
        Ok(names)
    }

    /// Downloads packages into a folder. apt checks each against the signed lists.
    ///
    /// # Errors
    /// If one cannot be had, also not after the lists were fetched again.
    pub(crate) fn download(
        &self,
        packages: &[String],
        suite: Option<&str>,
        folder: &Path,
    ) -> Result<()> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
        let download = || {
            let mut command = self.apt("apt-get");
            if let Some(suite) = suite {
                command.args(["-o", &format!("APT::Default-Release={}{suite}", self.name)]);
            }
            command.current_dir(folder);
            run_quietly(command.args(["download", "-q"]).args(packages))
        };
        if download().is_err() {
            self.refresh()?;
            download()?;
        }
        Ok(())
    }
}

/// Returns the addresses of Debian's archives, by the machine's own sources.
fn machine_archives() -> Option<Archives> {
    static FOUND: OnceLock<Option<Archives>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let printed =
            run_quietly(Command::new("apt-get").args(["indextargets", "Created-By: Packages"]))
                .ok()?;
        let release = std::fs::read_to_string("/etc/os-release").ok()?;
        archives(&printed, &release)
    });
    found.clone()
}

/// Finds Debian's archives among apt's index targets, on a machine with this
/// `/etc/os-release`. A third party's archive may use Debian's codenames; Debian's own one
/// also has the suite of updates, or says so itself once its lists were fetched.
fn archives(index_targets: &str, os_release: &str) -> Option<Archives> {
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().trim_matches('"').to_owned())
    };
    if field(os_release, "ID=")? != "debian" {
        return None;
    }
    let targets: Vec<(String, String, bool)> = index_targets
        .split("\n\n")
        .filter_map(|target| {
            let debian = field(target, "Origin: ").is_some_and(|origin| origin == "Debian");
            Some((
                field(target, "Repo-URI: ")?,
                field(target, "Release: ")?,
                debian,
            ))
        })
        .collect();
    let is_security = |release: &str| release.contains("-security");
    let has_updates = |address: &str| {
        targets
            .iter()
            .any(|(other, release, _)| other == address && release.ends_with("-updates"))
    };
    let rank = |address: &str, debian: bool| (debian, has_updates(address));
    let mains = targets
        .iter()
        .filter(|(_, release, _)| !is_security(release));
    let main = mains.max_by_key(|(address, _, debian)| rank(address, *debian))?;
    if !main.2 && !has_updates(&main.0) && targets.len() > 1 {
        return None;
    }
    let mut securities = targets
        .iter()
        .filter(|(_, release, _)| is_security(release));
    Some(Archives {
        main: main.0.clone(),
        security: securities.next().map(|(address, _, _)| address.clone()),
    })
}

/// Returns a source list with these suites of a release and its security updates. Backports are not
/// automatic: apt takes them only where they are asked for.
fn source_list(
    archives: &Archives,
    codename: &str,
    suites: &[&str],
    keyring: Option<&str>,
) -> String {
    let options = keyring.map_or_else(String::new, |file| format!("[signed-by={file}] "));
    let mut text = String::new();
    for suffix in suites {
        text.push_str(&format!(
            "deb {options}{} {codename}{suffix} main\n",
            archives.main
        ));
    }
    if let Some(security) = &archives.security {
        text.push_str(&format!(
            "deb {options}{security} {codename}-security main\n"
        ));
    }
    text
}

/// Returns the names in what `apt-get --print-uris install` prints: a line for each package with
/// `'https://…' NAME_VERSION_ARCH.deb SIZE CHECKSUM`.
fn package_names(printed: &str) -> Vec<String> {
    printed
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split_whitespace().nth(1))
        .filter_map(|file| file.split_once('_'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Returns why an `apt-get update` failed: a missing key, or apt's own errors.
fn update_fault(printed: &str) -> String {
    let missing = printed.split("NO_PUBKEY ").nth(1);
    if let Some(key) = missing.and_then(|rest| rest.split_whitespace().next()) {
        return format!(
            "this machine's keyring does not have the key {key}; a newer debian-archive-keyring may"
        );
    }
    let faults: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with("E: "))
        .collect();
    if faults.is_empty() {
        printed.to_owned()
    } else {
        faults.join("; ")
    }
}

fn write_if_changed(file: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(file).is_ok_and(|present| present == text) {
        return Ok(());
    }
    std::fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN_12: &str =
        "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\nVERSION_CODENAME=bookworm\n";

    /// `apt-get indextargets`, cut to the fields that are read.
    fn target(address: &str, release: &str, origin: Option<&str>) -> String {
        let origin = origin.map_or_else(String::new, |name| format!("Origin: {name}\n"));
        format!(
            "MetaKey: main/binary-amd64/Packages\n{origin}Component: main\nRelease: {release}\nRepo-URI: {address}\n\n"
        )
    }

    #[test]
    fn debians_archives_are_found_among_third_party_sources() {
        let printed = [
            target("http://apt.example/debian/", "bookworm", Some("Example")),
            target("http://mirror.example/debian/", "bookworm", Some("Debian")),
            target(
                "http://mirror.example/debian/",
                "bookworm-updates",
                Some("Debian"),
            ),
            target(
                "http://mirror.example/debian-security/",
                "bookworm-security",
                Some("Debian"),
            ),
            target("http://other.example/", "nodistro", None),
        ]
        .concat();
        let expected = Archives {
            main: "http://mirror.example/debian/".to_owned(),
            security: Some("http://mirror.example/debian-security/".to_owned()),
        };
        assert_eq!(archives(&printed, DEBIAN_12), Some(expected));
    }

    /// Before the first `apt-get update` no source says where it comes from.
    #[test]
    fn debians_archives_are_found_before_any_list_was_fetched() {
        let printed = [
            target("http://apt.example/debian/", "trixie", None),
            target("http://mirror.example/debian/", "trixie", None),
            target("http://mirror.example/debian/", "trixie-updates", None),
            target(
                "http://mirror.example/debian-security/",
                "trixie-security",
                None,
            ),
        ]
        .concat();
        let found = archives(&printed, DEBIAN_12).expect("archives");
        assert_eq!(found.main, "http://mirror.example/debian/");
    }

    #[test]
    fn ubuntu_has_no_archives_of_debian() {
        let printed = [
            target("http://archive.example/ubuntu/", "noble", Some("Ubuntu")),
            target(
                "http://archive.example/ubuntu/",
                "noble-updates",
                Some("Ubuntu"),
            ),
        ]
        .concat();
        assert_eq!(archives(&printed, "NAME=\"Ubuntu\"\nID=ubuntu\n"), None);
    }

    #[test]
    fn a_source_list_names_every_suite_and_the_machines_keyring() {
        let archives = Archives {
            main: "http://mirror.example/debian/".to_owned(),
            security: Some("http://mirror.example/debian-security/".to_owned()),
        };
        let list = source_list(
            &archives,
            "trixie",
            &["", "-updates", "-backports"],
            Some("/usr/share/keyrings/k.gpg"),
        );
        assert_eq!(
            list,
            "deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian/ trixie main\n\
             deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian/ trixie-updates main\n\
             deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian/ trixie-backports main\n\
             deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian-security/ trixie-security main\n"
        );
    }

    #[test]
    fn a_missing_key_is_the_reason_that_is_reported() {
        let printed = "`apt-get update` failed (exit status: 100)\nGet:1 x\nW: GPG error: http://m trixie InRelease: \
                       NO_PUBKEY 6ED0E7B82643E131\nE: The repository 'http://m trixie InRelease' is not signed.";
        let fault = update_fault(printed);
        assert!(fault.contains("the key 6ED0E7B82643E131"), "{fault}");
        let fault = update_fault("Get:1 x\nE: The repository has no Release file.");
        assert_eq!(fault, "E: The repository has no Release file.");
    }

    #[test]
    fn package_names_are_read_from_apts_addresses() {
        let printed = "'http://m/pool/b/bash/bash_5.2.15-2_amd64.deb' bash_5.2.15-2+b7_amd64.deb 1491128 SHA256:0\nnoise\n";
        assert_eq!(package_names(printed), ["bash"]);
    }
}
