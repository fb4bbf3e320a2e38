//! Reads manifests from disk, one file or a folder, and draws every fault in its place.

use super::delegates::Delegates;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use enforcer_core::spec::{MAY_BE_MISSING, Manifest};
use enforcer_core::text::printable;
use enforcer_kernel::account;
use enforcer_manifest::{Accounts, Fault, Parsed, Severity};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The accounts of this host, for the checks of a manifest.
struct HostAccounts;

impl Accounts for HostAccounts {
    fn agent_is_root(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    fn has_user_of_number(&self, number: u32) -> bool {
        account::has_user_of_number(number)
    }

    fn has_user(&self, name: &str) -> bool {
        account::has_user(name)
    }

    fn has_group(&self, name: &str) -> bool {
        account::has_group(name)
    }
}

/// A manifest and what is to be said about it.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) manifest: Manifest,
    /// Drawn warnings; empty without any.
    pub(crate) warnings: String,
    pub(crate) files: usize,
    /// One of the files has a `host` section.
    pub(crate) has_host: bool,
    /// One of the files has an `alerts` section.
    pub(crate) has_alerts: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("find a manifest: {} has no *.yaml and no *.yml", .0.display())]
    EmptyFolder(PathBuf),
    /// Every fault, drawn.
    #[error("{0}")]
    Faults(String, usize),
}

/// The text of one manifest, and its path.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// Reads a file, or every `*.yaml` and `*.yml` of a folder in the order of their names, but
/// for these.
pub(crate) fn read(path: &Path, skipped: &BTreeSet<String>) -> Result<Vec<Source>, LoadError> {
    let files = files_of(path, skipped)?;
    if files.is_empty() {
        return Err(LoadError::EmptyFolder(path.to_owned()));
    }
    files.into_iter().map(read_file).collect()
}

/// Returns the names of a folder's manifests that have this extension.
pub(crate) fn names_that_end_in(folder: &Path, end: &str) -> BTreeSet<String> {
    let files = match folder.is_dir() {
        true => files_of(folder, &BTreeSet::new()).unwrap_or_default(),
        false => Vec::new(),
    };
    let files = files.iter();
    let files = files.filter(|file| file.extension().is_some_and(|found| found == end));
    files.filter_map(|file| name_of(file)).collect()
}

fn name_of(file: &Path) -> Option<String> {
    Some(file.file_name()?.to_string_lossy().into_owned())
}

fn files_of(path: &Path, skipped: &BTreeSet<String>) -> Result<Vec<PathBuf>, LoadError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let listed = std::fs::read_dir(path).map_err(|source| LoadError::Read {
        path: path.to_owned(),
        source,
    })?;
    let files = listed.flatten().map(|entry| entry.path());
    let files = files.filter(|file| is_manifest(file));
    let mut files: Vec<_> = files
        .filter(|file| name_of(file).is_some_and(|name| !skipped.contains(&name)))
        .collect();
    files.sort();
    Ok(files)
}

fn read_file(path: PathBuf) -> Result<Source, LoadError> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Source { path, text }),
        Err(source) => Err(LoadError::Read { path, source }),
    }
}

/// Returns whether a file of a folder is a manifest. As in other `.d` folders, a name with a
/// leading dot is none: editors keep locks and drafts under such names.
pub(crate) fn is_manifest(file: &Path) -> bool {
    let hidden = file
        .file_name()
        .is_none_or(|name| name.as_bytes().starts_with(b"."));
    let yaml = file
        .extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml");
    yaml && !hidden
}

/// The manifest of all sources, and each fault with the number of its file.
struct Joined {
    manifest: Manifest,
    has_host: bool,
    has_alerts: bool,
    faults: Vec<(usize, Fault)>,
}

fn join(sources: &[Source], delegates: &Delegates) -> Joined {
    let parsed: Vec<Parsed> = sources
        .iter()
        .map(|source| enforcer_manifest::parse(&source.text, &HostAccounts))
        .collect();
    let mut faults: Vec<(usize, Fault)> = Vec::new();
    for (index, file) in parsed.iter().enumerate() {
        faults.extend(file.faults.iter().map(|fault| (index, fault.clone())));
    }
    let has_host = parsed.iter().any(|file| file.has_host);
    let has_alerts = parsed.iter().any(|file| file.has_alerts);
    let located: Vec<Parsed> = parsed
        .into_iter()
        .zip(sources)
        .map(|(file, source)| locate_files(file, source, delegates))
        .collect();
    for (index, (file, source)) in located.iter().zip(sources).enumerate() {
        let refused = delegates.faults(file, &source.path).into_iter();
        faults.extend(refused.map(|fault| (index, fault)));
    }
    let (manifest, more) = enforcer_manifest::join(located);
    faults.extend(more);
    Joined {
        manifest,
        has_host,
        has_alerts,
        faults,
    }
}

/// Parses sources into one manifest.
pub(crate) fn parse(
    sources: &[Source],
    delegates: &Delegates,
    color: bool,
) -> Result<Loaded, LoadError> {
    let Joined {
        manifest,
        has_host,
        has_alerts,
        faults,
    } = join(sources, delegates);
    let mut drawn = String::new();
    // Writing to a string can't fail.
    for (index, fault) in faults.iter().take(MAX_DRAWN) {
        let _ = writeln!(drawn, "{}\n", draw(fault, &sources[*index], color));
    }
    if faults.len() > MAX_DRAWN {
        let _ = writeln!(drawn, "and {} more\n", faults.len() - MAX_DRAWN);
    }
    let errors = faults
        .iter()
        .filter(|(_, fault)| fault.severity == Severity::Error)
        .count();
    if errors > 0 {
        return Err(LoadError::Faults(drawn, errors));
    }
    Ok(Loaded {
        manifest,
        warnings: drawn,
        files: sources.len(),
        has_host,
        has_alerts,
    })
}

pub(crate) fn load(path: &Path, color: bool) -> Result<Loaded, LoadError> {
    parse(&read(path, &BTreeSet::new())?, &Delegates::default(), color)
}

/// Loads the files without a fault, for an agent that has to come up; returns the error of all
/// files as well, if there is one.
pub(crate) fn load_readable(
    path: &Path,
    skipped: &BTreeSet<String>,
    delegates: &Delegates,
    color: bool,
) -> (Loaded, Option<LoadError>) {
    let all = read_or_nothing(path, skipped).and_then(|sources| parse(&sources, delegates, color));
    let fault = match all {
        Ok(loaded) => return (loaded, None),
        Err(fault) => fault,
    };
    let files = files_of(path, skipped).unwrap_or_default().into_iter();
    let mut good: Vec<Source> = files.filter_map(|file| read_file(file).ok()).collect();
    loop {
        let is_error = |fault: &Fault| fault.severity == Severity::Error;
        let faults = join(&good, delegates).faults.into_iter();
        let faulty: BTreeSet<usize> = faults
            .filter(|(_, fault)| is_error(fault))
            .map(|(index, _)| index)
            .collect();
        if faulty.is_empty() {
            let loaded = parse(&good, delegates, color).unwrap_or_default();
            return (loaded, Some(fault));
        }
        // A file may need a workload of one that was taken out here.
        let mut index = 0..;
        good.retain(|_| index.next().is_none_or(|index| !faulty.contains(&index)));
    }
}

/// Reads every file; a folder may have none yet.
pub(crate) fn read_or_nothing(
    path: &Path,
    skipped: &BTreeSet<String>,
) -> Result<Vec<Source>, LoadError> {
    match read(path, skipped) {
        Err(LoadError::EmptyFolder(_)) => Ok(Vec::new()),
        read => read,
    }
}

/// The most faults that are drawn. The others are counted.
const MAX_DRAWN: usize = 100;

/// Files of variables and of credentials are named from where the manifest is.
fn locate_files(mut parsed: Parsed, source: &Source, delegates: &Delegates) -> Parsed {
    delegates.mark(&mut parsed.manifest, &source.path);
    let folder = source.path.parent().unwrap_or(Path::new("/"));
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    for spec in parsed.manifest.workloads.values_mut() {
        let spec = Arc::make_mut(spec);
        let absolute = |path: &str| folder.join(path).display().to_string();
        for file in &mut spec.environment_files {
            *file = match file.strip_prefix(MAY_BE_MISSING) {
                Some(path) => format!("{MAY_BE_MISSING}{}", absolute(path)),
                None => absolute(file),
            };
        }
        for file in spec.credentials.values_mut() {
            *file = absolute(file);
        }
    }
    parsed
}

fn draw(fault: &Fault, source: &Source, color: bool) -> String {
    let path = source.path.display().to_string();
    let level = match fault.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    // An empty span has no place for a caret: it points at one character.
    let mut span = fault.span.clone();
    if span.is_empty() {
        let next = source.text[span.start..]
            .chars()
            .next()
            .map_or(0, char::len_utf8);
        span.end = span.start + next;
    }
    let message = printable(&fault.message);
    let label = printable(&fault.label);
    // The renderer splits what it is given into lines: it gets those of the fault alone.
    let text = &source.text;
    let begin = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.end..]
        .find('\n')
        .map_or(text.len(), |at| span.end + at);
    let line = text[..begin].bytes().filter(|byte| *byte == b'\n').count() + 1;
    let span = span.start - begin..span.end - begin;
    let snippet = Snippet::source(&text[begin..end])
        .line_start(line)
        .path(&path)
        .annotation(AnnotationKind::Primary.span(span).label(&label));
    let mut group: Group<'_> = level.primary_title(&message).element(snippet);
    let help = fault.help.as_deref().map(printable);
    if let Some(help) = &help {
        group = group.element(Level::HELP.message(help));
    }
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    renderer.render(&[group])
}
