//! `apt-get install`, an upgrade, and `apt-get purge`.

use super::*;

/// As a person installs or upgrades it.
fn apt_install(revision: u32) {
    sh(&format!("apt-get install -y /root/enforcer_{revision}.deb"));
}

#[test]
fn the_package_leaves_the_system_as_it_found_it() {
    let _ = before();
    if shell("dpkg-query -W enforcer").status.success() {
        purge();
    }
    // The tests before may have left files of other programs, such as an engine's, and none of this package.
    let found = host();
    let of_package = |all: &BTreeSet<String>| -> Vec<String> {
        let named = all.iter().filter(|line| line.contains("enforcer"));
        named.cloned().collect()
    };
    assert_eq!(of_package(&found), of_package(before()));
    apt_install(1);
    assert_eq!(
        sh("systemctl is-active enforcer enforcer-workloads"),
        "active\nactive"
    );
    assert_eq!(sh("systemctl is-enabled enforcer"), "enabled");
    // Nothing to run yet is nothing wrong.
    assert_eq!(sh("enforcer ps --json | grep -c '\"name\"' || true"), "0");
    put_manifest("rest");
    let pid = running();
    for place in [
        "/usr/share/man/man1/enforcer.1",
        "/usr/share/man/man1/enforcer-run.1",
        "/usr/share/bash-completion/completions/enforcer",
        "/usr/share/doc/enforcer/examples/web.yaml",
    ] {
        assert!(Path::new(place).exists(), "{place}");
    }
    assert_eq!(
        sh("stat -c '%a %G' /run/enforcer/enforcer.sock"),
        "660 enforcer"
    );
    assert_eq!(sh("stat -c %a /var/lib/enforcer"), "700");
    // What an administrator has written stays.
    sh("apt-get purge -y enforcer");
    assert!(!lives(pid), "{}", journal());
    assert!(Path::new(MANIFEST).exists());
    sh("rm -r /etc/enforcer");
    let after = host();
    let lost: Vec<_> = found.difference(&after).collect();
    let left: Vec<_> = after.difference(&found).collect();
    assert!(
        lost.is_empty() && left.is_empty(),
        "lost: {lost:?}, left: {left:?}"
    );
    // And with nothing written, nothing is left at all.
    apt_install(1);
    sh("apt-get purge -y enforcer");
    assert_eq!(host(), found);
}

#[test]
fn removed_and_installed_again_it_runs() {
    install_anew();
    put_manifest("rest");
    let pid = running();
    // Nobody is there who knows its grace.
    sh("systemctl disable --now enforcer");
    sh("apt-get remove -y enforcer");
    assert!(!lives(pid), "{}", journal());
    sh("apt-get install -y /root/enforcer_1.deb && systemctl enable --now enforcer");
    running();
    purge();
}

#[test]
fn an_upgrade_leaves_every_process_alone() {
    install_anew();
    put_manifest("rest");
    let pid = running();
    let before = agent().unwrap();
    apt_install(2);
    next_agent(before);
    assert_eq!(running(), pid);
    assert_eq!(workload().unwrap().restarts, 0);
    assert!(sh("dpkg-query -W -f '${Version}' enforcer").ends_with("-2"));
    // The history goes on where the one before has ended.
    let reported = sh(
        "sqlite3 -readonly /var/lib/enforcer/history.db 'select count(*), count(distinct seq), max(seq) from events'",
    );
    let counts: Vec<&str> = reported.split('|').collect();
    assert_eq!(counts[0], counts[1], "{reported}");
    assert_eq!(counts[1], counts[2], "{reported}");
    assert!(sh("enforcer events --kind adopt").contains("web"));
    purge();
}
