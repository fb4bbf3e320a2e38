//! `apt-get install`, an upgrade, and `apt-get purge`.

use super::*;

/// Every file but what the package manager itself keeps, the accounts, the units, and
/// what is left in the kernel.
fn host() -> String {
    sh(
        "find / -xdev \\( -path /var/lib/dpkg -o -path /var/cache -o -path /var/log -o -path /var/lib/apt \
        -o -path /tmp -o -path /root -o -path '/etc/*-' -o -path /etc/.pwd.lock -o -path /var/lib/systemd/deb-systemd-helper-enabled \
        -o -path /etc/ld.so.cache \\) -prune -o -print | sort; getent group | sort; ls /run | grep enforcer || true; \
        systemctl list-unit-files --no-legend 'enforcer*' || true; systemctl list-units --all --no-legend 'enforcer*' || true; \
        ls /sys/fs/bpf/enforcer /sys/fs/cgroup/enforcer.slice 2>/dev/null || true",
    )
}

#[test]
fn the_package_leaves_the_system_as_it_found_it() {
    let before = host();
    install_anew();
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
    purge();
    assert!(!lives(pid), "{}", journal());
    let after = host();
    let lost: Vec<&str> = before
        .lines()
        .filter(|line| !after.contains(line))
        .collect();
    let left: Vec<&str> = after
        .lines()
        .filter(|line| !before.contains(line))
        .collect();
    assert!(
        lost.is_empty() && left.is_empty(),
        "lost: {lost:?}, left: {left:?}"
    );
}

#[test]
fn an_upgrade_leaves_every_process_alone() {
    install_anew();
    put_manifest("rest");
    let pid = running();
    let before = agent().unwrap();
    install(2);
    next_agent(before);
    assert_eq!(running(), pid);
    assert_eq!(workload()["restarts"], 0);
    assert!(sh("dpkg-query -W -f '${Version}' enforcer").ends_with("-2"));
    // The history goes on where the one before has ended.
    let told = sh(
        "sqlite3 -readonly /var/lib/enforcer/history.db 'select count(*), count(distinct seq), max(seq) from events'",
    );
    let counts: Vec<&str> = told.split('|').collect();
    assert_eq!(counts[0], counts[1], "{told}");
    assert_eq!(counts[1], counts[2], "{told}");
    assert!(sh("enforcer events --kind adopt").contains("web"));
    purge();
}
