//! Entries for fuzzing: one for each reader of foreign bytes. None may panic, and what is accepted
//! must be accepted again in its written form. `fuzz/` calls them with the inputs of libFuzzer, and
//! the tests below with damaged texts.

use crate::cli::logs::Tamer;
use crate::executor::proof::symbolize;
use crate::probe::http::resolve_redirect;
use crate::store::handover;
use crate::store::journal;
use enforcer_core::notice::Notice;
use enforcer_import::compose::{Options, Source};
use enforcer_import::systemd::Files;
use enforcer_kernel::counters;
use enforcer_kernel::process::FileMapping;
use enforcer_manifest::Accounts;
use enforcer_manifest::environment_file;
use enforcer_model::requests::Proposal;

/// A host that knows everybody.
struct Everybody;

impl Accounts for Everybody {
    fn agent_is_root(&self) -> bool {
        true
    }

    fn has_user_of_number(&self, _: u32) -> bool {
        true
    }

    fn has_user(&self, _: &str) -> bool {
        true
    }

    fn has_group(&self, _: &str) -> bool {
        true
    }
}

/// A manifest. What is drawn of a fault has to lie within the text.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let parsed = enforcer_manifest::parse(text, &Everybody);
    for fault in &parsed.faults {
        assert!(text.get(fault.span.clone()).is_some(), "{:?}", fault.span);
    }
    let _ = enforcer_manifest::join(vec![parsed]);
}

/// The workloads of a fleet, and the settings of a host in one. What is drawn of a fault has to lie within the text.
pub fn fleet(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let workloads = enforcer_manifest::parse_fleet(text).faults;
    let (_, settings) = enforcer_manifest::parse_fleet_config(text);
    for fault in workloads.iter().chain(&settings) {
        assert!(text.get(fault.span.clone()).is_some(), "{:?}", fault.span);
    }
}

/// Files of others that are imported. What comes out must be YAML.
pub fn import(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let source = Source {
        name: "web.service".to_owned(),
        text: text.to_owned(),
    };
    let nothing = |path: &str| Err(format!("{path} is not there"));
    let composed =
        enforcer_import::compose(std::slice::from_ref(&source), &Options::default(), &nothing);
    let objects = enforcer_import::kubernetes(
        std::slice::from_ref(&source),
        &enforcer_import::kubernetes::Options::default(),
    );
    let labelled = enforcer_import::labels(&source, "", &Options::default());
    let unit = Files {
        name: source.name.clone(),
        files: vec![source],
    };
    for imported in [
        composed,
        objects,
        labelled,
        enforcer_import::systemd(&[unit]),
    ] {
        match imported {
            Ok(imported) => {
                assert!(
                    enforcer_manifest::read_yaml(&imported.manifest).is_ok(),
                    "{}",
                    imported.manifest
                );
            }
            Err(refused) => assert!(text.get(..refused.at).is_some() || refused.at > text.len()),
        }
    }
}

/// A request's body: a manifest to apply, or a throttle.
pub fn api_body(bytes: &[u8]) {
    if let Ok(proposal) = serde_json::from_slice::<Proposal>(bytes) {
        if let Some(file) = &proposal.file {
            manifest(file.text.as_bytes());
        }
        let again = serde_json::to_vec(&proposal).unwrap_or_default();
        assert!(serde_json::from_slice::<Proposal>(&again).is_ok());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = enforcer_manifest::parse_throttle(text);
        let _ = enforcer_manifest::parse_duration(text);
    }
}

/// `memory.events`, and every other flat keyed file.
pub fn memory_events(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for key in ["oom_kill", "oom", "oom_group_kill", ""] {
        let _ = counters::field(&text, key);
    }
}

/// A file of variables, which the workload's user may have written.
pub fn environment_file(bytes: &[u8]) {
    const NEVER: [char; 4] = ['=', ' ', '\0', '\u{feff}'];
    for (name, value) in environment_file::parse(bytes).into_iter().flatten() {
        assert!(!name.is_empty() && !name.contains(NEVER), "{name:?}");
        assert!(!value.contains(&0));
    }
}

/// A redirection of a probe: to a path of the same host, or nowhere.
pub fn redirect(bytes: &[u8]) {
    let location = String::from_utf8_lossy(bytes);
    for host in ["localhost", "::1"] {
        if let Some((_, path)) = resolve_redirect(&location, ("http", host, Some(80)), "/a/b?c") {
            assert!(path.starts_with('/'), "{location:?}: {path:?}");
            assert!(!path.contains([' ', '\r', '\n']), "{location:?}: {path:?}");
        }
    }
}

/// A line of `/proc/PID/maps`, whose names a workload chooses.
pub fn mapping(bytes: &[u8]) {
    let _ = FileMapping::parse(bytes);
}

/// A symbol map that an interpreter has written, and an address in it.
pub fn perf_map(bytes: &[u8]) {
    let map = String::from_utf8_lossy(bytes);
    for address in [0, 0x7f04, u64::MAX] {
        if let Some(name) = symbolize::name_in_perf_map(&map, address) {
            let shown = symbolize::printable(&name);
            assert!(!shown.contains(char::is_control), "{shown:?}");
        }
    }
}

/// A workload's output, as `enforcer logs` shows it on a terminal, in two frames.
pub fn terminal(bytes: &[u8]) {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut tamer = Tamer::default();
    let shown = [tamer.tame(first), tamer.tame(second)].concat();
    let shown = String::from_utf8(shown).expect("what is shown is text");
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(!shown.contains(steers), "{shown:?}");
}

/// A message by which a program says how it is.
pub fn notice(bytes: &[u8]) {
    let notice = Notice::parse(bytes);
    let status = notice.status.clone().unwrap_or_default();
    assert!(!status.contains(char::is_control), "{status:?}");
    let mut all = notice.clone();
    all.add(notice.clone());
    assert_eq!(all, notice, "what is said twice is the same");
}

/// The files of the agent before: checkpoints, instances and the journal.
pub fn state(bytes: &[u8]) {
    let _ = accepts_state(bytes);
}

/// Returns whether an agent would read anything from them.
fn accepts_state(bytes: &[u8]) -> bool {
    handover::decode(bytes) || !journal::decode(bytes).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Damages a text in many ways, always the same ones: bytes that are changed, taken
    /// out, doubled, and pieces that change places.
    fn damaged(seed: &[u8], times: u64, target: fn(&[u8])) {
        target(seed);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 16).unwrap_or(0) % below.max(1)
        };
        for _ in 0..times {
            let mut bytes = seed.to_vec();
            for _ in 0..=next(4) {
                let (at, other) = (next(bytes.len()), next(bytes.len()));
                match next(5) {
                    0 if !bytes.is_empty() => bytes[at] = u8::try_from(next(256)).unwrap_or(0),
                    1 if !bytes.is_empty() => drop(bytes.remove(at)),
                    2 => bytes.truncate(at),
                    3 => {
                        let piece = bytes[at.min(other)..at.max(other)].to_vec();
                        let place = next(bytes.len());
                        bytes.splice(place..place, piece);
                    }
                    _ => bytes.rotate_left(at),
                }
            }
            target(&bytes);
        }
    }

    /// One as an agent keeps it.
    fn checkpoint() -> String {
        use enforcer_core::event::Moment;
        use enforcer_core::units::MonoTime;
        use enforcer_core::{Event, Supervisor};
        let text = include_str!("../../docs/demo.yaml");
        let manifest = enforcer_manifest::parse(text, &Everybody).manifest;
        let moment = Moment {
            now: MonoTime(1),
            noise: 2,
        };
        let prune = enforcer_core::event::Prune::Nothing;
        let decision = Supervisor::new(2).handle(
            moment,
            Event::Agent(enforcer_core::event::AgentEvent::Configure { manifest, prune }),
        );
        let kept = decision.checkpoints.into_iter().find_map(|(_, kept)| kept);
        serde_json::to_string(&kept.expect("a checkpoint")).expect("JSON")
    }

    #[test]
    fn damaged_manifests_are_refused_and_nothing_else() {
        let demo = include_bytes!("../../docs/demo.yaml");
        damaged(demo, 4000, manifest);
        damaged(
            include_bytes!("../../packaging/example.yaml"),
            4000,
            manifest,
        );
    }

    #[test]
    fn damaged_imports_are_refused_and_nothing_else() {
        let compose = b"services:\n  web:\n    image: a:${T:-1}\n    command: [a, \"b c\"]\n    ports: [\"80:8080\"]\n    \
            volumes: [\"./a:/b:ro\", \"c:/d\"]\n    healthcheck: { test: \"curl -f http://localhost:8080/ || exit 1\" }\n    \
            deploy: { resources: { limits: { cpus: \"0.5\", memory: 1g } } }\n";
        damaged(compose, 4000, import);
        let unit = b"[Unit]\nAfter=a.service\n[Service]\nExecStart=-/bin/a \"%i x\" $B ${C}d \\x41 \\\n  e\n\
            Environment=B=1 \"C=2 3\"\nMemoryMax=1G\nRestartSec=1min 2s\nLimitNOFILE=1:2\nBindPaths=/a:/b\n";
        damaged(unit, 4000, import);
        let objects = b"apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: web }\nspec:\n  replicas: 3\n  strategy: { \
            rollingUpdate: { maxSurge: 25% } }\n  template:\n    spec:\n      containers:\n      - name: a\n        command: [a, \"$(B)\"]\n        \
            env: [{ name: B, value: \"1$$\" }]\n        resources: { limits: { cpu: 500m, memory: 1.5Gi } }\n        livenessProbe: { httpGet: { \
            port: 80 } }\n---\napiVersion: v1\nkind: Secret\nmetadata: { name: s }\ndata: { a: c2VjcmV0 }\n";
        damaged(objects, 4000, import);
        let dockerfile = b"FROM a AS b\nFROM c\nRUN <<E\nx\nE\nENV A=1 B=\"2 \\\n3\"\nEXPOSE 80/tcp\nLABEL HEALTH_URI=/h CPU_SHARES=512\n\
            HEALTHCHECK --interval=5s CMD [\"a\"]\nCMD [\"a\", \"b\"]\n";
        damaged(dockerfile, 4000, import);
    }

    #[test]
    fn damaged_texts_of_a_workload_are_refused_and_nothing_else() {
        let variables = b"\xef\xbb\xbfFIRST=1\r\nexport SECOND='2 3'\n# comment\nURL=a=b\n";
        damaged(variables, 4000, environment_file);
        for location in [
            "http://localhost:81/x/../y?z#f",
            "//[::1]:80/%41",
            "../../g;x=1",
        ] {
            damaged(location.as_bytes(), 4000, redirect);
        }
        damaged(
            b"7f00-7f01 r-xp 00003000 fe:00 9     /usr/lib/libc.so.6",
            4000,
            mapping,
        );
        damaged(
            b"7f00 10 LazyCompile:*spin app.js:3\n0 8 stub\n",
            4000,
            perf_map,
        );
        damaged(
            b"READY=1\nSTATUS=\x1b[31mup\nEXTEND_TIMEOUT_USEC=1500000\nWATCHDOG=trigger\n",
            4000,
            notice,
        );
        damaged(
            "\x1b[2J gr\u{fc}n \u{9b}2J\r\n\u{20ac}".as_bytes(),
            4000,
            terminal,
        );
    }

    #[test]
    fn damaged_files_of_a_fleet_are_refused_and_nothing_else() {
        let workloads = b"version: 2\nworkloads:\n  web:\n    command: [/bin/web]\n    user: web\n    replicas: 3\n    \
            requires: { disk: ssd }\n    request: { memory: 1G, cpu: 0.5 }\n  db: { command: [/bin/db], singleton: true }\n";
        damaged(workloads, 4000, fleet);
        let settings = b"etcd: { endpoints: [\"https://10.0.0.1:2379\"], ca_file: /ca.pem, grace: 30s }\n\
            node: { labels: { zone: a }, reserve: { cpu: 0.5 } }\nallow: { users: [web], ports: [80, 8000-8999] }\n";
        damaged(settings, 4000, fleet);
    }

    #[test]
    fn damaged_bodies_are_refused_and_nothing_else() {
        let text = r#"{"file": {"path": "/etc/enforcer/web.yaml", "text": "version: 1\nworkloads:\n  web: {command: [/bin/true], user: root}\n"}, "prune": true}"#;
        damaged(text.as_bytes(), 4000, api_body);
        damaged(b"150%", 1000, api_body);
        damaged(b"1h30m", 1000, api_body);
    }

    #[test]
    fn damaged_counters_and_files_are_refused_and_nothing_else() {
        damaged(
            b"low 0\nhigh 1\nmax 2\noom 3\noom_kill 18446744073709551615\n",
            2000,
            memory_events,
        );
        let record = r#"{"seq":7,"time":"2026-01-31T10:00:00Z","boot_id":"b","workload":"web","instance":3,"kind":"start","reason":"config","caused_by":null,"details":{}}"#;
        let texts = [
            r#"{"schema":1,"boot_id":"b","root":["/sys/fs/cgroup/enforcer",true]}"#.to_owned(),
            r#"{"workload":"web","instance":3,"pid":7,"start_ticks":12,"cgroup":9}"#.to_owned(),
            format!("{record}\n{record}\n"),
            format!(
                r#"{{"seq":7,"checkpoint":{},"told":[{record}]}}"#,
                checkpoint()
            ),
        ];
        for text in texts {
            assert!(accepts_state(text.as_bytes()), "{text}");
            damaged(text.as_bytes(), 2000, state);
        }
    }
}
