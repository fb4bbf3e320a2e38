//! What labels become, in a Dockerfile and in what `docker inspect` prints.

use super::agrees;
use enforcer_import::compose::{Options, Source};
use enforcer_import::{Imported, Refused, labels};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn read(name: &str, text: &str, prefix: &str) -> Result<Imported, Refused> {
    let source = Source {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let options = Options {
        folder: "/srv/aim".to_owned(),
        ..Options::default()
    };
    labels(&source, prefix, &options)
}

fn check((name, prefix): (&str, &str), text: &str, expected: &Expect) {
    let imported = read(name, text, prefix).expect("it is imported");
    assert_eq!(Ok(&imported), read(name, text, prefix).as_ref());
    agrees(&imported, expected);
}

#[test]
fn the_labels_of_a_dockerfile_become_a_weight_and_a_probe() {
    check(
        ("Dockerfile", ""),
        r#"
# syntax=docker/dockerfile:1
ARG VERSION=3.12
FROM python:${VERSION} AS build
RUN pip wheel .
LABEL CPU_SHARES=2
FROM python:3.12-slim
WORKDIR /app
ENV PORT=9025 NAME="an aim"
COPY --from=build /wheels /wheels
EXPOSE 9025/tcp 9026/udp
USER 1000:1000
LABEL CPU_SHARES=512 \
      HEALTH_URI=/health \
      HEALTH_RETRIES=3 HEALTH_TIMEOUT=400ms
LABEL HEALTH_INTERVAL="5000ms"
LABEL maintainer somebody
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --retries=2 CMD curl -f http://localhost:9025/health || exit 1
ENTRYPOINT ["python3", "server.py"]
CMD ["--port", "9025"]
"#,
        &expect![[r##"
            # Imported from Dockerfile.
            version: 2
            workloads:
              aim:
                command: [/usr/bin/env, python3, server.py, "--port", "9025"]
                user: "1000:1000"
                directory: /app
                environment:
                  PORT: "9025"
                  NAME: "an aim"
                cgroup:
                  cpu.weight: 59
                probes:
                  readiness:
                    http:
                      port: 9025
                      path: /health
                    period: 10s
                    timeout: 30s
                    failure_threshold: 2
                  liveness:
                    http:
                      port: 9025
                      path: /health
                    failure_threshold: 3
                    timeout: 400ms
                    period: 5000ms
                recovery:
                  restart: always
                stop:
                  signal: SIGINT
            exact aim.ARG (line 3): of an earlier stage
            exact aim.FROM (line 4): of an earlier stage
            exact aim.RUN (line 5): of an earlier stage
            needs you aim.FROM (line 7): build the image, and import its files with `--image aim=DIR`
            exact aim.WORKDIR (line 8)
            exact aim.ENV (line 9)
            exact aim.COPY (line 10): it is for the build
            exact aim.EXPOSE (line 11): workloads share the host's network
            exact aim.USER (line 12)
            exact aim.STOPSIGNAL (line 18)
            near aim.HEALTHCHECK (line 19): a `readiness` probe, asked without a program; `liveness` in its place restarts what fails
            exact aim.ENTRYPOINT (line 20)
            exact aim.CMD (line 21)
            near aim.label CPU_SHARES: shares 512 → weight 59
            near aim.label HEALTH_URI: a `liveness` probe: what does not answer is restarted, and so is what ends
            exact aim.label HEALTH_RETRIES
            exact aim.label HEALTH_TIMEOUT
            exact aim.label HEALTH_INTERVAL
            dropped aim.label maintainer: it has no effect on the program
        "##]],
    );
}

#[test]
fn an_inspected_container_carries_over() {
    check(
        ("inspect.json", "com.shop."),
        r#"[{
  "Id": "4f53", "Name": "/aim-2", "State": { "Status": "running" }, "Image": "sha256:4f",
  "HostConfig": {
    "Binds": ["/srv/data:/data:ro"], "CpuShares": 512, "Memory": 268435456, "MemorySwap": 536870912,
    "NanoCpus": 1500000000, "PidsLimit": null, "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 3 },
    "PortBindings": { "9025/tcp": [{ "HostIp": "", "HostPort": "19025" }] },
    "CapDrop": ["ALL"], "Privileged": false, "ShmSize": 67108864, "NetworkMode": "bridge",
    "Ulimits": [{ "Name": "nofile", "Soft": 4096, "Hard": 4096 }],
    "LogConfig": { "Type": "json-file", "Config": { "max-size": "10m" } }
  },
  "Config": {
    "Hostname": "4f53", "User": "", "Env": ["PORT=9025"], "Cmd": ["--port", "9025"], "Image": "aim:2",
    "Entrypoint": ["/usr/bin/python3", "/app/server.py"], "WorkingDir": "/app", "Tty": false,
    "ExposedPorts": { "9025/tcp": {} }, "StopTimeout": 20,
    "Healthcheck": { "Test": ["CMD", "/bin/check"], "Interval": 5000000000, "Retries": 2 },
    "Labels": { "com.shop.CPU_SHARES": "256", "com.shop.HEALTH_URI": "/health", "CPU_SHARES": "9" }
  }
}]"#,
        &expect![[r##"
            # Imported from inspect.json.
            version: 2
            workloads:
              aim-2:
                command: [/usr/bin/python3, /app/server.py, "--port", "9025"]
                user: root
                directory: /app
                mounts:
                  - { from: /srv/data, to: /data, read_only: true }
                ports:
                  p19025:
                    port: 19025
                    target: 9025
                environment:
                  PORT: "9025"
                capabilities: []
                rlimits:
                  nofile: 4096
                cgroup:
                  cpu.weight: 35
                  memory.max: 268435456
                  memory.swap.max: 268435456
                  cpu.max: 150%
                probes:
                  readiness:
                    exec:
                      command: [/bin/check]
                    period: 5000ms
                    timeout: 30s
                    failure_threshold: 2
                  liveness:
                    http:
                      port: 19025
                      path: /health
                recovery:
                  restart: on-failure
                  budget:
                    restarts: 3
                    within: 1h
                stop:
                  grace: 20s
                logs:
                  max_size: 10M
            exact aim-2.Id: it says how things stand
            exact aim-2.Name: it says how things stand
            exact aim-2.State: it says how things stand
            exact aim-2.Image: it says how things stand
            exact aim-2.HostConfig.Binds: each place must be there
            near aim-2.HostConfig.CpuShares: shares 512 → weight 59
            exact aim-2.HostConfig.Memory
            exact aim-2.HostConfig.MemorySwap: memory.swap.max 268435456, which is swap alone
            exact aim-2.HostConfig.NanoCpus: 1.5 CPUs → 150%
            exact aim-2.HostConfig.PidsLimit
            near aim-2.HostConfig.RestartPolicy: the restarts are counted in an hour; then the breaker opens, and tries again later
            near aim-2.HostConfig.PortBindings: the program binds the published port itself, at the address that it chooses
            exact aim-2.HostConfig.CapDrop
            exact aim-2.HostConfig.Privileged
            exact aim-2.HostConfig.ShmSize: the default
            near aim-2.HostConfig.NetworkMode: workloads share the host's network
            exact aim-2.HostConfig.Ulimits
            near aim-2.HostConfig.LogConfig: lines are as the program writes them, not JSON
            near aim-2.Config.Hostname: the name is the host's: write `hostname`
            exact aim-2.Config.User
            exact aim-2.Config.Env
            exact aim-2.Config.Cmd
            needs you aim-2.Config.Image: unpack it, and import with `--image aim-2=DIR`: skopeo copy docker://aim:2 oci:aim-2:latest && umoci unpack --image aim-2:latest DIR
            exact aim-2.Config.Entrypoint
            exact aim-2.Config.WorkingDir
            exact aim-2.Config.Tty
            exact aim-2.Config.ExposedPorts: workloads share the host's network
            exact aim-2.Config.StopTimeout
            near aim-2.Config.Healthcheck: a `readiness` probe; `liveness` in its place restarts what fails
            near aim-2.label com.shop.CPU_SHARES: shares 256 → weight 35
            near aim-2.label com.shop.HEALTH_URI: a `liveness` probe: what does not answer is restarted, and so is what ends
            dropped aim-2.label CPU_SHARES: it has no effect on the program
            near aim-2: it runs as root, as in the container: name another account in `user`
        "##]],
    );
}

#[test]
fn what_is_neither_is_refused() {
    let refused = |text: &str| {
        let refused = read("x", text, "").expect_err("it is refused");
        format!("{}: {}", refused.at, refused.message)
    };
    let all = [
        refused(""),
        refused("RUN x\n"),
        refused("[{}]"),
        refused("[{"),
        refused("# a\nLABEL A=1\n"),
    ];
    expect![[r#"
        0: it has no FROM: it is no Dockerfile
        0: expected a Dockerfile, which begins with FROM, or the JSON of `docker inspect`
        1: expected what `docker inspect CONTAINER` prints: it has no `Name` and `Config`
        2: this is not YAML: while parsing a node, did not find expected node content
        4: expected a Dockerfile, which begins with FROM, or the JSON of `docker inspect`"#]]
    .assert_eq(&all.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever a Dockerfile says: there is no panic, each instruction has a line, and the manifest is YAML.
    #[test]
    fn every_instruction_has_a_line(
        lines in prop::collection::vec(
            ("(CMD|ENV|EXPOSE|HEALTHCHECK|ENTRYPOINT|USER|WORKDIR|VOLUME|NONE)", "[ -~]{0,20}[a-z]"),
            0..8,
        ),
        labels in prop::collection::btree_map("(HEALTH_(URI|PORT|RETRIES)|CPU_SHARES|[a-z]{3})", "[a-z0-9/]{0,6}", 0..4),
    ) {
        let mut text = "FROM x\n".to_owned();
        for (word, rest) in &lines {
            text.push_str(&format!("{word} {rest}\n"));
        }
        for (name, value) in &labels {
            text.push_str(&format!("LABEL {name}=\"{value}\"\n"));
        }
        let imported = read("Dockerfile", &text, "").expect("it is imported");
        prop_assert!(enforcer_manifest::read_yaml(&imported.manifest).is_ok(), "{}", imported.manifest);
        for (index, (word, _)) in lines.iter().enumerate() {
            let key = format!("aim.{word} (line {})", index + 2);
            let count = imported.report.iter().filter(|line| line.key == key).count();
            prop_assert_eq!(count, 1, "{} in\n{}", key, text);
        }
        for name in labels.keys() {
            let key = format!("aim.label {name}");
            let count = imported.report.iter().filter(|line| line.key == key).count();
            prop_assert_eq!(count, 1, "{} in\n{}", key, text);
        }
    }
}
