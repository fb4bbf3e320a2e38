//! Workloads with a root of their own: a tree of files, and what is mounted in it.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::cpu_loop::Verdict;
use enforcer_model::detail::{CpuLoopFound, Exit, HealthChange, Start};
use enforcer_model::health::Health;
use enforcer_model::oom::Incident;
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::{kernel, wait_for};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The uid and the gid that the trees give to `web`. The host gives it others.
const WEB: u32 = 71;

/// Makes a tree with the fixture as its only program, under a path that the host does not have.
fn tree(name: &str) -> PathBuf {
    let root = PathBuf::from("/tmp").join(name);
    for folder in [
        "opt/own", "etc", "proc", "sys", "dev", "run", "tmp", "data", "seen",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/fixture", root.join("opt/own/program")).unwrap();
    let accounts = format!("root:x:0:0::/:\nweb:x:{WEB}:{WEB}::/data:\nbad:x:0:0::/:\n");
    fs::write(root.join("etc/passwd"), accounts).unwrap();
    fs::write(root.join("etc/group"), format!("web:x:{WEB}:\n")).unwrap();
    fs::write(root.join("etc/hosts"), "").unwrap();
    root
}

/// A folder of the host's that everyone may write to.
fn open_folder(name: &str) -> PathBuf {
    let path = PathBuf::from("/tmp").join(name);
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    path
}

/// One workload that runs the program of a tree.
fn rooted(name: &str, root: &Path, mode: &str, more: &str) -> String {
    let root = root.display();
    let text = workload(name, mode, &format!("root: {root}\n{more}"));
    text.replace("/bin/fixture", "/opt/own/program")
}

fn inside(pid: u32, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root{path}"))
}

fn mounts_of(pid: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let place = |line: &str| line.split(' ').nth(4).unwrap().to_owned();
    text.lines().map(place).collect()
}

#[test]
fn a_workload_sees_its_root_and_what_is_mounted_there() {
    fs::create_dir_all("/var/lib").unwrap();
    let root = tree("root-of-web");
    fs::create_dir_all(root.join("var/lib/rooted")).unwrap();
    let data = open_folder("data-of-web");
    fs::write("/run/credential-of-root-test", "s3cret").unwrap();
    let more = "mounts: [{ from: /tmp/data-of-web, to: /data }, { from: /tmp/data-of-web, to: /seen, read_only: true }]
        tmpfs: [/tmp, { path: /run/own/deep, size: 1M }]
        read_only: true
        hostname: shop
        hosts: { db: 127.0.0.1, mail_1: \"2001:db8::7\" }
        state_directory: rooted
        credentials: { key: /run/credential-of-root-test }
        before_start: [[/opt/own/program, copy, /proc/sys/kernel/hostname, /data/before]]
        probes: { liveness: { exec: { command: [/opt/own/program, credential, key, /data/probed] }, period: 1h, timeout: 60s }, progress: { file: { path: /tmp/beat, fresh_within: 1h }, period: 500ms, failure_threshold: 1000 } }";
    let mut agent = Agent::start(&manifest(&rooted("web", &root, "rest", more)));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    let on_host = mounts_of("self");

    // The account is the tree's.
    let own = kernel::status(pid, "Uid").unwrap();
    assert!(
        own.split_whitespace().all(|id| id == WEB.to_string()),
        "{own}"
    );
    // The files are the tree's, and nothing of the host's is left.
    assert!(inside(pid, "/opt/own/program").exists());
    assert!(!inside(pid, "/bin/fixture").exists());
    let names = fs::read_to_string(inside(pid, "/etc/hosts")).unwrap();
    let expected = "127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.0.1\tdb\n2001:db8::7\tmail_1\n";
    assert_eq!(names, expected);
    let mounts = mounts_of(&pid.to_string());
    for place in [
        "/",
        "/proc",
        "/sys",
        "/dev",
        "/dev/null",
        "/dev/pts",
        "/dev/shm",
        "/run",
    ] {
        assert!(
            mounts.iter().any(|mount| mount == place),
            "{place}: {mounts:?}"
        );
    }
    assert!(
        mounts
            .iter()
            .all(|mount| !mount.starts_with("/tmp/") && mount != "/bin")
    );
    let error = |path: &str| {
        fs::write(inside(pid, path), "x")
            .unwrap_err()
            .raw_os_error()
    };
    for path in ["/new", "/etc/passwd", "/seen/new", "/sys/new"] {
        assert_eq!(error(path), Some(nix::libc::EROFS), "{path}");
    }
    // What is mounted can be changed, and is the user's.
    for path in ["/tmp", "/run/own/deep", "/var/lib/rooted"] {
        let found = fs::metadata(inside(pid, path)).unwrap();
        assert_eq!((found.uid(), found.gid()), (WEB, WEB), "{path}");
        fs::write(inside(pid, path).join("new"), "x").unwrap();
    }
    assert!(Path::new("/var/lib/rooted/new").exists());
    let devices = fs::read_dir(inside(pid, "/dev")).unwrap();
    let mut devices: Vec<String> = devices
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    devices.sort_unstable();
    let expected = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ];
    assert_eq!(devices, expected);
    // The host has nothing new.
    assert_eq!(
        on_host
            .iter()
            .filter(|mount| mount.contains("root-of-web"))
            .count(),
        0
    );
    assert_ne!(
        fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap()
            .trim(),
        "shop"
    );

    // Commands before the start and beside the program see the same.
    let line = |file: &str| {
        let text = fs::read_to_string(data.join(file)).unwrap_or_default();
        text.lines().last().map(str::to_owned)
    };
    assert_eq!(line("before").as_deref(), Some("shop"));
    // The heartbeat is missing.
    assert_eq!(agent.cli(&["probe", "web"]).status.code(), Some(3));
    assert_eq!(line("probed").as_deref(), Some("s3cret"));
    // A heartbeat is looked for in the root.
    let misses = |agent: &Agent, since: usize| {
        let changes = agent.events::<HealthChange>("web").into_iter().skip(since);
        let mut whys = changes.map(|change| change.details.why);
        whys.any(|why| why.contains("there is no /tmp/beat"))
    };
    wait_for("a missing heartbeat", || misses(&agent, 0).then_some(()));
    fs::write(inside(pid, "/tmp/beat"), "").unwrap();
    wait_for("a heartbeat", || {
        (agent.workload("web").health == Health::Healthy).then_some(())
    });

    // Another agent finds all of it.
    agent.kill();
    agent.start_again();
    assert_eq!(pid_of(&agent.workload("web")), pid);
    fs::remove_file(data.join("probed")).unwrap();
    assert!(agent.cli(&["probe", "web"]).status.success());
    assert_eq!(line("probed").as_deref(), Some("s3cret"));
    let before = agent.events::<HealthChange>("web").len();
    fs::remove_file(inside(pid, "/tmp/beat")).unwrap();
    wait_for("a missing heartbeat, for the second agent", || {
        misses(&agent, before).then_some(())
    });
    assert!(agent.cli(&["restart", "web"]).status.success());
    let next = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    assert!(next != pid && inside(next, "/opt/own/program").exists());
}

/// The proof of a loop and the report of an OOM kill say the same as without a root.
#[test]
fn a_loop_and_an_oom_kill_in_a_root_are_explained() {
    let root = tree("root-of-loops");
    let quickly = "watch: { cpu_loop: { after: 2s, respond: [demote] } }";
    let mut text = rooted("loops", &root, "burn bare", quickly);
    let little = "cgroup: { memory.max: 24M }\nrecovery: { restart: never }";
    text.push_str(&rooted("hog", &root, "hog", little));
    let agent = Agent::start(&manifest(&text));
    let incident = agent.wait_for_event::<Incident>("hog").details;
    assert_eq!(incident.victims[0].command, "program", "{incident:?}");
    agent.wait_for_event::<Exit>("hog");
    // The agent gives the search for names two seconds; the next instance is then looked at.
    let mut wanted = 1;
    wait_for("the place of the loop by its name", || {
        let mut found = agent.events::<Box<CpuLoopFound>>("loops");
        found.retain(|event| event.details.verdict == Verdict::DeadLoop);
        let hottest = found.get(wanted - 1)?.details.evidence.stack.first()?;
        let is_named = hottest.contains("burn") && hottest.contains("in program");
        if !is_named {
            assert!(hottest.starts_with("program+0x"), "{hottest}");
            assert!(agent.cli(&["restart", "loops"]).status.success());
            wanted += 1;
        }
        is_named.then_some(())
    });
}

/// A tree of busybox is a root: its web server is limited, probed, taken over and started again.
#[test]
fn a_busybox_tree_is_a_root() {
    const PORT: u16 = 9081;
    let root = Path::new("/tmp/busybox-tree");
    for folder in ["bin", "etc", "proc", "sys", "dev", "run", "tmp", "www"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in ["sh", "tail", "httpd"] {
        let _ = symlink("busybox", root.join("bin").join(name));
    }
    fs::write(root.join("etc/passwd"), format!("web:x:{WEB}:{WEB}::/:\n")).unwrap();
    fs::write(root.join("etc/group"), format!("web:x:{WEB}:\n")).unwrap();
    fs::write(root.join("www/index.html"), "hello").unwrap();
    let of = |name: &str, command: &str, more: &str| {
        let keys = format!("root: {}\nread_only: true\n{more}", root.display());
        workload(name, "rest", &keys).replace("[/bin/fixture, \"rest\"]", command)
    };
    let timing = "period: 500ms, timeout: 60s, failure_threshold: 1000";
    let probes = format!(
        "cgroup: {{ memory.max: 16M, pids.max: 16 }}
        probes: {{ startup: {{ http: {{ port: {PORT}, path: /index.html }}, {timing} }}, \
         readiness: {{ exec: {{ command: [/bin/sh, -c, \"test -f /www/index.html && test ! -e /usr\"] }}, {timing} }} }}"
    );
    let server = format!("[/bin/httpd, -f, -p, \"127.0.0.1:{PORT}\", -h, /www]");
    let little = "cgroup: { memory.max: 8M }\nrecovery: { restart: never }";
    let text = of("served", &server, &probes) + &of("hog", "[/bin/tail, /dev/zero]", little);
    let mut agent = Agent::start(&manifest(&text));
    let incident = agent.wait_for_event::<Incident>("hog").details;
    assert_eq!(incident.victims[0].command, "tail", "{incident:?}");
    let is_well = |agent: &Agent| {
        let found = agent.workload("served");
        (found.health == Health::Healthy && found.ready).then_some(())
    };
    wait_for("both probes to pass", || is_well(&agent));
    let pid = pid_of(&agent.workload("served"));
    assert_eq!(kernel::read("served", "pids.max").as_deref(), Some("16"));
    agent.kill();
    agent.start_again();
    assert_eq!(pid_of(&agent.workload("served")), pid);
    assert!(agent.cli(&["restart", "served"]).status.success());
    wait_for("both probes to pass again", || is_well(&agent));
    assert_ne!(pid_of(&agent.workload("served")), pid);
}

/// A Debian of unpacked packages, as debootstrap makes it, is a root for programs that nobody here
/// wrote.
#[test]
fn a_debian_tree_is_a_root() {
    const PYTHON: &str = "/usr/bin/python3";
    let root = Path::new("/tmp/debian-tree");
    fs::create_dir_all(root).unwrap();
    // The guest's own files are such a tree. What is mounted below them is not in it.
    let none: Option<&str> = None;
    mount(Some("/"), root, none, MsFlags::MS_BIND, none).unwrap();
    let python = |name: &str, script: &str, more: &str| {
        let text = workload(name, "rest", &format!("root: {}\n{more}", root.display()));
        text.replace(
            "[/bin/fixture, \"rest\"]",
            &format!("[{PYTHON}, -c, {script:?}]"),
        )
    };
    let quickly = "read_only: true
        cgroup: { memory.max: 64M, pids.max: 16 }
        watch: { cpu_loop: { after: 2s, respond: [demote] } }";
    let mut text = python("loops", "while True: pass", quickly);
    let little = "sandbox: default\ncgroup: { memory.max: 32M }\nrecovery: { restart: never }";
    text.push_str(&python(
        "hog",
        "whole = [b'x' * (1 << 20) for _ in range(100)]",
        little,
    ));
    fs::create_dir_all("/var/lib/strict-tree").unwrap();
    let probed = "sandbox: strict
        state_directory: strict-tree
        probes: { startup: { exec: { command: [/usr/bin/python3, -c, 'import os; os.stat(\"/usr/bin/python3\")'] }, period: 500ms, timeout: 60s, failure_threshold: 1000 } }";
    let script = "open('/var/lib/strict-tree/kept', 'w').close(); import signal; signal.pause()";
    text.push_str(&python("probed", script, probed));
    let mut agent = Agent::start(&manifest(&text));
    let pid = pid_of(&agent.wait_for_state("loops", WorkloadState::Running));
    assert_eq!(kernel::read("loops", "pids.max").as_deref(), Some("16"));
    let incident = agent.wait_for_event::<Incident>("hog").details;
    assert_eq!(incident.victims[0].command, "python3", "{incident:?}");
    let found = wait_for("the loop to be proved", || {
        let found = agent.events::<Box<CpuLoopFound>>("loops");
        let mut proved = found.into_iter().map(|event| event.details);
        proved.find(|found| found.verdict == Verdict::DeadLoop)
    });
    let hottest = found.evidence.stack.first().unwrap();
    assert!(hottest.contains("python3"), "{hottest}");
    wait_for("the probe to pass", || {
        (agent.workload("probed").health == Health::Healthy).then_some(())
    });
    // Another agent takes all of it over.
    let probed = pid_of(&agent.workload("probed"));
    agent.kill();
    agent.start_again();
    assert_eq!(pid_of(&agent.workload("loops")), pid);
    assert_eq!(pid_of(&agent.workload("probed")), probed);
    assert!(agent.cli(&["restart", "probed"]).status.success());
    let next = pid_of(&agent.wait_for_state("probed", WorkloadState::Running));
    assert!(next != probed && inside(next, PYTHON).exists());
    assert!(Path::new("/var/lib/strict-tree/kept").exists());
    drop(agent);
    nix::mount::umount2(root, nix::mount::MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn a_root_that_lacks_something_is_a_start_error() {
    let root = tree("root-with-gaps");
    let shown = root.display().to_string();
    let cases: [(&str, String, String, &str); 7] = [
        (
            "nowhere",
            rooted("nowhere", Path::new("/tmp/no-such-root"), "rest", ""),
            "read etc/passwd in its root /tmp/no-such-root".to_owned(),
            "/tmp/no-such-root: No such file or directory",
        ),
        (
            "numbers",
            rooted("numbers", Path::new("/tmp/no-such-root"), "rest", "")
                .replace("user: web", "user: \"71:71\""),
            "read etc/passwd in its root /tmp/no-such-root".to_owned(),
            "/tmp/no-such-root: No such file or directory",
        ),
        (
            "program",
            rooted("program", &root, "rest", "").replace("/opt/own/program", "/bin/fixture"),
            "execute /bin/fixture".to_owned(),
            "No such file or directory",
        ),
        (
            "user",
            rooted("user", &root, "rest", "").replace("user: web", "user: nobody"),
            format!("look up the account in {shown}/etc"),
            "there is no user `nobody`",
        ),
        (
            "bad",
            rooted("bad", &root, "rest", "").replace("user: web", "user: bad"),
            format!("look up the account in {shown}/etc"),
            "the tree gives `bad` the uid 0; write `user: root` to mean it",
        ),
        (
            "target",
            rooted(
                "target",
                &root,
                "rest",
                "mounts: [{ from: /tmp, to: /missing }]",
            ),
            "mount /tmp at /missing".to_owned(),
            "No such file or directory",
        ),
        (
            "source",
            rooted(
                "source",
                &root,
                "rest",
                "mounts: [{ from: /nowhere, to: /data }]",
            ),
            "open the source of the mount /nowhere at /data".to_owned(),
            "No such file or directory",
        ),
    ];
    let once = "    recovery: { restart: never }\n";
    let text: String = cases
        .iter()
        .map(|(_, text, ..)| format!("{}\n{once}", text.trim_end()))
        .collect();
    let agent = Agent::start(&manifest(&text));
    for (name, _, stage, why) in &cases {
        let start = agent.wait_for_event::<Start>(name).details;
        let error = start.error().unwrap();
        assert_eq!(
            (error.stage.as_str(), error.error.as_str()),
            (stage.as_str(), *why),
            "{name}"
        );
    }
}

/// Who owns the tree may plant links in it. They lead nowhere else, and nothing is made by them.
#[test]
fn planted_links_in_a_root_lead_nowhere() {
    let root = tree("root-with-links");
    let data = open_folder("data-of-links");
    fs::create_dir_all("/tmp/planted-target/sub").unwrap();
    for place in ["run", "data", "seen"] {
        fs::remove_dir(root.join(place)).unwrap();
    }
    // The way out by an absolute link, by `..`, and by a link of /proc.
    symlink("/tmp/planted-target", root.join("data")).unwrap();
    symlink("../../../../tmp/planted-run", root.join("run")).unwrap();
    symlink("/proc/self/root/tmp/planted-target", root.join("seen")).unwrap();
    for folder in ["tmp/planted-target", "tmp/planted-run"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    chown(&root, Some(WEB), Some(WEB)).unwrap();
    let mounts = "mounts: [{ from: /tmp/data-of-links, to: /data }]";
    let magic = "mounts: [{ from: /tmp/data-of-links, to: /seen }]\nrecovery: { restart: never }";
    // The tree's own passwd names a home, which is a link as well.
    let accounts = format!("web:x:{WEB}:{WEB}::/data:\nhomed:x:72:72::/home/homed:\n");
    fs::write(root.join("etc/passwd"), accounts).unwrap();
    fs::create_dir_all(root.join("home")).unwrap();
    symlink("/tmp/planted-target", root.join("home/homed")).unwrap();
    fs::write("/tmp/planted-target/of-the-host", "x").unwrap();
    let homed = rooted("homed", &root, "rest", "sandbox: default");
    let homed = homed.replace("user: web", "user: \"72:72\"");
    let mut text = homed + &rooted("led", &root, "rest", mounts);
    text.push_str(&rooted("magic", &root, "rest", magic));
    let agent = Agent::start(&manifest(&text));
    let pid = pid_of(&agent.wait_for_state("led", WorkloadState::Running));
    // The links were followed in the tree.
    fs::write(data.join("here"), "x").unwrap();
    assert!(inside(pid, "/tmp/planted-target/here").exists());
    let mounts = mounts_of(&pid.to_string());
    assert!(
        mounts.iter().any(|mount| mount == "/tmp/planted-run"),
        "{mounts:?}"
    );
    let error = agent.wait_for_event::<Start>("magic").details;
    let error = error.error().unwrap().clone();
    assert_eq!(error.stage, "mount /tmp/data-of-links at /seen");
    let homed = pid_of(&agent.wait_for_state("homed", WorkloadState::Running));
    assert!(inside(homed, "/home").exists());
    assert!(!inside(homed, "/home/homed/of-the-host").exists());
    // The host has neither a mount nor a file more.
    let entries: Vec<_> = fs::read_dir("/tmp/planted-target").unwrap().collect();
    assert_eq!(entries.len(), 2);
    assert!(
        mounts_of("self")
            .iter()
            .all(|mount| !mount.contains("planted"))
    );
}

/// Ends a thread when this is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A place that becomes a link and a folder again while mounts are attached.
#[test]
fn places_that_are_swapped_during_starts_lead_nowhere() {
    let root = tree("root-swapped");
    open_folder("data-swapped");
    fs::create_dir_all("/tmp/swapped-target").unwrap();
    fs::create_dir_all(root.join("tmp/swapped-target")).unwrap();
    symlink("/tmp/swapped-target", root.join("other")).unwrap();
    let more = "mounts: [{ from: /tmp/data-swapped, to: /data }]";
    let agent = Agent::start(&manifest(&rooted("web", &root, "rest", more)));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (data, other) = (root.join("data"), root.join("other"));
            while !is_over.load(Ordering::Relaxed) {
                let exchange = RenameFlags::RENAME_EXCHANGE;
                renameat2(AT_FDCWD, &data, AT_FDCWD, &other, exchange).unwrap();
                // Other tests run on the same CPUs.
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        // Also if the test fails.
        let _end = End(&is_over);
        for _ in 0..10 {
            let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
            let mounts = mounts_of(&pid.to_string());
            let places = ["/data", "/other", "/tmp/swapped-target"];
            assert!(
                mounts.iter().any(|mount| places.contains(&mount.as_str())),
                "{mounts:?}"
            );
            let on_host = mounts_of("self");
            assert!(
                on_host.iter().all(|mount| !mount.contains("swapped")),
                "{on_host:?}"
            );
            assert!(agent.cli(&["restart", "web"]).status.success());
        }
    });
    assert_eq!(fs::read_dir("/tmp/swapped-target").unwrap().count(), 0);
}

/// Mounts without a root are the host's files with something else in them.
#[test]
fn mounts_without_a_root_are_the_workloads_alone() {
    let data = open_folder("data-alone");
    fs::create_dir_all("/tmp/place-alone").unwrap();
    fs::create_dir_all(SHARED).unwrap();
    mount_memory(SHARED);
    let none = None::<&str>;
    mount(none, SHARED, none, MsFlags::MS_SHARED, none).unwrap();
    let own = format!("{SHARED}/own");
    fs::create_dir_all(&own).unwrap();
    let more = format!(
        "mounts: [{{ from: /tmp/data-alone, to: /tmp/place-alone }}]
        tmpfs: [/tmp/opt-alone, {own}]
        after_start: [[/bin/fixture, append, /tmp/place-alone/after, x]]"
    );
    fs::create_dir_all("/tmp/opt-alone").unwrap();
    let text = workload("web", "rest", &more) + &workload("other", "rest", "");
    let agent = Agent::start(&manifest(&text));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    let other = pid_of(&agent.wait_for_state("other", WorkloadState::Running));
    wait_for("a command after the start", || {
        data.join("after").exists().then_some(())
    });
    assert!(inside(pid, "/tmp/place-alone/after").exists());
    fs::write(inside(pid, "/tmp/opt-alone/x"), "x").unwrap();
    assert!(!inside(other, "/tmp/place-alone/after").exists());
    assert!(!Path::new("/tmp/opt-alone/x").exists());
    // The mount around it passes on what is mounted in it, but not what a workload mounts.
    assert!(mounts_of(&pid.to_string()).contains(&own));
    assert!(!mounts_of("self").contains(&own));
    // What is mounted on the host later is seen, and can be unmounted.
    let later = format!("{SHARED}/later");
    fs::create_dir_all(&later).unwrap();
    mount_memory(&later);
    fs::write(format!("{later}/x"), "x").unwrap();
    assert!(inside(pid, &later).join("x").exists());
    nix::mount::umount(later.as_str()).unwrap();
    assert!(!inside(pid, &later).join("x").exists());
}

/// A mount that passes on what is mounted below it, as all of a host's usually do.
const SHARED: &str = "/tmp/shared-mounts";

fn mount_memory(place: &str) {
    let (none, flags) = (None::<&str>, MsFlags::empty());
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, none).unwrap();
}
