//! Servers that people run, with two replicas each behind the gate: a restart of all loses no connection.

use super::*;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

const MANIFEST: &str = "/etc/enforcer/workloads.d/traffic.yaml";

/// A server, its port, its command, and what a client says and is answered.
const SERVERS: [(&str, u16, &str, &str, &str); 4] = [
    // Written in Go.
    (
        "etcd",
        18102,
        "[/usr/bin/etcd, --data-dir, \"/tmp/traffic/etcd-{replica}\", --listen-client-urls, \
         \"http://127.0.0.1:18102\", --advertise-client-urls, \"http://127.0.0.1:18102\", --listen-peer-urls, \
         \"http://127.0.0.1:1812{replica}\", --initial-advertise-peer-urls, \"http://127.0.0.1:1812{replica}\", \
         --initial-cluster, \"default=http://127.0.0.1:1812{replica}\"]",
        "GET /version HTTP/1.0\r\n\r\n",
        "etcdserver",
    ),
    (
        "nginx",
        18107,
        "[/usr/sbin/nginx, -c, /tmp/traffic/nginx.conf, -g, \"pid /tmp/traffic/nginx-{replica}.pid;\"]",
        "GET / HTTP/1.0\r\n\r\n",
        "served",
    ),
    (
        "node",
        18108,
        "[/usr/bin/node, /tmp/traffic/server.js]",
        "GET / HTTP/1.0\r\n\r\n",
        "served",
    ),
    (
        "redis",
        18110,
        "[/usr/bin/redis-server, --port, \"18110\", --bind, 127.0.0.1, --save, \"\", --dir, /tmp/traffic]",
        "PING\r\nQUIT\r\n",
        "+PONG",
    ),
];

const MAKE: &str = r#"
set -e
mkdir -p -m 0777 /tmp/traffic
cd /tmp/traffic
cat >nginx.conf <<'END'
daemon off;
worker_processes 2;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/traffic/body;
  proxy_temp_path /tmp/traffic/proxy;
  fastcgi_temp_path /tmp/traffic/fastcgi;
  uwsgi_temp_path /tmp/traffic/uwsgi;
  scgi_temp_path /tmp/traffic/scgi;
  server { listen 127.0.0.1:18107; location / { return 200 "served\n"; } }
}
END
echo "require('http').createServer((question, answer) => answer.end('served')).listen(18108, '127.0.0.1');" >server.js
"#;

fn manifest() -> String {
    let mut text = "version: 1\nworkloads:\n".to_owned();
    for (name, port, command, ..) in SERVERS {
        let check = match name {
            "redis" => format!("tcp: {{ port: {port} }}"),
            "etcd" => format!("http: {{ port: {port}, path: /version }}"),
            _ => format!("http: {{ port: {port}, path: / }}"),
        };
        text.push_str(&format!(
            "  {name}: {{ user: web, command: {command}, replicas: 2, ports: {{ main: {{ port: {port} }} }}, \
             unready_wait: 10m, rollout: {{ drain: 10m, deadline: 1h }}, recovery: {{ budget: off }}, \
             cgroup: {{ memory.max: 384M }}, \
             probes: {{ readiness: {{ {check}, period: 1s, timeout: 10s }} }} }}\n"
        ));
    }
    text
}

/// Asks once, on a connection of its own.
fn ask(port: u16, question: &str, answer: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(question.as_bytes())?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    match text.contains(answer) {
        true => Ok(()),
        false => Err(io::Error::other(format!("answered {text:?}"))),
    }
}

struct Client {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Vec<String>)>,
}

impl Client {
    /// Asks one time after the other, and never again for what has failed.
    fn begin(
        (name, port, _, question, answer): (&'static str, u16, &str, &'static str, &'static str),
    ) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let (mut asked, mut failures) = (0, Vec::new());
            while !until.load(Ordering::Relaxed) {
                asked += 1;
                if let Err(error) = ask(port, question, answer) {
                    failures.push(format!("{name}: {error}"));
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
            (asked, failures)
        });
        Self { ended, thread }
    }

    fn end(self) -> (usize, Vec<String>) {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Restarts all replicas of a server, one by one.
fn restart(name: &str) {
    let route = format!("enforcer restart {name}");
    let asked = std::thread::spawn(move || shell(&route));
    wait_for(&format!("{name} to be restarted"), || {
        asked.is_finished().then_some(())
    });
    let output = asked.join().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}: {text}\n{}", journal());
    let _ = writeln!(io::stderr().lock(), "{name} was restarted");
}

#[test]
fn servers_that_people_run_lose_no_connection_when_they_are_restarted() {
    install_anew();
    sh(MAKE);
    fs::write(MANIFEST, manifest()).unwrap();
    sh("systemctl reload enforcer");
    for (name, ..) in SERVERS {
        wait_for(&format!("two replicas of {name}"), || {
            let shown = shell(&format!("enforcer rollout status {name}"));
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            shown.contains("2 of 2 replicas ready").then_some(())
        });
    }
    let clients: Vec<Client> = SERVERS.into_iter().map(Client::begin).collect();
    for (name, ..) in SERVERS {
        restart(name);
    }
    // An agent that is killed is followed by another one, and the gate goes on.
    sh("systemctl kill --signal=KILL --kill-whom=main enforcer");
    wait_for("another agent", || {
        shell("enforcer ps").status.success().then_some(())
    });
    restart("nginx");
    let ended = clients.into_iter().map(Client::end);
    for ((name, ..), (asked, failures)) in SERVERS.into_iter().zip(ended) {
        assert!(
            failures.is_empty(),
            "{} of {asked}: {failures:?}",
            failures.len()
        );
        assert!(asked > 20, "{name}: {asked}");
        println!("{name}: {asked} connections");
    }
    fs::remove_file(MANIFEST).unwrap();
    sh("systemctl reload enforcer");
    sh("enforcer apply --prune");
    sh("rm -rf /tmp/traffic");
    purge();
}
