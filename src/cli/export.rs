//! `apical export`: a session as tables, and its report.

use std::path::PathBuf;

use clap::Args;

use super::page::Page;
use super::{Outcome, print_json, print_text};
use crate::export::{write_report, write_tables};

/// Arguments of `apical export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The session's directory.
    directory: PathBuf,
    /// Where frames.csv, activity.csv and events.csv go; the directory is created.
    #[arg(long, value_name = "OUT", required_unless_present = "report")]
    csv: Option<PathBuf>,
    /// Write the session's report.html, as the end of a session does: for a session that a crash ended.
    #[arg(long)]
    report: bool,
}

/// Runs the command.
pub(super) fn run(args: &ExportArgs, json: bool) -> anyhow::Result<Outcome> {
    let written = match &args.csv {
        Some(out) => Some(write_tables(&args.directory, out)?),
        None => None,
    };
    let report = match args.report {
        true => Some(write_report(&args.directory)?),
        false => None,
    };
    match (json, &written) {
        (true, Some(written)) if report.is_none() => print_json(written)?,
        (true, _) => print_json(&serde_json::json!({ "tables": written, "report": report }))?,
        (false, _) => {
            let mut page = Page::default();
            if let Some(written) = &written {
                page.plain(format!("{}: {} frames, {} events", written.out.display(), written.frames, written.events));
                for segment in &written.unfinished {
                    page.plain(format!("unfinished: {segment}"));
                }
            }
            if let Some(report) = &report {
                page.plain(report.display());
            }
            print_text(page.text())?;
        }
    }
    Ok(Outcome::Good)
}
