//! Credentials: files that one workload sees, and no one else.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::Start;
use enforcer_tests::agent::{Agent, pid_of, send};
use enforcer_tests::{kernel, wait_for};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The uid and the gid of `web`.
const WEB: u32 = 1000;

/// A file that everyone may append to.
fn open_to_all(path: &str) {
    fs::write(path, "").unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o666)).unwrap();
}

/// A file of root's that no one else may read.
fn secret(path: &str, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o400)).unwrap();
}

fn environ(pid: u32) -> String {
    let read = fs::read(format!("/proc/{pid}/environ")).unwrap();
    String::from_utf8_lossy(&read).replace('\0', "\n")
}

/// Returns the folder as the host's processes see it, and as this process does.
fn folders(pid: u32) -> (PathBuf, PathBuf) {
    let environ = environ(pid);
    let mut lines = environ.lines();
    let path = lines.find_map(|line| line.strip_prefix("CREDENTIALS_DIRECTORY="));
    let path = PathBuf::from(path.unwrap());
    let inside = Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap());
    (path, inside)
}

fn last_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_workload_alone_sees_its_credentials() {
    secret("/run/credential-db", "s3cret-one\n");
    for file in ["/tmp/credential-before", "/tmp/credential-probed"] {
        open_to_all(file);
    }
    let more = "credentials: { db: /run/credential-db }
        before_start: [[/bin/fixture, credential, db, /tmp/credential-before]]
        probes: { liveness: { exec: { command: [/bin/fixture, credential, db, /tmp/credential-probed] }, period: 1h, timeout: 60s } }
        recovery: { backoff: off }";
    let text = workload("web", "rest", more) + &workload("sibling", "rest", "");
    let mut agent = Agent::start(&manifest(&text));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    let sibling = pid_of(&agent.wait_for_state("sibling", WorkloadState::Running));
    let (path, inside) = folders(pid);

    // The program has a copy that it may read and not change.
    let file = inside.join("db");
    assert_eq!(fs::read_to_string(&file).unwrap(), "s3cret-one\n");
    let found = fs::metadata(&file).unwrap();
    assert_eq!(
        (found.uid(), found.gid(), found.mode() & 0o7777),
        (WEB, WEB, 0o400)
    );
    assert_eq!(fs::metadata(&inside).unwrap().mode() & 0o7777, 0o500);
    let error = fs::write(&file, "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EROFS));
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mount = mounts
        .lines()
        .find(|line| line.contains(path.to_str().unwrap()));
    let mount = mount.unwrap();
    let options: Vec<&str> = mount.split(' ').nth(5).unwrap().split(',').collect();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options.contains(&option), "{mount}");
    }
    let never_swapped = match kernel::release().starts_with("6.1.") {
        true => mount.contains(" - ramfs "),
        false => mount.contains(" - tmpfs ") && mount.contains("noswap"),
    };
    assert!(never_swapped, "{mount}");

    // Nobody else sees it, and it stands nowhere else.
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    let of_sibling =
        Path::new(&format!("/proc/{sibling}/root")).join(path.strip_prefix("/").unwrap());
    assert_eq!(fs::read_dir(of_sibling).unwrap().count(), 0);
    let filter = fs::read_to_string(format!("/proc/{pid}/coredump_filter")).unwrap();
    assert_eq!(filter.trim(), "00000000");
    let shown = |arguments: &[&str]| {
        let output = agent.cli(arguments);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let all = [
        shown(&["inspect", "web"]),
        shown(&["inspect", "web", "--json"]),
        shown(&["events"]),
        environ(pid),
    ];
    assert!(all.iter().all(|text| !text.contains("s3cret")));
    assert_eq!(agent.inspect("web").credentials, ["db"]);

    // Commands see it as the program does.
    assert_eq!(last_line("/tmp/credential-before"), "s3cret-one");
    assert!(agent.cli(&["probe", "web"]).status.success());
    assert_eq!(last_line("/tmp/credential-probed"), "s3cret-one");

    // Another agent's commands do so too, and each start reads the file anew.
    agent.kill();
    secret_again("/run/credential-db", "s3cret-two");
    agent.start_again();
    fs::write("/tmp/credential-probed", "").unwrap();
    assert!(agent.cli(&["probe", "web"]).status.success());
    assert_eq!(last_line("/tmp/credential-probed"), "s3cret-one");
    send(&agent.workload("web"), Signal::SIGKILL);
    wait_for("the copy of the next instance", || {
        let view = agent.workload("web");
        let pid = view.pid.filter(|now| *now != pid)?;
        let (_, inside) = folders(pid);
        let text = fs::read_to_string(inside.join("db")).ok()?;
        (text == "s3cret-two").then_some(())
    });
    wait_for("the next before_start", || {
        (last_line("/tmp/credential-before") == "s3cret-two").then_some(())
    });

    assert!(agent.cli(&["stop", "web"]).status.success());
    wait_for("the folder to go", || (!path.exists()).then_some(()));
    let left = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!left.contains(path.to_str().unwrap()));
}

/// Replaces a file that only root can read.
fn secret_again(path: &str, text: &str) {
    fs::remove_file(path).unwrap();
    secret(path, text);
}

#[test]
fn a_credential_that_cannot_be_read_is_a_start_error() {
    fs::create_dir_all("/tmp/credentials-of-web").unwrap();
    std::os::unix::fs::chown("/tmp/credentials-of-web", Some(WEB), Some(WEB)).unwrap();
    secret("/run/credential-of-root", "s3cret");
    // The workload's user could have made this link.
    symlink("/run/credential-of-root", "/tmp/credentials-of-web/link").unwrap();
    secret("/run/credential-half", &"x".repeat(600 << 10));
    secret("/run/credential-all", &"x".repeat(1 << 20));
    let cases = [
        (
            "missing",
            "{ a: /run/credential-nowhere }",
            "read its credential a from /run/credential-nowhere",
            "No such file or directory",
        ),
        (
            "led",
            "{ a: /tmp/credentials-of-web/link }",
            "read its credential a from /tmp/credentials-of-web/link",
            "Permission denied",
        ),
        (
            "device",
            "{ a: /dev/zero }",
            "read its credential a from /dev/zero",
            "it is not a regular file",
        ),
        (
            "large",
            "{ a: /run/credential-half, b: /run/credential-half }",
            "read its credential b from /run/credential-half",
            "all credentials of the workload together are longer than 1 MiB",
        ),
    ];
    let mut text = workload("full", "rest", "credentials: { a: /run/credential-all }");
    for (name, credentials, ..) in cases {
        let more = format!("credentials: {credentials}\nrecovery: {{ restart: never }}");
        text.push_str(&workload(name, "rest", &more));
    }
    let agent = Agent::start(&manifest(&text));
    for (name, _, stage, why) in cases {
        let start = agent.wait_for_event::<Start>(name).details;
        let error = start.error().unwrap();
        assert_eq!((error.stage.as_str(), error.error.as_str()), (stage, why));
    }
    let full = pid_of(&agent.wait_for_state("full", WorkloadState::Running));
    let (_, inside) = folders(full);
    assert_eq!(fs::metadata(inside.join("a")).unwrap().len(), 1 << 20);
}
