//! `import`: what others run, as a manifest. The manifest goes to standard output, and the report to standard
//! error.

use super::format::{Format, Output};
use crate::fault::Fault;
use clap::Subcommand;
use enforcer_import::compose::{Image, Options, Source};
use enforcer_import::kubernetes;
use enforcer_import::systemd::Files;
use enforcer_import::{Imported, Refused, compose, labels, systemd};
use enforcer_manifest::environment_file;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Wanted {
    /// Import files of Docker Compose; a later one lies over an earlier one
    Compose {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The variables of the files [default: `.env` beside the first one]
        #[arg(long, value_name = "FILE")]
        env_file: Option<PathBuf>,
        /// Import the services of this profile as well
        #[arg(long = "profile", value_name = "NAME")]
        profiles: Vec<String>,
        /// A folder with the files of a service's image, as `umoci unpack` makes it
        #[arg(long = "image", value_name = "SERVICE=DIR")]
        images: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Import objects of Kubernetes: pods, what makes pods, and what those refer to in the same files
    Kubernetes {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// A folder with the files of a container's image, as `umoci unpack` makes it
        #[arg(long = "image", value_name = "CONTAINER=DIR")]
        images: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Import what labels say: a Dockerfile, or what `docker inspect` prints
    Labels {
        file: PathBuf,
        /// What the names of the labels begin with
        #[arg(long, value_name = "TEXT", default_value = "")]
        label_prefix: String,
        /// A folder with the files of a service's image, as `umoci unpack` makes it
        #[arg(long = "image", value_name = "SERVICE=DIR")]
        images: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Import services of systemd, with their drop-ins, and the sockets that are named with them
    Systemd {
        #[arg(required = true)]
        units: Vec<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
}

pub(super) fn import(wanted: &Wanted) -> Result<(), Fault> {
    match wanted {
        Wanted::Compose {
            files,
            env_file,
            profiles,
            images,
            output,
        } => {
            let sources = files.iter().map(|path| source(path));
            let sources = sources.collect::<Result<Vec<Source>, Fault>>()?;
            let folder = folder_of(&files[0])?;
            let options = Options {
                variables: variables(env_file.as_deref(), &folder)?,
                profiles: profiles.iter().cloned().collect(),
                images: self::images(images)?,
                folder: folder.display().to_string(),
            };
            let load = |path: &str| read(&folder.join(path)).map_err(|fault| fault.text());
            let imported = compose(&sources, &options, &load);
            print(
                &imported.map_err(|error| refused(&error, &sources))?,
                *output,
            )
        }
        Wanted::Kubernetes {
            files,
            images,
            output,
        } => {
            let sources = files.iter().map(|path| source(path));
            let sources = sources.collect::<Result<Vec<Source>, Fault>>()?;
            let options = kubernetes::Options {
                images: self::images(images)?,
            };
            let imported = enforcer_import::kubernetes(&sources, &options);
            print(
                &imported.map_err(|error| refused(&error, &sources))?,
                *output,
            )
        }
        Wanted::Labels {
            file,
            label_prefix,
            images,
            output,
        } => {
            let source = source(file)?;
            let options = Options {
                images: self::images(images)?,
                folder: folder_of(file)?.display().to_string(),
                ..Options::default()
            };
            let imported = labels(&source, label_prefix, &options);
            print(
                &imported.map_err(|error| refused(&error, &[source]))?,
                *output,
            )
        }
        Wanted::Systemd { units, output } => {
            let units = units.iter().map(|path| unit(path));
            let units = units.collect::<Result<Vec<Files>, Fault>>()?;
            let sources: Vec<Source> = units.iter().flat_map(|unit| unit.files.clone()).collect();
            let imported = systemd(&units);
            let imported = imported.map_err(|error| refused(&error, &sources))?;
            print(&imported, *output)
        }
    }
}

fn read(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path)
        .map_err(|error| Fault::Failed(format!("failed to read {}: {error}", path.display())))
}

fn source(path: &Path) -> Result<Source, Fault> {
    Ok(Source {
        name: path.display().to_string(),
        text: read(path)?,
    })
}

/// Reads a unit and its drop-ins, which are in a folder beside it, in the order of their names.
fn unit(path: &Path) -> Result<Files, Fault> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut files = vec![source(path)?];
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    let entries = std::fs::read_dir(Path::new(&folder)).into_iter().flatten();
    let mut drop_ins: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "conf"))
        .collect();
    drop_ins.sort();
    for drop_in in drop_ins {
        files.push(source(&drop_in)?);
    }
    Ok(Files {
        name: name.into_owned(),
        files,
    })
}

/// Returns the absolute folder of a file.
fn folder_of(path: &Path) -> Result<PathBuf, Fault> {
    let whole = std::path::absolute(path)
        .map_err(|error| Fault::Failed(format!("failed to find {}: {error}", path.display())))?;
    Ok(whole.parent().unwrap_or(Path::new("/")).to_owned())
}

/// Returns the variables of the environment, which win, and of a file.
fn variables(file: Option<&Path>, folder: &Path) -> Result<BTreeMap<String, String>, Fault> {
    let usual = folder.join(".env");
    let text = match file {
        Some(path) => read(path)?,
        None if usual.exists() => read(&usual)?,
        None => String::new(),
    };
    let parsed = environment_file::parse(text.as_bytes())
        .map_err(|error| Fault::Failed(format!("failed to read the variables: {error}")))?;
    let mut variables: BTreeMap<String, String> = parsed
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    variables.extend(std::env::vars());
    Ok(variables)
}

/// The part of an OCI bundle's `config.json` that is used.
#[derive(Debug, Deserialize)]
struct Bundle {
    process: Process,
}

#[derive(Debug, Deserialize)]
struct Process {
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    cwd: Option<String>,
    user: Option<User>,
}

#[derive(Debug, Deserialize)]
struct User {
    uid: u32,
    gid: u32,
}

fn images(texts: &[String]) -> Result<BTreeMap<String, Image>, Fault> {
    texts.iter().map(|text| image(text)).collect()
}

/// Reads `SERVICE=DIR`: a bundle with `rootfs` and `config.json`, or a folder that is a root itself.
fn image(text: &str) -> Result<(String, Image), Fault> {
    let Some((service, folder)) = text.split_once('=') else {
        return Err(Fault::Usage(format!("`{text}`: expected NAME=DIR")));
    };
    let folder = std::path::absolute(folder)
        .map_err(|error| Fault::Failed(format!("failed to find {folder}: {error}")))?;
    let file = folder.join("config.json");
    if !file.exists() {
        let root = folder.display().to_string();
        let image = Image {
            root,
            ..Image::default()
        };
        return Ok((service.to_owned(), image));
    }
    let bundle: Bundle = serde_json::from_str(&read(&file)?)
        .map_err(|error| Fault::Failed(format!("failed to read {}: {error}", file.display())))?;
    let process = bundle.process;
    let environment = process.env.iter().filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    let image = Image {
        root: folder.join("rootfs").display().to_string(),
        environment: environment.collect(),
        arguments: process.args,
        directory: process.cwd,
        user: process
            .user
            .map(|user| format!("{}:{}", user.uid, user.gid)),
    };
    Ok((service.to_owned(), image))
}

/// Returns a refusal with the line of its place.
fn refused(error: &Refused, sources: &[Source]) -> Fault {
    let source = sources.iter().find(|source| source.name == error.file);
    let before = source.and_then(|source| source.text.get(..error.at));
    let place = before.map_or_else(String::new, |before| {
        format!(":{}", before.matches('\n').count() + 1)
    });
    Fault::Failed(format!("{}{place}: {}", error.file, error.message))
}

fn print(imported: &Imported, output: Output) -> Result<(), Fault> {
    match output.format() {
        Format::Table | Format::Wide => {
            print!("{}", imported.manifest);
            let mut rows = vec![["VERDICT", "KEY", "NOTE"].map(str::to_owned)];
            rows.extend(imported.report.iter().map(|line| {
                let note = if line.note.is_empty() {
                    "-"
                } else {
                    &line.note
                };
                [line.verdict.to_string(), line.key.clone(), note.to_owned()]
            }));
            eprint!("{}", super::ps::table(&rows));
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for line in &imported.report {
                *counts.entry(line.verdict.as_str()).or_default() += 1;
            }
            let counts = counts
                .iter()
                .map(|(verdict, count)| format!("{count} {verdict}"));
            eprintln!("{}", counts.collect::<Vec<_>>().join(", "));
        }
        Format::Json | Format::Yaml | Format::Name => {
            let keys: BTreeSet<&str> = imported
                .report
                .iter()
                .map(|line| line.key.as_str())
                .collect();
            output.print(imported, Some(&keys.into_iter().collect::<Vec<_>>()))?;
        }
    }
    match imported.carries_over() {
        true => Ok(()),
        false => Err(Fault::Differs),
    }
}
