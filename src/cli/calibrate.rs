//! `apical calibrate`: what a baseline says, or what a session was calibrated with.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::page::Page;
use super::{ConfigSource, Outcome, print_json, print_text};
use crate::activity::{ActivitySettings, BaselineBlock, BaselineScratch, undo_fading};
use crate::config::RigConfig;
use crate::decode::Ensembles;
use crate::journal::{JournalRecord, SessionFiles, calibration_of};
use crate::source::{OpenOptions, Recording, open_recording};
use crate::task::{Calibration, CalibrationInput, CalibrationWorkspace, calibrate};

/// Arguments of `apical calibrate`.
#[derive(Debug, Args)]
pub(super) struct CalibrateArgs {
    /// A session's directory, or .npy of ROI values (ROIs x frames); its first baseline.frames frames are the baseline.
    input: PathBuf,
    #[command(flatten)]
    source: ConfigSource,
}

/// Runs the command.
pub(super) fn run(args: &CalibrateArgs, json: bool) -> anyhow::Result<Outcome> {
    let c = if args.input.is_dir() {
        let given = args.source.config.is_some() || !args.source.set.is_empty();
        anyhow::ensure!(!given, "a session is printed as it was calibrated; --config and --set go with traces (.npy)");
        of_session(&args.input)?
    } else {
        of_traces(&args.input, &args.source.load(&[])?)?
    };
    if json {
        print_json(&c)?;
    } else {
        print_text(page_of(&c).text())?;
    }
    Ok(Outcome::Good)
}

fn page_of(c: &Calibration) -> Page {
    let mut page = Page::default();
    let capped = if c.carried_over { "  (capped by day 1's z_half)" } else { "" };
    page.plain(format!("threshold        {}{capped}", c.threshold));
    page.plain(format!("threshold today  {}", c.threshold_today));
    page.plain(format!("range_low        {}", c.range_low));
    page.plain(format!("mu_half          {}", c.mu_half));
    page.plain(format!("sigma_half       {}", c.sigma_half));
    let z_half = c.z_half.map_or("undefined: sigma_half is 0".to_owned(), |z| z.to_string());
    page.plain(format!("z_half           {z_half}"));
    page.plain(format!("chance fraction  {}", c.chance_fraction));
    page.plain(format!("segments         {}", c.segment_starts.len()));
    page
}

/// The last calibration of a session.
fn of_session(directory: &Path) -> anyhow::Result<Calibration> {
    let mut found = None;
    SessionFiles::open(directory)?.read(|record| {
        if let JournalRecord::Decision(decision) = record
            && let Some(calibration) = &decision.calibration
        {
            found = Some(calibration_of(calibration));
        }
    })?;
    found.with_context(|| format!("{}: this session was never calibrated", directory.display()))
}

/// A calibration from traces, as a session with these frames as its baseline would find it.
fn of_traces(path: &Path, config: &RigConfig) -> anyhow::Result<Calibration> {
    let Recording::RoiValues(traces) = open_recording(path, &OpenOptions::default())? else {
        bail!("{}: expected .npy of ROI values (ROIs x frames), or a session's directory", path.display());
    };
    let (rois, wanted) = (traces.rois(), config.baseline.frames as usize);
    let frames = wanted.min(traces.frames());
    if frames < wanted {
        eprintln!("note: {} has {frames} frames, fewer than baseline.frames = {wanted}; all are used", path.display());
    }
    let mut f = vec![0.0; rois * frames];
    for (roi, row) in f.chunks_exact_mut(frames.max(1)).enumerate() {
        for (frame, value) in row.iter_mut().enumerate() {
            *value = traces.value(roi, frame).unwrap_or(f64::NAN);
        }
    }
    let trial_frames = config.trial_frames();
    let window = config.activity.f0_window_frames(trial_frames);
    let ensembles = Ensembles { plus: config.ensembles.plus.clone(), minus: config.ensembles.minus.clone() };
    let settings = ActivitySettings::new(&config.activity, window);
    let mut scratch = BaselineScratch::new(&settings, frames);
    for row in f.chunks_exact_mut(frames.max(1)) {
        undo_fading(row, &settings, &mut scratch);
    }
    let block = BaselineBlock::new(&f, rois, frames, frames).context("the traces are empty")?;
    let input = CalibrationInput {
        block,
        settings,
        floors: &[],
        ensembles: &ensembles,
        signal: config.decode.signal,
        smooth_frames: config.decode.smooth_frames,
        trial_frames,
    };
    let segments = config.calibration.segments as usize;
    let cells = ensembles.plus.len() + ensembles.minus.len();
    let mut workspace = CalibrationWorkspace::new(&settings, frames, segments, cells);
    let mut calibration = Calibration::with_capacity(segments);
    calibrate(&input, &config.calibration, &mut workspace, &mut calibration)?;
    Ok(calibration)
}
