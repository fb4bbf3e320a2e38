//! What a file says once for several places, and files that were written for other tools.

use super::{Known, check, parse};
use enforcer_model::spec::WorkloadSpec;
use expect_test::expect;
use std::sync::Arc;

/// Returns the workloads of a file without faults, in the order of their names.
fn workloads(source: &str) -> Vec<Arc<WorkloadSpec>> {
    let parsed = parse(source, &Known);
    assert!(parsed.faults.is_empty(), "{:?}", parsed.faults);
    parsed.manifest.workloads.into_values().collect()
}

/// Returns the only workload of a file without faults.
fn workload(source: &str) -> Arc<WorkloadSpec> {
    workloads(source).remove(0)
}

const LONG: &str = "
version: 1
workloads:
  a:
    command: [/bin/a]
    user: web
    environment: { LANG: C, A: '1' }
    cgroup: { memory.max: 64M, pids.max: 20 }
    stop: { grace: 2s }
  b:
    command: [/bin/b]
    user: root
    environment: { LANG: C }
    cgroup: { memory.max: 64M, pids.max: 30 }
    stop: { grace: 2s }
";

#[test]
fn defaults_lie_under_each_workload() {
    let short = "
version: 1
defaults:
  command: [/bin/b]
  user: web
  environment: { LANG: C }
  cgroup: { memory.max: 64M, pids.max: 20 }
  stop: { grace: 2s }
workloads:
  a: { command: [/bin/a], environment: { A: '1' }, stop: }
  b: { user: root, cgroup: { pids.max: 30 } }
";
    assert_eq!(workloads(short), workloads(LONG));
    assert_eq!(
        workload("version: 1\ndefaults: { command: [/bin/a], user: web }\nworkloads:\n  a:\n"),
        workload("version: 1\nworkloads: { a: { command: [/bin/a], user: web } }\n")
    );
}

#[test]
fn merge_keys_are_expanded() {
    let short = "
version: 1
x-common: &common { user: web, stop: &stop { grace: 2s }, x-note: none }
x-limits: &limits { memory.max: 64M, pids.max: 20 }
x-language: &language { environment: &environment { LANG: C } }
workloads:
  a:
    <<: [*common, *language]
    command: [/bin/a]
    environment: { <<: *environment, A: '1' }
    cgroup: *limits
  b: { command: [/bin/b], user: root, <<: [*common, *language], cgroup: { <<: *limits, pids.max: 30 } }
";
    assert_eq!(workloads(short), workloads(LONG));
}

#[test]
fn a_name_in_quotes_is_no_merge_key() {
    let spec = workload(
        "version: 1\nworkloads: { a: { command: [/bin/a], user: web, environment: { '<<': x, x-a: y } } }\n",
    );
    assert_eq!(spec.environment.len(), 2);
}

#[test]
fn a_workloads_probe_replaces_one_of_another_kind() {
    let probes = "probes: { liveness: { tcp: { port: 80 }, period: 3s } }";
    let with = "
version: 1
defaults: { probes: { liveness: { http: { port: 80 }, period: 3s } } }
workloads: { a: { command: [/bin/a], user: web, probes: { liveness: { tcp: { port: 80 } } } } }
";
    let without =
        format!("version: 1\nworkloads: {{ a: {{ command: [/bin/a], user: web, {probes} }} }}\n");
    assert_eq!(workload(with), workload(&without));
}

/// A name that is a probe's kind elsewhere is a name.
#[test]
fn names_are_no_choice() {
    let spec = workload(
        "
version: 1
defaults: { environment: { http: a } }
workloads: { a: { command: [/bin/a], user: web, environment: { tcp: b } } }
",
    );
    assert_eq!(spec.environment.len(), 2);
}

#[test]
fn a_fault_of_the_defaults_is_reported_once_where_it_stands() {
    check(
        "version: 1
defaults:
  comand: [/bin/true]
  cgroup: { memory.max: 64X }
workloads:
  a: { command: [/bin/a] }
  b: { command: [/bin/b] }
  c: { user: web }
",
        &expect![[r#"
            3:3 error: unknown key `comand` (did you mean `command`?)
            4:25 error: `64X` is not valid here (expected a size like 512M or 1.5G (K, M, G, T are binary; plain numbers are bytes), or max)
            6:6 error: this workload has no `user` (it would run as root) [name the account it runs as; write `user: root` to mean it]
            7:6 error: this workload has no `user` (it would run as root) [name the account it runs as; write `user: root` to mean it]
            8:6 error: this workload has no `command` (expected a `command`, or `attach`) [command: [/path/to/program, argument]]
        "#]],
    );
    check(
        "version: 1\ndefaults: [a]\nworkloads: { a: { command: [/bin/a] } }\n",
        &expect![[r#"
            2:11 error: expected a mapping of keys to values, found a list (expected a mapping of keys to values)
            3:17 error: this workload has no `user` (it would run as root) [name the account it runs as; write `user: root` to mean it]
        "#]],
    );
    check(
        "version: 1\ndefaults: { user: web }\n",
        &expect![[r#"
        2:11 warning: `defaults` hold for the workloads of their own file, and this one has none (without effect)
    "#]],
    );
}

#[test]
fn a_merge_key_without_a_mapping_is_a_fault() {
    check(
        "version: 1\nx-a: &a [b]\nworkloads:\n  a: { <<: [*a], command: [/bin/a] }\n",
        &expect![[r#"
            4:8 error: `<<` needs a mapping, and this is a list (expected the alias of a mapping, or a list of them) [`x-common: &common { … }` names a mapping, and `<<: *common` lays it under this one]
        "#]],
    );
    check(
        "version: 1\nworkloads: { a: { <<: b, command: [/bin/a] } }\n",
        &expect![[r#"
            2:19 error: `<<` needs a mapping, and this is `b` (expected the alias of a mapping, or a list of them) [`x-common: &common { … }` names a mapping, and `<<: *common` lays it under this one]
        "#]],
    );
}

#[test]
fn defaults_are_no_bomb() {
    use std::fmt::Write as _;
    let mut text = "version: 1\ndefaults: { environment: {".to_owned();
    for number in 0..2000 {
        let _ = write!(text, "A{number}: b, ");
    }
    text.push_str("} }\nworkloads:\n");
    for number in 0..2000 {
        let _ = writeln!(text, "  a{number}: {{}}");
    }
    check(
        &text,
        &expect![[r#"
        2:1 error: the file grows beyond all bounds when its `defaults` are laid under each workload (past 100000 values)
    "#]],
    );
}

#[test]
fn a_key_of_another_section_is_answered_with_its_place() {
    check(
        "version: 1
restart: always
command: [/bin/true]
workloads:
  a:
    command: [/bin/a]
    restart: always
    memory.max: 64M
    cgroup: { user: web, mem_limit: 64M, workloads: {} }
    grace: 3s
    http: { port: 80 }
    receivers: {}
",
        &expect![[r#"
            2:1 error: unknown key `restart` (not a key of this section) [`restart` stands under `recovery` of a workload]
            3:1 error: unknown key `command` (not a key of this section) [`command` stands in the workload itself]
            6:5 error: this workload has no `user` (it would run as root) [name the account it runs as; write `user: root` to mean it]
            7:5 error: unknown key `restart` (not a key of this section) [`restart` stands under `recovery` of a workload]
            8:5 error: unknown key `memory.max` (not a key of this section) [`memory.max` stands under `cgroup` of a workload]
            9:15 error: unknown key `user` (not a key of this section) [`user` stands in the workload itself]
            9:26 error: unknown key `mem_limit` (not a key of enforcer's) [it is `memory.max` under `cgroup`]
            9:42 error: unknown key `workloads` (not a key of this section) [`workloads` stands at the top of the file]
            10:5 error: unknown key `grace` (not a key of this section) [`grace` stands under `stop` of a workload]
            11:5 error: unknown key `http` (not a key of this section) [`http` stands in a probe, such as `probes.liveness`]
            12:5 error: unknown key `receivers` (did you mean `recovery`?)
        "#]],
    );
}

#[test]
fn a_file_of_another_tool_is_called_by_its_name() {
    check(
        "services:\n  web:\n    image: nginx\n    restart: always\n",
        &expect![[r#"
            1:1 error: this is a Compose file (not a manifest of enforcer's) [`enforcer import compose FILE` turns it into one; the document coming-from.md has what each key is here]
        "#]],
    );
    check(
        "# a comment\nversion: '3'\nservices: { web: { image: nginx } }\nvolumes: {}\n",
        &expect![[r#"
            3:1 error: this is a Compose file (not a manifest of enforcer's) [`enforcer import compose FILE` turns it into one; the document coming-from.md has what each key is here]
        "#]],
    );
    check(
        "apiVersion: apps/v1\nkind: Deployment\nspec: {}\n---\napiVersion: v1\nkind: Service\n",
        &expect![[r#"
            1:1 error: this is a Kubernetes manifest of kind `Deployment` (not a manifest of enforcer's) [`enforcer import kubernetes FILE` turns it into one; the document coming-from.md has what each key is here]
        "#]],
    );
    check(
        "# a comment\n\n[Unit]\nDescription=Web\n\n[Service]\nExecStart=/bin/a\n",
        &expect![[r#"
            3:1 error: this is a systemd unit (not a manifest of enforcer's) [`enforcer import systemd FILE` turns it into one; the document coming-from.md has what each key is here]
        "#]],
    );
    check(
        "; a comment\n[program:web]\ncommand=/bin/a\n",
        &expect![[r#"
            2:1 error: this is a configuration of supervisord (not a manifest of enforcer's) [write each program under `workloads`; the document coming-from.md has what each key is here]
        "#]],
    );
}
