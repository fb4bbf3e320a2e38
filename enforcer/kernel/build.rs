//! Finds the eBPF object that the agent embeds.
//!
//! `cargo xtask build-ebpf` makes it. Without it a debug build embeds an empty one, so that
//! `cargo check`, `cargo test` and editors work on a clean clone; the agent then reports
//! that it runs without eBPF. A release build without it fails.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(dir));
    let object = target.join("bpf/enforcer.o");
    // Cargo watches a file only if it exists, so a missing one is made as an empty one.
    if !object.exists() {
        let made =
            std::fs::create_dir_all(target.join("bpf")).and_then(|()| std::fs::write(&object, []));
        if let Err(error) = made {
            println!(
                "cargo::error=failed to create {}: {error}",
                object.display()
            );
            return;
        }
    }
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=ENFORCER_BPF_OBJECT={}", object.display());
    let is_empty = std::fs::metadata(&object).is_ok_and(|found| found.len() == 0);
    let is_release = std::env::var_os("PROFILE").is_some_and(|profile| profile == "release");
    if is_empty && is_release {
        println!(
            "cargo::error=the eBPF object is missing; run `cargo xtask build`, which makes it first"
        );
    }
}
