//! Units under systemd, and the same units imported: what their programs find is the same.

use super::*;
use enforcer_model::views::Inspection;
use std::fs;

const FOLDER: &str = "/tmp/imported";
const MANIFEST: &str = "/etc/enforcer/workloads.d/imported.yaml";

/// Writes down what it finds, and ends with the code that it is given.
const PROGRAM: &str = r#"#!/bin/bash
case $(cat /proc/self/cgroup) in *enforcer*) by=enforcer;; *) by=systemd;; esac
group=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)
{
  echo "uid $(id -u) gid $(id -g) groups $(id -G | tr ' ' '\n' | sort -n | tr '\n' ' ')"
  grep -E '^(NoNewPrivs|CapPrm|CapEff|CapBnd|CapAmb|Umask):' /proc/self/status
  sed 's/ \+/ /g' /proc/self/limits
  echo "folder $PWD"
  echo "nice $(nice)"
  echo "oom_score_adj $(cat /proc/self/oom_score_adj)"
  for file in memory.max memory.high memory.low memory.min memory.swap.max cpu.max cpu.weight pids.max; do
    echo "$file $(cat $group/$file 2>&1)"
  done
  echo "arguments $*"
  env | grep -vE '^(INVOCATION_ID|JOURNAL_STREAM|LOGNAME|SHELL|SYSTEMD_EXEC_PID|MEMORY_PRESSURE_[A-Z]*|ENFORCER_[A-Z]*|PWD|OLDPWD|_|LANG|SHLVL|PATH|HOME|USER)=' | sort
} >/tmp/imported/$by/$1 2>&1
[ -e "/tmp/imported/$by.done/${NEEDS:-}" ] || echo "too early" >>/tmp/imported/$by/$1
touch /tmp/imported/$by.done/$1
exit ${CODE:-0}
"#;

/// The `[Service]` sections, beside `ExecStart`.
const UNITS: [&str; 30] = [
    "",
    "User=web\n",
    "User=web\nGroup=daemon\n",
    "User=1000\nGroup=1000\n",
    "User=web\nSupplementaryGroups=games mail\n",
    "UMask=0027\n",
    "UMask=0077\nUser=web\n",
    "Nice=5\n",
    "Nice=-5\nUser=web\n",
    "WorkingDirectory=/usr\n",
    "WorkingDirectory=/usr/share\nUser=web\n",
    "Environment=A=1 \"B=two words\" C=%%\nEnvironment=D=%n\n",
    "EnvironmentFile=/tmp/imported/variables\nEnvironment=FROM_UNIT=1\n",
    "EnvironmentFile=-/tmp/imported/none\nEnvironment=X=1\n",
    "Environment=CODE=3\n",
    "MemoryMax=64M\n",
    "MemoryMax=64M\nMemoryHigh=48M\nMemorySwapMax=0\n",
    "Environment=CODE=77\nUser=web\n",
    "MemoryMax=infinity\nMemoryHigh=96M\n",
    "MemoryLow=8M\n",
    "CPUQuota=50%\n",
    "CPUQuota=150%\nCPUWeight=50\n",
    "TasksMax=40\n",
    "LimitNOFILE=4096\n",
    "LimitNOFILE=2048:8192\nLimitCORE=0\nUser=web\n",
    "LimitNPROC=64\nLimitSTACK=16M\n",
    "OOMScoreAdjust=200\n",
    "NoNewPrivileges=yes\nUser=web\n",
    "CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_CHOWN\n",
    "User=web\nAmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n",
];

/// Returns whether a line may differ, as docs/coming-from.md says.
fn may_differ(section: &str, line: &str) -> bool {
    let is_root = !section.contains("User=");
    match line.split([' ', ':', '\t']).next().unwrap_or_default() {
        // A user other than root can get no further rights.
        "NoNewPrivs" => !is_root,
        // It has the capabilities that the manifest names, and no others.
        "CapBnd" => !is_root,
        // systemd's own default, which is in no unit.
        "pids.max" => !section.contains("TasksMax"),
        // The soft limit is the hard one.
        "Max" => line.starts_with("Max open files") && section.contains("LimitNOFILE=2048:8192"),
        _ => false,
    }
}

fn name(number: usize) -> String {
    format!("unit-{number}")
}

fn read(by: &str, number: usize) -> Vec<String> {
    let text = fs::read_to_string(format!("{FOLDER}/{by}/{}", name(number))).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn thirty_units_find_the_same_under_both() {
    install_anew();
    sh(&format!(
        "mkdir -p -m 1777 {FOLDER}; cd {FOLDER}; for by in systemd enforcer; do \
         mkdir -p $by $by.done; chmod 0777 $by $by.done; done"
    ));
    fs::write(format!("{FOLDER}/program"), PROGRAM).unwrap();
    fs::write(
        format!("{FOLDER}/variables"),
        "# of a file\nE=five\nF=\"six seven\"\nG='8 9'\n",
    )
    .unwrap();
    sh(&format!("chmod 0755 {FOLDER}/program"));
    for (number, section) in (0..).zip(UNITS) {
        // Every third one is needed by the next.
        let (unit, needs) = match number % 3 {
            1 => {
                let before = name(number - 1);
                (
                    format!("[Unit]\nRequires={before}.service\nAfter={before}.service\n"),
                    format!("Environment=NEEDS={before}\n"),
                )
            }
            _ => (String::new(), String::new()),
        };
        let kind = if number % 3 == 0 { "oneshot" } else { "exec" };
        let text = format!(
            "{unit}[Service]\nType={kind}\nExecStart={FOLDER}/program {} 'two words' %%\n{section}{needs}",
            name(number)
        );
        fs::write(
            format!("/etc/systemd/system/{}.service", name(number)),
            text,
        )
        .unwrap();
    }
    sh("systemctl daemon-reload");
    let names: Vec<String> = (0..UNITS.len()).map(name).collect();
    // Some of them end with a code.
    shell(&format!("systemctl start {}", names.join(" ")));
    let ended = |by: &str| {
        let done = format!("{FOLDER}/{by}.done");
        wait_for(&format!("all units under {by}"), || {
            let all = names
                .iter()
                .all(|name| Path::new(&done).join(name).exists());
            all.then_some(())
        });
    };
    ended("systemd");
    let units: Vec<String> = names
        .iter()
        .map(|name| format!("/etc/systemd/system/{name}.service"))
        .collect();
    let imported = shell(&format!("enforcer import systemd {}", units.join(" ")));
    let report = String::from_utf8_lossy(&imported.stderr).into_owned();
    let faults: Vec<&str> = report
        .lines()
        .filter(|line| line.starts_with("dropped") || line.starts_with("needs you"))
        .collect();
    assert!(faults.is_empty(), "{faults:?}");
    fs::write(MANIFEST, &imported.stdout).unwrap();
    sh("systemctl reload enforcer");
    ended("enforcer");

    let mut differences = Vec::new();
    for (number, section) in (0..).zip(UNITS) {
        let (theirs, ours) = (read("systemd", number), read("enforcer", number));
        for (line, other) in theirs
            .iter()
            .zip(&ours)
            .filter(|(line, other)| line != other)
        {
            if !may_differ(section, line) {
                differences.push(format!("{number}: {line} → {other}"));
            }
        }
        if theirs.len() != ours.len() {
            differences.push(format!("{number}: {theirs:?} → {ours:?}"));
        }
        let status = sh(&format!(
            "systemctl show -p ExecMainStatus --value {}",
            name(number)
        ));
        let inspected = sh(&format!("enforcer inspect {} --json", name(number)));
        let inspected: Inspection = serde_json::from_str(&inspected).unwrap();
        let code = wait_for("its end", || {
            let last = inspected.workload.last_exit?;
            last.code
        });
        if code.to_string() != status {
            differences.push(format!("{number}: exit code {status} → {code}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{}\n{}",
        differences.join("\n"),
        String::from_utf8_lossy(&imported.stdout)
    );
    purge();
    sh(&format!(
        "rm -rf {FOLDER} /etc/systemd/system/unit-*.service; systemctl daemon-reload; systemctl reset-failed"
    ));
}
