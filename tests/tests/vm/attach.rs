//! Attached services: the agent sees what happens to them, and does nothing to them.

use crate::manifest;
use enforcer_model::WorkloadState;
use enforcer_model::cpu_loop::Verdict;
use enforcer_model::detail::{Adopted, CpuLoopFound, Degraded, Exit, Start};
use enforcer_model::oom::{Incident, OomSource, Scope};
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::wait_for;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

const TOP: &str = "/sys/fs/cgroup";

/// A cgroup that nobody of enforcer's has made.
struct Service {
    path: PathBuf,
}

impl Service {
    /// Makes a cgroup below the root, and the slices above it.
    fn new(place: &str) -> Self {
        let path = Path::new(TOP).join(place);
        let mut above = PathBuf::from(TOP);
        for part in Path::new(place) {
            let control = above.join("cgroup.subtree_control");
            fs::write(control, "+memory +cpu +pids").unwrap();
            above.push(part);
            fs::create_dir_all(&above).unwrap();
        }
        Self { path }
    }

    fn set(&self, file: &str, value: &str) {
        fs::write(self.path.join(file), value).unwrap();
    }

    /// Begins to start the fixture in it, as an owner would.
    fn begin(&self, arguments: &str) -> Child {
        let script = format!(
            "echo 0 >{}/cgroup.procs; exec /bin/fixture {arguments}",
            self.path.display()
        );
        let child = Command::new("/bin/sh").args(["-c", &script]).spawn();
        child.unwrap()
    }

    /// Starts the fixture in it.
    fn run(&self, arguments: &str) -> Child {
        let child = self.begin(arguments);
        wait_for("the program", || {
            let name = fs::read_to_string(format!("/proc/{}/comm", child.id())).ok()?;
            (name.trim() == "fixture").then_some(())
        });
        child
    }

    /// Removes it, once it is empty, and the slices above it that hold nothing else.
    fn remove(&self) {
        wait_for("an empty cgroup", || fs::remove_dir(&self.path).ok());
        let above = self.path.ancestors().skip(1);
        for slice in above.take_while(|slice| *slice != Path::new(TOP)) {
            let _ = fs::remove_dir(slice);
        }
    }
}

fn end(mut child: Child) {
    let _ = child.kill();
    child.wait().unwrap();
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, signal).unwrap();
}

fn attach(name: &str, service: &str, more: &str) -> String {
    format!("  {name}:\n    attach: {{ {service} }}\n{more}")
}

fn wait_for_pid(agent: &Agent, name: &str, child: &Child) {
    wait_for("its process", || {
        let found = agent.find(name)?;
        (found.pid == Some(child.id())).then_some(())
    });
}

#[test]
fn what_happens_to_a_service_of_systemds_is_known() {
    let unit = Service::new("others.slice/shop.service");
    unit.set("memory.max", "24M");
    unit.set("memory.oom.group", "0");
    let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    let changes = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE;
    let mut agent = Agent::start(&manifest(&attach(
        "shop",
        "systemd: shop.service",
        "    watch: { memory: { warn: 10%, critical: 99%, for: 1s } }\n",
    )));
    // It is looked for, and nothing is wrong.
    let sought = agent.wait_for_state("shop", WorkloadState::Starting);
    assert_eq!(sought.reason, "waiting for systemd shop.service to run");
    assert_eq!(sought.cgroup, "");

    let first = unit.run("rest");
    // The processes of its owner's have been written there before.
    watch.add_watch(&unit.path, changes).unwrap();
    watch
        .add_watch(unit.path.parent().unwrap(), changes)
        .unwrap();
    let found = agent.wait_for_state("shop", WorkloadState::Running);
    assert_eq!(pid_of(&found), first.id());
    assert_eq!(found.cgroup, unit.path.display().to_string());
    assert_eq!(found.memory_max_bytes, Some(24 << 20));
    assert!(found.ready);

    // Its owner alone stops and starts it.
    for command in ["stop", "restart", "kill"] {
        let output = agent.cli(&[command, "shop"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(text.contains("ask its owner"), "{text}");
    }
    assert!(agent.cli(&["probe", "shop"]).status.success());

    // Another agent knows it again.
    agent.kill();
    agent.start_again();
    agent.wait_for_event::<Adopted>("shop");
    assert_eq!(agent.events::<Start>("shop").len(), 1);
    let written = watch.read_events();
    assert!(matches!(written, Err(Errno::EAGAIN)), "{written:?}");

    // A child is killed, and the service goes on.
    let procs = unit.path.join("cgroup.procs");
    let script = format!("echo 0 >{} && exec /bin/fixture hog", procs.display());
    let hog = Command::new("/bin/sh")
        .args(["-c", &script])
        .spawn()
        .unwrap();
    let victim = hog.id();
    let incident = agent.wait_for_event::<Incident>("shop").details;
    assert_eq!(incident.victims.len(), 1, "{incident:?}");
    assert_eq!(incident.victims[0].pid, victim);
    assert_eq!(incident.limit_bytes.map(|limit| limit.0), Some(24 << 20));
    assert!(matches!(incident.scope, Scope::Own), "{incident:?}");
    assert_eq!(incident.source, OomSource::Ebpf);
    end(hog);
    assert_eq!(pid_of(&agent.workload("shop")), first.id());

    // It ends, and its owner starts it again.
    signal(&first, Signal::SIGTERM);
    let exit = agent.wait_for_event::<Exit>("shop").details;
    assert_eq!((exit.code, exit.signal), (None, Some(15)));
    let sought = agent.wait_for_state("shop", WorkloadState::Starting);
    assert_eq!(sought.restarts, 0);
    end(first);
    unit.remove();
    let unit = Service::new("others.slice/shop.service");
    unit.set("memory.max", "24M");
    let second = unit.run("rest");
    wait_for_pid(&agent, "shop", &second);
    assert_eq!(agent.workload("shop").restarts, 1);

    // It ends while no agent lives: by a signal, and by an OOM kill whose counters are gone with the cgroup.
    agent.kill();
    end(second);
    agent.start_again();
    let exits = agent.wait_for_events::<Exit>("shop", 2);
    assert_eq!(exits[1].details.signal, Some(9), "{exits:?}");
    let unseen = unit.run("hog-on-signal");
    wait_for_pid(&agent, "shop", &unseen);
    agent.kill();
    signal(&unseen, Signal::SIGUSR1);
    wait_for("its end", || {
        let state = fs::read_to_string(format!("/proc/{}/stat", unseen.id())).ok()?;
        state.contains(") Z ").then_some(())
    });
    end(unseen);
    unit.remove();
    agent.start_again();
    let exit = agent.wait_for_events::<Exit>("shop", 3).pop().unwrap();
    assert!(exit.details.oom_killed, "{exit:?}");
    let incidents = agent.events::<Incident>("shop");
    assert_eq!(
        (incidents.len(), incidents[1].details.victims.len()),
        (2, 1)
    );
    let unit = Service::new("others.slice/shop.service");
    unit.set("memory.max", "24M");
    let third = unit.run("hog-on-signal");
    wait_for_pid(&agent, "shop", &third);

    // An OOM kill ends it.
    signal(&third, Signal::SIGUSR1);
    let exit = agent.wait_for_events::<Exit>("shop", 4).pop().unwrap();
    assert!(exit.details.oom_killed, "{exit:?}");
    assert_eq!(agent.events::<Incident>("shop").len(), 3);
    end(third);

    // What is no longer in the manifest is let go, and so is everything at the end.
    let fourth = unit.run("rest");
    wait_for_pid(&agent, "shop", &fourth);
    agent.write_manifest("version: 1\nworkloads: {}\n");
    assert!(agent.cli(&["apply", "--prune"]).status.success());
    wait_for("no workload", || agent.workloads().is_empty().then_some(()));
    agent.write_manifest(&manifest(&attach("shop", "systemd: shop.service", "")));
    assert!(agent.cli(&["apply"]).status.success());
    wait_for_pid(&agent, "shop", &fourth);
    assert!(agent.terminate());
    let state = fs::read_to_string(format!("/proc/{}/stat", fourth.id())).unwrap();
    assert!(!state.contains(") Z "), "{state}");
    end(fourth);
    unit.remove();
}

#[test]
fn a_container_is_known_by_its_name_and_its_loop_is_seen() {
    let id = "5eed".repeat(16);
    let container = Service::new(&format!("docker/{id}"));
    let folder = PathBuf::from(format!("/var/lib/docker/containers/{id}"));
    fs::create_dir_all(&folder).unwrap();
    let described = format!(r#"{{"ID":"{id}","Name":"/shop","State":{{"Running":true}}}}"#);
    fs::write(folder.join("config.v2.json"), described).unwrap();
    let loops = "    watch: { cpu_loop: { after: 2s, step: 1s } }\n";
    let mut text = attach("by-name", "docker: shop", loops);
    text.push_str(&attach("again", "docker: 5eed5eed5eed", ""));
    text.push_str(&attach("absent", "podman: nothing", ""));
    let child = container.run("spin");
    let agent = Agent::start(&manifest(&text));
    // One of the two names gets it.
    let name = wait_for("the container", || {
        let mut all = agent.workloads().into_iter();
        all.find(|one| one.pid == Some(child.id()))
    });
    assert_ne!(name.name.to_string(), "absent");
    wait_for("a word about the other", || {
        let mut all = agent.all_events::<Degraded>().into_iter();
        all.find(|event| event.details.why.contains("is attached as"))
    });
    agent.write_manifest(&manifest(&attach("by-name", "docker: shop", loops)));
    assert!(agent.cli(&["apply", "--prune"]).status.success());
    wait_for_pid(&agent, "by-name", &child);
    let found = agent.wait_for_event::<Box<CpuLoopFound>>("by-name").details;
    assert_eq!(found.verdict, Verdict::OverBudget, "{found:?}");
    let because = format!("{found:?}");
    assert!(because.contains("prove: true"), "{because}");

    // With `prove`, the agent traces it, also the thread that is hot already.
    let more = format!("{loops}    prove: true\n");
    agent.write_manifest(&manifest(&attach("proved", "docker: shop", &more)));
    assert!(agent.cli(&["apply", "--prune"]).status.success());
    wait_for_pid(&agent, "proved", &child);
    let proved = agent.wait_for_event::<Box<CpuLoopFound>>("proved").details;
    assert_eq!(proved.verdict, Verdict::DeadLoop, "{proved:?}");
    end(child);
    container.remove();
    fs::remove_dir_all(folder).unwrap();
}

/// A pattern stands for the services that run, and for those that come.
#[test]
fn a_pattern_finds_services_as_they_come() {
    let first = Service::new("patterns.slice/pattern-a.service");
    let child = first.run("rest");
    let agent = Agent::start(&manifest(&attach(
        "units",
        "systemd: \"pattern-*.service\"",
        "",
    )));
    wait_for_pid(&agent, "units-a", &child);
    assert_eq!(agent.workloads().len(), 1, "the pattern is no workload");
    let second = Service::new("patterns.slice/pattern-B.service");
    let other = second.run("rest");
    let found = wait_for("the other one", || {
        let mut all = agent.workloads().into_iter();
        all.find(|one| one.pid == Some(other.id()))
    });
    let name = found.name.to_string();
    assert!(name.starts_with("units-"), "{name}");
    // One that ends is looked for, under its name.
    end(child);
    agent.wait_for_state("units-a", WorkloadState::Starting);
    // With `--prune` it is unknown, until it comes.
    assert!(agent.cli(&["apply", "--prune"]).status.success());
    wait_for("only the other one", || {
        (agent.workloads().len() == 1).then_some(())
    });
    let child = first.run("rest");
    wait_for_pid(&agent, "units-a", &child);
    agent.write_manifest("version: 1\nworkloads: {}\n");
    assert!(agent.cli(&["apply", "--prune"]).status.success());
    wait_for("no workload", || agent.workloads().is_empty().then_some(()));
    end(child);
    end(other);
    first.remove();
    second.remove();
}

/// The engines know no word for no limit of memory. The kernel takes the greatest number that they pass on for one.
#[test]
fn the_greatest_size_of_an_engine_is_no_limit() {
    let service = Service::new("greatest.slice/greatest.service");
    service.set("memory.max", "64M");
    service.set("memory.max", "9223372036854774784");
    let found = fs::read_to_string(service.path.join("memory.max")).unwrap();
    assert_eq!(found.trim(), "max");
    service.remove();
}

/// The number of processes that the kernel kills in each layout.
const KILLS: usize = 8;
/// The places that systemd and the engines give to a service, and how each is attached. `ID` is a container's.
const LAYOUTS: [(&str, &str); 8] = [
    ("layout.slice/unit.service", "systemd: unit.service"),
    (
        "layout.slice/layout-of.slice/unit@1.service",
        "systemd: unit@1.service",
    ),
    (
        "layout.slice/user-1000.slice/user@1000.service/app.slice/app.service",
        "cgroup: /layout.slice/user-1000.slice/user@1000.service/app.slice/app.service",
    ),
    ("system.slice/docker-ID.scope", "docker: layout4"),
    ("docker/ID", "docker: layout5"),
    ("machine.slice/libpod-ID.scope", "podman: layout6"),
    ("libpod_parent/libpod-ID", "podman: layout7"),
    (
        "kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope",
        "cgroup: /kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope",
    ),
];

/// Writes what Docker and Podman keep of the containers in the layouts.
fn write_engines_files(id: impl Fn(usize) -> String) {
    for number in [4, 5] {
        let id = id(number);
        let folder = PathBuf::from(format!("/var/lib/docker/containers/{id}"));
        fs::create_dir_all(&folder).unwrap();
        let described = format!(r#"{{"ID":"{id}","Name":"/layout{number}"}}"#);
        fs::write(folder.join("config.v2.json"), described).unwrap();
    }
    let all =
        [6, 7].map(|number| format!(r#"{{"id":"{}","names":["layout{number}"]}}"#, id(number)));
    let folder = Path::new("/var/lib/containers/storage/overlay-containers");
    fs::create_dir_all(folder).unwrap();
    fs::write(
        folder.join("containers.json"),
        format!("[{}]", all.join(",")),
    )
    .unwrap();
}

/// Each kill of a child is one incident of the right workload, with its victim and its limit.
#[test]
fn each_kill_is_reported_once_in_every_layout() {
    let id = |number: usize| number.to_string().repeat(64);
    write_engines_files(id);
    let mut text = String::new();
    let mut services = Vec::new();
    for (number, (place, service)) in (1..).zip(LAYOUTS) {
        let name = format!("layout{number}");
        text.push_str(&attach(&name, &service.replace("ID", &id(number)), ""));
        let unit = Service::new(&place.replace("ID", &id(number)));
        unit.set("memory.max", "16M");
        let main = unit.run("rest");
        services.push((name, unit, main, Vec::new()));
    }
    let agent = Agent::start(&manifest(&text));
    for (name, _, main, _) in &services {
        wait_for_pid(&agent, name, main);
    }
    for _ in 0..KILLS {
        let hogs: Vec<Child> = services
            .iter()
            .map(|(_, unit, ..)| unit.begin("hog"))
            .collect();
        for ((.., victims), mut hog) in services.iter_mut().zip(hogs) {
            victims.push(hog.id());
            let status = hog.wait().unwrap();
            assert!(!status.success());
        }
    }
    for (name, unit, main, victims) in services {
        let incidents = agent.wait_for_events::<Incident>(&name, KILLS);
        let found = incidents.iter().map(|incident| {
            let details = &incident.details;
            assert!(matches!(details.scope, Scope::Own), "{name}: {details:?}");
            assert_eq!(details.source, OomSource::Ebpf, "{name}");
            assert_eq!(details.limit_bytes.map(|limit| limit.0), Some(16 << 20));
            assert_eq!(details.victims.len(), 1, "{name}: {details:?}");
            details.victims[0].pid
        });
        let mut found: Vec<u32> = found.collect();
        found.sort_unstable();
        let mut expected = victims;
        expected.sort_unstable();
        assert_eq!(found, expected, "{name}");
        assert_eq!(pid_of(&agent.workload(&name)), main.id());
        end(main);
        unit.remove();
    }
}
