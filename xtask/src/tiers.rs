//! `cargo xtask test`: every tier of tests, on every kernel that it concerns.
//!
//! A tier is a group of tests that run in the same kind of place:
//!
//! | tier | where it runs |
//! |---|---|
//! | `host` | on this machine: what needs no kernel feature |
//! | `vm` | inside a guest, against a real kernel; see `tests/tests/vm` |
//! | `power` | in a guest that is cut off, and in a second one that looks at the disk |
//! | `systemd` | on a Debian with systemd as its first process; see `tests/tests/system` |
//!
//! Each tier of each kernel is a task. Tasks run side by side: an emulated guest uses one CPU
//! of the host while it works, and one more guest than CPUs keeps them busy.

use crate::boot::{DEBIAN_MEMORY_MIB, LARGE_MEMORY_MIB, MEMORY_MIB, Machine};
use crate::burden::Burden;
use crate::compile::{self, Programs};
use crate::console::{Outcome, Silence};
use crate::guest::Accelerator;
use crate::guest::Boot;
use crate::image::{self, Contents};
use crate::kernels::{self, Kernel, MAIN, Matrix};
use crate::package::{self, Compression};
use crate::progress::Phase;
use crate::report::{Report, conclude};
use crate::{corpus, debian, power, prometheus, setup, tidy, tools};
use anyhow::Result;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The factor by which a host that is burdened on purpose counts as slower.
const BURDENED_SLOWNESS: u32 = 3;
/// The number of tests that a guest runs at the same time.
const TESTS_AT_ONCE: u32 = 4;

/// The options of `cargo xtask test`.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// Tests or tiers by name; empty for everything.
    pub(crate) names: Vec<String>,
    pub(crate) kernel: Option<String>,
    /// Burden the host with a busy process per CPU meanwhile.
    pub(crate) slow_host: bool,
}

/// The tests that a request selects.
#[derive(Debug, PartialEq, Eq)]
struct Selection {
    host: bool,
    power: bool,
    /// The systemd tier; the texts are parts of the names of its tests, none for all.
    systemd: Option<Vec<String>>,
    /// The VM's tests; the names are parts of the names of tests, none for all.
    vm: Option<Vec<String>>,
}

impl Selection {
    fn of(names: &[String]) -> Self {
        if names.is_empty() {
            return Self {
                host: true,
                power: true,
                systemd: Some(Vec::new()),
                vm: Some(Vec::new()),
            };
        }
        let mut selection = Self {
            host: false,
            power: false,
            systemd: None,
            vm: None,
        };
        for name in names {
            match name.as_str() {
                "host" => selection.host = true,
                "power" => selection.power = true,
                "vm" => selection.vm = Some(Vec::new()),
                "systemd" => selection.systemd = Some(Vec::new()),
                name => match name.strip_prefix("systemd/") {
                    Some(part) => selection
                        .systemd
                        .get_or_insert_default()
                        .push(part.to_owned()),
                    None => selection.vm.get_or_insert_default().push(name.to_owned()),
                },
            }
        }
        selection
    }
}

/// A task that waits for its turn.
type Task<'a> = Box<dyn FnOnce() -> Report + Send + 'a>;

/// Runs the tests that a request selects.
///
/// # Errors
/// If one fails, or something that they need cannot be had.
pub(crate) fn run(request: &Request) -> Result<()> {
    let selection = Selection::of(&request.names);
    if request.names.is_empty() {
        tidy::run()?;
    }
    let _burden = request.slow_host.then(Burden::begin).transpose()?;
    let prepared = prepare(request, &selection)?;
    let mut tasks = Vec::new();
    let mut missing = prepared.matrix.missing.clone();
    // The longest task begins first: the newest Debian, with its daemons. The others of these tiers take
    // about as long as each other.
    add_systemd(
        &prepared,
        &selection,
        request.kernel.is_some(),
        &mut tasks,
        &mut missing,
    );
    add_vm(&prepared, &selection, &mut tasks);
    add_power(&prepared, &selection, &mut tasks);
    if selection.host {
        tasks.push(Box::new(host_tests));
        tasks.push(Box::new(metrics_check));
    }
    let reports = side_by_side(tasks);
    conclude(&reports, &missing)
}

/// The files and programs that the guests need.
struct Prepared {
    programs: Programs,
    packages: Option<Vec<PathBuf>>,
    matrix: Matrix,
    machine: Machine,
}

/// Compiles everything, and meanwhile downloads files and builds the tool that makes packages.
fn prepare(request: &Request, selection: &Selection) -> Result<Prepared> {
    let downloads = || -> Result<_> {
        let _phase = Phase::begin("downloads");
        let qemu = setup::qemu()?;
        let matrix = kernels::matrix(request.kernel.as_deref())?;
        corpus::tree()?;
        setup::busybox()?;
        prometheus::programs()?;
        if selection.systemd.is_some() {
            for host in debian::HOSTS {
                // A kernel that is not available is reported with the results.
                let _ = host.tree();
            }
            tools::cargo_deb()?;
        }
        Ok((qemu, matrix))
    };
    let compile = || -> Result<_> {
        let _phase = Phase::begin("compile");
        let programs = compile::test_programs()?;
        if selection.host {
            compile::build_host_tests()?;
        }
        let packages = match selection.systemd {
            Some(_) => {
                let build = |revision| package::debian(revision, Compression::Fast);
                let fleet = package::debian_fleet(Compression::Fast)?;
                Some(vec![build(1)?, build(2)?, fleet])
            }
            None => None,
        };
        Ok((programs, packages))
    };
    let (compiled, downloaded) = std::thread::scope(|scope| {
        let downloads = scope.spawn(downloads);
        (compile(), downloads.join())
    });
    let (programs, packages) = compiled?;
    let (qemu, matrix) = setup::joined(downloaded)?;
    Ok(Prepared {
        machine: Machine {
            qemu: qemu.into(),
            hello: image::hello(&programs)?,
            otherwise: Accelerator::Emulation,
            silence: Silence::DEFAULT.on_slow_host(if request.slow_host {
                BURDENED_SLOWNESS
            } else {
                1
            }),
        },
        programs,
        packages,
        matrix,
    })
}

fn add_vm<'a>(prepared: &'a Prepared, selection: &Selection, tasks: &mut Vec<Task<'a>>) {
    let Some(names) = &selection.vm else {
        return;
    };
    let kernels = prepared.matrix.kernels.iter();
    let count = kernels.len();
    for (place, kernel) in kernels.enumerate() {
        let names = names.join(",");
        tasks.push(Box::new(move || {
            let label = format!("vm {}", kernel.series);
            let _phase = Phase::begin(&label);
            let outcome = vm_tests(prepared, kernel, &names, (place, count));
            Report::of(label, outcome)
        }));
    }
}

fn vm_tests(
    prepared: &Prepared,
    kernel: &Kernel,
    names: &str,
    (place, count): (usize, usize),
) -> Result<Outcome> {
    let initramfs = image::pack(kernel, &prepared.programs, Contents::Tests)?;
    // The tests that run on one kernel are shared out; see `tests/src/plan.rs`.
    let options = format!("enforcer.slots={TESTS_AT_ONCE} enforcer.share={place}/{count}");
    let boot = Boot {
        kernel,
        initramfs: &initramfs,
        job: &format!("test:{names}"),
        options: &options,
        // The main kernel has a thousand workloads to hold.
        memory_mib: if count == 1 || kernel.series == MAIN {
            LARGE_MEMORY_MIB
        } else {
            MEMORY_MIB
        },
        disk: None,
        label: &format!("{:<6} | ", kernel.series),
    };
    prepared.machine.boot(&boot, |_| false)
}

fn add_systemd<'a>(
    prepared: &'a Prepared,
    selection: &Selection,
    one_kernel: bool,
    tasks: &mut Vec<Task<'a>>,
    missing: &mut Vec<(String, String)>,
) {
    let (Some(parts), Some(packages)) = (&selection.systemd, &prepared.packages) else {
        return;
    };
    let kernel_of = |host: &debian::Host| {
        let kernels = &prepared.matrix.kernels;
        let own = kernels.iter().find(|kernel| kernel.series == host.kernel);
        // A kernel that was asked for by name runs every host.
        own.or_else(|| kernels.first().filter(|_| one_kernel))
    };
    let mut hosts: Vec<debian::Host> = debian::HOSTS.to_vec();
    hosts.retain(|host| match host.check() {
        Ok(()) => true,
        Err(error) => {
            missing.push((host.name.to_owned(), format!("{error:#}")));
            false
        }
    });
    if hosts.is_empty() {
        hosts.push(debian::OWN);
    }
    for host in hosts.into_iter().rev() {
        let Some(kernel) = kernel_of(&host) else {
            continue;
        };
        let parts = parts.join(",");
        tasks.push(Box::new(move || {
            let label = format!("systemd {}", host.name);
            let _phase = Phase::begin(&label);
            let outcome = systemd_tests(prepared, host, kernel, packages, &parts);
            Report::of(label, outcome)
        }));
    }
}

fn systemd_tests(
    prepared: &Prepared,
    host: debian::Host,
    kernel: &Kernel,
    packages: &[PathBuf],
    parts: &str,
) -> Result<Outcome> {
    let initramfs = {
        let _phase = Phase::begin(&format!("pack {}", host.name));
        debian::pack(host, &kernel.modules, &prepared.programs, packages)?
    };
    let boot = Boot {
        kernel,
        initramfs: &initramfs,
        job: &format!("systemd/{parts}"),
        options: "systemd.unit=suite.target systemd.show_status=no systemd.getty_auto=no",
        memory_mib: DEBIAN_MEMORY_MIB,
        disk: None,
        label: &format!("{} | ", host.name),
    };
    prepared.machine.boot(&boot, |_| false)
}

fn add_power<'a>(prepared: &'a Prepared, selection: &Selection, tasks: &mut Vec<Task<'a>>) {
    if !selection.power {
        return;
    }
    for kernel in &prepared.matrix.kernels {
        tasks.push(Box::new(move || {
            let label = format!("power {}", kernel.series);
            let _phase = Phase::begin(&label);
            let outcome = power::cut(&prepared.machine, &prepared.programs, kernel);
            Report::of(label, outcome)
        }));
    }
}

/// Returns the tests that need no VM.
fn host_tests() -> Report {
    let _phase = Phase::begin("host tests");
    let mut outcome = Outcome::default();
    let verdict = compile::run_host_tests().map(|printed| {
        for line in printed.lines() {
            outcome.take_libtest(line);
        }
    });
    let mut report = Report::of("host".to_owned(), Ok(outcome));
    report.verdict = verdict;
    report
}

fn metrics_check() -> Report {
    let _phase = Phase::begin("metrics check");
    let verdict = prometheus::check();
    let mut report = Report::of("metrics".to_owned(), Ok(Outcome::default()));
    report.verdict = verdict;
    report
}

/// Runs tasks in their order, one more at a time than the host has CPUs.
fn side_by_side(tasks: Vec<Task<'_>>) -> Vec<Report> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from) + 1;
    let tasks = Mutex::new(tasks.into_iter());
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(task) = task else {
                        return;
                    };
                    let report = task();
                    reports
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(report);
                }
            });
        }
    });
    reports.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(names: &[&str]) -> Selection {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Selection::of(&names)
    }

    #[test]
    fn no_name_selects_every_tier() {
        let all = selection(&[]);
        assert!(all.host && all.power);
        assert_eq!((all.systemd, all.vm), (Some(vec![]), Some(vec![])));
    }

    #[test]
    fn a_tests_name_selects_nothing_else() {
        let one = selection(&["oom::only", "systemd/package", "systemd/top"]);
        assert!(!one.host && !one.power);
        let parts = vec!["package".to_owned(), "top".to_owned()];
        assert_eq!(one.systemd, Some(parts));
        assert_eq!(one.vm, Some(vec!["oom::only".to_owned()]));
        assert_eq!(selection(&["systemd"]).vm, None);
    }
}
