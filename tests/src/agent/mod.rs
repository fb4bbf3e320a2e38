//! An agent under test: started as a user would start it, asked over its socket,
//! and stopped by Ctrl-C. If the test panics, its log is printed.

mod begin;
mod event;
mod wreck;

pub use begin::{
    Preparation, command, folder, in_own_namespace, log_at, next_folder, prepare, use_failpoints,
    use_program,
};
pub use event::{Event, is_of, pid_of, send};
pub use wreck::remove as remove_cgroup;

use crate::{slot, wait_for};
use begin::spawn;
use enforcer_model::detail::{Degraded, Details};
use enforcer_model::views::{Inspection, WorkloadView, Workloads};
use enforcer_model::{Record, WorkloadState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

pub const ENFORCER: &str = "/bin/enforcer";
/// The same agent, built with the feature `failpoints`.
const WITH_FAILPOINTS: &str = "/bin/enforcer-with-failpoints";

pub struct Agent {
    process: Child,
    folder: PathBuf,
    /// The arguments of the agent, before and after `run`.
    arguments: Vec<String>,
    /// The agent runs in the background, and its workloads outlive it.
    daemon: bool,
}

impl Agent {
    /// Starts an agent and waits until it answers.
    ///
    /// # Panics
    /// If it doesn't.
    #[must_use]
    pub fn start(manifest: &str) -> Self {
        Self::start_with(manifest, &[])
    }

    /// Starts an agent with further arguments.
    ///
    /// # Panics
    /// If it doesn't answer.
    #[must_use]
    pub fn start_with(manifest: &str, arguments: &[&str]) -> Self {
        let folder = folder();
        fs::write(folder.join("manifest.yaml"), manifest).unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        let needs_ebpf = !begin::is_prepared() && !arguments.contains(&"off".to_owned());
        let process = spawn(&folder, &arguments, false, &[]);
        let agent = Self {
            process,
            folder,
            arguments,
            daemon: false,
        };
        wait_for("the agent to answer", || agent.answers().then_some(()));
        if needs_ebpf {
            agent.assert_ebpf();
        }
        agent
    }

    /// Starts an agent in the background, as a service manager would.
    ///
    /// # Panics
    /// If it doesn't answer.
    #[must_use]
    pub fn start_daemon(manifest: &str) -> Self {
        Self::start_daemon_with(manifest, &[])
    }

    /// Starts an agent with more variables in its environment.
    ///
    /// # Panics
    /// If it doesn't answer.
    #[must_use]
    pub fn start_daemon_with(manifest: &str, environment: &[(&str, &str)]) -> Self {
        let folder = folder();
        fs::write(folder.join("manifest.yaml"), manifest).unwrap();
        let process = spawn(&folder, &[], true, environment);
        let agent = Self {
            process,
            folder,
            arguments: Vec::new(),
            daemon: true,
        };
        wait_for("the agent to answer", || agent.answers().then_some(()));
        agent.assert_ebpf();
        agent
    }

    /// Checks that the eBPF programs are attached: without them the tests would prove other things.
    fn assert_ebpf(&self) {
        let degraded = self.all_events::<Degraded>().into_iter();
        let fault = degraded
            .map(|event| event.details)
            .find(|fault| fault.what == "ebpf");
        assert_eq!(fault, None, "the agent under test has no eBPF");
    }

    /// Starts another agent in the place of this one, which has ended or is killed.
    ///
    /// # Panics
    /// If it doesn't answer.
    pub fn start_again(&mut self) {
        self.start_doomed(None);
        wait_for("the next agent to answer", || self.answers().then_some(()));
    }

    /// Sets the arguments of the next agents.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
    }

    /// Starts another agent without waiting. It kills itself at the failpoint.
    ///
    /// # Panics
    /// If it can't be started, or has no failpoints.
    pub fn start_doomed(&mut self, failpoint: Option<&str>) {
        let may_die = failpoint.is_none() || begin::has_failpoints();
        assert!(may_die, "the agent that ships has no failpoints");
        self.kill();
        let environment = failpoint.map(|place| ("ENFORCER_FAILPOINT", place));
        let environment: Vec<_> = environment.into_iter().collect();
        self.process = spawn(&self.folder, &self.arguments, self.daemon, &environment);
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(&mut self) {
        wait_for("the agent to end", || self.process.try_wait().unwrap());
    }

    /// Returns whether the agent has ended.
    ///
    /// # Panics
    /// If it can't be waited for.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// SIGTERM; returns whether it ended well.
    ///
    /// # Panics
    /// If it doesn't end.
    pub fn terminate(&mut self) -> bool {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        wait_for("the agent to end", || self.process.try_wait().unwrap()).success()
    }

    /// Returns the log of this agent and of those before it.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the live lines so far.
    #[must_use]
    pub fn lines(&self) -> String {
        fs::read_to_string(self.folder.join("lines")).unwrap_or_default()
    }

    /// Returns the output of a workload.
    #[must_use]
    pub fn output(&self, workload: &str) -> String {
        let bytes =
            fs::read(self.folder.join(format!("state/logs/{workload}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the answer to a GET; `None` if the agent doesn't answer, or not with 200.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let mut stream = UnixStream::connect(self.folder.join("run/enforcer.sock")).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: enforcer\r\nconnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        if !head.starts_with("HTTP/1.1 200") {
            return None;
        }
        let read = serde_json::from_str(body);
        Some(read.unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
    }

    /// Returns whether the agent answers.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.get::<IgnoredAny>("/health").is_some()
    }

    /// Sends a request, and returns the status and the body of any answer.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn raw(&self, request: &str, body: &str) -> (u16, String) {
        self.request(request, body).unwrap()
    }

    /// Sends a request; `None` if the agent ends before it has answered.
    #[must_use]
    pub fn post(&self, path: &str, body: &str) -> Option<(u16, String)> {
        self.request(&format!("POST {path}"), body)
    }

    fn request(&self, request: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.folder.join("run/enforcer.sock")).ok()?;
        // An answer may come before everything was said.
        let _ = write!(
            stream,
            "{request} HTTP/1.1\r\nhost: enforcer\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// Returns the first lines of an answer that has no end.
    ///
    /// # Panics
    /// If they don't come.
    #[must_use]
    pub fn read_lines(&self, path: &str, count: usize) -> Vec<String> {
        let mut stream = UnixStream::connect(self.folder.join("run/enforcer.sock")).unwrap();
        stream.set_read_timeout(Some(crate::patience())).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: enforcer\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines().map(|line| line.unwrap());
        while !lines.next().unwrap().is_empty() {}
        // Each piece comes behind a line with its length, and before an empty one.
        let pieces =
            lines.filter(|line| !line.is_empty() && u32::from_str_radix(line, 16).is_err());
        pieces.take(count).collect()
    }

    /// Returns a workload; `None` if the agent doesn't answer, or has no such workload.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<WorkloadView> {
        self.get(&route_of(name))
    }

    /// Returns a workload, as soon as the agent has it.
    pub fn workload(&self, name: &str) -> WorkloadView {
        self.inspect(name).workload
    }

    /// Returns all that the agent says about a workload, as soon as it has the workload.
    pub fn inspect(&self, name: &str) -> Inspection {
        wait_for(&format!("an answer about {name}"), || {
            self.get(&route_of(name))
        })
    }

    /// Returns all workloads.
    pub fn workloads(&self) -> Vec<WorkloadView> {
        let listed = wait_for("an answer with the workloads", || {
            self.get::<Workloads>("/v1/workloads")
        });
        listed.workloads
    }

    /// Returns the whole history.
    pub fn history(&self) -> Vec<Record> {
        // An agent that does not answer has not said that there are no events.
        wait_for("an answer with the events", || self.get("/v1/events"))
    }

    /// Returns the history of a workload.
    pub fn history_of(&self, workload: &str) -> Vec<Record> {
        let mut records = self.history();
        records.retain(|record| event::is_of(record, workload));
        records
    }

    /// Returns the events of one kind of a workload, in order.
    pub fn events<D: Details>(&self, workload: &str) -> Vec<Event<D>> {
        let records = self.history_of(workload).into_iter();
        records.filter_map(Event::of).collect()
    }

    /// Returns the events of one kind, of every workload and of the host, in order.
    pub fn all_events<D: Details>(&self) -> Vec<Event<D>> {
        self.history().into_iter().filter_map(Event::of).collect()
    }

    /// Waits until a workload is in a state, and returns it.
    pub fn wait_for_state(&self, name: &str, state: WorkloadState) -> WorkloadView {
        wait_for(&format!("{name} to be {state}"), || {
            self.find(name).filter(|view| view.state == state)
        })
    }

    /// Waits until a workload has printed this.
    pub fn wait_for_output(&self, workload: &str, text: &str) {
        wait_for(&format!("{workload} to print {text}"), || {
            self.output(workload).contains(text).then_some(())
        });
    }

    /// Waits for at least this many events of a kind.
    pub fn wait_for_events<D: Details>(&self, workload: &str, count: usize) -> Vec<Event<D>> {
        wait_for(&format!("{count} {} of {workload}", D::KIND), || {
            let events = self.events(workload);
            (events.len() >= count).then_some(events)
        })
    }

    /// Waits for the first event of a kind.
    pub fn wait_for_event<D: Details>(&self, workload: &str) -> Event<D> {
        self.wait_for_events(workload, 1).remove(0)
    }

    /// Runs the command line against this agent.
    ///
    /// # Panics
    /// If the program can't be started.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_with(arguments, &[])
    }

    /// Runs the command line against this agent, with more variables in its environment.
    ///
    /// # Panics
    /// If the program can't be started.
    #[must_use]
    pub fn cli_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        command(&self.folder)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Writes another manifest where the agent reads its own.
    ///
    /// # Panics
    /// If the file can't be written.
    pub fn write_manifest(&self, manifest: &str) {
        fs::write(self.folder.join("manifest.yaml"), manifest).unwrap();
    }

    /// SIGKILL: it has no time to put anything right.
    ///
    /// # Panics
    /// If it can't be waited for.
    pub fn kill(&mut self) {
        // An agent that has ended by itself need not be killed.
        let _ = self.process.kill();
        self.process.wait().unwrap();
    }

    /// Kills what a dead agent left running, and removes its cgroups: the next test
    /// finds the machine as it was.
    ///
    /// # Panics
    /// If something stays.
    pub fn clear(&mut self) {
        self.kill();
        let root = slot::root();
        let _ = fs::write(root.join("cgroup.kill"), "1");
        wait_for("the cgroups to go", || {
            wreck::remove(&root);
            (!root.exists()).then_some(())
        });
    }

    /// Ctrl-C; returns whether it ended well.
    ///
    /// # Panics
    /// If it doesn't end.
    pub fn interrupt(&mut self) -> bool {
        kill(
            Pid::from_raw(i32::try_from(self.process.id()).unwrap()),
            Signal::SIGINT,
        )
        .unwrap();
        wait_for("the agent to end", || self.process.try_wait().unwrap()).success()
    }
}

/// Returns the route of a workload or of a replica, such as `web/1`.
fn route_of(name: &str) -> String {
    match name.split_once('/') {
        Some((name, index)) => format!("/v1/workloads/{name}/replicas/{index}"),
        None => format!("/v1/workloads/{name}"),
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            if self.process.try_wait().ok().flatten().is_none() {
                if self.daemon {
                    let ended = self.cli(&["shutdown", "--workloads"]);
                    assert!(ended.status.success(), "{ended:?}");
                } else {
                    self.interrupt();
                }
                if slot::root().exists() {
                    let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                    panic!("the agent left its cgroups behind; its log: {log}");
                }
            }
            return;
        }
        // A stuck agent shows its threads, and is then killed.
        let stuck = wreck::stacks(self.process.id());
        self.clear();
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        println!(
            "--- the agent's lines\n{}--- the agent's log\n{log}--- the agent's threads\n{stuck}---",
            self.lines()
        );
    }
}
