use super::*;
use enforcer_core::event::Start;

const RETENTION: Retention = Retention {
    age: Duration::from_secs(30 * 24 * 60 * 60),
    size: 64 << 20,
};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("history-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn database(&self) -> Database {
        Database::at(&self.0, RETENTION).expect("no newer one")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn record(seq: u64, kind: &str, workload: &str) -> Arc<Record> {
    let details = RawValue::from_string("{\"pid\":7}".to_owned()).expect("JSON");
    Arc::new(Record {
        seq: Seq(seq),
        time: jiff::Timestamp::from_second(1_800_000_000).expect("a time"),
        boot_id: "boot".into(),
        workload: ReplicaId::parse(workload),
        instance: None,
        reason: None,
        caused_by: None,
        detail: Detail::read(kind, details),
    })
}

/// Writes them, and says up to where they are on disk.
fn write(database: &Database, left: Vec<Arc<Record>>, batch: Vec<Arc<Record>>) -> Writer {
    let writer = database.write(left, |_| ());
    writer.append(Arc::new(batch));
    writer.close();
    writer
}

fn seqs(found: &[Arc<Record>]) -> Vec<u64> {
    found.iter().map(|record| record.seq.0).collect()
}

#[test]
fn what_is_written_is_found_again_and_nothing_twice() {
    let folder = Folder::new("found");
    let database = folder.database();
    let left = vec![record(1, "start", "web"), record(2, "exit", "web")];
    let new = vec![record(3, "start", "db"), record(4, "start", "web")];
    let writer = write(&database, left.clone(), new);
    assert_eq!(writer.trouble(), None);
    // The same journal once more.
    let _ = write(&database, left, Vec::new());
    assert_eq!(database.last(), (4, 0));
    let all = database.find(&Query::default(), None);
    assert_eq!(seqs(&all), [1, 2, 3, 4]);
    assert!(matches!(
        &all[0].detail,
        Detail::Start(Start::Started { pid: 7 })
    ));
    let of_web = Query {
        workload: Some("web".to_owned()),
        kind: Some("start".to_owned()),
        ..Query::default()
    };
    assert_eq!(seqs(&database.find(&of_web, None)), [1, 4]);
    let last = Query {
        last: Some(2),
        ..Query::default()
    };
    assert_eq!(seqs(&database.find(&last, Some(Seq(4)))), [2, 3]);
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_is_written() {
    let folder = Folder::new("damaged");
    let database = folder.database();
    fs::write(folder.0.join("history.db"), [7; 8192]).expect("a file");
    let writer = database.write(vec![record(1, "start", "web")], |_| ());
    let begun = enforcer_kernel::clock::now();
    while database.find(&Query::default(), None).is_empty() {
        let waited = enforcer_kernel::clock::now().since(begun);
        assert!(
            waited < Duration::from_secs(20),
            "it is never written again"
        );
        writer.close();
    }
    let trouble = writer.trouble();
    assert!(
        matches!(&trouble, Some(Trouble::Failing(why)) if why.contains("set aside as")),
        "{trouble:?}"
    );
    let aside = fs::read_dir(&folder.0).expect("the folder").flatten();
    let aside: Vec<PathBuf> = aside.map(|entry| entry.path()).collect();
    let aside = aside
        .iter()
        .filter(|path| path.to_string_lossy().ends_with("-1"));
    assert_eq!(aside.count(), 1);
}

/// Waits until a damaged file was reported, and something is written again.
fn until_mended(database: &Database, writer: &Writer) -> String {
    let begun = enforcer_kernel::clock::now();
    loop {
        writer.append(Arc::new(vec![record(9_999_999, "start", "web")]));
        writer.close();
        let waited = enforcer_kernel::clock::now().since(begun);
        assert!(waited < Duration::from_secs(20), "it is never reported");
        let _ = database.find(&Query::default(), None);
        if let Some(Trouble::Failing(why)) = writer.trouble() {
            return why;
        }
    }
}

#[test]
fn damage_in_the_middle_is_found_by_the_reader() {
    let folder = Folder::new("middle");
    let database = folder.database();
    let many: Vec<_> = (1..=20_000)
        .map(|seq| record(seq, "start", "web"))
        .collect();
    drop(write(&database, Vec::new(), many));
    let path = folder.0.join("history.db");
    let connection = Connection::open(&path).expect("the database");
    let truncated: i64 = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .expect("a checkpoint");
    assert_eq!(truncated, 0);
    drop(connection);
    let mut bytes = fs::read(&path).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64 * 1024].fill(7);
    fs::write(&path, bytes).expect("the file");
    let writer = database.write(Vec::new(), |_| ());
    let why = until_mended(&database, &writer);
    assert!(why.contains("set aside as"), "{why}");
    let begun = enforcer_kernel::clock::now();
    while database.find(&Query::default(), None).is_empty() {
        writer.close();
        assert!(enforcer_kernel::clock::now().since(begun) < Duration::from_secs(20));
    }
    let connection = Connection::open(&path).expect("the new one");
    let gap: (i64, i64, String) = connection
        .query_row("SELECT first_seq, last_seq, why FROM gaps", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .expect("a gap");
    assert_eq!((gap.0, gap.1), (1, 9_999_998));
    assert!(gap.2.contains("history.damaged-"), "{}", gap.2);
}

#[test]
fn what_is_too_old_goes_and_a_wrong_clock_takes_little() {
    let folder = Folder::new("old");
    let short = Retention {
        age: Duration::from_secs(60),
        ..RETENTION
    };
    let database = Database::at(&folder.0, short).expect("no newer one");
    // All of them are of another year.
    let many: Vec<_> = (1..=1000).map(|seq| record(seq, "start", "web")).collect();
    let old = jiff::Timestamp::from_second(1_000_000_000).expect("a time");
    let many = many.into_iter().map(|record| {
        let mut record = Arc::unwrap_or_clone(record);
        record.time = old;
        Arc::new(record)
    });
    // But the first, which a wrong clock has put far ahead.
    let mut many: Vec<_> = many.collect();
    let mut ahead = (*many[0]).clone();
    ahead.time = jiff::Timestamp::from_second(4_000_000_000).expect("a time");
    many[0] = Arc::new(ahead);
    let _ = write(&database, Vec::new(), many);
    let connection = Connection::open(folder.0.join("history.db")).expect("the database");
    let left = || seqs(&database.find(&Query::default(), None));
    database.prune_by_age(&connection).expect("to prune");
    assert_eq!((left()[1], left().len()), (102, 900));
    for _ in 0..100 {
        database.prune_by_age(&connection).expect("to prune");
    }
    assert_eq!(left(), [1]);
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    let folder = Folder::new("newer");
    let path = folder.0.join("history.db");
    let connection = Connection::open(&path).expect("a database");
    connection
        .pragma_update(None, "user_version", SCHEMA + 1)
        .expect("a version");
    drop(connection);
    let before = fs::read(&path).expect("the file");
    let refused = Database::at(&folder.0, RETENTION);
    assert!(matches!(refused, Err(StoreError::Newer { found, .. }) if found == SCHEMA + 1));
    assert_eq!(fs::read(&path).expect("the file"), before);
}

#[test]
fn the_oldest_go_first_when_it_is_too_much() {
    let folder = Folder::new("pruned");
    let small = Retention {
        size: 256 << 10,
        ..RETENTION
    };
    let database = Database::at(&folder.0, small).expect("no newer one");
    let many: Vec<_> = (1..=5000).map(|seq| record(seq, "start", "web")).collect();
    let _ = write(&database, Vec::new(), many);
    // Looked at when a writer begins, and then now and again.
    let _ = write(&database, Vec::new(), Vec::new());
    let found = seqs(&database.find(&Query::default(), None));
    assert_eq!(found.last(), Some(&5000));
    assert!(found.len() > 500 && found.len() < 4500, "{}", found.len());
}

/// Rows that this version can't read are passed over, and nothing with them: a page is
/// empty only at the end.
#[test]
fn pages_pass_over_what_cannot_be_read() {
    let folder = Folder::new("pages");
    let all: Vec<_> = (1..=9).map(|seq| record(seq, "start", "web")).collect();
    let _ = write(&folder.database(), all, Vec::new());
    let path = folder.0.join("history.db");
    let connection = Connection::open(path).expect("a database");
    let other = "UPDATE events SET reason = 'unheard of' WHERE seq IN (2, 4, 5, 6)";
    connection.execute(other, []).expect("rows");
    let history = crate::store::history::History::new("boot", None, folder.database());
    let mut query = Query {
        first: Some(2),
        ..Query::default()
    };
    let mut reported = Vec::new();
    loop {
        let page = history.page(&query).expect("a page");
        let Some(last) = page.last() else {
            break;
        };
        query.after = Some(last.seq.0);
        reported.push(seqs(&page));
    }
    assert_eq!(reported, [vec![1], vec![3], vec![7], vec![8, 9]]);
    // What is in memory follows on the database's last.
    history.append(vec![record(10, "start", "web"), record(11, "exit", "web")]);
    query.after = Some(8);
    assert_eq!(seqs(&history.page(&query).expect("a page")), [9, 10]);
}
