//! `apical export`: a session as tables.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, print_json};
use crate::export::write_tables;

/// Arguments of `apical export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The session's directory.
    directory: PathBuf,
    /// Where frames.csv, activity.csv and events.csv go; the directory is created.
    #[arg(long, value_name = "OUT")]
    csv: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: &ExportArgs, json: bool) -> anyhow::Result<Outcome> {
    let written = write_tables(&args.directory, &args.csv)?;
    if json {
        print_json(&written)?;
    } else {
        println!("{}: {} frames, {} events", args.csv.display(), written.frames, written.events);
        for segment in &written.unfinished {
            println!("unfinished: {segment}");
        }
    }
    Ok(Outcome::Good)
}
