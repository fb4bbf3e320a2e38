//! Users and groups of this host, or of a tree of files, by name. The files come first; what they don't
//! know, the system's own `getent` is asked. The C library's look-up is not used:
//! in a static binary it loads the host's NSS modules into the agent, which may
//! crash it, and a privileged agent has no business running them.

use enforcer_model::ids::account_id;
use nix::unistd::{Gid, Uid, geteuid};
use std::borrow::Cow;
use std::process::{Command, Stdio};

/// The place where accounts are looked up.
#[derive(Debug)]
pub enum Accounts {
    Host,
    /// The files of a tree, and nothing else.
    Tree {
        passwd: String,
        group: String,
    },
}

/// Returns whether the host has a user of this name.
pub fn has_user(name: &str) -> bool {
    is_name(name) && Accounts::Host.user(name).is_some()
}

/// Returns the number of a user of the host.
pub fn number_of(name: &str) -> Option<Uid> {
    Accounts::Host.user(name).map(|user| user.uid)
}

/// Returns whether the host has a user of this number.
pub fn has_user_of_number(number: u32) -> bool {
    Accounts::Host.user_of_number(number).is_some()
}

/// Returns whether the host has a group of this name.
pub fn has_group(name: &str) -> bool {
    is_name(name) && group(name).is_some()
}

/// Returns the name that the host's passwd(5) gives to a uid. Nothing else is asked.
pub fn name_on_host(uid: Uid) -> Option<String> {
    let uid = uid.to_string();
    let line = in_file(&Accounts::Host.file("passwd"), |line| {
        field(line, 2) == Some(uid.as_str())
    });
    field(&line?, 0).map(str::to_owned)
}

/// Returns a group of the host.
pub fn group(name: &str) -> Option<Gid> {
    Accounts::Host.group(name)
}

/// Whom a workload runs as.
#[derive(Clone, Debug)]
pub struct Identity {
    pub name: String,
    pub home: String,
    pub uid: Uid,
    pub gid: Gid,
    pub groups: Vec<Gid>,
}

#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("there is no user `{0}`")]
    NoUser(String),
    #[error("there is no group `{0}`")]
    NoGroup(String),
    #[error("no account has the number {0}, so its group is not known; the manifest must name one")]
    NoGroupOf(u32),
    #[error("the tree gives `{0}` the uid 0; write `user: root` to mean it")]
    RootOfTree(String),
    #[error("the tree gives `{0}` the gid 0; write `group: root` to mean it")]
    RootGroupOfTree(String),
}

impl Accounts {
    /// Looks an account up; without a user, it is the agent's own. Users and groups are names or numbers. A
    /// number needs no account; then its home is `/`, and it has no groups but those that are named.
    pub fn identity(
        &self,
        named: Option<&str>,
        named_group: Option<&str>,
        more_groups: &[String],
    ) -> Result<Identity, AccountError> {
        let group_of = |text: &str| match account_id(text) {
            Some(number) => Ok(Gid::from_raw(number)),
            None => self
                .group(text)
                .ok_or_else(|| AccountError::NoGroup(text.to_owned())),
        };
        let group_named = named_group.map(group_of).transpose()?;
        let found = match named {
            Some(text) => match (account_id(text), group_named) {
                (None, _) => self
                    .user(text)
                    .ok_or_else(|| AccountError::NoUser(text.to_owned()))?,
                (Some(number), gid) => match (self.user_of_number(number), gid) {
                    (Some(found), _) => found,
                    (None, Some(gid)) => User::without_account(number, gid),
                    (None, None) => return Err(AccountError::NoGroupOf(number)),
                },
            },
            None => {
                let own = geteuid().to_string();
                self.look_up("passwd", &own, |line| field(line, 2) == Some(own.as_str()))
                    .and_then(|line| User::parse(&line))
                    .ok_or(AccountError::NoUser(own))?
            }
        };
        // A user who can write to the tree must not become root by an entry in its passwd(5).
        let meant = named.is_none_or(|name| name == "root" || account_id(name) == Some(0));
        if matches!(self, Self::Tree { .. }) && found.uid.is_root() && !meant {
            return Err(AccountError::RootOfTree(found.name));
        }
        let gid = group_named.unwrap_or(found.gid);
        let is_zero = |name: &str| name == "root" || account_id(name) == Some(0);
        let group_meant = found.uid.is_root() || named_group.is_some_and(is_zero);
        if matches!(self, Self::Tree { .. }) && gid.as_raw() == 0 && !group_meant {
            return Err(AccountError::RootGroupOfTree(found.name));
        }
        let mut groups = self.memberships(&found.name);
        groups.push(gid);
        for text in more_groups {
            groups.push(group_of(text)?);
        }
        groups.sort_by_key(|gid| gid.as_raw());
        groups.dedup();
        Ok(Identity {
            name: found.name,
            home: found.home,
            uid: found.uid,
            gid,
            groups,
        })
    }

    fn user(&self, name: &str) -> Option<User> {
        self.look_up("passwd", name, |line| field(line, 0) == Some(name))
            .and_then(|line| User::parse(&line))
    }

    fn user_of_number(&self, number: u32) -> Option<User> {
        let number = number.to_string();
        self.look_up("passwd", &number, |line| field(line, 2) == Some(&number))
            .and_then(|line| User::parse(&line))
    }

    fn group(&self, name: &str) -> Option<Gid> {
        let line = self.look_up("group", name, |line| field(line, 0) == Some(name))?;
        number(&line, 2).map(Gid::from_raw)
    }

    /// Returns the groups that name this user as a member. For a user of passwd(5) they come from
    /// group(5), and for any other of the host from getent(1).
    fn memberships(&self, user: &str) -> Vec<Gid> {
        if matches!(self, Self::Tree { .. })
            || in_file(&self.file("passwd"), |line| field(line, 0) == Some(user)).is_some()
        {
            let mut groups = members_of(&self.file("group"), user);
            if matches!(self, Self::Tree { .. }) {
                groups.retain(|gid| gid.as_raw() != 0);
            }
            return groups;
        }
        // The line has the user's name and then the numbers of the groups.
        let line = getent("initgroups", user).unwrap_or_default();
        let numbers = line
            .split_whitespace()
            .skip(1)
            .filter_map(|number| number.parse().ok());
        numbers.map(Gid::from_raw).collect()
    }

    fn look_up(&self, database: &str, key: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
        let found = in_file(&self.file(database), &fits);
        if found.is_some() || matches!(self, Self::Tree { .. }) {
            return found;
        }
        let answer = getent(database, key)?;
        in_file(&answer, fits)
    }

    /// Returns the text of a file, which is empty without one.
    fn file(&self, database: &str) -> Cow<'_, str> {
        match self {
            Self::Host => std::fs::read_to_string(format!("/etc/{database}"))
                .unwrap_or_default()
                .into(),
            Self::Tree { passwd, group } => match database {
                "passwd" => passwd.into(),
                _ => group.into(),
            },
        }
    }
}

/// A line of passwd(5).
#[derive(Debug, PartialEq, Eq)]
struct User {
    name: String,
    uid: Uid,
    gid: Gid,
    home: String,
}

impl User {
    fn parse(line: &str) -> Option<Self> {
        Some(Self {
            name: field(line, 0)?.to_owned(),
            uid: Uid::from_raw(number(line, 2)?),
            gid: Gid::from_raw(number(line, 3)?),
            home: field(line, 5)?.to_owned(),
        })
    }
}

impl User {
    fn without_account(number: u32, gid: Gid) -> Self {
        Self {
            name: number.to_string(),
            uid: Uid::from_raw(number),
            gid,
            home: "/".to_owned(),
        }
    }
}

fn field(line: &str, index: usize) -> Option<&str> {
    line.split(':').nth(index)
}

/// Parses an id. The kernel reads the highest number as "leave it as it is", so a process that took
/// that user would stay root.
fn number(line: &str, index: usize) -> Option<u32> {
    let parsed = field(line, index)?.parse().ok();
    parsed.filter(|number| *number != u32::MAX)
}

/// Returns whether a text is an account's name: no number, and nothing that looks like an option.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    let first = name.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_') && name.bytes().all(plain)
}

fn members_of(file: &str, user: &str) -> Vec<Gid> {
    let is_member = |line: &&str| {
        field(line, 3).is_some_and(|members| members.split(',').any(|member| member == user))
    };
    let lines = file.lines().filter(is_member);
    lines
        .filter_map(|line| field(line, 2)?.parse().ok())
        .map(Gid::from_raw)
        .collect()
}

fn in_file(file: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
    file.lines().find(|line| fits(line)).map(str::to_owned)
}

/// Asks getent(1), in a process of its own.
fn getent(database: &str, key: &str) -> Option<String> {
    let output = Command::new("/usr/bin/getent")
        .args([database, key])
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_and_no_other_user_is_made_up() {
        assert!(has_user("root") && has_group("root"));
        // Asked of the whole host, NSS modules and all.
        for name in [
            "no-such-user-here",
            "",
            "0day",
            "-1",
            "4294967295",
            "4294967296",
            "a:b",
            "a\nb",
            "0",
        ] {
            assert!(!has_user(name), "{name:?}");
            assert!(!has_group(name), "{name:?}");
        }
    }

    #[test]
    fn a_number_is_a_user_with_an_account_or_without() {
        let root = Accounts::Host.identity(Some("0"), None, &[]).expect("root");
        assert_eq!((root.name.as_str(), root.uid.as_raw()), ("root", 0));
        // This number is far above those that hosts give to accounts.
        let lonely = "4000000001";
        let refused = Accounts::Host.identity(Some(lonely), None, &[]);
        assert!(matches!(
            refused,
            Err(AccountError::NoGroupOf(4_000_000_001))
        ));
        let more = ["0".to_owned(), "7".to_owned()];
        let alone = Accounts::Host
            .identity(Some(lonely), Some("4000000002"), &more)
            .expect("a number");
        assert_eq!((alone.name.as_str(), alone.home.as_str()), (lonely, "/"));
        let groups: Vec<u32> = alone.groups.iter().map(|gid| gid.as_raw()).collect();
        assert_eq!(groups, [0, 7, 4_000_000_002]);
        let unknown = Accounts::Host.identity(Some("root"), None, &["no-such-group".to_owned()]);
        assert!(matches!(unknown, Err(AccountError::NoGroup(_))));
    }

    #[test]
    fn a_tree_has_its_own_accounts_and_gives_nobody_the_uid_of_root() {
        let tree = Accounts::Tree {
            passwd: "root:x:0:0::/root:\nweb:x:71:72::/srv:\nbad:x:0:0::/:\nworse:x:5:0::/:\n"
                .to_owned(),
            group: "root:x:0:web\nweb:x:72:\nlogs:x:73:web\n".to_owned(),
        };
        let web = tree.identity(Some("web"), None, &[]).expect("its user");
        let ids = (web.uid.as_raw(), web.gid.as_raw(), web.home.as_str());
        assert_eq!(ids, (71, 72, "/srv"));
        assert_eq!(web.groups, [72, 73].map(Gid::from_raw));
        let of = |user: &str| tree.identity(Some(user), None, &[]);
        assert!(matches!(of("bad"), Err(AccountError::RootOfTree(_))));
        assert!(of("root").is_ok() && of("0").is_ok());
        assert!(matches!(of("worse"), Err(AccountError::RootGroupOfTree(_))));
        assert!(tree.identity(Some("worse"), Some("0"), &[]).is_ok());
        // An account of the host is none of the tree.
        assert!(matches!(of("daemon"), Err(AccountError::NoUser(_))));
    }

    #[test]
    fn lines_of_the_files_are_read_as_documented() {
        let user = User::parse("web:x:1000:1001:A, person:/srv/web:/bin/sh").expect("a user");
        assert_eq!(
            (user.uid.as_raw(), user.gid.as_raw(), user.home.as_str()),
            (1000, 1001, "/srv/web")
        );
        assert_eq!(User::parse("web:x:many:1:::"), None);
        for number in ["-1", "4294967295", "4294967296", ""] {
            assert_eq!(User::parse(&format!("web:x:{number}:1:::")), None);
            assert_eq!(User::parse(&format!("web:x:1:{number}:::")), None);
        }
        let groups = members_of("a:x:1:web,db\nb:x:2:\nc:x:3:webmaster\nd:x:4:web\n", "web");
        assert_eq!(groups, [Gid::from_raw(1), Gid::from_raw(4)]);
    }
}
