//! The package of a fleet, as its document says to use it, on a host that is the whole fleet: units, rights, and what a host refuses.

use super::super::*;
use super::Etcd;
use serde_json::Value;
use std::fs;

const CONFIG: &str = "/etc/enforcer/fleet.yaml";

fn put(path: &str, text: &str) {
    fs::write(path, text).unwrap();
}

/// Returns the rows of `ps`.
fn rows() -> Option<Vec<Value>> {
    let shown = shell("enforcer-fleet ps -o json");
    serde_json::from_slice(&shown.stdout).ok()
}

fn wait_for_states(wanted: &[(&str, &str)]) -> Vec<Value> {
    wait_for("the replicas", || {
        let rows = rows()?;
        let found = rows
            .iter()
            .map(|row| (row["replica"].as_str(), row["state"].as_str()));
        let wanted = wanted
            .iter()
            .map(|(replica, state)| (Some(*replica), Some(*state)));
        found.eq(wanted).then_some(rows)
    })
}

/// The file of the units' settings, for one etcd on loopback.
fn config(more: &str) -> String {
    format!(
        "etcd:\n  endpoints: [\"http://127.0.0.1:23780\"]\n  grace: 20s\nnode: {{ name: only, address: 127.0.0.1 }}\n\
         allow:\n  users: [web]\n  ports: [18200-18299]\n  memory: 200M\n{more}"
    )
}

fn workload(name: &str, more: &str) -> String {
    format!(
        "  {name}:\n    command: [/usr/bin/fixture, rest]\n    cgroup: {{ memory.max: 32M }}\n    {more}\n"
    )
}

#[test]
fn the_package_runs_a_fleet_of_one_host() {
    install_anew();
    put_manifest("rest");
    let own = running();
    sh("dpkg --install /root/enforcer-fleet_1.deb");
    // The agent was replaced, to learn whose the file is, and its workload runs on.
    assert_eq!(running(), own);
    for place in [
        "/usr/share/man/man1/enforcer-fleet.1",
        "/usr/share/man/man1/enforcer-fleet-apply.1",
        "/usr/share/doc/enforcer-fleet/examples/fleet.yaml",
        "/usr/share/doc/enforcer-fleet/fleet.schema.json",
        "/usr/share/bash-completion/completions/enforcer-fleet",
    ] {
        assert!(Path::new(place).exists(), "{place}");
    }
    // Without settings it does nothing, and says so.
    let missing = shell("enforcer-fleet ps");
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains(CONFIG), "{said}");

    let etcd = Etcd::start("packaged", 23780, &[]);
    drop(etcd.ready());
    put(CONFIG, &config(""));
    sh(&format!(
        "chown root:enforcer-fleet {CONFIG}; chmod 640 {CONFIG}"
    ));
    sh("systemctl enable --now enforcer-fleet-node enforcer-fleet-schedule");
    let mut text = "version: 2\nworkloads:\n".to_owned();
    text += &workload("good", "user: web\n    replicas: 2");
    text += &workload(
        "single",
        "user: web\n    singleton: true\n    stop: { grace: 1s }",
    );
    text += &workload("root", "user: root");
    text += &workload("web", "user: web");
    text += &workload("port", "user: web\n    ports: { ssh: { port: 22 } }");
    put("/root/fleet.yaml", &text);
    sh("enforcer-fleet apply -f /root/fleet.yaml");
    let rows = wait_for_states(&[
        ("good/0", "ready"),
        ("good/1", "ready"),
        ("port/0", "waits"),
        ("root/0", "waits"),
        ("single/0", "ready"),
        ("web/0", "waits"),
    ]);
    // Each refusal has its reason.
    let why = |workload: &str| sh(&format!("enforcer-fleet why {workload}"));
    for (workload, reason) in [
        ("port", "that refuse it"),
        ("root", "that refuse it"),
        ("web", "that refuse it"),
    ] {
        let told = why(workload);
        assert!(told.contains(reason), "{told}\n{rows:?}");
    }
    // A heartbeat tells of the host.
    wait_for("the agent's version", || {
        let shown = shell("enforcer-fleet nodes -o json");
        let rows: Vec<Value> = serde_json::from_slice(&shown.stdout).ok()?;
        let version = rows.first()?["agent"].as_str()?.to_owned();
        sh("enforcer --version").ends_with(&version).then_some(())
    });
    // The agent's own files are as they were, and the fleet's is of the fleet's user.
    let listed = sh("enforcer ps --json");
    let listed: Workloads = serde_json::from_str(&listed).unwrap();
    let of = |name: &str| {
        listed
            .workloads
            .iter()
            .find(|view| view.name.to_string() == name)
    };
    assert_eq!(of("web").unwrap().delegate, None);
    let good = of("good/0").unwrap();
    assert_eq!(good.delegate.as_deref(), Some("enforcer-fleet"));
    assert_eq!(
        sh("stat -c %U:%a /etc/enforcer/workloads.d/enforcer-fleet.yaml"),
        "root:600"
    );
    let refused = shell(
        "setpriv --reuid enforcer-fleet --regid enforcer-fleet --groups enforcer enforcer stop web",
    );
    assert!(!refused.status.success());
    // Whoever has the fleet's user has no more rights than the host gives the fleet.
    let mut text = "version: 1\nworkloads:\n".to_owned();
    text += &workload("shell", "user: root");
    put("/tmp/enforcer-fleet.yaml", &text);
    let refused = shell(
        "setpriv --reuid enforcer-fleet --regid enforcer-fleet --groups enforcer enforcer apply -f /tmp/enforcer-fleet.yaml",
    );
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("the user root is not allowed here"), "{said}");

    // Its units end and start without its workloads.
    sh(
        "systemctl restart enforcer-fleet-node enforcer-fleet-schedule; systemctl kill -s KILL enforcer-fleet-node",
    );
    std::thread::park_timeout(Duration::from_secs(5));
    let again = sh("enforcer ps --json");
    let again: Workloads = serde_json::from_str(&again).unwrap();
    let mut views = again.workloads.iter();
    let same = views
        .find(|view| view.name.to_string() == "good/0")
        .unwrap();
    assert_eq!(same.pid, good.pid);
    assert_eq!(sh("systemctl is-active enforcer-fleet-node"), "active");
    // The node goes on with the deadline as well.
    std::thread::park_timeout(Duration::from_secs(20));
    wait_for_states(&[
        ("good/0", "ready"),
        ("good/1", "ready"),
        ("port/0", "waits"),
        ("root/0", "waits"),
        ("single/0", "ready"),
        ("web/0", "waits"),
    ]);

    for name in ["good", "single", "root", "web", "port"] {
        sh(&format!("enforcer-fleet remove {name}"));
    }
    wait_for_states(&[]);
    wait_for("the fleet's workloads to go", || {
        let listed = sh("enforcer ps --json");
        let listed: Workloads = serde_json::from_str(&listed).ok()?;
        (listed.workloads.len() == 1).then_some(())
    });
    assert_eq!(running(), own);
    let missing = shell("enforcer-fleet remove good");
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");
    // Without etcd a command says so.
    drop(etcd);
    let gone = shell("enforcer-fleet ps");
    assert_eq!(gone.status.code(), Some(5), "{gone:?}");
    sh(
        "systemctl disable --now enforcer-fleet-node enforcer-fleet-schedule; dpkg --purge enforcer-fleet",
    );
    assert!(!shell("getent passwd enforcer-fleet").status.success());
    purge();
}

/// A file of the certificates that tests have.
macro_rules! certificate {
    ($name:literal) => {
        include_str!(concat!("../../../../enforcer/src/tls/testdata/", $name))
    };
}

/// Starts an etcd that speaks TLS, with this certificate.
fn start_with(certificate: &str) -> enforcer_tests::fleet::Program {
    let _ = fs::remove_dir_all("/tmp/etcd-tls");
    let etcd = Command::new("/usr/bin/etcd")
        .args(["--data-dir", "/tmp/etcd-tls", "--log-level", "error"])
        .args(["--listen-client-urls", "https://127.0.0.1:23782"])
        .args(["--advertise-client-urls", "https://127.0.0.1:23782"])
        .args(["--cert-file", &format!("/root/{certificate}.pem")])
        .args(["--key-file", &format!("/root/{certificate}.key")])
        .args(["--listen-peer-urls", "http://127.0.0.1:23783"])
        .args(["--initial-advertise-peer-urls", "http://127.0.0.1:23783"])
        .args(["--initial-cluster", "default=http://127.0.0.1:23783"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    enforcer_tests::fleet::Program(etcd.unwrap())
}

/// etcd over TLS, with certificates of authorities of its own.
#[test]
fn etcd_is_reached_over_tls_and_a_stranger_is_not() {
    put("/root/server.pem", certificate!("server.pem"));
    put("/root/server.key", certificate!("server.key"));
    put("/root/ca.pem", certificate!("ca.pem"));
    put("/root/other.pem", certificate!("own.pem"));
    put("/root/expired.pem", certificate!("expired.pem"));
    put("/root/expired.key", certificate!("expired.key"));
    put("/root/expired-ca.pem", certificate!("expired-ca.pem"));
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    put(
        "/etc/hosts",
        &format!("{hosts}\n127.0.0.1 localhost other\n"),
    );
    let program = "/root/enforcer-fleet";
    sh(&format!(
        "dpkg-deb --fsys-tarfile /root/enforcer-fleet_1.deb | tar -xO ./usr/bin/enforcer-fleet >{program}; chmod 755 {program}"
    ));
    let ask = |endpoint: &str, authority: &str| {
        let config =
            format!("etcd: {{ endpoints: [\"{endpoint}\"], ca_file: /root/{authority}.pem }}\n");
        put("/root/tls.yaml", &config);
        shell(&format!("{program} --config /root/tls.yaml nodes"))
    };
    let said = |output: &Output| {
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let own = "https://localhost:23782";
    let etcd = start_with("server");
    wait_for("etcd over TLS", || {
        ask(own, "ca").status.success().then_some(())
    });
    // Another authority, and another name than the certificate's.
    for (endpoint, authority) in [(own, "other"), ("https://other:23782", "ca")] {
        let refused = said(&ask(endpoint, authority));
        assert!(refused.contains("certificate"), "{refused}");
    }
    drop(etcd);
    let expired = start_with("expired");
    wait_for("the certificate that has expired", || {
        said(&ask(own, "expired-ca"))
            .contains("certificate expired")
            .then_some(())
    });
    // Without TLS nothing leaves the host.
    let open = said(&ask("http://10.1.2.3:2379", "ca"));
    assert!(open.contains("loopback"), "{open}");
    put("/etc/hosts", &hosts);
    drop(expired);
    sh(&format!("rm -r /tmp/etcd-tls {program}"));
}
