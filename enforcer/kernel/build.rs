//! Finds the eBPF objects that the agent embeds.
//!
//! `cargo xtask build-ebpf` makes them. Without them a debug build embeds empty ones, so that
//! `cargo check`, `cargo test` and editors work on a clean clone; the agent then reports
//! that it runs without eBPF. A release build without them fails.

use std::io;
use std::path::{Path, PathBuf};

const OBJECTS: [(&str, &str); 2] = [
    ("ENFORCER_BPF_OBJECT", "enforcer.o"),
    ("ENFORCER_GATE_OBJECT", "gate.o"),
];

fn main() {
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(dir));
    let is_release = std::env::var_os("PROFILE").is_some_and(|profile| profile == "release");
    for (variable, name) in OBJECTS {
        let object = target.join("bpf").join(name);
        let length = match ensure(&object) {
            Ok(length) => length,
            Err(error) => {
                println!(
                    "cargo::error=failed to create {}: {error}",
                    object.display()
                );
                return;
            }
        };
        println!("cargo::rerun-if-changed={}", object.display());
        println!("cargo::rustc-env={variable}={}", object.display());
        if length == 0 && is_release {
            println!(
                "cargo::error=the eBPF object {name} is missing; run `cargo xtask build`, which makes it first"
            );
        }
    }
}

/// Makes an empty file if there is none: cargo watches a file only if it exists. Returns its length.
fn ensure(object: &PathBuf) -> io::Result<u64> {
    if !object.exists() {
        if let Some(folder) = object.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(object, [])?;
    }
    Ok(std::fs::metadata(object)?.len())
}
