//! What a Compose file becomes, and that the agent reads it.

use super::{agrees, faults};
use enforcer_import::compose::{Image, Options, Source};
use enforcer_import::{Imported, Verdict, compose};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn options() -> Options {
    Options {
        folder: "/srv/shop".to_owned(),
        variables: [("TAG".to_owned(), "7".to_owned())].into(),
        ..Options::default()
    }
}

fn import(text: &str, options: &Options) -> Imported {
    let source = Source {
        name: "compose.yaml".to_owned(),
        text: text.to_owned(),
    };
    let nothing = |path: &str| Err(format!("{path} is not there"));
    compose(&[source], options, &nothing).expect("it is imported")
}

fn check(text: &str, options: &Options, expected: &Expect) {
    let imported = import(text, options);
    let again = import(text, options);
    assert_eq!(imported, again);
    agrees(&imported, expected);
}

#[test]
fn swap_is_what_docker_allows() {
    let swap = |keys: &str| {
        let text = format!("services: {{ a: {{ command: [/bin/a], user: a, {keys} }} }}");
        let imported = import(&text, &options());
        let mut lines = imported.manifest.lines().map(str::trim);
        let found = lines.find(|line| line.starts_with("memory.swap.max"));
        assert!(imported.carries_over(), "{:?}", imported.report);
        found.unwrap_or("-").to_owned()
    };
    let all = [
        swap("mem_limit: 1g"),
        swap("memswap_limit: 3g, mem_limit: 1g"),
        swap("mem_limit: 1g, memswap_limit: 1g"),
        swap("memswap_limit: -1, mem_limit: 1g"),
        swap("memswap_limit: 0, mem_limit: 1g"),
        swap("mem_limit: 0"),
        swap("deploy: { resources: { limits: { memory: 64M } } }"),
    ];
    let expected = [
        "memory.swap.max: 1G",
        "memory.swap.max: 2147483648",
        "memory.swap.max: 0",
        "memory.swap.max: max",
        "memory.swap.max: 1G",
        "-",
        "memory.swap.max: 64M",
    ];
    assert_eq!(all, expected);
}

#[test]
fn a_usual_service_carries_over() {
    check(
        r#"
name: shop
services:
  db:
    image: postgres:16
    entrypoint: [/usr/lib/postgresql/16/bin/postgres]
    command: [-D, /data]
    user: "999:999"
    mem_limit: 1536m
    memswap_limit: 2g
    mem_reservation: 512m
    cpus: 1.5
    cpu_shares: 512
    restart: unless-stopped
    volumes: ["db:/data", "./conf:/etc/postgresql:ro"]
    healthcheck: { test: [CMD, pg_isready], interval: 5s, retries: 5 }
    ports: ["127.0.0.1:5432:5432"]
  web:
    image: "shop:${TAG:-latest}"
    command: node server.js --name "a b"
    working_dir: /app
    environment: { PORT: 8080, KEY: "${KEY:-none}", DEBUG: }
    depends_on: { db: { condition: service_healthy } }
    ports: ["80:8080", "9000:9000/udp"]
    healthcheck: { test: "curl -f http://localhost:8080/health || exit 1", start_period: 10s }
    deploy:
      replicas: 3
      resources: { limits: { memory: 256M, cpus: "0.5" } }
      update_config: { parallelism: 1, order: start-first, failure_action: rollback }
    restart: on-failure:5
    stop_grace_period: 1m30s
    labels: { a: b }
    networks: [front]
volumes: { db: }
networks: { front: }
"#,
        &options(),
        &expect![[r##"
            # Imported from compose.yaml.
            version: 2
            workloads:
              db:
                command: [/usr/lib/postgresql/16/bin/postgres, "-D", /data]
                user: "999:999"
                mounts:
                  - { from: /var/lib/db-db, to: /data }
                  - { from: /srv/shop/conf, to: /etc/postgresql, read_only: true }
                state_directory: [db-db]
                ports:
                  p5432:
                    port: 5432
                cgroup:
                  memory.max: 1536M
                  memory.swap.max: 536870912
                  memory.low: 512M
                  cpu.max: 150%
                  cpu.weight: 59
                probes:
                  readiness:
                    exec:
                      command: [/usr/bin/env, pg_isready]
                    period: 5s
                    timeout: 30s
                    failure_threshold: 5
                recovery:
                  restart: always
              web:
                command: [/usr/bin/env, node, server.js, "--name", "a b"]
                user: root
                directory: /app
                replicas: 3
                ports:
                  p80:
                    port: 80
                    target: 8080
                rollout:
                  max_surge: 1
                  max_unavailable: 0
                  on_failure: rollback
                environment:
                  PORT: "8080"
                  KEY: none
                cgroup:
                  memory.max: 256M
                  memory.swap.max: 256M
                  cpu.max: 50%
                needs:
                  db: ready
                probes:
                  readiness:
                    http:
                      port: 80
                      path: /health
                    period: 30s
                    timeout: 30s
                    failure_threshold: 3
                recovery:
                  restart: on-failure
                  budget:
                    restarts: 5
                    within: 1h
                stop:
                  grace: 1m30s
            needs you services.db.image: unpack it, and import with `--image db=DIR`: skopeo copy docker://postgres:16 oci:db:latest && umoci unpack --image db:latest DIR
            exact services.db.entrypoint
            exact services.db.command
            exact services.db.user
            exact services.db.mem_limit
            near services.db.mem_reservation: it protects from reclaim
            exact services.db.cpus: 1.5 CPUs → 150%
            near services.db.cpu_shares: shares 512 → weight 59
            near services.db.restart: a workload that was stopped by hand starts again with the host
            near services.db.volumes: `db` is /var/lib/db-db
            near services.db.healthcheck: a `readiness` probe; `liveness` in its place restarts what fails
            near services.db.ports: the program itself chooses the address 127.0.0.1
            exact services.db.memswap_limit: memory.swap.max 536870912, which is swap alone
            needs you services.web.image: unpack it, and import with `--image web=DIR`: skopeo copy docker://shop:7 oci:web:latest && umoci unpack --image web:latest DIR
            exact services.web.command
            exact services.web.working_dir
            near services.web.environment: DEBUG had its value of now
            exact services.web.depends_on: it holds starts back, and stops nothing
            near services.web.ports: 9000/udp is bound by the program itself
            near services.web.healthcheck: a `readiness` probe, asked without a program, and failures of the start do not count anyway; `liveness` in its place restarts what fails
            exact services.web.deploy.replicas
            exact services.web.deploy.resources.limits.memory
            exact services.web.deploy.resources.limits.cpus: 0.5 CPUs → 50%
            near services.web.deploy.update_config: the next replica follows when one has been ready for the delay
            near services.web.restart: the restarts are counted in an hour; then the breaker opens, and tries again later
            exact services.web.stop_grace_period
            dropped services.web.labels: it has no effect on the program
            near services.web.networks: workloads share the host's network: other services are at 127.0.0.1
            near services.web: it runs as root, as in the container: name another account in `user`
            exact name: a manifest has no name
            near volumes.db: named volumes become folders below /var/lib
            near networks.front: workloads share the host's network: services are reached at 127.0.0.1, not by their names
        "##]],
    );
}

#[test]
fn an_image_gives_what_the_file_does_not_say() {
    let image = Image {
        root: "/srv/images/web/rootfs".to_owned(),
        arguments: vec![
            "nginx".to_owned(),
            "-g".to_owned(),
            "daemon off;".to_owned(),
        ],
        environment: vec![("PATH".to_owned(), "/usr/sbin:/usr/bin".to_owned())],
        directory: Some("/srv".to_owned()),
        user: Some("101:101".to_owned()),
    };
    let with_image = Options {
        images: [("web".to_owned(), image)].into(),
        ..options()
    };
    check(
        "services: { web: { image: nginx, tmpfs: [\"/run:size=8m\"], extra_hosts: [\"mail:10.0.0.7\", \"host.docker.internal:host-gateway\"], networks: [front] }, db_1: { command: [/bin/db], extra_hosts: { mail: 10.0.0.7 } } }",
        &with_image,
        &expect![[r##"
            # Imported from compose.yaml.
            version: 2
            workloads:
              web:
                command: [/usr/bin/env, nginx, "-g", "daemon off;"]
                user: "101:101"
                directory: /srv
                root: /srv/images/web/rootfs
                tmpfs:
                  - { path: /run, size: 8M }
                environment:
                  PATH: "/usr/sbin:/usr/bin"
                recovery:
                  restart: never
                hosts:
                  mail: "10.0.0.7"
                  host.docker.internal: "127.0.0.1"
                  db_1: 127.0.0.1
              db-1:
                command: [/bin/db]
                user: root
                recovery:
                  restart: never
            exact services.web.image: its files are in /srv/images/web/rootfs
            exact services.web.tmpfs
            near services.web.extra_hosts: `host-gateway` is 127.0.0.1; its root needs a file /etc/hosts
            near services.web.networks: workloads share the host's network, and `hosts` has the names of the services
            near services.db_1: it is called `db-1` here
            exact services.db_1.command
            dropped services.db_1.extra_hosts: without a root of its own it sees the host's /etc/hosts: add `10.0.0.7 mail` there
            near services.db_1: it runs as root, as in the container: name another account in `user`
        "##]],
    );
    let without = import("services: { web: { image: nginx } }", &options());
    assert!(!without.carries_over());
    assert_eq!(faults(&without.manifest).len(), 1, "{}", without.manifest);
}

#[test]
fn files_lie_over_each_other_and_services_extend_others() {
    let source = |name: &str, text: &str| Source {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let files = [
        source(
            "a.yaml",
            "services: { web: { extends: { file: base.yaml, service: any }, environment: [A=1, B=2], command: [/bin/a] } }",
        ),
        source(
            "b.yaml",
            "services: { web: { environment: { B: 3, C: 4 }, command: [/bin/b], cap_add: [NET_RAW] } }",
        ),
    ];
    let load = |path: &str| match path {
        "base.yaml" => Ok(
            "services: { any: { user: \"7:7\", cap_add: [CHOWN], environment: { A: 0, Z: 9 } } }"
                .to_owned(),
        ),
        _ => Err("it is not there".to_owned()),
    };
    let imported = compose(&files, &options(), &load).expect("it is imported");
    expect![[r##"
        # Imported from a.yaml, b.yaml.
        version: 2
        workloads:
          web:
            command: [/bin/b]
            user: "7:7"
            environment:
              A: "1"
              Z: "9"
              B: "3"
              C: "4"
            capabilities: [CAP_CHOWN, CAP_NET_RAW]
            recovery:
              restart: never
    "##]]
    .assert_eq(&imported.manifest);
    assert_eq!(faults(&imported.manifest), [""; 0]);
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    let nothing = |path: &str| Err(format!("{path} is not there"));
    let refused = |text: &str| {
        let source = Source {
            name: "compose.yaml".to_owned(),
            text: text.to_owned(),
        };
        let error = compose(&[source], &options(), &nothing).expect_err("it is refused");
        format!("{} at {}", error, error.at)
    };
    let all = [
        "a: [",
        "version: 3",
        "services: { a: { image: \"${X:?set it}\" } }",
        "services: { a: { extends: b }, b: { extends: a } }",
        "services: { a: { extends: { file: other.yaml, service: b } } }",
        "services: { a: { extends: c } }",
        "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]",
    ];
    let all = all.map(refused).join("\n");
    expect![[r#"
        compose.yaml: this is not YAML: while parsing a node, did not find expected node content at 4
        compose.yaml: it has no `services`: it is no file of Compose at 0
        compose.yaml: the variable X is not set: set it at 24
        compose.yaml: `extends` of `a` goes in a circle, or more than 16 services deep at 26
        other.yaml: other.yaml is not there at 0
        compose.yaml: there is no service `c` to extend at 0
        compose.yaml: the file grows beyond all bounds when its aliases are expanded: past 100000 values here at 210"#]].assert_eq(&all);
}

/// Returns any value that a key of a service may have, sensible or not.
fn value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("true".to_owned()),
        Just("\"\"".to_owned()),
        Just("null".to_owned()),
        "[0-9]{1,4}[kmgb]?",
        "[a-z/:.$ -]{1,12}".prop_map(|text| format!("{:?}", text.replace('$', "$$"))),
    ];
    let list = prop::collection::vec(scalar.clone(), 0..4);
    let list = list.prop_map(|items| format!("[{}]", items.join(", ")));
    let map = prop::collection::vec(("[a-z_]{1,8}", scalar.clone()), 0..4);
    let map = map.prop_map(|pairs| {
        let pairs: BTreeMap<String, String> = pairs.into_iter().collect();
        let pairs = pairs.iter().map(|(key, value)| format!("{key}: {value}"));
        format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
    });
    prop_oneof![scalar, list, map]
}

const KEYS: [&str; 40] = [
    "image",
    "command",
    "entrypoint",
    "user",
    "group_add",
    "environment",
    "env_file",
    "restart",
    "depends_on",
    "ports",
    "volumes",
    "tmpfs",
    "read_only",
    "hostname",
    "stop_signal",
    "stop_grace_period",
    "cap_add",
    "cap_drop",
    "security_opt",
    "logging",
    "network_mode",
    "networks",
    "labels",
    "mem_limit",
    "memswap_limit",
    "cpus",
    "cpu_shares",
    "cpuset",
    "pids_limit",
    "shm_size",
    "ulimits",
    "blkio_config",
    "healthcheck",
    "deploy",
    "profiles",
    "secrets",
    "post_start",
    "x-own",
    "no_such_key",
    "working_dir",
];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever a file says: it is imported without a panic, each key has a line, and the manifest is YAML.
    #[test]
    fn every_key_has_a_line(keys in prop::collection::btree_map(0..KEYS.len(), value(), 0..8)) {
        let mut text = "services:\n  web:\n    x-none: 1\n".to_owned();
        for (key, value) in &keys {
            text.push_str(&format!("    {}: {value}\n", KEYS[*key]));
        }
        let source = Source { name: "compose.yaml".to_owned(), text: text.clone() };
        let mut with_profiles = options();
        with_profiles.profiles = BTreeSet::new();
        let nothing = |_: &str| Err(String::new());
        let Ok(imported) = compose(&[source], &with_profiles, &nothing) else {
            return Ok(());
        };
        prop_assert!(enforcer_manifest::read_yaml(&imported.manifest).is_ok(), "{}", imported.manifest);
        let left_out = imported.report.iter().any(|line| line.note.contains("profiles"));
        for key in keys.keys().map(|key| KEYS[*key]).filter(|_| !left_out) {
            let place = format!("services.web.{key}");
            let lines = imported.report.iter().filter(|line| line.key == place).count();
            match key {
                "deploy" => prop_assert!(lines <= 1),
                _ => prop_assert_eq!(lines, 1, "{} in\n{}", key, text),
            }
        }
        let known = [Verdict::Exact, Verdict::Near, Verdict::Dropped, Verdict::NeedsYou];
        prop_assert!(imported.report.iter().all(|line| known.contains(&line.verdict)));
    }
}
