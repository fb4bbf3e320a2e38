//! Turns the addresses of a hot stack into names. The files with the names belong to the workload's
//! user, and a privileged agent must not parse them. A child without privileges does it, for two
//! seconds at most. An address without an answer stays a number.

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer};
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::{place, unprivileged};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The most frames that are reported.
const FRAMES: usize = 8;
/// A name may be a page of C++.
const LONGEST_NAME: usize = 200;
const LARGEST_PERF_MAP: u64 = 64 << 20;

/// The question to the child.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    frames: Vec<Frame>,
    perf_map: PathBuf,
    owner: u32,
    /// The root of the process is the child's standard error.
    has_root: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Frame {
    address: u64,
    /// The path of the file that is mapped there, as bytes, and the offset in it.
    file: Option<(Vec<u8>, u64)>,
}

/// Returns the frames of a stack as text, innermost first: with names where a child finds them in
/// time.
pub(crate) fn stack(pid: u32, addresses: &[u64]) -> Vec<String> {
    let Some((mut question, uid, gid)) = question(pid, addresses) else {
        return addresses.iter().take(FRAMES).map(plain).collect();
    };
    // Its files may be others than those that the host has under the same paths.
    let process = enforcer_kernel::process::identify(pid).and_then(|id| PidFd::of(id).ok()?);
    let root = process.and_then(|process| place::root_of(pid, &process).ok());
    question.has_root = root.is_some();
    let root = root.as_ref().map(AsFd::as_fd);
    let asked = serde_json::to_vec(&question).unwrap_or_default();
    let answer = unprivileged::run("symbolize", &asked, (uid, gid), root)
        .inspect_err(|error| tracing::debug!("no names for a stack: {error}"))
        .unwrap_or_default();
    let names: Vec<String> = serde_json::from_slice(&answer).unwrap_or_default();
    let frames = question.frames.iter().enumerate();
    frames
        .map(|(index, frame)| match names.get(index) {
            Some(name) if !name.is_empty() => printable(name),
            _ => frame.without_name(),
        })
        .collect()
}

fn plain(address: &u64) -> String {
    format!("{address:#x}")
}

/// Makes a name safe to print: it comes from a file that any user may have written.
pub(crate) fn printable(name: &str) -> String {
    let shown: String = name.chars().take(LONGEST_NAME).collect();
    enforcer_core::text::printable(&shown)
}

fn question(pid: u32, addresses: &[u64]) -> Option<(Question, u32, u32)> {
    let addresses = &addresses[..addresses.len().min(FRAMES)];
    if addresses.is_empty() {
        return None;
    }
    let (uid, gid) = enforcer_kernel::process::owner(pid)?;
    let mappings = enforcer_kernel::process::file_mappings(pid, addresses);
    let frame = |address: &u64| {
        let mapping = mappings
            .iter()
            .find(|mapping| mapping.range.contains(address))?;
        let offset = address - mapping.range.start + mapping.offset;
        let file = mapping.file.as_os_str().as_bytes().to_vec();
        Some((file, offset))
    };
    let frames = addresses.iter().map(|address| Frame {
        address: *address,
        file: frame(address),
    });
    let question = Question {
        frames: frames.collect(),
        perf_map: PathBuf::from(format!("/tmp/perf-{pid}.map")),
        owner: uid,
        has_root: false,
    };
    Some((question, uid, gid))
}

impl Frame {
    fn without_name(&self) -> String {
        match &self.file {
            Some((file, offset)) => format!("{}+{offset:#x}", file_name(path_of(file))),
            None => plain(&self.address),
        }
    }
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn file_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default();
    printable(&name.to_string_lossy())
}

/// Runs in the child: reads a question from standard input and prints names. It gives up its
/// privileges before it reads a byte.
pub(crate) fn answer() -> anyhow::Result<()> {
    unprivileged::confine()?;
    let mut asked = Vec::new();
    std::io::stdin()
        .lock()
        .take(1 << 20)
        .read_to_end(&mut asked)?;
    let question: Question = serde_json::from_slice(&asked)?;
    let symbolizer = Symbolizer::new();
    let stderr = std::io::stderr();
    let root = match question.has_root {
        true => place::path_of(stderr.as_fd()),
        false => PathBuf::from("/"),
    };
    let perf_map = perf_map(&question, &root);
    let names: Vec<String> = question
        .frames
        .iter()
        .map(|frame| name(&symbolizer, frame, &perf_map, &root).unwrap_or_default())
        .collect();
    println!("{}", serde_json::to_string(&names)?);
    Ok(())
}

fn name(symbolizer: &Symbolizer, frame: &Frame, perf_map: &str, root: &Path) -> Option<String> {
    let Some((file, offset)) = &frame.file else {
        return name_in_perf_map(perf_map, frame.address);
    };
    let file = path_of(file);
    let source = Source::Elf(Elf::new(in_root(root, file)));
    let found = symbolizer
        .symbolize(&source, Input::FileOffset(&[*offset]))
        .ok()?;
    let Some(Symbolized::Sym(symbol)) = found.first() else {
        return None;
    };
    let place = symbol.code_info.as_ref().map(|info| {
        let line = info
            .line
            .map_or_else(String::new, |line| format!(":{line}"));
        format!(" at {}{line}", info.file.to_string_lossy())
    });
    Some(format!(
        "{}+{:#x} in {}{}",
        symbol.name,
        symbol.offset,
        file_name(file),
        place.unwrap_or_default()
    ))
}

/// Returns the symbol map of a just-in-time compiler, if the file belongs to the workload's user.
fn perf_map(question: &Question, root: &Path) -> String {
    let read = || -> Option<String> {
        let file = unprivileged::open_owned(&in_root(root, &question.perf_map), question.owner)?;
        let mut bytes = Vec::new();
        file.take(LARGEST_PERF_MAP).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

fn in_root(root: &Path, file: &Path) -> PathBuf {
    root.join(file.strip_prefix("/").unwrap_or(file))
}

/// Returns the name of an address. A line is `START SIZE name`, the numbers in hex.
pub(crate) fn name_in_perf_map(map: &str, address: u64) -> Option<String> {
    map.lines().find_map(|line| {
        let mut words = line.splitn(3, ' ');
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        let (start, size) = (number(words.next()?)?, number(words.next()?)?);
        let offset = address.checked_sub(start)?;
        (offset < size).then(|| words.next().map(|name| format!("{name}+{offset:#x}")))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perf_map_names_what_lies_inside() {
        let map = "7f00 10 LazyCompile:*spin app.js:3\n0x7f20 8 stub\nbroken\n";
        let found = |address| name_in_perf_map(map, address);
        assert_eq!(
            found(0x7f04).as_deref(),
            Some("LazyCompile:*spin app.js:3+0x4")
        );
        assert_eq!(found(0x7f20).as_deref(), Some("stub+0x0"));
        assert_eq!(found(0x7f10), None);
    }

    #[test]
    fn our_own_code_is_found_by_name() {
        let here = name_in_perf_map as *const () as u64;
        let (question, ..) = question(std::process::id(), &[here]).expect("our own maps");
        let name =
            name(&Symbolizer::new(), &question.frames[0], "", Path::new("/")).expect("a symbol");
        assert!(name.contains("name_in_perf_map"), "{name}");
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
