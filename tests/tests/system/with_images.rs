//! A Compose file with nine services runs without an engine: each image is a bundle as umoci makes it. No registry can be asked
//! here, so the files are Debian's own; commands, variables, users, ports and health checks are those of the images.

use super::*;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

const FOLDER: &str = "/srv/nine";
const MANIFEST: &str = "/etc/enforcer/workloads.d/nine.yaml";

/// The services: their command as in the image's configuration, and the number of its user.
const IMAGES: [(&str, &str, u32); 9] = [
    (
        "balancer",
        r#"["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]"#,
        1000,
    ),
    (
        "cache",
        r#"["redis-server", "--port", "18402", "--save", "", "--dir", "/tmp"]"#,
        1000,
    ),
    ("db", r#"["docker-entrypoint.sh", "postgres"]"#, 1000),
    (
        "files",
        r#"["lighttpd", "-D", "-f", "/etc/lighttpd/shop.conf"]"#,
        1000,
    ),
    ("gateway", r#"["nginx", "-g", "daemon off;"]"#, 0),
    ("queue", r#"["mosquitto", "-p", "18404"]"#, 1000),
    (
        "registry",
        r#"["etcd", "--data-dir", "/tmp/etcd", "--listen-client-urls", "http://127.0.0.1:18407", "--advertise-client-urls", "http://127.0.0.1:18407", "--listen-peer-urls", "http://127.0.0.1:18417", "--initial-advertise-peer-urls", "http://127.0.0.1:18417", "--initial-cluster", "default=http://127.0.0.1:18417"]"#,
        1000,
    ),
    (
        "sessions",
        r#"["memcached", "-p", "18405", "-l", "127.0.0.1"]"#,
        1000,
    ),
    ("web", r#"["node", "/app/server.js"]"#, 1000),
];

const COMPOSE: &str = r#"
name: shop
x-usual: &usual
  restart: unless-stopped
  security_opt: ["no-new-privileges:true"]
services:
  gateway:
    <<: *usual
    image: nginx:1.26
    ports: ["18400:18400"]
    volumes: ["./nginx.conf:/etc/nginx/nginx.conf:ro"]
    depends_on:
      web: { condition: service_healthy }
      files: { condition: service_started }
    healthcheck: { test: ["CMD-SHELL", "curl -fsS http://localhost:18400/ || exit 1"], interval: 5s, timeout: 30s, retries: 5 }
    mem_limit: 256m
  web:
    <<: *usual
    image: node:20
    environment: { PORT: "18401", CACHE: "cache:${CACHE_PORT:-18402}" }
    volumes: ["./app:/app:ro"]
    depends_on:
      cache: { condition: service_healthy }
      db: { condition: service_healthy }
    healthcheck: { test: ["CMD", "wget", "-qO-", "http://localhost:18401/"], interval: 5s, timeout: 30s }
    mem_limit: 512m
    mem_reservation: 128m
    cpus: 1.0
  cache:
    <<: *usual
    image: redis:8
    healthcheck: { test: ["CMD", "redis-cli", "-p", "18402", "ping"], interval: 5s, timeout: 30s }
    mem_limit: 128m
    memswap_limit: 128m
  db:
    <<: *usual
    image: postgres:17
    environment: [PGPORT=18403]
    volumes: ["db-data:/var/lib/postgresql/data"]
    healthcheck: { test: "pg_isready -h 127.0.0.1 -p 18403", interval: 5s, timeout: 30s, retries: 30 }
    mem_limit: 512m
    stop_signal: SIGINT
    stop_grace_period: 60s
  queue:
    <<: *usual
    image: eclipse-mosquitto:2
    healthcheck: { test: ["CMD-SHELL", "nc -z localhost 18404"], interval: 5s, timeout: 30s }
    pids_limit: 50
  sessions:
    <<: *usual
    image: memcached:1.6
    healthcheck: { test: ["CMD-SHELL", "nc -z 127.0.0.1 18405"], interval: 5s, timeout: 30s }
    ulimits: { nofile: { soft: 2048, hard: 4096 } }
  files:
    <<: *usual
    image: lighttpd:1.4
    volumes: ["./lighttpd.conf:/etc/lighttpd/shop.conf:ro", "./app:/srv/files:ro"]
    healthcheck: { test: wget -q --spider http://localhost:18406/server.js, interval: 5s, timeout: 30s }
  registry:
    <<: *usual
    image: etcd:3.5
    healthcheck: { test: ["CMD", "curl", "-f", "http://localhost:18407/health"], interval: 5s, timeout: 30s }
    mem_limit: 384m
  balancer:
    <<: *usual
    image: haproxy:3.0
    volumes: ["./haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro"]
    depends_on: [web]
    healthcheck: { test: ["CMD-SHELL", "nc -z localhost 18408"], interval: 5s, timeout: 30s }
volumes:
  db-data: {}
"#;

/// Makes the files of the services, and one root that each bundle has as its own.
const MAKE: &str = r#"
set -e
mkdir -p /srv/nine/app /srv/nine/base && cd /srv/nine
cat >app/server.js <<'END'
const [host, port] = process.env.CACHE.split(':');
require('http').createServer((question, answer) => {
  const cache = require('net').connect(port, host, () => cache.end('PING\r\n'));
  cache.on('data', (data) => answer.end('served, and the cache says ' + data));
  cache.on('error', (error) => { answer.statusCode = 500; answer.end(String(error)); });
}).listen(process.env.PORT);
END
cat >nginx.conf <<'END'
user root; worker_processes 1; error_log stderr; pid /tmp/nginx.pid;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  server { listen 18400; location / { proxy_pass http://web:18401; } location /files/ { proxy_pass http://files:18406/; } }
}
END
cat >lighttpd.conf <<'END'
server.document-root = "/srv/files"
server.port = 18406
END
cat >haproxy.cfg <<'END'
defaults
  mode http
  timeout client 1m
  timeout server 1m
  timeout connect 1m
listen front
  bind :18408
  server one web:18401
END
cd base
cp -al /usr usr
for folder in bin lib lib64 sbin; do ln -s usr/$folder $folder; done
cp -a /etc etc
mkdir -p proc sys dev run srv/files app var/lib/postgresql/data var/log/nginx var/lib/nginx usr/local/etc/haproxy usr/local/bin
mkdir -m 1777 tmp run/postgresql
touch usr/local/etc/haproxy/haproxy.cfg etc/lighttpd/shop.conf
cat >usr/local/bin/docker-entrypoint.sh <<'END'
#!/bin/sh
[ -s "$PGDATA/PG_VERSION" ] || initdb --username=web --auth=trust --no-sync "$PGDATA" >/dev/null
exec "$@" -c unix_socket_directories=/tmp -c listen_addresses=127.0.0.1
END
chmod 755 usr/local/bin/docker-entrypoint.sh
"#;

fn make() {
    sh(MAKE);
    fs::write(format!("{FOLDER}/compose.yaml"), COMPOSE).unwrap();
    for (name, arguments, user) in IMAGES {
        let bundle = format!("{FOLDER}/{name}");
        sh(&format!(
            "mkdir -p {bundle}/rootfs && mount --bind {FOLDER}/base {bundle}/rootfs"
        ));
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/usr/lib/postgresql/17/bin";
        let config = format!(
            r#"{{"ociVersion": "1.0.0", "process": {{"args": {arguments}, "cwd": "/", "user": {{"uid": {user}, "gid": {user}}},
            "env": ["PATH={path}", "PGDATA=/var/lib/postgresql/data/pgdata"]}}, "root": {{"path": "rootfs"}}}}"#
        );
        fs::write(format!("{bundle}/config.json"), config).unwrap();
    }
}

fn unmake() {
    for (name, ..) in IMAGES {
        sh(&format!("umount {FOLDER}/{name}/rootfs"));
    }
    sh(&format!("rm -rf {FOLDER}"));
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .ok()?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn await_health(name: Option<&str>) {
    let mut looks = 0;
    wait_for("healthy services", || {
        let listed = shell("enforcer ps --json");
        let listed: Workloads = serde_json::from_slice(&listed.stdout).ok()?;
        let well = listed.workloads.iter().filter(|one| {
            let is_meant = name.is_none_or(|name| one.name.to_string() == name);
            is_meant && one.ready
        });
        let expected = name.map_or(IMAGES.len(), |_| 1);
        looks += 1;
        if looks % 200 == 0 {
            let shown =
                shell("enforcer ps; enforcer events | tail -n 40; enforcer logs db | tail -n 20");
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            let _ = writeln!(std::io::stderr().lock(), "{shown}");
        }
        (well.count() == expected).then_some(())
    });
}

#[test]
fn nine_services_of_a_compose_file_run_from_their_images() {
    install_anew();
    make();
    let images: Vec<String> = IMAGES
        .iter()
        .map(|(name, ..)| format!("--image {name}={FOLDER}/{name}"))
        .collect();
    let import = format!(
        "enforcer import compose {} {FOLDER}/compose.yaml",
        images.join(" ")
    );
    let imported = shell(&format!("{import} >/tmp/nine.yaml"));
    let report = String::from_utf8_lossy(&imported.stderr).into_owned();
    assert!(imported.status.success(), "{report}");
    assert!(
        !report.contains("needs you") && !report.contains("dropped"),
        "{report}"
    );
    sh(&format!(
        "mv /tmp/nine.yaml {MANIFEST} && systemctl reload enforcer"
    ));
    await_health(None);

    // Services find each other by their names.
    for (port, path, expected) in [
        (18400, "/", "the cache says +PONG"),
        (18400, "/files/server.js", "createServer"),
        (18408, "/", "the cache says +PONG"),
    ] {
        let answer = wait_for("an answer", || {
            get(port, path).filter(|text| text.contains(expected))
        });
        assert!(
            answer.starts_with("HTTP/1.") && answer.contains(" 200 "),
            "{answer}"
        );
    }
    let limits = "cat /sys/fs/cgroup/enforcer.slice/*/workloads/web/memory.max";
    assert_eq!(sh(limits), (512 << 20).to_string());

    // What the database has written outlives it.
    let query = "/usr/lib/postgresql/17/bin/psql -h 127.0.0.1 -p 18403 -U web -d postgres -tAc";
    sh(&format!(
        "{query} 'create table kept as select 42 as answer'"
    ));
    sh("enforcer restart db");
    await_health(Some("db"));
    assert_eq!(sh(&format!("{query} 'select answer from kept'")), "42");

    purge();
    unmake();
}
