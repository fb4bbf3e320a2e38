//! Finds the eBPF object that the agent carries, or says which command makes it.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(dir));
    let object = target.join("bpf/enforcer.o");
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-env=ENFORCER_BPF_OBJECT={}", object.display());
    } else {
        println!("cargo::error=the eBPF object is missing; run `cargo xtask build-ebpf` first");
    }
}
