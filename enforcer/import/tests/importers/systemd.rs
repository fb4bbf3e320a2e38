//! What units become, and that the agent reads it.

use super::agrees;
use enforcer_import::compose::Source;
use enforcer_import::systemd;
use enforcer_import::systemd::Files;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn unit(name: &str, texts: &[&str]) -> Files {
    let files = texts.iter().enumerate().map(|(number, text)| Source {
        name: match number {
            0 => name.to_owned(),
            number => format!("{name}.d/{number}.conf"),
        },
        text: (*text).to_owned(),
    });
    Files {
        name: name.to_owned(),
        files: files.collect(),
    }
}

fn check(units: &[Files], expected: &Expect) {
    let imported = systemd(units).expect("it is imported");
    assert_eq!(systemd(units).as_ref(), Ok(&imported));
    agrees(&imported, expected);
}

#[test]
fn a_service_with_a_drop_in_and_a_socket() {
    let service = r#"
[Unit]
Description=A shop
After=network.target db.service
Requires=db.service

[Service]
Type=notify
User=shop
ExecStartPre=-/bin/mkdir -p /run/shop
ExecStart=/usr/bin/shop --name "%i of %p" --port ${PORT} \
  --verbose
ExecReload=/bin/kill -HUP $MAINPID
Environment=PORT=8080 "GREETING=hello world"
EnvironmentFile=-/etc/default/shop
Restart=on-failure
RestartSec=2
StartLimitBurst=4
WatchdogSec=1min 30s
LimitNOFILE=1024:65536
MemoryMax=1G
CPUQuota=150%
TasksMax=infinity
OOMScoreAdjust=-500
ProtectSystem=strict
ReadWritePaths=/srv/shop
StateDirectory=shop
StateDirectoryMode=0700
AmbientCapabilities=CAP_NET_BIND_SERVICE
NoSuchThing=1

[Install]
WantedBy=multi-user.target
"#;
    let drop_in = "[Service]\nExecStart=\nExecStart=/usr/bin/shop2 %%x\nMemoryMax=2G\nTimeoutStopSec=infinity\n";
    let socket =
        "[Socket]\nListenStream=8080\nListenStream=/run/shop.sock\nSocketMode=0660\nBacklog=64\n";
    check(
        &[
            unit("shop@blue.service", &[service, drop_in]),
            unit(
                "db.service",
                &["[Service]\nExecStart=postgres -D $DIR ${DIR}x $$y\nType=oneshot\n"],
            ),
            unit("shop@blue.socket", &[socket]),
        ],
        &expect![[r##"
            # Imported from shop@blue.service, db.service, shop@blue.socket.
            version: 2
            workloads:
              shop-blue:
                command: [/usr/bin/shop2, "%x"]
                user: shop
                state_directory:
                  names: [shop]
                  mode: "0700"
                listen:
                  shop-blue:
                    tcp: "[::]:8080"
                    backlog: 64
                  shop-blue-2:
                    unix: /run/shop.sock
                    mode: "0660"
                    backlog: 64
                sandbox: default
                read_write_paths: [/srv/shop]
                environment:
                  PORT: "8080"
                  GREETING: "hello world"
                environment_files: ["-/etc/default/shop"]
                capabilities: [CAP_NET_BIND_SERVICE]
                rlimits:
                  nofile: 65536
                priority: 100
                cgroup:
                  memory.max: 2G
                  cpu.max: 150%
                  pids.max: max
                needs:
                  db: completed
                probes:
                  startup:
                    notify: {}
                  liveness:
                    notify:
                      within: 1m30s
                reload:
                  signal: HUP
                before_start: [[/bin/sh, "-c", "\"$@\" || true", sh, /bin/mkdir, "-p", /run/shop]]
                recovery:
                  restart: on-failure
                  backoff:
                    initial: 2s
                  budget:
                    restarts: 4
                    within: 10s
                stop:
                  grace: 1d
                  scope: group
                logs:
                  to: journal
              db:
                command: [/bin/sh, "-c", "exec \"postgres\" \"-D\" $DIR \"${DIR}x\" \"\\$y\""]
                user: root
                sandbox: off
                recovery:
                  restart: never
                stop:
                  grace: 90s
                  scope: group
                logs:
                  to: journal
            exact shop@blue.service.Unit.Description: it has no effect on the program
            near shop@blue.service.Unit.After: `needs` waits until the job has succeeded, and not only until it has ended
            exact shop@blue.service.Unit.Requires: `needs` holds starts back, and stops nothing
            exact shop@blue.service.Service.Type
            exact shop@blue.service.Service.User
            near shop@blue.service.Service.ExecStartPre: 60 s at most for each
            exact shop@blue.service.Service.ExecStart
            exact shop@blue.service.Service.ExecReload
            exact shop@blue.service.Service.Environment
            near shop@blue.service.Service.EnvironmentFile: `Environment` wins over the file
            exact shop@blue.service.Service.Restart
            near shop@blue.service.Service.RestartSec: the first restart follows at once, and later ones wait longer
            near shop@blue.service.Service.StartLimitBurst: then the breaker opens, and tries again later
            exact shop@blue.service.Service.WatchdogSec
            near shop@blue.service.Service.LimitNOFILE: the soft limit is the hard one
            exact shop@blue.service.Service.MemoryMax
            exact shop@blue.service.Service.CPUQuota
            exact shop@blue.service.Service.TasksMax
            exact shop@blue.service.Service.OOMScoreAdjust: priority 100
            near shop@blue.service.Service.ProtectSystem: `sandbox: default` keeps it from this and from more: `enforcer sandbox show default`
            exact shop@blue.service.Service.ReadWritePaths
            exact shop@blue.service.Service.StateDirectory
            exact shop@blue.service.Service.StateDirectoryMode
            exact shop@blue.service.Service.AmbientCapabilities
            dropped shop@blue.service.Service.NoSuchThing: the setting is not known
            exact shop@blue.service.Install.WantedBy: every workload of the manifest is started
            near shop@blue.service.Service.TimeoutStopSec: a day, in place of no end
            near shop@blue.socket.Socket.ListenStream: the workload is started with the agent, not by the first connection
            near shop@blue.socket.Socket.ListenStream: the workload is started with the agent, not by the first connection
            exact shop@blue.socket.Socket.SocketMode
            exact shop@blue.socket.Socket.Backlog
            near db.service.Service.ExecStart: sh(1) replaces the variables
            near db.service.Service.Type: a job: what needs it can wait for `completed`
        "##]],
    );
}

#[test]
fn what_is_no_unit_is_refused_with_its_place() {
    let refused = |text: &str| {
        let error = systemd(&[unit("a.service", &[text])]).expect_err("it is refused");
        format!("{error} at {}", error.at)
    };
    let all = [
        "[Service]\nExecStart=/bin/a %Q\n",
        "[Service]\nnothing\n",
        "[Service\n",
        "A=1\n",
    ];
    let all = all.map(refused).join("\n");
    expect![[r#"
        a.service: ExecStart: the specifier `%Q` has no value here at 10
        a.service: `nothing` is no assignment at 10
        a.service: the section `[Service` is not closed at 0
        a.service: `A=1` is in no section at 0"#]]
    .assert_eq(&all);
}

const KEYS: [&str; 36] = [
    "Type",
    "ExecStart",
    "ExecStartPre",
    "ExecStop",
    "ExecReload",
    "User",
    "Group",
    "Environment",
    "EnvironmentFile",
    "WorkingDirectory",
    "Restart",
    "RestartSec",
    "StartLimitBurst",
    "StartLimitIntervalSec",
    "TimeoutStopSec",
    "WatchdogSec",
    "LimitNOFILE",
    "MemoryMax",
    "CPUQuota",
    "CPUWeight",
    "TasksMax",
    "IOReadBandwidthMax",
    "OOMScoreAdjust",
    "OOMPolicy",
    "KillMode",
    "KillSignal",
    "StandardOutput",
    "StateDirectory",
    "PIDFile",
    "BindPaths",
    "TemporaryFileSystem",
    "ProtectSystem",
    "LoadCredential",
    "UMask",
    "Nice",
    "X-Own",
];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever a unit says: it is imported without a panic, each key has a line, and the manifest is YAML.
    #[test]
    fn every_key_has_a_line(
        keys in prop::collection::btree_map(0..KEYS.len(), "[ -~]{0,20}", 0..10),
    ) {
        let mut text = "[Service]\n".to_owned();
        for (key, value) in &keys {
            text.push_str(&format!("{}={}\n", KEYS[*key], value.replace(['%', '\\'], "")));
        }
        let imported = systemd(&[unit("web.service", &[&text])]).expect("it is imported");
        prop_assert!(enforcer_manifest::read_yaml(&imported.manifest).is_ok(), "{}", imported.manifest);
        for key in keys.keys() {
            let place = format!("web.service.Service.{}", KEYS[*key]);
            let lines = imported.report.iter().filter(|line| line.key == place).count();
            prop_assert_eq!(lines, 1, "{} in\n{}", KEYS[*key], text);
        }
    }
}
