//! Programs that use up a CPU, each with what it may be called: dead loops, busy
//! polling, and work that must never be taken for either.

use crate::agent::Agent;
use crate::{PATIENCE, kernel, slowness, wait_within};
use enforcer_model::cpu_loop::{Evidence, LoopSource, Verdict};
use enforcer_model::detail::CpuLoopFound;
use std::time::{Duration, Instant};

/// The allowed verdict on a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    DeadLoop,
    SyscallSpin,
    /// A loop, but one that may stay unproven.
    Unproven,
    /// Never `dead_loop`, and never restarted.
    Work,
    /// The program sleeps, so it is not even suspected.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub struct Program {
    pub name: &'static str,
    pub command: &'static [&'static str],
    pub cgroup: &'static str,
    pub expected: Expected,
}

const fn program(
    name: &'static str,
    command: &'static [&'static str],
    expected: Expected,
) -> Program {
    Program {
        name,
        command,
        cgroup: "",
        expected,
    }
}

const PYTHON: &str = "/usr/bin/python3";
const PERL: &str = "/usr/bin/perl";
const SH: &str = "/usr/bin/dash";
pub const FIXTURE: &str = "/bin/fixture";
const STRESS: &str = "/usr/bin/stress-ng";

/// An asyncio server whose handler of `/break` never returns, and one request.
const ASYNCIO: &str = r#"
import asyncio
async def handle(reader, writer):
    line = await reader.readline()
    if b"/break" in line:
        while True:
            pass
    writer.close()
async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 9025)
    reader, writer = await asyncio.open_connection("127.0.0.1", 9025)
    writer.write(b"GET /break HTTP/1.1\r\n\r\n")
    await server.serve_forever()
asyncio.run(main())
"#;

/// Compiles a file of a thousand functions again and again.
const COMPILE: &str = r#"
perl -e 'for (1..8000) { print "int f$_(int a, int b) { int s = 0; for (int i = 0; i < a; i++) { s += (i * b) ^ (s >> 3); if (s > $_) s -= b; } return s; }\n" }' > /tmp/big.c
while :; do $(ls /usr/lib/gcc/*/*/cc1 | head -n 1) -quiet -O2 /tmp/big.c -o /dev/null; done
"#;

use Expected::{DeadLoop, Nothing, SyscallSpin, Unproven, Work};

pub const PROGRAMS: &[Program] = &[
    program("bare", &[FIXTURE, "burn", "bare"], DeadLoop),
    program("flag", &[FIXTURE, "burn", "flag"], DeadLoop),
    program("list", &[FIXTURE, "burn", "list"], DeadLoop),
    program("python-pass", &[PYTHON, "-c", "while True: pass"], DeadLoop),
    program("perl-pass", &[PERL, "-e", "1 while 1"], DeadLoop),
    program(
        "mawk-pass",
        &["/usr/bin/mawk", "BEGIN { while (1) {} }"],
        DeadLoop,
    ),
    program("python-asyncio", &[PYTHON, "-c", ASYNCIO], DeadLoop),
    program(
        "stuck-among-idle",
        &[FIXTURE, "burn", "stuck-among-idle"],
        DeadLoop,
    ),
    program("epoll", &[FIXTURE, "burn", "epoll"], SyscallSpin),
    program("yield", &[FIXTURE, "burn", "yield"], SyscallSpin),
    program("eagain", &[FIXTURE, "burn", "eagain"], SyscallSpin),
    program("dash-loop", &[SH, "-c", "while :; do :; done"], Unproven),
    program(
        "bash-loop",
        &["/usr/bin/bash", "-c", "while :; do :; done"],
        Unproven,
    ),
    program("register", &[FIXTURE, "burn", "register"], Work),
    program("memory", &[FIXTURE, "burn", "memory"], Work),
    program("sse", &[FIXTURE, "burn", "sse"], Work),
    program("fnv", &[FIXTURE, "burn", "fnv"], Work),
    program("sort", &[FIXTURE, "burn", "sort"], Work),
    program("matrix", &[FIXTURE, "burn", "matrix"], Work),
    program("sha256", &["/usr/bin/sha256sum", "/dev/zero"], Work),
    program(
        "xz",
        &[SH, "-c", "exec xz -c < /dev/urandom > /dev/null"],
        Work,
    ),
    program(
        "gzip",
        &[SH, "-c", "exec gzip -c < /dev/urandom > /dev/null"],
        Work,
    ),
    program("compile", &[SH, "-c", COMPILE], Work),
    program(
        "python-range",
        &[PYTHON, "-c", "for i in range(10**12): pass"],
        Work,
    ),
    program(
        "python-arithmetic",
        &[
            PYTHON,
            "-c",
            "x = 1\nwhile True: x = (x * 31 + 7) % 1000003",
        ],
        Work,
    ),
    program("perl-count", &[PERL, "-e", "$i++ while 1"], Work),
    program(
        "regex",
        &[
            PYTHON,
            "-c",
            "import re; re.match('(a+)+$', 'a' * 200 + 'b')",
        ],
        Work,
    ),
    program(
        "stress-loop",
        &[STRESS, "--cpu", "1", "--cpu-method", "loop"],
        Work,
    ),
    program(
        "stress-prime",
        &[STRESS, "--cpu", "1", "--cpu-method", "prime"],
        Work,
    ),
    program(
        "stress-fft",
        &[STRESS, "--cpu", "1", "--cpu-method", "fft"],
        Work,
    ),
    program(
        "stress-queens",
        &[STRESS, "--cpu", "1", "--cpu-method", "queens"],
        Work,
    ),
    program("clock", &[FIXTURE, "burn", "clock"], Work),
    program("clock-seldom", &[FIXTURE, "burn", "clock-seldom"], Work),
    program("timer", &[FIXTURE, "burn", "timer"], Work),
    program("shared", &[FIXTURE, "burn", "shared"], Work),
    Program {
        cgroup: "cgroup: { cpu.max: 50% }",
        ..program(
            "throttled-work",
            &[PYTHON, "-c", "for i in range(10**12): pass"],
            Work,
        )
    },
    program("server", &[FIXTURE, "burn", "server"], Nothing),
    program(
        "stress-load",
        &[
            STRESS,
            "--cpu",
            "1",
            "--cpu-load",
            "30",
            "--cpu-method",
            "prime",
        ],
        Nothing,
    ),
    program("flag-later", &[FIXTURE, "burn", "flag-later"], Work),
];

/// A busy emulator is slow to import a server's modules. So the program may be examined before its
/// loop begins, and is then examined again after 5, 10, 20 and 40 s.
const LOOKED_AT_AGAIN: Duration = Duration::from_secs(100);

/// The result of one program.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub program: Program,
    /// The first and the worst verdict; `None` if it was never suspected.
    pub found: Option<CpuLoopFound>,
    pub restarts: u64,
    /// CPU seconds of the whole workload by then.
    pub cpu: f64,
}

impl Outcome {
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.found.as_ref().map(|found| found.verdict)
    }

    #[must_use]
    pub fn verdict_name(&self) -> &'static str {
        self.verdict().map_or("none", Verdict::as_str)
    }

    /// Returns whether the verdict is one that the program may get.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.restarts == 0
            && match self.program.expected {
                DeadLoop => self.verdict() == Some(Verdict::DeadLoop),
                SyscallSpin => self.verdict() == Some(Verdict::SyscallSpin),
                Unproven => true,
                // The program was examined, or never suspected.
                Work => self.found.as_ref().is_none_or(|found| {
                    found.verdict == Verdict::OverBudget && !found.evidence.took.is_zero()
                }),
                Nothing => self.verdict().is_none(),
            }
    }

    /// Returns whether its turn for a proof did not come within the 15 s that a suspect waits at
    /// most.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        let found = self.found.as_ref();
        let why = found.and_then(|found| found.evidence.unproven.as_deref());
        why.is_some_and(|why| why.starts_with("its turn for a proof"))
    }

    /// Returns a line of the table in docs/detection.md.
    #[must_use]
    pub fn row(&self) -> String {
        let nothing = Evidence::none(LoopSource::Proc, "");
        let evidence = self
            .found
            .as_ref()
            .map_or(&nothing, |found| &found.evidence);
        let cpu = self
            .found
            .as_ref()
            .map_or(0.0, |found| found.cpu.as_secs_f64());
        let share = |share: Option<f64>| match share {
            Some(share) => format!("{share:.2}"),
            None => "–".to_owned(),
        };
        format!(
            "| {} | {:?} | {} | {}/{} | {} | {} | {cpu:.1} | {:.1} | {:.0} | {}{} |",
            self.program.name,
            self.program.expected,
            self.verdict_name(),
            evidence.distinct_states,
            evidence.snapshots,
            share(evidence.new_state_probability),
            share(evidence.user_share),
            evidence.took.as_secs_f64(),
            evidence.stopped.as_secs_f64() * 1000.0,
            evidence.unproven.as_deref().unwrap_or(""),
            if self.is_right() { "" } else { " **wrong**" }
        )
    }
}

pub const HEADER: &str = "| program | is | verdict | states | P(new) | user | CPU s | took s | stopped ms | why not |\n|---|---|---|---|---|---|---|---|---|---|";

/// Runs these programs at the same time until each has its verdict, or has used
/// so much CPU time that it would have one.
pub fn run(programs: &[Program]) -> Vec<Outcome> {
    let agent = Agent::start(&manifest(programs));
    let begun = Instant::now();
    for program in programs {
        wait_within(PATIENCE + LOOKED_AT_AGAIN, program.name, || {
            is_decided(&agent, program, begun).then_some(())
        });
    }
    programs
        .iter()
        .map(|program| {
            let mut found = loops(&agent, program);
            let worst = found.iter().position(is_dead).unwrap_or(0);
            Outcome {
                program: *program,
                found: (!found.is_empty()).then(|| found.remove(worst)),
                restarts: agent.workload(program.name).restarts,
                cpu: cpu(program),
            }
        })
        .collect()
}

fn loops(agent: &Agent, program: &Program) -> Vec<CpuLoopFound> {
    let events = agent.events::<Box<CpuLoopFound>>(program.name).into_iter();
    events.map(|event| *event.details).collect()
}

fn is_dead(found: &CpuLoopFound) -> bool {
    found.verdict == Verdict::DeadLoop
}

fn cpu(program: &Program) -> f64 {
    let used = kernel::field(program.name, "cpu.stat", "usage_usec").unwrap_or(0);
    Duration::from_micros(used).as_secs_f64()
}

fn is_decided(agent: &Agent, program: &Program, begun: Instant) -> bool {
    match program.expected {
        // Long enough for a verdict, had it been suspected.
        Nothing => cpu(program) > 4.0,
        // This waits until the flag is set and seen.
        Work if program.name == "flag-later" => {
            begun.elapsed() > Duration::from_secs(33)
                && !loops(agent, program).is_empty()
                && agent.output(program.name).contains("the flag is set")
        }
        // The program may be examined while it still starts up, and then again.
        DeadLoop => {
            let found = loops(agent, program);
            found.iter().any(is_dead) || begun.elapsed() > LOOKED_AT_AGAIN.mul_f64(slowness())
        }
        SyscallSpin | Unproven | Work => !loops(agent, program).is_empty(),
    }
}

/// Dead loops are demoted, which leaves the CPUs to the rest; everything else is
/// given the harshest ladder there is, and must not climb it.
fn manifest(programs: &[Program]) -> String {
    let mut text = "version: 1\nworkloads:\n".to_owned();
    for program in programs {
        let respond = match program.expected {
            DeadLoop | Unproven => "demote",
            SyscallSpin | Work | Nothing => "restart",
        };
        let command: Vec<String> = program
            .command
            .iter()
            .map(|word| serde_json::to_string(word).unwrap_or_default())
            .collect();
        text.push_str(&format!(
            "  {}:\n    command: [{}]\n    user: web\n    directory: /tmp\n    watch: {{ cpu_loop: {{ after: 2s, respond: [{respond}], step: 1s }} }}\n",
            program.name,
            command.join(", ")
        ));
        if !program.cgroup.is_empty() {
            text.push_str(&format!("    {}\n", program.cgroup));
        }
    }
    text
}
