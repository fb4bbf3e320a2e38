//! Users who may change the workloads of one file of the manifest each, and nothing else.

use super::ConfigurationError;
use super::files::{Loaded, Source};
use enforcer_core::spec::Manifest;
use enforcer_kernel::account;
use enforcer_manifest::{Allowed, Fault, Parsed};
use enforcer_model::requests::ProposedFile;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// The file of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Delegated {
    /// Its name in the manifest's folder.
    file: String,
    /// The file with the rules for its workloads.
    rules: Option<PathBuf>,
}

/// The file of each user. It is the value of `--delegate`: `USER=FILE` or `USER=FILE:RULES`, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delegates(BTreeMap<String, Delegated>);

impl FromStr for Delegates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut users: BTreeMap<String, Delegated> = BTreeMap::new();
        for one in text.split(',').filter(|one| !one.is_empty()) {
            let parts = one.split_once('=');
            let (user, file) = parts
                .filter(|(user, file)| !user.is_empty() && !file.is_empty())
                .ok_or_else(|| format!("`{one}` is neither USER=FILE nor USER=FILE:RULES"))?;
            let (file, rules) = match file.split_once(':') {
                Some((file, rules)) => (file, Some(PathBuf::from(rules))),
                None => (file, None),
            };
            if Path::new(file).file_name().is_none_or(|name| name != file)
                || !super::files::is_manifest(Path::new(file))
            {
                return Err(format!(
                    "`{file}` is not the name of a file in the manifest's folder that ends in .yaml or .yml"
                ));
            }
            if rules.as_ref().is_some_and(|rules| !rules.is_absolute()) {
                return Err(format!("the rules in `{one}` need an absolute path"));
            }
            let is_twice = users.values().any(|other| other.file == file);
            let delegated = Delegated {
                file: file.to_owned(),
                rules,
            };
            if is_twice || users.insert(user.to_owned(), delegated).is_some() {
                return Err(format!("`{one}` names a user or a file again"));
            }
        }
        Ok(Self(users))
    }
}

impl Delegates {
    /// Returns the user of this number, if it is one of them.
    pub(crate) fn user_of(&self, uid: u32) -> Option<&str> {
        let mut users = self.0.keys();
        let has_number = |user: &&String| {
            account::number_of(user.as_str()).is_some_and(|number| number.as_raw() == uid)
        };
        users.find(has_number).map(String::as_str)
    }

    /// Returns the user whose file this is.
    fn of(&self, path: &Path) -> Option<(&String, &Delegated)> {
        let name = path.file_name()?;
        self.0
            .iter()
            .find(|(_, delegated)| name == delegated.file.as_str())
    }

    /// Notes whose the workloads of a file are.
    pub(super) fn mark(&self, manifest: &mut Manifest, path: &Path) {
        let Some((user, _)) = self.of(path) else {
            return;
        };
        for spec in manifest.workloads.values_mut() {
            Arc::make_mut(spec).delegate = Some(user.clone());
        }
    }

    /// Returns what the rules for this file do not allow in it.
    pub(super) fn faults(&self, file: &Parsed, path: &Path) -> Vec<Fault> {
        let rules = self.of(path).and_then(|(_, of)| of.rules.as_ref());
        let Some(rules) = rules.filter(|_| !file.manifest.workloads.is_empty()) else {
            return Vec::new();
        };
        match read_rules(rules) {
            Ok(rules) => rules.faults(file),
            Err(why) => {
                let fault = Fault::error(0..0, format!("the rules for this file: {why}"));
                vec![fault.help(format!("`allow` in {} must be valid", rules.display()))]
            }
        }
    }

    /// Returns the path of a user's file.
    ///
    /// # Errors
    /// If the manifest is not a folder.
    pub(super) fn file_of(&self, user: &str, folder: &Path) -> Result<PathBuf, ConfigurationError> {
        match self.0.get(user) {
            Some(delegated) if folder.is_dir() => Ok(folder.join(&delegated.file)),
            _ => Err(ConfigurationError::Refused(format!(
                "{user} has no file here: the agent's manifest is not a folder"
            ))),
        }
    }

    /// Checks what a user proposes: it is the user's own file, and has workloads only.
    pub(super) fn check(
        &self,
        user: &str,
        proposed: Option<&ProposedFile>,
        folder: &Path,
    ) -> Result<(), ConfigurationError> {
        let own = self.file_of(user, folder)?;
        let proposed = proposed.filter(|file| file.path.file_name() == own.file_name());
        let Some(file) = proposed else {
            let name = own.file_name().unwrap_or_default().display();
            return Err(ConfigurationError::Refused(format!(
                "{user} may change the file {name} and nothing else"
            )));
        };
        // Its faults, and no line of another file.
        let alone = Source {
            path: own,
            text: file.text.clone(),
        };
        let Loaded {
            has_host,
            has_alerts,
            ..
        } = super::files::parse(&[alone], self, false)
            .map_err(|error| ConfigurationError::Faulty(error.to_string()))?;
        if has_host || has_alerts {
            return Err(ConfigurationError::Refused(format!(
                "the file of {user} may have workloads, and neither `host` nor `alerts`"
            )));
        }
        Ok(())
    }
}

/// Reads the rules of a file that only root and the agent's own user may change.
fn read_rules(path: &Path) -> Result<Allowed, String> {
    let failed = |error: std::io::Error| format!("failed to read {}: {error}", path.display());
    let about = std::fs::metadata(path).map_err(failed)?;
    let owners = [0, nix::unistd::geteuid().as_raw()];
    if !owners.contains(&about.uid()) || about.mode() & 0o022 != 0 {
        return Err(format!(
            "{} may be changed by others than root: its owner must be root, and its mode 0640 or 0644",
            path.display()
        ));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let (allowed, faults) = enforcer_manifest::parse_allowed(&text);
    match faults.first() {
        None => Ok(allowed),
        Some(fault) => Err(format!("{} has a fault: {}", path.display(), fault.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_one_file() {
        let read = |text: &str| text.parse::<Delegates>();
        assert_eq!(read(""), Ok(Delegates::default()));
        let two = read("enforcer-fleet=fleet.yaml,shop=shop.yml").expect("two users");
        assert_eq!(two.0["shop"].file, "shop.yml");
        let ruled = read("shop=shop.yaml:/etc/shop-rules.yaml").expect("a user");
        let rules = ruled.0["shop"].rules.as_deref();
        assert_eq!(rules, Some(Path::new("/etc/shop-rules.yaml")));
        for bad in [
            "shop",
            "=a.yaml",
            "shop=",
            "shop=../a.yaml",
            "shop=/a.yaml",
            "shop=a.txt",
            "shop=.a.yaml",
            "shop=a.yaml:",
            "shop=a.yaml:rules.yaml",
            "shop=a.yaml,shop=b.yaml",
            "shop=a.yaml,other=a.yaml",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_user_proposes_its_own_workloads_only() {
        let folder = std::env::temp_dir();
        let delegates: Delegates = "shop=shop.yaml".parse().expect("a user");
        let check = |name: &str, text: &str| {
            let file = ProposedFile {
                path: name.into(),
                text: text.to_owned(),
            };
            match delegates.check("shop", Some(&file), &folder) {
                Ok(()) => "allowed".to_owned(),
                Err(error) => error.to_string(),
            }
        };
        let workloads = "version: 1\nworkloads:\n  a: { command: [/bin/true], user: root }\n";
        assert_eq!(check("/any/shop.yaml", workloads), "allowed");
        assert!(check("other.yaml", workloads).contains("shop.yaml and nothing else"));
        let host = format!("{workloads}host: {{ starts_at_once: 2 }}\n");
        let refused = check("shop.yaml", &host);
        assert!(refused.contains("neither `host`"), "{refused}");
        assert!(check("shop.yaml", "version: 1\nworkloads: 3\n").contains("expected"));
        assert!(delegates.check("shop", None, &folder).is_err());
        assert!(delegates.check("other", None, &folder).is_err());
    }

    #[test]
    fn the_rules_of_the_host_hold_for_a_users_file() {
        let folder = std::env::temp_dir().join(format!("rules-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let rules = folder.join("rules.yaml");
        let delegates: Delegates = format!("shop=shop.yaml:{}", rules.display())
            .parse()
            .expect("a user");
        let check = |workload: &str| {
            let file = ProposedFile {
                path: "shop.yaml".into(),
                text: format!("version: 1\nworkloads:\n  a: {workload}\n"),
            };
            match delegates.check("shop", Some(&file), &folder) {
                Ok(()) => "allowed".to_owned(),
                Err(error) => error.to_string(),
            }
        };
        let by_root = "{ command: [/bin/true], user: root }";
        let missing = check(by_root);
        assert!(missing.contains("failed to read"), "{missing}");
        std::fs::write(&rules, "allow: { users: [root], memory: 1G }\n").expect("rules");
        let set_mode = |mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(&rules, mode).expect("a mode");
        };
        set_mode(0o644);
        let without = check(by_root);
        assert!(
            without.contains("memory.max must be 1G or less"),
            "{without}"
        );
        let limited = "{ command: [/bin/true], user: root, cgroup: { memory.max: 600M } }";
        assert_eq!(check(limited), "allowed");
        let twice = format!("{limited}\n  b: {limited}");
        let twice = check(&twice);
        assert!(
            twice.contains("`b` is refused: these workloads may use 1G"),
            "{twice}"
        );
        std::fs::write(&rules, "etcd: { endpoints: 3 }\nallow: { users: [web] }\n").expect("rules");
        let refused = check(by_root);
        assert!(
            refused.contains("the user root is not allowed here"),
            "{refused}"
        );
        std::fs::write(&rules, "allow: { user: [root] }\n").expect("rules");
        let faulty = check(by_root);
        assert!(faulty.contains("unknown key `user`"), "{faulty}");
        set_mode(0o664);
        let open = check(by_root);
        assert!(open.contains("may be changed by others"), "{open}");
        let _ = std::fs::remove_dir_all(&folder);
    }
}
