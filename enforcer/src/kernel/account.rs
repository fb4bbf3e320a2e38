//! Users and groups of this host, by name.

use enforcer_core::manifest::Accounts;
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use std::ffi::CString;

/// The accounts of this host, for the manifest's checks.
pub(crate) struct HostAccounts;

impl Accounts for HostAccounts {
    fn agent_is_root(&self) -> bool {
        geteuid().is_root()
    }

    fn has_user(&self, name: &str) -> bool {
        !name.is_empty() && User::from_name(name).is_ok_and(|user| user.is_some())
    }

    fn has_group(&self, name: &str) -> bool {
        !name.is_empty() && Group::from_name(name).is_ok_and(|group| group.is_some())
    }
}

/// Whom a workload runs as.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    #[error("there is no user `{0}`")]
    NoUser(String),
    #[error("there is no group `{0}`")]
    NoGroup(String),
    #[error("look up the account `{name}`")]
    LookUp { name: String, source: nix::Error },
}

/// Looks an account up; without a user's name, it is the agent's own.
pub(crate) fn identity(user: Option<&str>, group: Option<&str>) -> Result<Identity, AccountError> {
    let look_up = |name: &str| {
        let name = name.to_owned();
        move |source| AccountError::LookUp { name, source }
    };
    let found = match user {
        Some(name) => User::from_name(name)
            .map_err(look_up(name))?
            .ok_or_else(|| AccountError::NoUser(name.to_owned()))?,
        None => User::from_uid(geteuid())
            .map_err(look_up("of this process"))?
            .ok_or_else(|| AccountError::NoUser(geteuid().to_string()))?,
    };
    let gid = match group {
        None => found.gid,
        Some(name) => {
            Group::from_name(name)
                .map_err(look_up(name))?
                .ok_or_else(|| AccountError::NoGroup(name.to_owned()))?
                .gid
        }
    };
    let name = CString::new(found.name.clone()).unwrap_or_default();
    let groups = getgrouplist(&name, gid).map_err(look_up(&found.name))?;
    Ok(Identity {
        name: found.name,
        home: found.dir.to_string_lossy().into_owned(),
        uid: found.uid,
        gid,
        groups,
    })
}
