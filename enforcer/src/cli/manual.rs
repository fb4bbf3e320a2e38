//! `man` and `completions`: what the command line says of itself, for other programs.

use super::Arguments;
use crate::fault::Fault;
use clap::CommandFactory as _;
use std::io;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shell {
    Bash,
    Fish,
    Zsh,
}

pub(super) fn completions(shell: Shell) -> Result<(), Fault> {
    use clap_complete::{generate, shells};
    let (mut command, mut script) = (Arguments::command(), Vec::new());
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, "enforcer", &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, "enforcer", &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, "enforcer", &mut script),
    }
    print(&script)
}

pub(super) fn manual(folder: Option<&Path>) -> Result<(), Fault> {
    let failed = |error: io::Error| Fault::Failed(format!("failed to write the pages: {error}"));
    match folder {
        Some(folder) => clap_mangen::generate_to(Arguments::command(), folder).map_err(failed),
        None => {
            let mut page = Vec::new();
            let manual = clap_mangen::Man::new(Arguments::command());
            manual.render(&mut page).map_err(failed)?;
            print(&page)
        }
    }
}

fn print(text: &[u8]) -> Result<(), Fault> {
    io::Write::write_all(&mut io::stdout(), text)
        .map_err(|error| Fault::Failed(format!("failed to print: {error}")))
}
