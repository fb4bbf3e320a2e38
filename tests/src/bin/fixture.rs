//! A workload that misbehaves on demand: `fixture MODE [ARGUMENT…]`.
#![allow(clippy::disallowed_methods, reason = "a test measures times itself")]
#![allow(
    clippy::unwrap_used,
    reason = "a fixture that fails should fail loudly"
)]

use enforcer_tests::report::report;
use enforcer_tests::traces::{append, count_start, monotonic};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork, pause};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// The handling of SIGPIPE at the start, before Rust ignores it.
static SIGPIPE_DEFAULT: AtomicBool = AtomicBool::new(false);

#[used]
#[unsafe(link_section = ".init_array")]
static EARLY: extern "C" fn() = early;

extern "C" fn early() {
    // SAFETY: only reads the disposition, into zeroed memory.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action);
        SIGPIPE_DEFAULT.store(action.sa_sigaction == libc::SIG_DFL, Ordering::Relaxed);
    }
}

/// Sends a message to the socket of sd_notify(3).
fn notify(message: &str) {
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let path = std::env::var("NOTIFY_SOCKET").unwrap();
    // While no one listens there, a program goes on.
    let _ = socket.send_to(message.as_bytes(), path);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map_or("", String::as_str);
    let number = |index: usize, default: usize| argument(index).parse().unwrap_or(default);
    match argument(0) {
        // Allocates before anything else, and then keeps what it has.
        "hog" => {
            hog(number(1, usize::MAX / MIB));
            rest()
        }
        // Steers a terminal.
        "say-escapes" => {
            println!("\u{1b}[2J\u{7}-hello");
            rest()
        }
        // Hogs memory at its first starts, counted in a file, and then rests.
        "hog-times" => {
            if count_start(argument(2)) <= number(1, 0) {
                hog(usize::MAX / MIB);
            }
            rest()
        }
        // Its child hogs memory, and it goes on itself.
        "child-hog" => {
            in_child(|| hog(usize::MAX / MIB));
            println!("parent goes on");
            rest()
        }
        // Executes another program with a root of its own.
        "chroot" => {
            use std::os::unix::process::CommandExt as _;
            std::os::unix::fs::chroot(argument(1)).unwrap();
            std::env::set_current_dir("/").unwrap();
            let mut command = std::process::Command::new(argument(2));
            command.args(std::env::args().skip(4));
            command.env("PATH", "/usr/bin:/bin").env("TERM", "dumb");
            panic!("{}", command.exec());
        }
        // Appends what its environment says as a line to a file.
        "note" => append(argument(1), &std::env::var(argument(2)).unwrap_or_default()),
        // Hogs when it is asked to by SIGUSR1.
        "hog-on-signal" => {
            let mut asked = nix::sys::signal::SigSet::empty();
            asked.add(Signal::SIGUSR1);
            asked.thread_block().unwrap();
            println!("ready");
            asked.wait().unwrap();
            hog(number(1, usize::MAX / MIB));
            rest()
        }
        // Starts children that rest, and hogs memory at SIGUSR1.
        "herd" => {
            let mut asked = nix::sys::signal::SigSet::empty();
            asked.add(Signal::SIGUSR1);
            asked.thread_block().unwrap();
            for _ in 0..number(1, 0) {
                in_child(|| rest());
            }
            println!("ready");
            asked.wait().unwrap();
            hog(usize::MAX / MIB);
            rest()
        }
        // Fills memory, and touches it again and again, without output.
        "keep-warm" => {
            let mut kept = fill(number(1, 1));
            loop {
                touch(&mut kept);
            }
        }
        // Prints how much work it does in a number of milliseconds.
        "switches" => {
            println!(
                "done {}",
                enforcer_tests::burn::switches(milliseconds(argument(1)))
            );
            rest()
        }
        "calls" => {
            println!(
                "done {}",
                enforcer_tests::burn::calls(milliseconds(argument(1)))
            );
            rest()
        }
        "burn" => {
            enforcer_tests::burn::burn(argument(1));
            rest()
        }
        "spin" => spin(),
        // Spins as well, with a number of mappings of a file whose path has 100 kB.
        "map-and-spin" => {
            map_far_below(argument(1), number(2, 0));
            spin()
        }
        "http" => http(number(1, 8080)),
        // Answers in every way; see `answer`.
        "serve" => enforcer_tests::serve::serve(u16::try_from(number(1, 8080)).unwrap()),
        // Serves as soon as a file exists.
        "serve-when-told" => {
            wait_for_file(argument(2));
            enforcer_tests::serve::serve(u16::try_from(number(1, 8080)).unwrap())
        }
        // Crashes at its first starts, counted in a file, and then serves.
        "serve-after" => {
            if count_start(argument(2)) <= number(1, 0) {
                std::process::exit(1);
            }
            enforcer_tests::serve::serve(u16::try_from(number(3, 8080)).unwrap())
        }
        // Says how full a folder is, fills it, and crashes.
        "count-and-fill" => {
            let folder = std::path::Path::new(argument(1));
            println!("entries {}", fs::read_dir(folder).unwrap().count());
            fs::create_dir_all(folder.join("deep/er")).unwrap();
            fs::write(folder.join("deep/er/file"), "x").unwrap();
            fs::write(folder.join("file"), "x").unwrap();
            std::process::exit(1);
        }
        // Crashes as soon as a file is there, which it takes away.
        "crash-when-told" => {
            println!("waiting");
            while fs::remove_file(argument(1)).is_err() {
                std::thread::sleep(Duration::from_millis(20));
            }
            std::process::exit(1);
        }
        "exists" => std::process::exit(i32::from(!std::path::Path::new(argument(1)).exists())),
        "append" => append(argument(1), argument(2)),
        // Says so when it is asked to end.
        "append-on-term" => {
            let mut asked = nix::sys::signal::SigSet::empty();
            asked.add(Signal::SIGTERM);
            asked.thread_block().unwrap();
            println!("ready");
            asked.wait().unwrap();
            append(argument(1), "term");
        }
        // Says so whenever it is asked to reload, and runs on.
        "append-on-hangup" => {
            let mut asked = nix::sys::signal::SigSet::empty();
            asked.add(Signal::SIGHUP);
            asked.thread_block().unwrap();
            println!("ready");
            loop {
                asked.wait().unwrap();
                append(argument(1), "reloaded");
            }
        }
        // Notifies its supervisor whenever it gets one of three signals.
        "notify-on-signals" => {
            let said = [
                (Signal::SIGUSR1, "READY=1\nSTATUS=serving"),
                (Signal::SIGUSR2, "WATCHDOG=1"),
                (Signal::SIGHUP, "RELOADING=1"),
            ];
            let mut asked = nix::sys::signal::SigSet::empty();
            said.iter().for_each(|(signal, _)| asked.add(*signal));
            asked.thread_block().unwrap();
            println!("ready, {:?}", std::env::var("WATCHDOG_USEC"));
            loop {
                let signal = asked.wait().unwrap();
                let message = said.iter().find(|(known, _)| *known == signal);
                notify(message.unwrap().1);
            }
        }
        // Notifies its supervisor from a child that has ended by then.
        "notify-from-child" => {
            in_child(|| notify(argument(1)));
            nix::sys::wait::wait().unwrap();
            rest()
        }
        "notify-to" => {
            let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
            let sent = socket.send_to(argument(2).as_bytes(), argument(1));
            println!("{:?}", sent.map_err(|error| error.kind()));
            if arguments.len() > 3 {
                rest();
            }
        }
        // A process and its child: each says so when it is asked to end. The first ends after the other.
        "tree-on-term" => {
            let mut asked = nix::sys::signal::SigSet::empty();
            asked.add(Signal::SIGTERM);
            asked.thread_block().unwrap();
            in_child(|| {
                println!("ready");
                asked.wait().unwrap();
                append(argument(1), "child");
            });
            asked.wait().unwrap();
            append(argument(1), "main");
            nix::sys::wait::wait().unwrap();
        }
        // Prints its user, place and arguments, and then fails.
        "complain" => {
            report(SIGPIPE_DEFAULT.load(Ordering::Relaxed));
            let wanted = std::env::vars().filter(|(name, _)| name.starts_with("ENFORCER_"));
            let all: Vec<String> = wanted
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            append(argument(1), &all.join(" "));
            println!("complaint by uid {}", nix::unistd::getuid());
            std::process::exit(3);
        }
        // Appends a file's text, or the error, to a file.
        "copy" => {
            let read = fs::read_to_string(argument(1));
            let text = read.unwrap_or_else(|error| error.to_string());
            append(argument(2), text.trim_end());
        }
        // Appends a credential, or the error, to a file.
        "credential" => {
            let folder = std::env::var("CREDENTIALS_DIRECTORY").unwrap_or_default();
            let read = fs::read_to_string(std::path::Path::new(&folder).join(argument(1)));
            let text = read.unwrap_or_else(|error| error.to_string());
            append(argument(2), text.trim_end());
        }
        "remove" => fs::remove_file(argument(1)).unwrap(),
        "ignore-term" => {
            // SAFETY: ignoring a signal installs no handler.
            unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.unwrap();
            println!("ready");
            rest()
        }
        // A daemon forks, names its main process in a file, and its first process ends.
        "fork-away" => {
            in_child(|| {
                nix::unistd::setsid().unwrap();
                fs::write(argument(1), format!("{}\n", std::process::id())).unwrap();
                rest()
            });
        }
        // The same, when a file is there.
        "fork-when-told" => {
            while !std::path::Path::new(argument(2)).exists() {
                std::thread::sleep(Duration::from_millis(20));
            }
            in_child(|| {
                fs::write(argument(1), format!("{}\n", std::process::id())).unwrap();
                rest()
            });
        }
        // Names its child as the main process, and ends.
        "name-child" => {
            in_child(|| {
                notify(&format!("MAINPID={}\nREADY=1", std::process::id()));
                rest()
            });
            std::thread::sleep(Duration::from_millis(u64::try_from(number(1, 0)).unwrap()));
        }
        // Leaves a daemon behind that has left its session.
        "double-fork" => {
            in_child(|| {
                nix::unistd::setsid().unwrap();
                in_child(|| {
                    // SAFETY: ignoring a signal installs no handler.
                    unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.unwrap();
                    rest()
                });
            });
            println!("ready");
            rest()
        }
        // Leaves a process behind whose parent has gone, and which ends soon.
        "orphan" => {
            in_child(|| in_child(|| std::thread::sleep(Duration::from_millis(100))));
            nix::sys::wait::wait().unwrap();
            println!("ready");
            rest()
        }
        // Executes another program as the first process of a PID namespace.
        "first-process" => first_process(&arguments[1..]),
        "fork-bomb" => bomb(),
        "crash" => std::process::exit(i32::try_from(number(1, 1)).unwrap()),
        // Lives for a number of milliseconds.
        "brief" => {
            std::thread::sleep(Duration::from_millis(
                u64::try_from(number(1, 100)).unwrap(),
            ));
        }
        // Goes, and leaves a child that stays.
        "brief-with-child" => in_child(|| rest()),
        "flood" => flood(number(1, 1)),
        // Lives for a number of milliseconds, as soon as a file exists.
        "flood-when-told" => {
            wait_for_file(argument(2));
            flood(number(1, 1))
        }
        // Lives for a number of milliseconds, and writes its first and its last moment to a file.
        "flood-and-stamp" => {
            append(argument(2), &format!("first {}", monotonic()));
            write_lines(number(1, 1));
            append(argument(2), &format!("last {}", monotonic()));
            rest()
        }
        // Prints numbered lines, with a number of milliseconds between them.
        "count" => {
            for line in 0..number(1, 0) {
                println!("{line}");
                std::thread::sleep(Duration::from_millis(u64::try_from(number(2, 0)).unwrap()));
            }
            rest()
        }
        // Numbered lines until there is such a file, and then one that says so.
        "count-until" => {
            for line in 0.. {
                if std::path::Path::new(argument(1)).exists() {
                    break;
                }
                println!("{line}");
                std::thread::sleep(Duration::from_millis(u64::try_from(number(2, 0)).unwrap()));
            }
            println!("end");
            rest()
        }
        // Prints numbered lines to an output that it has opened again for writing.
        "count-again" => {
            let again = File::options().append(true).open("/dev/stdout").unwrap();
            nix::unistd::dup2_stdout(&again).unwrap();
            nix::unistd::dup2_stderr(&again).unwrap();
            drop(again);
            for line in 0.. {
                println!("{line}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Opens its outputs again, as a shell's `>` and `>>` do.
        "reopen" => {
            println!("one");
            fs::write("/dev/stderr", "two\n").unwrap();
            let mut again = File::options().append(true).open("/dev/stdout").unwrap();
            again.write_all(b"three\n").unwrap();
            fs::write("/proc/self/fd/1", "four\n").unwrap();
            eprintln!("five");
            rest()
        }
        // Tries to change the file behind its output.
        "stretch" => {
            println!("before");
            let stretched = nix::unistd::ftruncate(std::io::stdout(), 1 << 40);
            println!("{stretched:?}");
            rest()
        }
        // Writes a few pages, and goes.
        "write-and-crash" => {
            for line in 0..2000 {
                println!("line {line} of a workload that writes more than it should");
            }
            std::process::exit(3);
        }
        "report" => {
            report(SIGPIPE_DEFAULT.load(Ordering::Relaxed));
            rest()
        }
        // Writes the time of its first instruction, and then hogs or rests.
        "stamp" => stamp(argument(1), argument(2)),
        _ => rest(),
    }
}

fn rest() -> ! {
    loop {
        pause();
    }
}

fn wait_for_file(file: &str) {
    while !std::path::Path::new(file).exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn map_far_below(folder: &str, count: usize) {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    let name = "d".repeat(250);
    std::env::set_current_dir(folder).unwrap();
    for _ in 0..400 {
        fs::create_dir(&name).unwrap();
        std::env::set_current_dir(&name).unwrap();
    }
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open("f")
        .unwrap();
    file.set_len(4096).unwrap();
    let length = std::num::NonZero::new(4096).unwrap();
    // Executable ones are those that a stack's addresses are looked for in.
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    for _ in 0..count {
        let flags = MapFlags::MAP_PRIVATE;
        // SAFETY: the kernel chooses a free place, and nothing reads it.
        unsafe { mmap(None, length, protection, flags, &file, 0) }.unwrap();
    }
}

fn fill(mebibytes: usize) -> Vec<u8> {
    let mut memory = vec![0u8; mebibytes * MIB];
    touch(&mut memory);
    memory
}

fn touch(memory: &mut [u8]) {
    for at in (0..memory.len()).step_by(PAGE) {
        memory[at] = memory[at].wrapping_add(1);
    }
    std::hint::black_box(memory);
}

/// Takes one MiB after another, and keeps them all.
fn hog(mebibytes: usize) {
    for _ in 0..mebibytes {
        std::mem::forget(fill(1));
    }
}

fn in_child(act: impl FnOnce()) {
    // SAFETY: this program has one thread.
    if let ForkResult::Child = unsafe { fork() }.unwrap() {
        act();
        std::process::exit(0);
    }
}

fn first_process(command: &[String]) -> ! {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::wait::{WaitStatus, waitpid};
    use std::os::unix::process::CommandExt as _;
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).unwrap();
    // SAFETY: this program has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            mount(
                Some("proc"),
                "/proc",
                Some("proc"),
                MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
            panic!(
                "{}",
                std::process::Command::new(&command[0])
                    .args(&command[1..])
                    .exec()
            );
        }
        ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
            WaitStatus::Exited(_, code) => std::process::exit(code),
            ended => panic!("{ended:?}"),
        },
    }
}

/// Forks until the kernel refuses, and all of them stay.
fn bomb() -> ! {
    loop {
        // SAFETY: this program has one thread.
        match unsafe { fork() } {
            Ok(_) => {}
            Err(_) => rest(),
        }
    }
}

fn flood(mebibytes: usize) -> ! {
    write_lines(mebibytes);
    rest()
}

/// Lines of 64 bytes, each by a call of its own.
fn write_lines(mebibytes: usize) {
    let mut line = [b'x'; 64];
    let stdout = std::io::stdout();
    for number in 0..mebibytes * MIB / line.len() {
        let text = format!("{number:012}");
        line[..12].copy_from_slice(text.as_bytes());
        line[63] = b'\n';
        stdout.lock().write_all(&line).unwrap();
    }
}

/// `first N` for the first instruction, and where it hogs, `last N` again and
/// again, so that the last one is its last sign of life.
fn stamp(file: &str, then: &str) -> ! {
    let first = monotonic();
    let mut log = File::options()
        .append(true)
        .create(true)
        .open(file)
        .unwrap();
    writeln!(log, "first {first}").unwrap();
    if then != "hog" {
        rest();
    }
    loop {
        // The steps are small, so that the last one is close to the end.
        let mut little = vec![0u8; 16 * PAGE];
        touch(&mut little);
        std::mem::forget(little);
        writeln!(log, "last {}", monotonic()).unwrap();
    }
}

fn milliseconds(text: &str) -> Duration {
    Duration::from_millis(text.parse().unwrap())
}

fn http(port: usize) -> ! {
    let listener = TcpListener::bind(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    let started = Instant::now();
    println!("listening on {port}");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap_or(0);
        let request = String::from_utf8_lossy(&request[..length]);
        let body = match request.split_whitespace().nth(1) {
            Some("/break") => loop {
                std::hint::spin_loop();
            },
            Some("/leak") => {
                hog(usize::MAX / MIB);
                "leaked"
            }
            _ => "ok",
        };
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\nx-uptime: {}\r\n\r\n{body}",
            body.len(),
            started.elapsed().as_millis()
        );
    }
    rest()
}
