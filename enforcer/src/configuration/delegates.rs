//! Users who may change the workloads of one file of the manifest each, and nothing else.

use super::ConfigurationError;
use super::files::{Loaded, Source};
use enforcer_core::spec::Manifest;
use enforcer_kernel::account;
use enforcer_model::requests::ProposedFile;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// The file of each user. It is the value of `--delegate`: `USER=FILE`, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delegates(BTreeMap<String, String>);

impl FromStr for Delegates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut files = BTreeMap::new();
        for one in text.split(',').filter(|one| !one.is_empty()) {
            let parts = one.split_once('=');
            let (user, file) = parts
                .filter(|(user, file)| !user.is_empty() && !file.is_empty())
                .ok_or_else(|| format!("`{one}` is not USER=FILE"))?;
            if Path::new(file).file_name().is_none_or(|name| name != file)
                || !super::files::is_manifest(Path::new(file))
            {
                return Err(format!(
                    "`{file}` is not the name of a file in the manifest's folder that ends in .yaml or .yml"
                ));
            }
            let is_twice = files.values().any(|other| other == file);
            if is_twice || files.insert(user.to_owned(), file.to_owned()).is_some() {
                return Err(format!("`{one}` names a user or a file again"));
            }
        }
        Ok(Self(files))
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

    /// Notes whose the workloads of a file are.
    pub(super) fn mark(&self, manifest: &mut Manifest, path: &Path) {
        let name = path.file_name();
        let user = self
            .0
            .iter()
            .find(|(_, file)| name.is_some_and(|name| name == file.as_str()));
        let Some((user, _)) = user else {
            return;
        };
        for spec in manifest.workloads.values_mut() {
            Arc::make_mut(spec).delegate = Some(user.clone());
        }
    }

    /// Returns the path of a user's file.
    ///
    /// # Errors
    /// If the manifest is not a folder.
    pub(super) fn file_of(&self, user: &str, folder: &Path) -> Result<PathBuf, ConfigurationError> {
        match self.0.get(user) {
            Some(file) if folder.is_dir() => Ok(folder.join(file)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_one_file() {
        let read = |text: &str| text.parse::<Delegates>();
        assert_eq!(read(""), Ok(Delegates::default()));
        let two = read("enforcer-fleet=fleet.yaml,shop=shop.yml").expect("two users");
        assert_eq!(two.0["shop"], "shop.yml");
        for bad in [
            "shop",
            "=a.yaml",
            "shop=",
            "shop=../a.yaml",
            "shop=/a.yaml",
            "shop=a.txt",
            "shop=.a.yaml",
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
}
