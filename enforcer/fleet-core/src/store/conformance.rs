//! Calls whose answers are written down, to see that two stores answer alike: the simulated one, and each version of etcd.

use super::simulated::Simulated;
use super::{
    Answer, Change, Condition, Entry, Keys, LeaseId, Operation, Request, Revision, StoreError,
    Transaction,
};
use crate::fleet::Time;
use std::fmt::Write as _;
use std::time::Duration;

/// A store that is asked.
pub trait Target {
    /// # Errors
    /// As the store has them.
    fn call(&mut self, request: Request) -> Result<Answer, StoreError>;

    /// Returns the changes of some keys from a revision on, up to the last one.
    ///
    /// # Errors
    /// As the store has them.
    fn changes(&mut self, keys: &Keys, from: Revision) -> Result<Vec<Change>, StoreError>;

    fn wait(&mut self, time: Duration);
}

/// The simulated store with its clock.
#[derive(Debug, Default)]
pub struct Simulation {
    store: Simulated,
    now: Time,
}

impl Target for Simulation {
    fn call(&mut self, request: Request) -> Result<Answer, StoreError> {
        self.store.handle(self.now, request)
    }

    fn changes(&mut self, keys: &Keys, from: Revision) -> Result<Vec<Change>, StoreError> {
        self.store.changes(keys, from)
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }
}

/// The answers so far. Revisions are counted from the first one, and leases in their order.
struct Log<'t, T> {
    target: &'t mut T,
    prefix: String,
    first: i64,
    leases: Vec<LeaseId>,
    lines: Vec<String>,
}

impl<T: Target> Log<'_, T> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn put(&self, name: &str, value: &str, lease: Option<LeaseId>) -> Operation {
        Operation::Put {
            key: self.key(name),
            value: value.into(),
            lease,
        }
    }

    fn revision(&self, revision: Revision) -> String {
        match revision.0 {
            0 => "none".to_owned(),
            number => format!("+{}", number - self.first),
        }
    }

    fn entry(&self, entry: &Entry) -> String {
        let key = entry.key.strip_prefix(&self.prefix).unwrap_or(&entry.key);
        let value = String::from_utf8_lossy(&entry.value);
        let mut text = format!(
            "{key}={value} ({} {})",
            self.revision(entry.created),
            self.revision(entry.modified)
        );
        if let Some(lease) = entry.lease {
            let number = self.leases.iter().position(|known| *known == lease);
            let _ = write!(text, " lease {number:?}");
        }
        text
    }

    fn entries(&self, entries: &[Entry]) -> String {
        let all: Vec<String> = entries.iter().map(|entry| self.entry(entry)).collect();
        format!("[{}]", all.join(", "))
    }

    fn note(&mut self, what: &str, answer: &Result<Answer, StoreError>) {
        let text = match answer {
            Ok(Answer::Got(got)) => {
                let at = self.revision(got.revision);
                format!("at {at} {}", self.entries(&got.entries))
            }
            Ok(Answer::Transacted {
                revision,
                succeeded,
                got,
            }) => {
                let got: Vec<String> = got.iter().map(|got| self.entries(&got.entries)).collect();
                let at = self.revision(*revision);
                format!("at {at} {succeeded} {}", got.join(" "))
            }
            Ok(Answer::Granted(_, lasts)) => format!("granted {lasts:?}"),
            Ok(Answer::KeptAlive(lasts)) => format!("kept alive {lasts:?}"),
            Ok(Answer::Leased(found)) => match found {
                Some((lasts, keys)) => {
                    let keys = keys.iter().map(|key| key.strip_prefix(&self.prefix));
                    let keys: Vec<&str> = keys.map(Option::unwrap_or_default).collect();
                    format!("granted for {lasts:?}, with {}", keys.join(" "))
                }
                None => "no lease".to_owned(),
            },
            Ok(Answer::Revoked) => "revoked".to_owned(),
            Ok(Answer::Compacted) => "compacted".to_owned(),
            Err(StoreError::Refused(_)) => "refused".to_owned(),
            Err(error) => error.to_string(),
        };
        self.lines.push(format!("{what}: {}", text.trim_end()));
    }

    fn call(&mut self, what: &str, request: Request) -> Result<Answer, StoreError> {
        let answer = self.target.call(request);
        self.note(what, &answer);
        answer
    }

    fn transact(&mut self, what: &str, transaction: Transaction) -> Revision {
        match self.call(what, Request::Transact(transaction)) {
            Ok(Answer::Transacted { revision, .. }) => revision,
            _ => Revision(0),
        }
    }

    fn write(&mut self, what: &str, then: Vec<Operation>) -> Revision {
        let transaction = Transaction {
            then,
            ..Transaction::default()
        };
        self.transact(what, transaction)
    }

    fn read(&mut self, what: &str, at: Option<Revision>) {
        let keys = Keys::Prefix(self.prefix.clone());
        let _ = self.call(what, Request::Get { keys, at });
    }

    fn grant(&mut self, what: &str, seconds: u64) -> LeaseId {
        let granted = self.call(what, Request::Grant(Duration::from_secs(seconds)));
        let id = match granted {
            Ok(Answer::Granted(id, _)) => id,
            _ => LeaseId(0),
        };
        self.leases.push(id);
        id
    }

    fn watch(&mut self, what: &str, from: Revision) {
        let keys = Keys::Prefix(self.prefix.clone());
        let changes = self.target.changes(&keys, from);
        let text = match changes {
            Ok(changes) => {
                let shown = changes.iter().map(|change| match change {
                    Change::Put(entry) => self.entry(entry),
                    Change::Deleted { key, at } => {
                        let key = key.strip_prefix(&self.prefix).unwrap_or(key);
                        format!("-{key} ({})", self.revision(*at))
                    }
                });
                shown.collect::<Vec<_>>().join(", ")
            }
            Err(error) => error.to_string(),
        };
        self.lines.push(format!("{what}: {text}"));
    }
}

/// Asks a store all questions below a prefix that nobody else uses, and returns the answers.
pub fn run(target: &mut impl Target, prefix: &str) -> Vec<String> {
    let mut log = Log {
        target,
        prefix: prefix.to_owned(),
        first: 0,
        leases: Vec::new(),
        lines: Vec::new(),
    };
    let all = Keys::Prefix(prefix.to_owned());
    let begin = Request::Get {
        keys: all.clone(),
        at: None,
    };
    if let Ok(Answer::Got(got)) = log.target.call(begin) {
        log.first = got.revision.0;
    }
    transactions(&mut log, &all);
    leases(&mut log);
    watches(&mut log, &all);
    log.lines
}

fn transactions<T: Target>(log: &mut Log<'_, T>, all: &Keys) {
    log.read("nothing is there", None);
    let (a, b) = (log.put("a", "1", None), log.put("b", "1", None));
    let first = log.write("two puts are one change", vec![a, b]);
    log.read("both have its revision", None);
    let a = log.put("a", "2", None);
    log.write("a put again", vec![a]);
    log.read("it keeps its first revision", None);
    log.read("what was before", Some(first));
    log.read("what is to come", Some(Revision(first.0 + 1000)));
    let get = || Operation::Get(all.clone());
    let free = |key: String| Condition::Created(key, Revision(0));
    let c = log.put("c", "1", None);
    let new = Transaction {
        conditions: vec![free(log.key("c"))],
        then: vec![c.clone()],
        otherwise: vec![get()],
    };
    let made = log.transact("a key is made once", new.clone());
    log.transact("and not again", new);
    let c_again = log.put("c", "2", None);
    let same = |made: Revision, key: String| Condition::Created(key, made);
    log.transact(
        "a change by its maker",
        Transaction {
            conditions: vec![same(made, log.key("c"))],
            then: vec![c_again, get()],
            otherwise: Vec::new(),
        },
    );
    log.write(
        "a key twice",
        vec![log.put("d", "1", None), log.put("d", "2", None)],
    );
    log.write(
        "a key that goes and comes",
        vec![
            Operation::Delete(Keys::One(log.key("c"))),
            log.put("c", "3", None),
        ],
    );
    log.write(
        "nothing to delete",
        vec![Operation::Delete(Keys::One(log.key("nothing")))],
    );
    log.write(
        "a key goes",
        vec![Operation::Delete(Keys::One(log.key("c")))],
    );
    log.write("and comes", vec![c]);
    let old = Transaction {
        conditions: vec![
            same(made, log.key("c")),
            Condition::Modified(log.key("a"), first),
        ],
        then: vec![log.put("a", "never", None)],
        otherwise: vec![get()],
    };
    log.transact("its old maker changes nothing", old);
    let many = (0..=super::MOST_OPERATIONS).map(|number| log.put(&format!("m{number}"), "", None));
    let many = many.collect();
    log.write("too many", many);
}

fn leases<T: Target>(log: &mut Log<'_, T>) {
    let unknown = LeaseId(4_611_686_018_427_387_905);
    let short = log.grant("a short lease", 2);
    let long = log.grant("a long lease", 600);
    let puts = vec![
        log.put("s1", "1", Some(short)),
        log.put("s2", "1", Some(short)),
        log.put("l", "1", Some(long)),
    ];
    log.write("keys with leases", puts);
    let moved = log.put("s1", "2", Some(long));
    log.write("a key gets another lease", vec![moved]);
    log.write("an unknown lease", vec![log.put("x", "1", Some(unknown))]);
    let _ = log.call("kept alive", Request::KeepAlive(long));
    let _ = log.call("not known", Request::KeepAlive(unknown));
    let _ = log.call("its keys", Request::Leased(long));
    let _ = log.call("no keys", Request::Leased(unknown));
    let _ = log.call("not to be revoked", Request::Revoke(unknown));
    log.read("before its end", None);
    log.target.wait(Duration::from_secs(8));
    log.read("after its end", None);
    let _ = log.call("it has ended", Request::KeepAlive(short));
    log.write("nothing for it", vec![log.put("x", "1", Some(short))]);
    let _ = log.call("revoked", Request::Revoke(long));
    log.read("its keys went at once", None);
}

fn watches<T: Target>(log: &mut Log<'_, T>, all: &Keys) {
    let first = Revision(log.first + 1);
    log.watch("all changes", first);
    let now = log.write("one more", vec![log.put("w", "1", None)]);
    log.watch("the last change", now);
    log.watch("nothing yet", now.next());
    let _ = log.call("a compaction", Request::Compact(now));
    let _ = log.call("and again", Request::Compact(now));
    let _ = log.call("of the future", Request::Compact(Revision(now.0 + 1000)));
    log.watch("from before it", first);
    log.watch("from it on", now);
    log.read("before it", Some(Revision(now.0 - 1)));
    log.read("at it", Some(now));
    let gone = vec![Operation::Delete(all.clone())];
    log.write("all keys go", gone);
    log.watch("they went together", now.next());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulated_store_answers() {
        let lines = run(&mut Simulation::default(), "test/");
        expect_test::expect_file!["../../tests/conformance.txt"]
            .assert_eq(&(lines.join("\n") + "\n"));
    }
}
