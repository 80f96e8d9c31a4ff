//! `apical verify`: recompute a session, compare every decision.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, print_json};
use crate::journal::{SessionFiles, verify};

/// Arguments of `apical verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The session's directory.
    directory: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: &VerifyArgs, json: bool) -> anyhow::Result<Outcome> {
    let report = verify(&SessionFiles::open(&args.directory)?)?;
    let good = report.differences == 0 && report.damage.is_none();
    let first = report.first_difference.as_ref();
    if json {
        print_json(&serde_json::json!({
            "frames_compared": report.frames_compared,
            "inputs_compared": report.inputs_compared,
            "differences": report.differences,
            "segments": report.segments,
            "first_difference": first.map(|d| serde_json::json!({
                "input_seq": d.input_seq,
                "frame": d.frame_index,
                "recorded": format!("{:?}", d.recorded),
                "computed": format!("{:?}", d.computed),
            })),
            "damage": report.damage,
        }))?;
    } else {
        println!("{} frames, {} differences", report.frames_compared, report.differences);
        if let Some(d) = first {
            println!("first at input {}, frame {}:", d.input_seq, d.frame_index);
            println!("  recorded {:?}", d.recorded);
            println!("  computed {:?}", d.computed);
        }
        if let Some(damage) = &report.damage {
            println!("damage: {damage}");
        }
    }
    Ok(if good { Outcome::Good } else { Outcome::Bad })
}
