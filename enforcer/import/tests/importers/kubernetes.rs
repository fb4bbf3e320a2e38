//! What objects of Kubernetes become, and that the agent reads it.

use super::agrees;
use enforcer_import::compose::{Image, Source};
use enforcer_import::kubernetes::Options;
use enforcer_import::{Imported, Refused, Verdict, kubernetes};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn read(text: &str, options: &Options) -> Result<Imported, Refused> {
    let source = Source {
        name: "shop.yaml".to_owned(),
        text: text.to_owned(),
    };
    kubernetes(&[source], options)
}

fn check(text: &str, options: &Options, expected: &Expect) {
    let imported = read(text, options).expect("it is imported");
    assert_eq!(Ok(&imported), read(text, options).as_ref());
    agrees(&imported, expected);
}

#[test]
fn a_deployment_with_its_service_carries_over() {
    check(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: { name: shop }
data: { LEVEL: info, HOST: db }
---
apiVersion: v1
kind: Secret
metadata: { name: keys }
data: { password: c2VjcmV0 }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, labels: { app: web } }
spec:
  replicas: 4
  minReadySeconds: 5
  selector: { matchLabels: { app: web } }
  strategy: { type: RollingUpdate, rollingUpdate: { maxSurge: 25%, maxUnavailable: 0 } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 20
      securityContext: { runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true }
      initContainers:
        - name: migrate
          image: shop:7
          command: [/bin/shop, migrate]
      containers:
        - name: shop
          image: shop:7
          command: [/bin/shop]
          args: ["--name=$(NAME)", "--level", "$(LEVEL)"]
          ports: [{ name: http, containerPort: 8080 }]
          envFrom: [{ configMapRef: { name: shop } }]
          env:
            - { name: NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
            - { name: PASSWORD, valueFrom: { secretKeyRef: { name: keys, key: password } } }
            - { name: URL, value: "http://$(HOST)/" }
          resources: { limits: { cpu: 1500m, memory: 256Mi }, requests: { cpu: 500m, memory: 128Mi } }
          livenessProbe: { httpGet: { path: /health, port: http }, periodSeconds: 5, timeoutSeconds: 2 }
          readinessProbe: { grpc: { port: 9000 }, successThreshold: 1 }
          startupProbe: { exec: { command: [cat, /ready] }, failureThreshold: 30 }
          lifecycle: { preStop: { sleep: { seconds: 15 } } }
          securityContext: { capabilities: { drop: [ALL] }, allowPrivilegeEscalation: false }
          volumeMounts: [{ name: scratch, mountPath: /scratch }, { name: run, mountPath: /run/shop }]
      volumes:
        - { name: scratch, emptyDir: {} }
        - { name: run, emptyDir: { medium: Memory, sizeLimit: 16Mi } }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  type: LoadBalancer
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: http }]
"#,
        &Options::default(),
        &expect![[r##"
            # Imported from shop.yaml.
            version: 2
            workloads:
              web-migrate:
                command: [/bin/shop, migrate]
                user: "1000:1000"
                recovery:
                  restart: on-failure
                stop:
                  grace: 20s
              web:
                command: [/bin/shop, "--name=web-{replica}", "--level", info]
                user: "1000:1000"
                mounts:
                  - { from: /var/cache/web-scratch, to: /scratch }
                tmpfs:
                  - { path: /run/shop, size: 16M }
                cache_directory: [web-scratch]
                replicas: 4
                ports:
                  http:
                    port: 80
                    target: 8080
                  p9000:
                    port: 9000
                rollout:
                  drain: 15s
                  max_surge: 1
                  max_unavailable: 0
                  min_ready: 5s
                environment:
                  HOST: db
                  LEVEL: info
                  NAME: "web-{replica}"
                  PASSWORD: secret
                  URL: "http://db/"
                cgroup:
                  cpu.max: 150%
                  memory.max: 256M
                  memory.swap.max: 0
                  memory.low: 128M
                  cpu.weight: 59
                needs:
                  web-migrate: completed
                probes:
                  liveness:
                    http:
                      port: 80
                      path: /health
                    period: 5s
                    timeout: 2s
                  readiness:
                    grpc:
                      port: 9000
                  startup:
                    exec:
                      command: [/usr/bin/env, cat, /ready]
                    failure_threshold: 30
                recovery:
                  restart: always
                stop:
                  grace: 20s
            exact Deployment/web.apiVersion
            exact Deployment/web.kind
            exact Deployment/web.metadata.name
            exact Deployment/web.metadata.labels: they say which pods belong to a Service
            exact Deployment/web.spec.template.metadata.labels: they say which pods belong to a Service
            exact Deployment/web.spec.template.spec.terminationGracePeriodSeconds
            exact Deployment/web.spec.template.spec.securityContext.runAsUser
            exact Deployment/web.spec.template.spec.securityContext.runAsGroup
            exact Deployment/web.spec.template.spec.securityContext.runAsNonRoot
            near Deployment/web.spec.template.spec.volumes.scratch: it is /var/cache/web-scratch, and keeps what is in it
            exact Deployment/web.spec.template.spec.volumes.run
            exact Deployment/web.spec.replicas
            exact Deployment/web.spec.minReadySeconds
            exact Deployment/web.spec.selector
            exact Deployment/web.spec.strategy.type
            near Deployment/web.spec.strategy.rollingUpdate.maxSurge: 25% → 1
            exact Deployment/web.spec.strategy.rollingUpdate.maxUnavailable
            exact Deployment/web.spec.template.spec.initContainers.migrate.command
            exact Deployment/web.spec.template.spec.initContainers.migrate.name
            needs you Deployment/web.spec.template.spec.initContainers.migrate.image: unpack it, and import with `--image migrate=DIR`: skopeo copy docker://shop:7 oci:migrate:latest && umoci unpack --image migrate:latest DIR
            exact Deployment/web.spec.template.spec.containers.shop.envFrom
            near Deployment/web.spec.template.spec.containers.shop.env: the value of a Secret is in the manifest: keep the file from others, or use `credentials`
            exact Deployment/web.spec.template.spec.containers.shop.command
            exact Deployment/web.spec.template.spec.containers.shop.args
            exact Deployment/web.spec.template.spec.containers.shop.name
            needs you Deployment/web.spec.template.spec.containers.shop.image: unpack it, and import with `--image shop=DIR`: skopeo copy docker://shop:7 oci:shop:latest && umoci unpack --image shop:latest DIR
            exact Deployment/web.spec.template.spec.containers.shop.ports: workloads share the host's network
            exact Deployment/web.spec.template.spec.containers.shop.resources.limits.cpu: 1500m CPUs → 150%
            exact Deployment/web.spec.template.spec.containers.shop.resources.limits.memory: memory.max 256M, and no swap
            near Deployment/web.spec.template.spec.containers.shop.resources.requests.cpu: 500m CPUs → weight 59, and places nothing
            near Deployment/web.spec.template.spec.containers.shop.resources.requests.memory: it protects from reclaim, and places nothing
            exact Deployment/web.spec.template.spec.containers.shop.livenessProbe
            exact Deployment/web.spec.template.spec.containers.shop.readinessProbe
            exact Deployment/web.spec.template.spec.containers.shop.startupProbe
            near Deployment/web.spec.template.spec.containers.shop.lifecycle.preStop: `rollout: { drain }`: a stop waits until the connections to its `ports` have ended
            exact Deployment/web.spec.template.spec.containers.shop.securityContext.capabilities
            exact Deployment/web.spec.template.spec.containers.shop.securityContext.allowPrivilegeEscalation: every user but root has `no_new_privs`
            exact Deployment/web.spec.template.spec.containers.shop.volumeMounts: each container has one of its own
            exact ConfigMap/shop: its values are where the containers use them
            exact Secret/keys: its values are where the containers use them
            near Service/web.spec.type: the port is that of the host itself, `port`
            exact Service/web.spec.selector
            near Service/web.spec.ports.80: workloads ask 127.0.0.1, not the Service's name
        "##]],
    );
}

#[test]
fn pods_jobs_and_claims_carry_over() {
    let mut options = Options::default();
    let image = Image {
        root: "/srv/images/db".to_owned(),
        arguments: vec!["/docker-entrypoint.sh".to_owned(), "postgres".to_owned()],
        environment: vec![("PGDATA".to_owned(), "/data".to_owned())],
        directory: Some("/".to_owned()),
        user: Some("999:999".to_owned()),
    };
    options.images.insert("db".to_owned(), image);
    check(
        r#"
apiVersion: v1
kind: List
items:
  - apiVersion: apps/v1
    kind: StatefulSet
    metadata: { name: db }
    spec:
      serviceName: db
      volumeClaimTemplates: [{ metadata: { name: wal } }]
      template:
        spec:
          containers:
            - name: db
              image: postgres:16
              ports: [{ containerPort: 5432, hostPort: 15432 }]
              readinessProbe: { tcpSocket: { port: 5432 } }
              volumeMounts: [{ name: data, mountPath: /data, subPath: pg }, { name: wal, mountPath: /wal }]
              securityContext: { readOnlyRootFilesystem: true }
          volumes: [{ name: data, persistentVolumeClaim: { claimName: db } }]
  - apiVersion: batch/v1
    kind: Job
    metadata: { name: report }
    spec:
      backoffLimit: 2
      template:
        spec:
          restartPolicy: Never
          containers:
            - { name: report, image: report, command: [report], securityContext: { capabilities: { add: [NET_ADMIN] } } }
  - apiVersion: v1
    kind: Pod
    metadata: { name: tools }
    spec:
      hostNetwork: true
      nodeSelector: { disk: ssd }
      containers:
        - { name: a, image: a, command: [a], args: [x], resources: { limits: { memory: 1G, cpu: 125m, nvidia.com/gpu: 1 } } }
        - { name: b, image: b, command: [b], env: [{ name: IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }] }
  - apiVersion: batch/v1
    kind: CronJob
    metadata: { name: nightly }
    spec: { schedule: "0 3 * * *" }
"#,
        &options,
        &expect![[r##"
            # Imported from shop.yaml.
            version: 2
            workloads:
              db:
                command: [/docker-entrypoint.sh, postgres]
                user: "999:999"
                directory: /
                root: /srv/images/db
                read_only: true
                mounts:
                  - { from: /var/lib/db/pg, to: /data }
                  - { from: /var/lib/db-wal, to: /wal }
                state_directory: [db, db/pg, db-wal]
                ports:
                  p15432:
                    port: 15432
                    target: 5432
                environment:
                  PGDATA: /data
                probes:
                  readiness:
                    tcp:
                      port: 15432
                recovery:
                  restart: always
                stop:
                  grace: 30s
              report:
                command: [/usr/bin/env, report]
                user: root
                capabilities: [CAP_AUDIT_WRITE, CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL, CAP_MKNOD, CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW, CAP_SETFCAP, CAP_SETGID, CAP_SETPCAP, CAP_SETUID, CAP_SYS_CHROOT]
                recovery:
                  restart: on-failure
                  budget:
                    restarts: 2
                    within: 24h
                stop:
                  grace: 30s
              tools-a:
                command: [/usr/bin/env, a, x]
                user: root
                cgroup:
                  memory.max: 1000000000
                  memory.swap.max: 0
                  cpu.max: "12500 100000"
                  cpu.weight: 21
                recovery:
                  restart: always
                stop:
                  grace: 30s
              tools-b:
                command: [/usr/bin/env, b]
                user: root
                environment:
                  IP: "127.0.0.1"
                recovery:
                  restart: always
                stop:
                  grace: 30s
            exact StatefulSet/db.apiVersion
            exact StatefulSet/db.kind
            exact StatefulSet/db.metadata.name
            near StatefulSet/db.spec.template.spec.volumes.data: it is /var/lib/db, without a size of its own
            near StatefulSet/db.spec.serviceName: names are the host's
            near StatefulSet/db.spec.volumeClaimTemplates: each is a folder below /var/lib, without a size of its own
            exact StatefulSet/db.spec.template.spec.containers.db.name
            exact StatefulSet/db.spec.template.spec.containers.db.image: its files are in /srv/images/db
            exact StatefulSet/db.spec.template.spec.containers.db.ports: workloads share the host's network
            exact StatefulSet/db.spec.template.spec.containers.db.readinessProbe
            exact StatefulSet/db.spec.template.spec.containers.db.volumeMounts
            exact StatefulSet/db.spec.template.spec.containers.db.securityContext.readOnlyRootFilesystem
            exact Job/report.apiVersion
            exact Job/report.kind
            exact Job/report.metadata.name
            exact Job/report.spec.template.spec.restartPolicy
            near Job/report.spec.backoffLimit: restarts in 24 h; then the breaker opens, and tries again later
            exact Job/report.spec.template.spec.containers.report.command
            exact Job/report.spec.template.spec.containers.report.name
            needs you Job/report.spec.template.spec.containers.report.image: unpack it, and import with `--image report=DIR`: skopeo copy docker://report oci:report:latest && umoci unpack --image report:latest DIR
            near Job/report.spec.template.spec.containers.report.securityContext.capabilities: a user other than root has them as well, unlike in a container
            near Job/report.spec.template.spec.containers.report.user: it runs as root, unless its image names another account: write `user`
            exact Pod/tools.apiVersion
            exact Pod/tools.kind
            exact Pod/tools.metadata.name
            exact Pod/tools.spec.hostNetwork: workloads share the host's network
            near Pod/tools.spec.nodeSelector: there is one host, and it runs here
            exact Pod/tools.spec.containers.a.command
            exact Pod/tools.spec.containers.a.args
            exact Pod/tools.spec.containers.a.name
            needs you Pod/tools.spec.containers.a.image: unpack it, and import with `--image a=DIR`: skopeo copy docker://a oci:a:latest && umoci unpack --image a:latest DIR
            exact Pod/tools.spec.containers.a.resources.limits.memory: memory.max 1000000000, and no swap
            exact Pod/tools.spec.containers.a.resources.limits.cpu: 125m CPUs → 12500 100000
            dropped Pod/tools.spec.containers.a.resources.limits.nvidia.com/gpu: devices are the host's: write `devices` in a sandbox
            near Pod/tools.spec.containers.a.user: it runs as root, unless its image names another account: write `user`
            near Pod/tools.spec.containers.b.env: workloads share the host's network: the address is 127.0.0.1
            exact Pod/tools.spec.containers.b.command
            exact Pod/tools.spec.containers.b.name
            needs you Pod/tools.spec.containers.b.image: unpack it, and import with `--image b=DIR`: skopeo copy docker://b oci:b:latest && umoci unpack --image b:latest DIR
            near Pod/tools.spec.containers.b.user: it runs as root, unless its image names another account: write `user`
            needs you CronJob/nightly: there are no schedules: import its Job, and call `enforcer start NAME` from cron(8) or a timer
        "##]],
    );
}

#[test]
fn two_workloads_at_one_port_are_reported_and_replicas_share_all_of_theirs() {
    let deployment = |name: &str, more: &str, container: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {name} }}\nspec:\n{more}  template:\n    \
             metadata: {{ labels: {{ app: {name} }} }}\n    spec:\n      containers:\n      - {{ name: c, command: [/c], {container} }}\n---\n"
        )
    };
    let port = "ports: [{ containerPort: 8080 }]";
    let mut text = deployment("a", "", port) + &deployment("b", "", port);
    text += &deployment(
        "c",
        "  strategy: { type: RollingUpdate, rollingUpdate: { maxSurge: 50%, maxUnavailable: 10% } }\n  replicas: 12\n",
        &format!("{port}, livenessProbe: {{ tcpSocket: {{ port: 9100 }} }}"),
    );
    text += &deployment(
        "d",
        "  strategy: { type: Recreate }\n  replicas: 2\n",
        "stdin: false",
    );
    text += "apiVersion: v1\nkind: Service\nmetadata: { name: c }\nspec: { selector: { app: c }, ports: [{ port: 90, targetPort: 8080 }] }\n";
    let imported = read(&text, &Options::default()).expect("it is imported");
    let kept = imported
        .report
        .iter()
        .filter(|line| line.key.ends_with(".c"));
    let imported = Imported {
        manifest: imported.manifest.clone(),
        report: kept.cloned().collect(),
    };
    agrees(
        &imported,
        &expect![[r#"
        # Imported from shop.yaml.
        version: 2
        workloads:
          a:
            command: [/c]
            user: root
            recovery:
              restart: always
            stop:
              grace: 30s
          b:
            command: [/c]
            user: root
            recovery:
              restart: always
            stop:
              grace: 30s
          c:
            command: [/c]
            user: root
            replicas: 12
            ports:
              p90:
                port: 90
                target: 8080
              p9100:
                port: 9100
            rollout:
              max_surge: 3
              max_unavailable: 1
            probes:
              liveness:
                tcp:
                  port: 9100
            recovery:
              restart: always
            stop:
              grace: 30s
          d:
            command: [/c]
            user: root
            replicas: 2
            rollout:
              max_surge: 0
              max_unavailable: 2
            recovery:
              restart: always
            stop:
              grace: 30s
        needs you Deployment/b.spec.template.spec.containers.c: `a` listens at the port 8080 as well: `ports: { http: { port: OTHER, target: THIS } }` moves one of them
    "#]],
    );
}

#[test]
fn what_is_no_object_is_refused_with_its_place() {
    let refused = |text: &str| {
        let refused = read(text, &Options::default()).expect_err("it is refused");
        format!("{}: {}", refused.at, refused.message)
    };
    let text = [
        refused("a: 1\n---\nkind: Pod\n"),
        refused("apiVersion: v1\nkind: Pod\n---\n{ a: [ }\n"),
        refused("- 1\n"),
        refused("apiVersion: v1\nkind: List\nitems: [{ apiVersion: v1, kind: List }]\n"),
    ];
    expect![[r#"
        0: a document has no `apiVersion` and `kind`: it is no object of Kubernetes
        36: this is not YAML: while parsing a node, did not find expected node content
        0: a document has no `apiVersion` and `kind`: it is no object of Kubernetes
        34: a list is in a list"#]]
    .assert_eq(&text.join("\n"));
}

/// Keys of a container with a value of each form.
const KEYS: &[&str] = &[
    "image",
    "command",
    "args",
    "workingDir",
    "ports",
    "env",
    "envFrom",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "volumeMounts",
    "imagePullPolicy",
    "stdin",
    "tty",
    "terminationMessagePath",
    "volumeDevices",
    "restartPolicy",
    "no_such_key",
];

fn value() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "1",
        "x",
        "[]",
        "{}",
        "[a, b]",
        "true",
        "\"\"",
        "~",
        "[{ name: a }]",
        "[{ name: a, value: \"$(a) $$ $(\" }]",
        "[{ containerPort: 80, hostPort: 70000 }]",
        "[{ containerPort: 8080, hostPort: 80, name: http }]",
        "{ httpGet: { port: http } }",
        "{ exec: { command: [a] }, periodSeconds: 0 }",
        "{ tcpSocket: { port: -1 } }",
        "{ grpc: { port: 1 } }",
        "[{ name: v, mountPath: /a, subPath: b }]",
        "[{ name: a, valueFrom: { fieldRef: { fieldPath: \"metadata.labels['a']\" } } }]",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever an object says: it is imported without a panic, each key has one line, and the manifest is YAML.
    #[test]
    fn every_key_has_a_line(
        keys in prop::collection::btree_map(0..KEYS.len(), value(), 0..8),
        kind in prop::sample::select(vec!["Pod", "Deployment", "Job", "DaemonSet"]),
    ) {
        let (indent, open) = match kind {
            "Pod" => ("", ""),
            _ => ("    ", "  template:\n    spec:\n"),
        };
        let mut text = format!(
            "apiVersion: v1\nkind: {kind}\nmetadata: {{ name: web }}\nspec:\n{open}{indent}  containers:\n{indent}  - name: web\n"
        );
        for (key, value) in &keys {
            text.push_str(&format!("{indent}    {}: {value}\n", KEYS[*key]));
        }
        let imported = read(&text, &Options::default()).expect("it is imported");
        prop_assert!(enforcer_manifest::read_yaml(&imported.manifest).is_ok(), "{}", imported.manifest);
        let spec = if kind == "Pod" { "spec" } else { "spec.template.spec" };
        for key in keys.keys().map(|key| KEYS[*key]) {
            let place = format!("{kind}/web.{spec}.containers.web.{key}");
            let lines = imported.report.iter().filter(|line| line.key == place).count();
            prop_assert_eq!(lines, 1, "{} in\n{}", key, text);
        }
        let known = [Verdict::Exact, Verdict::Near, Verdict::Dropped, Verdict::NeedsYou];
        prop_assert!(imported.report.iter().all(|line| known.contains(&line.verdict)));
    }
}
