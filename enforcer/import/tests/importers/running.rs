//! A first manifest from what runs.

use enforcer_import::running::{Running, What, manifest};
use enforcer_model::spec::Attach;
use enforcer_model::units::Bytes;
use expect_test::expect;

#[test]
fn a_first_manifest_attaches_services_and_bounds_programs() {
    let service = |service: Attach| Running {
        what: What::Service(service),
        cpu_percent: 3.5,
        peak: Bytes(42 << 20),
        tasks: 5,
    };
    let all = [
        service(Attach::Systemd("nginx.service".to_owned())),
        service(Attach::Docker("shop_web".to_owned())),
        service(Attach::Podman("nginx".to_owned())),
        Running {
            what: What::Program {
                pid: 4711,
                command: vec![
                    "/usr/bin/python3".to_owned(),
                    "server.py".to_owned(),
                    "--name=a b".to_owned(),
                    "yes".to_owned(),
                ],
                user: "web".to_owned(),
                directory: Some("/srv/web".to_owned()),
            },
            cpu_percent: 0.0,
            peak: Bytes(1 << 20),
            tasks: 40,
        },
    ];
    let text = manifest(&all, "1m");
    expect![[r#"
        version: 2
        workloads:
          nginx:
            # In 1m: 3.5 % of a CPU, at most 42M of memory and 5 tasks.
            # Its limits are systemd's: systemctl set-property nginx.service MemoryMax=64M TasksMax=32
            attach: { systemd: nginx.service }
          shop-web:
            # In 1m: 3.5 % of a CPU, at most 42M of memory and 5 tasks.
            # Its limits are Docker's: docker update --memory 64m --pids-limit 32 shop_web
            attach: { docker: shop_web }
          nginx-2:
            # In 1m: 3.5 % of a CPU, at most 42M of memory and 5 tasks.
            # Its limits are Podman's: podman update --memory 64m --pids-limit 32 nginx
            attach: { podman: nginx }
          python3:
            # In 1m: 0.0 % of a CPU, at most 1M of memory and 40 tasks.
            # It runs as process 4711: end that one before this manifest is applied.
            command: [/usr/bin/python3, server.py, "--name=a b", "yes"]
            user: web
            directory: /srv/web
            cgroup: { memory.max: 16M, pids.max: 80 }
    "#]].assert_eq(&text);
    assert_eq!(super::faults(&text), Vec::<String>::new());
    assert_eq!(super::faults(&manifest(&[], "1m")), Vec::<String>::new());
}
