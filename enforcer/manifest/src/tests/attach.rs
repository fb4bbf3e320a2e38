//! Attached services.

use super::{check, check_workload};
use expect_test::{Expect, expect};

#[test]
fn a_service_of_others_is_named_in_four_ways() {
    check_attached("attach: { systemd: nginx.service }", &expect![""]);
    check_attached(
        "attach: { docker: shop_web.1 }
prove: true
probes: { liveness: { http: { port: 80, path: / } } }
watch: { cpu_loop: { after: 10s } }
priority: 70",
        &expect![""],
    );
    check_attached(
        "attach: { podman: 0123456789ab }
user: web
mode: observe
probes: { readiness: { exec: { command: [/bin/true] } } }
on_unready: [/bin/true]",
        &expect![""],
    );
    check_attached("attach: { cgroup: /machine.slice/vm.scope }", &expect![""]);
    // Defaults for programs do not hold for an attached service.
    check(
        "version: 1
defaults: { cgroup: { memory.max: 64M }, user: web, mode: enforce, priority: 10 }
workloads:
  shop: { attach: { systemd: shop.service } }
",
        &expect![""],
    );
}

#[test]
fn a_service_has_one_owner_and_a_name_of_its_kind() {
    check_attached(
        "attach: nginx.service",
        &expect![[r#"
        4:13 error: expected one service (one of `systemd`, `docker`, `podman` and `cgroup`) [attach: { systemd: nginx.service }]
    "#]],
    );
    check_attached(
        "attach: { systemd: nginx, docker: web }",
        &expect![[r#"
        4:13 error: expected one service (one of `systemd`, `docker`, `podman` and `cgroup`) [attach: { systemd: nginx.service }]
    "#]],
    );
    check_attached(
        "attach: { systemd: nginx }",
        &expect![[r#"
        4:24 error: `nginx` is not valid here (expected the full name of a service, a scope or a slice, such as nginx.service)
    "#]],
    );
    check_attached(
        "attach: { docker: \"--help\" }",
        &expect![[r#"
        4:23 error: `--help` is not valid here (expected the name or the id of a container)
    "#]],
    );
    check_attached(
        "attach: { cgroup: /a/../b }",
        &expect![[r#"
        4:23 error: `/a/../b` is not valid here (expected a path below /sys/fs/cgroup, such as /system.slice/nginx.service)
    "#]],
    );
}

#[test]
fn what_only_a_program_of_ones_own_has_is_a_fault() {
    check_attached(
        "attach: { systemd: nginx.service }
command: [/bin/true]
hostname: web
mode: enforce
probes: { startup: { notify: {} }, readiness: { exec: { command: [/bin/true] } } }",
        &expect![[r#"
            4:5 error: this workload has no `user` (its commands would run as root) [name the account that they run as; write `user: root` to mean it]
            5:5 error: `command` does not go with `attach` (its owner has started it, and decides about this) [keys beside `attach`: prove, mode, cgroup, user, group, groups, priority, probes, on_ready, on_unready, watch, recovery, commands]
            6:5 error: `hostname` does not go with `attach` (its owner has started it, and decides about this) [keys beside `attach`: prove, mode, cgroup, user, group, groups, priority, probes, on_ready, on_unready, watch, recovery, commands]
            8:15 error: an attached service does not say `READY=1` to enforcer (expected another kind of probe)
        "#]],
    );
    check_workload(
        "prove: true",
        &expect![[r#"
        6:12 error: `prove` needs `attach` (loops of the agent's own programs are always proved)
    "#]],
    );
}

#[test]
fn its_owner_sets_its_limits() {
    check_attached(
        "attach: { systemd: nginx.service }
mode: enforce
cgroup: { memory.max: 1G, cpu.max: 50%, cpu.weight: idle, io.weight: 50, pids.max: 100 }",
        &expect![""],
    );
    check_attached(
        "attach: { docker: web }
mode: enforce
cgroup: { memory.max: 1G, cpu.max: 50%, pids.max: 100 }",
        &expect![""],
    );
    check_attached(
        "attach: { systemd: nginx.service }
cgroup: { memory.max: 1G }",
        &expect![[r#"
            5:13 error: an observed service gets no limits (its owner is asked for them with `mode: enforce` alone) [mode: enforce]
        "#]],
    );
    check_attached(
        "attach: { systemd: nginx.service }
mode: enforce
cgroup: { cpuset.cpus: \"0\", memory.high: 80% }",
        &expect![[r#"
            6:15 error: systemd does not set `cpuset.cpus` (the owner of the service sets its limits) [it sets cpu.weight, cpu.max, memory.min, memory.low, memory.high, memory.max, memory.swap.max, pids.max, io.weight]
            6:46 error: `80%` is not valid here (expected a size: there is no memory.max to take a percentage of)
        "#]],
    );
    check_attached(
        "attach: { podman: web }
mode: enforce
cgroup: { cpu.weight: 50 }",
        &expect![[r#"
            6:15 error: podman does not set `cpu.weight` (the owner of the service sets its limits) [it sets cpu.max, memory.max, pids.max]
        "#]],
    );
}

#[test]
fn a_service_of_a_users_own_has_the_user_before_its_name() {
    check_attached("attach: { systemd: web/app.service }", &expect![""]);
    check_attached("attach: { podman: \"web/*\" }", &expect![""]);
    check_attached(
        "attach: { podman: unknown/shop }",
        &expect![[r#"
        4:23 error: there is no user `unknown` on this host (the service is one of this user's own)
    "#]],
    );
    check_attached(
        "attach: { systemd: \"*/app.service\" }",
        &expect![[r#"
        4:24 error: `*/app.service` is not valid here (expected the name of a user before the slash)
    "#]],
    );
    check_attached(
        "attach: { docker: web/shop }",
        &expect![[r#"
        4:23 error: `web/shop` is not valid here (expected the name or the id of a container)
    "#]],
    );
}

#[test]
fn a_pattern_stands_for_services_that_are_observed() {
    check_attached("attach: { systemd: \"nginx@*.service\" }", &expect![""]);
    check_attached("attach: { docker: \"*\" }", &expect![""]);
    check_attached("attach: { cgroup: \"/system.slice/web-?\" }", &expect![""]);
    check_attached(
        "attach: { cgroup: \"/*/web\" }",
        &expect![[r#"
        4:23 error: `/*/web` is not valid here (expected a path whose last part alone is a pattern, such as /system.slice/*)
    "#]],
    );
    check_attached(
        "attach: { podman: \"web-*\" }\nmode: enforce",
        &expect![[r#"
        5:11 error: podman web-* can only be observed (it stands for several services, and a remedy needs the full name of one) [mode: observe]
    "#]],
    );
    let source = "version: 1
workloads:
  all: { attach: { systemd: \"*.service\" } }
  web: { command: [/bin/true], user: web, needs: { all: ready } }
";
    let parsed = super::parse(source, &super::Known);
    let (_, faults) = crate::join(vec![parsed]);
    let shown = faults.iter().map(|(_, fault)| super::shown(source, fault));
    expect![[r#"
        4:43 error: `web` needs `all`, which stands for several services (expected one service)
    "#]]
    .assert_eq(&shown.collect::<String>());
}

fn check_attached(lines: &str, expected: &Expect) {
    let indented: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    check(
        &format!("version: 1\nworkloads:\n  web:\n{indented}"),
        expected,
    );
}
