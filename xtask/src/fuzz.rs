//! Fuzzing without another toolchain: the coverage that libFuzzer wants is a pass of
//! stable rustc's own LLVM. The targets are in the layout of cargo-fuzz, which works as well.

use crate::compile::{self, HOST};
use crate::process::{cargo, find_program, root, run, target};
use anyhow::{Context as _, Result, bail};
use std::process::Command;

const TARGETS: [&str; 12] = [
    "manifest",
    "fleet",
    "import",
    "api_body",
    "memory_events",
    "state",
    "environment_file",
    "redirect",
    "mapping",
    "perf_map",
    "terminal",
    "notice",
];

/// The flags for libFuzzer's coverage. They are those of cargo-fuzz, without the sanitizer.
const COVERAGE: &str = "-Cpasses=sancov-module\u{1f}-Cllvm-args=-sanitizer-coverage-level=4\u{1f}\
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters\u{1f}-Cllvm-args=-sanitizer-coverage-pc-table\u{1f}\
    -Cllvm-args=-sanitizer-coverage-trace-compares\u{1f}-Clink-dead-code\u{1f}--cfg=fuzzing\u{1f}-Ccodegen-units=1";

/// Runs every target for this many seconds. A crash is an error, and its input is kept.
pub(crate) fn run_all(seconds: u32) -> Result<()> {
    if find_program("c++").is_none() {
        bail!(
            "libFuzzer is written in C++; install a compiler with\n\n    sudo apt-get install -y g++\n"
        );
    }
    compile::ebpf()?;
    let built = target().join("fuzz");
    run(cargo("build")
        .args(["--quiet", "--release", "--target", HOST, "--manifest-path"])
        .arg(root().join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(&built)
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE))?;
    for name in TARGETS {
        let corpus = built.join("corpus").join(name);
        std::fs::create_dir_all(&corpus)
            .with_context(|| format!("failed to create {}", corpus.display()))?;
        println!("fuzz: {name}, {seconds} s");
        run(Command::new(built.join(HOST).join("release").join(name))
            .arg(format!("-max_total_time={seconds}"))
            .args([
                "-print_final_stats=1",
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-max_len=65536",
            ])
            .arg(format!(
                "-artifact_prefix={}/crash-{name}-",
                built.display()
            ))
            .arg(&corpus)
            .arg(root().join("docs"))
            .arg(root().join("packaging")))?;
    }
    Ok(())
}
