//! `apical verify`: recompute a session, compare every decision.

use std::path::PathBuf;

use clap::Args;

use super::page::Page;
use super::{Outcome, print_json, print_text};
use crate::journal::{SessionFiles, VerifyOptions, VerifyReport, verify};

/// Arguments of `apical verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The session's directory.
    directory: PathBuf,
    /// Begin at the last snapshot at or before this input, instead of at the first input.
    #[arg(long, value_name = "N")]
    from_input: Option<u64>,
    /// Override a key of the recorded configuration that may not matter: register.simd=false. May be given again.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Recompute from the recorded F also where the pixels were kept.
    #[arg(long)]
    without_pixels: bool,
}

/// Runs the command.
pub(super) fn run(args: &VerifyArgs, json: bool) -> anyhow::Result<Outcome> {
    let options =
        VerifyOptions { set: args.set.clone(), from_input: args.from_input, without_pixels: args.without_pixels };
    let report = verify(&SessionFiles::open(&args.directory)?, &options)?;
    let good = report.differences == 0 && report.damage.is_empty();
    if json {
        print_json(&as_json(&report))?;
    } else {
        print_text(page_of(&report).text())?;
    }
    Ok(if good { Outcome::Good } else { Outcome::Bad })
}

fn as_json(report: &VerifyReport) -> serde_json::Value {
    serde_json::json!({
        "frames_compared": report.frames_compared,
        "frames_from_pixels": report.frames_from_pixels,
        "frames_sampled_again": report.frames_sampled_again,
        "inputs_compared": report.inputs_compared,
        "snapshots_compared": report.snapshots_compared,
        "differences": report.differences,
        "segments": report.segments,
        "from_snapshot": report.from_snapshot,
        "first_difference": report.first_difference.as_ref().map(|d| serde_json::json!({
            "input_seq": d.input_seq,
            "frame": d.frame_index,
            "recorded": format!("{:?}", d.recorded),
            "computed": format!("{:?}", d.computed),
        })),
        "damage": report.damage,
        "unfinished": report.unfinished,
    })
}

fn page_of(report: &VerifyReport) -> Page {
    let mut page = Page::default();
    page.plain(format!("{} frames, {} differences", report.frames_compared, report.differences));
    if report.frames_from_pixels > 0 {
        page.plain(format!(
            "{} of them from their pixels, and {} snapshots of the engine's state",
            report.frames_from_pixels, report.snapshots_compared
        ));
    }
    if report.frames_sampled_again > 0 {
        page.plain(format!("F of {} of them from the pixels around the ROIs", report.frames_sampled_again));
    }
    if let Some(d) = &report.first_difference {
        page.plain(format!("first at input {}, frame {}:", d.input_seq, d.frame_index));
        page.plain(format!("  recorded {:?}", d.recorded));
        page.plain(format!("  computed {:?}", d.computed));
    }
    for damage in &report.damage {
        page.plain(format!("damage: {damage}"));
    }
    for unfinished in &report.unfinished {
        page.plain(format!("unfinished: {unfinished}"));
    }
    page
}
