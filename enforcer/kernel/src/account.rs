//! Users and groups of this host, by name. The files come first; what they don't
//! know, the system's own `getent` is asked. The C library's look-up is not used:
//! in a static binary it loads the host's NSS modules into the agent, which may
//! crash it, and a privileged agent has no business running them.

use enforcer_model::ids::account_id;
use nix::unistd::{Gid, Uid, geteuid};
use std::process::{Command, Stdio};

/// Returns whether the host has a user of this name.
pub fn has_user(name: &str) -> bool {
    is_name(name) && user(name).is_some()
}

/// Returns whether the host has a user of this number.
pub fn has_user_of_number(number: u32) -> bool {
    user_of_number(number).is_some()
}

/// Returns whether the host has a group of this name.
pub fn has_group(name: &str) -> bool {
    is_name(name) && group(name).is_some()
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
}

/// Looks an account up; without a user, it is the agent's own. Users and groups are names or numbers. A
/// number needs no account; then its home is `/`, and it has no groups but those that are named.
pub fn identity(
    named: Option<&str>,
    group_named: Option<&str>,
    more_groups: &[String],
) -> Result<Identity, AccountError> {
    let group_of = |text: &str| match account_id(text) {
        Some(number) => Ok(Gid::from_raw(number)),
        None => group(text).ok_or_else(|| AccountError::NoGroup(text.to_owned())),
    };
    let group_named = group_named.map(group_of).transpose()?;
    let found = match named {
        Some(text) => match (account_id(text), group_named) {
            (None, _) => user(text).ok_or_else(|| AccountError::NoUser(text.to_owned()))?,
            (Some(number), gid) => match (user_of_number(number), gid) {
                (Some(found), _) => found,
                (None, Some(gid)) => User::without_account(number, gid),
                (None, None) => return Err(AccountError::NoGroupOf(number)),
            },
        },
        None => {
            let own = geteuid().to_string();
            look_up("passwd", &own, |line| field(line, 2) == Some(own.as_str()))
                .and_then(|line| User::parse(&line))
                .ok_or(AccountError::NoUser(own))?
        }
    };
    let gid = group_named.unwrap_or(found.gid);
    let mut groups = memberships(&found.name);
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

fn user(name: &str) -> Option<User> {
    look_up("passwd", name, |line| field(line, 0) == Some(name)).and_then(|line| User::parse(&line))
}

fn user_of_number(number: u32) -> Option<User> {
    let number = number.to_string();
    look_up("passwd", &number, |line| field(line, 2) == Some(&number))
        .and_then(|line| User::parse(&line))
}

pub fn group(name: &str) -> Option<Gid> {
    let line = look_up("group", name, |line| field(line, 0) == Some(name))?;
    number(&line, 2).map(Gid::from_raw)
}

/// Returns the groups that name this user as a member. For a user of passwd(5) they come from
/// group(5), and for any other from getent(1).
fn memberships(user: &str) -> Vec<Gid> {
    if in_file("passwd", |line| field(line, 0) == Some(user)).is_some() {
        let file = std::fs::read_to_string("/etc/group").unwrap_or_default();
        return members_of(&file, user);
    }
    // The line has the user's name and then the numbers of the groups.
    let line = getent("initgroups", user).unwrap_or_default();
    let numbers = line
        .split_whitespace()
        .skip(1)
        .filter_map(|number| number.parse().ok());
    numbers.map(Gid::from_raw).collect()
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

fn look_up(database: &str, key: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
    in_file(database, &fits).or_else(|| {
        getent(database, key)?
            .lines()
            .find(|line| fits(line))
            .map(str::to_owned)
    })
}

fn in_file(database: &str, fits: impl Fn(&str) -> bool) -> Option<String> {
    let file = std::fs::read_to_string(format!("/etc/{database}")).ok()?;
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
        let root = identity(Some("0"), None, &[]).expect("root");
        assert_eq!((root.name.as_str(), root.uid.as_raw()), ("root", 0));
        // This number is far above those that hosts give to accounts.
        let lonely = "4000000001";
        let refused = identity(Some(lonely), None, &[]);
        assert!(matches!(
            refused,
            Err(AccountError::NoGroupOf(4_000_000_001))
        ));
        let more = ["0".to_owned(), "7".to_owned()];
        let alone = identity(Some(lonely), Some("4000000002"), &more).expect("a number");
        assert_eq!((alone.name.as_str(), alone.home.as_str()), (lonely, "/"));
        let groups: Vec<u32> = alone.groups.iter().map(|gid| gid.as_raw()).collect();
        assert_eq!(groups, [0, 7, 4_000_000_002]);
        let unknown = identity(Some("root"), None, &["no-such-group".to_owned()]);
        assert!(matches!(unknown, Err(AccountError::NoGroup(_))));
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
