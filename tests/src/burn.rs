//! Ways to use up a CPU, one after another of the corpus: dead loops, busy
//! polling, and honest work that looks like either.
#![allow(
    clippy::missing_spin_loop,
    reason = "loops without a hint are what is wanted here"
)]

use std::hint::black_box;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

static FLAG: AtomicBool = AtomicBool::new(false);
static COUNTER: AtomicU64 = AtomicU64::new(0);
static NEVER: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// Never returns, unless the kind is one that ends by itself.
///
/// # Panics
/// For a kind that isn't known.
pub fn burn(kind: &str) {
    match kind {
        "bare" => bare(),
        "flag" => while !FLAG.load(Ordering::Relaxed) {},
        "list" => list(),
        "stuck-among-idle" => {
            for _ in 0..8 {
                std::thread::spawn(idle);
            }
            bare()
        }
        "epoll" => epoll(),
        "yield" => loop {
            std::thread::yield_now();
        },
        "eagain" => eagain(),
        "register" => register(),
        "memory" => memory(),
        "sse" => sse(),
        "fnv" => fnv(),
        "sort" => sort(),
        "matrix" => matrix(),
        "clock" => clock(),
        "clock-seldom" => clock_seldom(),
        "server" => server(),
        "flag-later" => flag_later(Duration::from_secs(30), false),
        // The helper's name is cut in the middle of a letter.
        "flag-later-renamed" => flag_later(Duration::from_secs(600), true),
        "bare-renamed" => {
            rename_thread();
            bare()
        }
        "timer" => timer(),
        "shared" => shared(),
        "hundred" => {
            for _ in 1..100 {
                std::thread::spawn(bare);
            }
            bare()
        }
        "until-usr1" => until_usr1(),
        "traced" => traced(),
        other => panic!("no such kind: {other}"),
    }
}

#[cfg(target_arch = "x86_64")]
fn bare() {
    // SAFETY: touches nothing.
    unsafe { std::arch::asm!("2: jmp 2b", options(noreturn)) }
}

#[cfg(target_arch = "x86_64")]
fn register() {
    // SAFETY: touches one register that it names.
    unsafe { std::arch::asm!("2: inc {0}", "jmp 2b", inout(reg) 0u64 => _) }
}

/// Spins while all registers stay as they are.
#[cfg(target_arch = "x86_64")]
fn memory() {
    // SAFETY: writes to one counter.
    unsafe { std::arch::asm!("2: inc qword ptr [{0}]", "jmp 2b", in(reg) COUNTER.as_ptr()) }
}

/// Spins while all general registers and the memory stay as they are.
#[cfg(target_arch = "x86_64")]
fn sse() {
    // SAFETY: touches two registers that it names.
    unsafe {
        std::arch::asm!("2: paddq {0}, {1}", "jmp 2b", inout(xmm_reg) 0f64 => _, in(xmm_reg) f64::from_bits(1));
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn bare() {
    loop {
        black_box(0);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn register() {
    memory()
}

#[cfg(not(target_arch = "x86_64"))]
fn memory() {
    loop {
        COUNTER.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn sse() {
    let mut sum = 0f64;
    loop {
        sum = black_box(sum + 1.0);
    }
}

struct Node {
    next: usize,
}

fn list() {
    let nodes: Vec<Node> = (0..8)
        .map(|index| Node {
            next: (index + 1) % 8,
        })
        .collect();
    let mut at = 0;
    loop {
        at = black_box(&nodes)[at].next;
    }
}

/// Spins on a value that never changes.
fn idle() {
    let (lock, condition) = &NEVER;
    let mut said = lock.lock().unwrap();
    while !*said {
        said = condition.wait(said).unwrap();
    }
}

fn epoll() {
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).unwrap();
    let mut events = [nix::sys::epoll::EpollEvent::empty(); 8];
    loop {
        epoll
            .wait(&mut events, nix::sys::epoll::EpollTimeout::ZERO)
            .unwrap();
    }
}

fn eagain() {
    let (reader, _writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
    let mut byte = [0];
    loop {
        // SAFETY: reads into one byte; there is never anything to read.
        unsafe { libc::read(reader.as_raw_fd(), byte.as_mut_ptr().cast(), 1) };
    }
}

fn fnv() {
    let data: Vec<u8> = (0..65_536u32)
        .map(|number| number.to_le_bytes()[0])
        .collect();
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    loop {
        for byte in &data {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        black_box(hash);
    }
}

fn next(seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *seed
}

fn sort() {
    let mut seed = 1;
    loop {
        let mut numbers: Vec<u64> = (0..20_000).map(|_| next(&mut seed)).collect();
        numbers.sort_unstable();
        black_box(&numbers);
    }
}

fn matrix() {
    const SIDE: usize = 64;
    let mut seed = 1;
    let mut random = || {
        (0..SIDE * SIDE)
            .map(|_| next(&mut seed) >> 40)
            .collect::<Vec<u64>>()
    };
    let (mut one, other) = (random(), random());
    loop {
        let mut product = vec![0u64; SIDE * SIDE];
        for row in 0..SIDE {
            for column in 0..SIDE {
                for index in 0..SIDE {
                    let term = one[row * SIDE + index].wrapping_mul(other[index * SIDE + column]);
                    product[row * SIDE + column] =
                        product[row * SIDE + column].wrapping_add(term | 1);
                }
            }
        }
        one = product;
    }
}

/// Waits for a second to pass, by a clock whose steps are seconds.
fn clock() {
    loop {
        // SAFETY: with a null pointer it only returns the time.
        let begun = unsafe { libc::time(std::ptr::null_mut()) };
        // SAFETY: as above.
        while unsafe { libc::time(std::ptr::null_mut()) } < begun + 60 {}
    }
}

/// Repeats the same work until its time is over. It reads the clock now and then, and keeps no
/// trace of it.
fn clock_seldom() {
    let numbers: Vec<u64> = (0..100).collect();
    // SAFETY: with a null pointer it only returns the time.
    let end = unsafe { libc::time(std::ptr::null_mut()) } + 60;
    // SAFETY: as above.
    while unsafe { libc::time(std::ptr::null_mut()) } < end {
        let mut sum = 0;
        for number in black_box(&numbers) {
            sum = black_box(sum ^ number);
        }
    }
}

/// Works most of the time, and sleeps between two requests.
fn server() {
    let mut seed = 1;
    loop {
        for _ in 0..2_000_000 {
            black_box(next(&mut seed));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Spins on a value that another thread sets after half a minute.
fn flag_later(time: Duration, renamed: bool) {
    std::thread::spawn(move || {
        if renamed {
            rename_thread();
        }
        std::thread::sleep(time);
        FLAG.store(true, Ordering::Relaxed);
    });
    while !FLAG.load(Ordering::Relaxed) {}
    println!("the flag is set");
    loop {
        std::thread::park();
    }
}

/// Gives this thread a name that is no UTF-8: seven letters and a half, as the kernel cuts it.
fn rename_thread() {
    let name = c"\u{43e}\u{431}\u{440}\u{430}\u{431}\u{43e}\u{442}\u{447}\u{438}\u{43a}";
    // SAFETY: the name ends with NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Spins until SIGUSR1 comes.
fn until_usr1() {
    // SAFETY: the handler only stores to an atomic.
    unsafe {
        let handler: extern "C" fn(libc::c_int) = on_signal;
        libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
    }
    while !FLAG.load(Ordering::Relaxed) {}
}

/// Runs a dead loop that another process traces.
fn traced() {
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => bare(),
        nix::unistd::ForkResult::Parent { child } => {
            // SAFETY: takes no memory.
            let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, child.as_raw(), 0, 0) };
            assert_eq!(seized, 0);
        }
    }
}

extern "C" fn on_signal(_signal: libc::c_int) {
    FLAG.store(true, Ordering::Relaxed);
}

/// A signal will end it.
fn timer() {
    // SAFETY: the handler only stores to an atomic.
    unsafe {
        let handler: extern "C" fn(libc::c_int) = on_signal;
        libc::signal(libc::SIGALRM, handler as libc::sighandler_t);
        libc::alarm(30);
    }
    while !FLAG.load(Ordering::Relaxed) {}
    loop {
        std::thread::park();
    }
}

/// Spins on a value that another process may set.
fn shared() {
    // SAFETY: a new mapping of one page.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: the page is mapped and stays so.
    let flag = unsafe { AtomicBool::from_ptr(page.cast()) };
    while !flag.load(Ordering::Relaxed) {}
}

/// Returns how often two processes pass a byte to each other in this time.
///
/// # Panics
/// If there are no pipes to be had.
#[must_use]
pub fn switches(time: Duration) -> u64 {
    let (there, ours) = (nix::unistd::pipe().unwrap(), nix::unistd::pipe().unwrap());
    let pass = |from: &std::os::fd::OwnedFd, to: &std::os::fd::OwnedFd| {
        let mut byte = [0];
        let read = nix::unistd::read(from, &mut byte);
        read.is_ok_and(|length| length == 1) && nix::unistd::write(to, &byte).is_ok()
    };
    // SAFETY: this process has one thread.
    if let nix::unistd::ForkResult::Child = unsafe { nix::unistd::fork() }.unwrap() {
        drop(there.1);
        while pass(&there.0, &ours.1) {}
        std::process::exit(0);
    }
    nix::unistd::write(&there.1, &[0]).unwrap();
    let begun = std::time::Instant::now();
    let mut count = 0;
    while begun.elapsed() < time && pass(&ours.0, &there.1) {
        count += 1;
    }
    count
}

/// Returns how many system calls one process makes in this time.
#[must_use]
pub fn calls(time: Duration) -> u64 {
    let begun = std::time::Instant::now();
    let mut count = 0;
    while begun.elapsed() < time {
        for _ in 0..1000 {
            nix::unistd::getppid();
        }
        count += 1000;
    }
    count
}
