//! `apical rois detect`: cells found in a recording, and how well they agree with a set that is taken for the truth.
//!
//! Two passes over the file. The first builds a template and registers frames exactly as a session's baseline does.
//! The second registers every frame against the template as it then stands, moves it to the recording's median
//! position, and gives it to the detector. Frames that registration doubts are left out and counted.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Serialize;

use super::play::beside;
use super::rois::{check_picture, check_set_out, draw_set, write_set};
use super::{ConfigSource, Outcome, print_json, print_text};
use crate::config::register::RegisterConfig;
use crate::config::sample::SampleConfig;
use crate::engine::{Clock, HostClock};
use crate::frame::{FrameAssembly, FrameMeta, FrameSlot, FrameView, Geometry, Image, PixelType, StripMeta};
use crate::register::{FitVerdict, Registration, Rigid, resample};
use crate::sample::detect::compare::{
    Agreement, MATCH_PX, NEUROPIL_COEFFICIENT, TRANSIENT_FRAMES, TRANSIENT_SDS, has_transient, pairs,
};
use crate::sample::detect::{DetectConfig, Detection, Detector, FRAMES_MIN, FoundBy};
use crate::sample::{ReferenceKind, RoiSet, SampleBuffer, Sampler, read_rois};
use crate::source::{FrameRecording, OpenOptions, Recording, open_recording};

/// Arguments of `apical rois detect`.
#[derive(Debug, Args)]
pub(super) struct DetectArgs {
    /// TIFF, a directory with the TIFFs of one ScanImage acquisition, or raw binary (suite2p's data.bin).
    recording: PathBuf,
    /// Where the ROIs go: a name ending in .json, or a path to stat.npy, beside which ops.npy and iscell.npy are
    /// written. Without it they are only counted.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A picture of the ROIs on the mean image: a name ending in .png or .html.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Overwrite what is there.
    #[arg(long)]
    force: bool,
    /// ROIs to hold the result against, any file of ROIs. Found means: centres within --match-px, one to one, nearest
    /// first. A ROI has a transient where F less 0.7 of its neuropil stands more than 3 robust standard deviations
    /// above its running median in 2 frames in a row.
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Largest distance of two centres that match, in pixels.
    #[arg(long, default_value_t = MATCH_PX, value_name = "PX", requires = "truth")]
    match_px: f64,
    /// Only the first frames of the plane.
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// The plane to search, from 0.
    #[arg(long, default_value_t = 0, value_name = "N")]
    plane: u32,
    /// The channel to search, from 0 among those in the file.
    #[arg(long, default_value_t = 0, value_name = "N")]
    channel: u32,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    layout: LayoutArgs,
    /// [register] and [stream] are taken from it.
    #[command(flatten)]
    source: ConfigSource,
}

/// How the search is done.
#[derive(Debug, Args)]
struct SearchArgs {
    /// Diameter of a cell in pixels, 3 to 60; without it it is estimated.
    #[arg(long, value_name = "PX")]
    diameter: Option<f64>,
    /// How energetic the centre of an active cell is: robust standard deviations above the median pixel, 1 to 1000.
    #[arg(long, default_value_t = DetectConfig::default().min_energy, value_name = "SD")]
    min_energy: f64,
    /// Part of the active places that may be noise, by how many darken as much as they brighten, 0 to 1.
    #[arg(long, default_value_t = DetectConfig::default().max_false, value_name = "PART")]
    max_false: f64,
    /// How unlike the active cells a silent one may look, in standard deviations, 0 (no silent ones) to 10.
    #[arg(long, default_value_t = DetectConfig::default().max_unlikeness, value_name = "SD")]
    max_unlikeness: f64,
    /// Silent cells for each active one, at most, 0 to 100.
    #[arg(long, default_value_t = DetectConfig::default().max_silent, value_name = "RATIO")]
    max_silent: f64,
    /// Correlation from which two active places nearby are one cell, 0 to 1.
    #[arg(long, default_value_t = DetectConfig::default().same_cell_correlation, value_name = "R")]
    same_cell_correlation: f64,
    /// Smallest area, as a fraction of a disc of the diameter, 0 to 1.
    #[arg(long, default_value_t = DetectConfig::default().min_area, value_name = "DISCS")]
    min_area: f64,
    /// Largest area, as a multiple of that disc, up to 100.
    #[arg(long, default_value_t = DetectConfig::default().max_area, value_name = "DISCS")]
    max_area: f64,
    /// Frames over which traces are averaged: the top of a transient, 1 to 10,000.
    #[arg(long, default_value_t = DetectConfig::default().transient_frames, value_name = "N")]
    transient_frames: u32,
    /// Frames beyond which a change is too slow to be activity.
    #[arg(long, default_value_t = DetectConfig::default().high_pass_frames, value_name = "N")]
    high_pass_frames: u32,
}

impl SearchArgs {
    fn config(&self) -> DetectConfig {
        DetectConfig {
            diameter_px: self.diameter,
            min_energy: self.min_energy,
            max_false: self.max_false,
            same_cell_correlation: self.same_cell_correlation,
            max_unlikeness: self.max_unlikeness,
            max_silent: self.max_silent,
            min_area: self.min_area,
            max_area: self.max_area,
            transient_frames: self.transient_frames,
            high_pass_frames: self.high_pass_frames,
            ..DetectConfig::default()
        }
    }
}

/// What a file may not say of itself.
#[derive(Debug, Args)]
struct LayoutArgs {
    /// Rows, in pixels, of a raw binary without an ops.npy beside it.
    #[arg(long, value_name = "PX", requires = "width")]
    height: Option<usize>,
    /// Columns, in pixels.
    #[arg(long, value_name = "PX", requires = "height")]
    width: Option<usize>,
    /// Planes that follow one another in the file.
    #[arg(long, value_name = "N")]
    planes: Option<u32>,
    /// Channels that follow one another in the file.
    #[arg(long, value_name = "N")]
    channels: Option<u32>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    recording: PathBuf,
    height_px: usize,
    width_px: usize,
    /// Frames that were read of the plane and channel.
    frames: usize,
    /// Of these, frames that registration doubted and that were left out.
    frames_left_out: usize,
    rois: usize,
    /// ROIs that were seen moving.
    by_activity: usize,
    /// ROIs that look like those.
    by_anatomy: usize,
    diameter_px: f64,
    frames_per_bin: usize,
    /// Where the recording's median frame lies against its first, rows and columns in pixels.
    median_shift_px: [f64; 2],
    parameters: DetectConfig,
    seconds: f64,
    written: Vec<PathBuf>,
    picture: Option<PathBuf>,
    truth: Option<Verdict>,
}

/// How well the result agrees with the truth.
#[derive(Serialize)]
struct Verdict {
    file: PathBuf,
    /// All ROIs of the plane in the file: what recall and precision count.
    rois: usize,
    matched: usize,
    match_px: f64,
    #[serde(flatten)]
    agreement: Agreement,
    /// Of the truth's ROIs, those that have a transient in the recording.
    with_transient: usize,
    /// Of these, those that were found.
    with_transient_found: usize,
    /// How far the truth lies from where it was drawn, by its reference image, rows and columns in pixels.
    moved_px: [f64; 2],
}

/// Runs the command.
pub(super) fn run(args: &DetectArgs, json: bool) -> anyhow::Result<Outcome> {
    let started_ns = HostClock.now_ns();
    if let Some(out) = &args.out {
        check_set_out(out, args.force)?;
    }
    if let Some(picture) = &args.picture {
        check_picture(picture)?;
        ensure!(
            args.force || !picture.exists(),
            "{} is there already: give another name, or --force",
            picture.display()
        );
    }
    ensure!(args.match_px > 0.0 && args.match_px <= 1e4, "--match-px {}: expected above 0, to 10000", args.match_px);
    let config = args.source.load(&[])?;
    let input = Input::new(args, config.stream.inverted.unwrap_or(false), config.source.successors)?;
    let truth = args.truth.as_deref().map(|path| truth(path, input.geometry, args.plane)).transpose()?;
    let mut detector = Detector::new(&args.search.config(), input.geometry)?;
    let mut aligned = Aligned::new(&input, &config.register)?;
    let mut held = truth.map(|set| Held::new(set, &mut aligned)).transpose()?;
    let left_out = aligned.give(&input, &mut detector, held.as_mut())?;
    let mut found = detector.finish()?;
    found.set.rois.iter_mut().for_each(|roi| roi.plane = args.plane);
    let written = args.out.as_ref().map(|out| write_set(&found.set, None, out)).transpose()?.unwrap_or_default();
    if let Some(picture) = &args.picture {
        let title = args.recording.file_name().unwrap_or_default().to_string_lossy().into_owned();
        draw_set(&found.set, title, picture)?;
    }
    let count = |by: FoundBy| found.found_by.iter().filter(|&&found| found == by).count();
    let report = Report {
        recording: args.recording.clone(),
        height_px: input.geometry.height_px,
        width_px: input.geometry.width_px,
        frames: aligned.frames,
        frames_left_out: left_out,
        rois: found.set.rois.len(),
        by_activity: count(FoundBy::Activity),
        by_anatomy: count(FoundBy::Anatomy),
        diameter_px: found.diameter_px,
        frames_per_bin: found.frames_per_bin,
        median_shift_px: [aligned.median.0, aligned.median.1],
        parameters: args.search.config(),
        seconds: (HostClock.now_ns() - started_ns) as f64 / 1e9,
        written,
        picture: args.picture.clone(),
        truth: held.map(|held| held.verdict(args, &found.set)),
    };
    if json {
        print_json(&report)?;
    } else {
        print_text(&text_of(&report, &found))?;
    }
    Ok(Outcome::Good)
}

/// The ROIs of the plane in a file that is taken for the truth.
fn truth(path: &Path, geometry: Geometry, plane: u32) -> anyhow::Result<RoiSet> {
    let set = read_rois(path, Some(geometry))?;
    let Geometry { height_px, width_px } = set.geometry;
    if set.geometry != geometry {
        let frame = format!("{} x {}", geometry.height_px, geometry.width_px);
        bail!("{}: ROIs on frames of {height_px} x {width_px} pixels, expected {frame}", path.display());
    }
    Ok(set.of_plane(plane))
}

/// A recording that is read several times over, one plane and channel of it.
struct Input<'a> {
    args: &'a DetectArgs,
    options: OpenOptions,
    geometry: Geometry,
    pixel_type: PixelType,
    inverted: bool,
}

impl<'a> Input<'a> {
    fn new(args: &'a DetectArgs, inverted: bool, successors: bool) -> anyhow::Result<Self> {
        let layout = &args.layout;
        let geometry = layout.height.zip(layout.width).map(|(height, width)| Geometry::new(height, width));
        let (planes, channels) = (layout.planes, layout.channels);
        let options = OpenOptions { geometry, inverted, planes, channels, successors, ..OpenOptions::default() };
        let options = beside(&args.recording, &options);
        let header = open(&args.recording, &options)?.header().clone();
        let file = args.recording.display();
        let (plane, channel) = (args.plane, args.channel);
        ensure!(plane < header.planes, "--plane {plane}: {file} has {} planes, from 0", header.planes);
        ensure!(channel < header.channels, "--channel {channel}: {file} has {} channels, from 0", header.channels);
        let (geometry, pixel_type) = (header.geometry, header.pixel_type);
        Ok(Self { args, options, geometry, pixel_type, inverted: header.inverted })
    }

    /// Gives every frame of the plane and channel, in order.
    fn each(&self, mut take: impl FnMut(&FrameView) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut frames = open(&self.args.recording, &self.options)?;
        let mut assembly = FrameAssembly::new(self.geometry, self.pixel_type, self.inverted);
        let mut slot = FrameSlot::new(self.geometry, self.pixel_type);
        let (mut buffer, mut count) = (Vec::new(), 0);
        while count < self.args.frames.unwrap_or(usize::MAX)
            && let Some(frame) = frames.next(&mut buffer)?
        {
            if frame.plane != self.args.plane || frame.channel != self.args.channel {
                continue;
            }
            count += 1;
            let meta = FrameMeta { index: frame.index, ..FrameMeta::default() };
            assembly.add(&StripMeta::whole(meta), &buffer, &mut slot)?;
            take(&slot.view())?;
        }
        Ok(())
    }
}

fn open(path: &Path, options: &OpenOptions) -> anyhow::Result<FrameRecording> {
    match open_recording(path, options)? {
        Recording::Frames(frames) => Ok(frames),
        Recording::RoiValues(_) => bail!("{}: holds traces, expected frames", path.display()),
    }
}

/// Registration after its first pass.
struct Aligned {
    rigid: Rigid,
    /// Frames of the recording.
    frames: usize,
    /// Median shift against the template, which lies where the first frame does.
    median: (f64, f64),
}

impl Aligned {
    fn new(input: &Input, register: &RegisterConfig) -> anyhow::Result<Self> {
        let min_template_frames = register.min_template_frames.min(FRAMES_MIN as u32);
        let mut rigid = Rigid::new(&RegisterConfig { min_template_frames, ..register.clone() }, input.geometry);
        rigid.begin_baseline();
        let (mut frames, mut rows, mut cols) = (0, Vec::new(), Vec::new());
        input.each(|view| {
            let registration = rigid.step(view);
            frames += 1;
            if is_usable(&registration) {
                rows.push(registration.dy_px);
                cols.push(registration.dx_px);
            }
            Ok(())
        })?;
        ensure!(
            rows.len() >= FRAMES_MIN,
            "{}: {frames} frames of plane {} and channel {}, of which registration trusts {}, expected at least \
             {FRAMES_MIN} to find cells in",
            input.args.recording.display(),
            input.args.plane,
            input.args.channel,
            rows.len(),
        );
        if rigid.is_enabled() {
            rigid.freeze_template().context("no template")?;
        }
        Ok(Self { rigid, frames, median: (median(&mut rows), median(&mut cols)) })
    }

    /// Gives every usable frame, where the median one lies, to the detector; how many were not usable.
    fn give(&mut self, input: &Input, detector: &mut Detector, mut held: Option<&mut Held>) -> anyhow::Result<usize> {
        let mut left_out = 0;
        let mut image = Image::zeros(input.geometry);
        input.each(|view| {
            let registration = self.rigid.step(view);
            if !is_usable(&registration) {
                left_out += 1;
                return Ok(());
            }
            let odd_lines_px = self.rigid.odd_lines_px();
            let (dy_px, dx_px) = (registration.dy_px - self.median.0, registration.dx_px - self.median.1);
            image.values.iter_mut().zip(view.samples).for_each(|(v, &s)| *v = (i32::from(s) - view.bias) as f32);
            let moved = resample(&image, dy_px, dx_px, odd_lines_px);
            let rows = recorded(dy_px, dy_px, input.geometry.height_px);
            let cols =
                recorded(dx_px.min(dx_px + odd_lines_px), dx_px.max(dx_px + odd_lines_px), input.geometry.width_px);
            detector.add(&moved.values, rows, cols)?;
            if let Some(held) = &mut held {
                held.sample(view, (dy_px, dx_px), odd_lines_px);
            }
            Ok(())
        })?;
        Ok(left_out)
    }
}

fn is_usable(registration: &Registration) -> bool {
    matches!(registration.verdict, FitVerdict::Good | FitVerdict::Jump | FitVerdict::Off)
}

/// Pixels along an axis that read recorded ones alone, when moved by anything from `least` to `most`.
fn recorded(least: f64, most: f64, size: usize) -> Range<usize> {
    let first = (-least).ceil().max(0.0) as usize;
    let end = (size as f64 - most.max(0.0).ceil()).max(0.0) as usize;
    first.min(size)..end
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A set to hold the result against, and what its ROIs did in the recording.
struct Held {
    set: RoiSet,
    sampler: Sampler,
    buffer: SampleBuffer,
    /// How far it lies from where it was drawn.
    moved: (f64, f64),
    f: Vec<Vec<f64>>,
    f_neuropil: Vec<Vec<f64>>,
}

impl Held {
    /// Where the set brings a reference image, it says where the set lies.
    fn new(set: RoiSet, aligned: &mut Aligned) -> anyhow::Result<Self> {
        let mut sampler = Sampler::new(&SampleConfig::default(), &set)?;
        sampler.keep_lines_apart();
        let mut moved = (0.0, 0.0);
        if let (Some(reference), ReferenceKind::Given) = (&set.reference, set.reference_kind)
            && aligned.rigid.set_reference(reference).is_ok()
            && let Some(offset) = aligned.rigid.offset().filter(|offset| offset.trusted)
        {
            moved = (offset.dy_px + aligned.median.0, offset.dx_px + aligned.median.1);
        }
        let count = set.rois.len();
        let traces = vec![Vec::new(); count];
        Ok(Self { set, sampler, buffer: SampleBuffer::new(count), moved, f: traces.clone(), f_neuropil: traces })
    }

    fn sample(&mut self, view: &FrameView, (dy_px, dx_px): (f64, f64), odd_lines_px: f64) {
        let shift = (dy_px + self.moved.0, dx_px + self.moved.1);
        self.sampler.step_lines(view, shift, odd_lines_px, &mut self.buffer);
        for (to, from) in [(&mut self.f, &self.buffer.f), (&mut self.f_neuropil, &self.buffer.f_neuropil)] {
            to.iter_mut().zip(from).for_each(|(trace, &value)| trace.push(value));
        }
    }

    fn verdict(self, args: &DetectArgs, found: &RoiSet) -> Verdict {
        let pairs = pairs(found, &self.set, self.moved, args.match_px);
        let mut hit = vec![false; self.set.rois.len()];
        pairs.iter().for_each(|pair| hit[pair.truth] = true);
        let moving: Vec<bool> = self.f.iter().zip(&self.f_neuropil).map(|(f, n)| has_transient(f, n)).collect();
        Verdict {
            file: args.truth.clone().unwrap_or_default(),
            rois: self.set.rois.len(),
            matched: pairs.len(),
            match_px: args.match_px,
            agreement: Agreement::of(&pairs, found.rois.len(), self.set.rois.len()),
            with_transient: moving.iter().filter(|&&moving| moving).count(),
            with_transient_found: moving.iter().zip(&hit).filter(|&(&moving, &hit)| moving && hit).count(),
            moved_px: [self.moved.0, self.moved.1],
        }
    }
}

fn text_of(report: &Report, found: &Detection) -> String {
    let Report { recording, height_px, width_px, frames, frames_left_out, rois, .. } = report;
    let mut text = format!("{}: {frames} frames of {height_px} x {width_px} pixels", recording.display());
    if *frames_left_out > 0 {
        text += &format!(", {frames_left_out} of them left out: registration doubts them");
    }
    text += &format!(
        "\n{rois} ROIs: {} were active, {} look like those; diameter {} px, {} frames a bin, {:.1} s\n",
        report.by_activity, report.by_anatomy, report.diameter_px, report.frames_per_bin, report.seconds
    );
    if *rois == 0 {
        text += "nothing in it brightens beyond noise: a longer recording, another --diameter or a lower --min-energy \
                 may find something\n";
    } else if found.examples < found.examples_needed && found.diameter_px > 0.0 {
        text += &format!(
            "{} active cells are too few to say what a silent one looks like ({} are needed): none was looked for\n",
            found.examples, found.examples_needed
        );
    }
    for path in report.written.iter().chain(&report.picture) {
        text += &format!("written: {}\n", path.display());
    }
    if let Some(verdict) = &report.truth {
        text += &text_of_verdict(verdict, *rois);
    }
    text
}

fn text_of_verdict(verdict: &Verdict, rois: usize) -> String {
    let of = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{value:.3}"));
    let Verdict { file, rois: all, matched, match_px, agreement, with_transient, with_transient_found, .. } = verdict;
    let mut text = format!(
        "against {}, all {all} ROIs; found: centres within {match_px} px, one to one, nearest first\n\
         recall {} ({matched} of {all}), precision {} ({matched} of {rois}), F1 {}; median overlap of those found {}\n",
        file.display(),
        of(agreement.recall),
        of(agreement.precision),
        of(agreement.f1),
        of(agreement.overlap_median),
    );
    text += &format!(
        "{with_transient} of the {all} have a transient (F - {NEUROPIL_COEFFICIENT} neuropil, more than \
         {TRANSIENT_SDS} robust SDs above its running median for {TRANSIENT_FRAMES} frames): {with_transient_found} of \
         these were found\n"
    );
    if verdict.moved_px.iter().any(|px| px.abs() >= 0.5) {
        let [dy, dx] = verdict.moved_px;
        text += &format!("they lie {dy:.1} rows and {dx:.1} columns from where they were drawn\n");
    }
    text
}
