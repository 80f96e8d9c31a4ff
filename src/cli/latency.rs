//! `apical latency`: how long a frame takes on this computer, with a synthetic feed and no animal.
//!
//! A ring of rendered frames goes through the engine as in a live session: registration, masks with neuropil, F0,
//! cursor, trial, a sync pulse for every frame, and the journal on. The baseline is the warm-up and is left out.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;

use super::in_process::{InProcess, Recorder, driver, snapshot};
use super::play::{parse_fps, stream_header};
use super::{ConfigSource, Outcome, print_json};
use crate::config::RigConfig;
use crate::engine::{Clock, Command, CommandOutcome, Engine, HostClock, Input, Stage};
use crate::frame::{FrameAssembly, FrameMeta, FrameSlot, Geometry, StripMeta};
use crate::journal::{Summary, shape_of_header};
use crate::proto::v1;
use crate::sample::{ReferenceKind, Roi, RoiPixel, RoiSet};
use crate::source::SyntheticSource;

/// Frames that circulate: more than any cache holds at 512 x 512.
const RING_FRAMES: usize = 64;
/// Frames of the warm-up's baseline.
const BASELINE_FRAMES: u32 = 256;
/// Radius of an ROI's disc, in pixels.
const ROI_RADIUS_PX: i64 = 4;

/// How frames reach the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// In this process, by a call.
    Inprocess,
}

/// Arguments of `apical latency`.
#[derive(Debug, Args)]
pub(super) struct LatencyArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// How frames reach the engine.
    #[arg(long, value_enum, default_value = "inprocess")]
    transport: Transport,
    /// Frames a second, or max.
    #[arg(long, default_value = "max", value_name = "R|max")]
    fps: String,
    /// How long to measure.
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// ROIs, each with its neuropil; half of the first ten in P+, half in P-.
    #[arg(long, default_value_t = 10, value_name = "N")]
    rois: u32,
    /// Rows and columns of a frame, in pixels: 512, or 512x796.
    #[arg(long, default_value = "512", value_name = "PX")]
    size: String,
}

/// Runs the command.
pub(super) fn run(args: &LatencyArgs, json: bool) -> anyhow::Result<Outcome> {
    let geometry = parse_size(&args.size)?;
    let pace = parse_fps(&args.fps)?;
    ensure!(args.seconds > 0.0 && args.seconds <= 86_400.0, "--seconds {}: expected above 0, to 86400", args.seconds);
    ensure!((2..=100_000).contains(&args.rois), "--rois {}: expected 2 to 100000", args.rois);
    let folder = Scratch::new()?;
    let config = configuration(args, geometry, &folder)?;
    let mut bench = Bench::new(&config, geometry, args.rois)?;
    bench.warm_up()?;
    bench.measure(args.seconds, pace);
    let measured = bench.finish(&config)?;
    let found = found(args, geometry, &measured);
    if json {
        print_json(&found)?;
    } else {
        print(args, geometry, &measured);
    }
    Ok(Outcome::Good)
}

/// `512` or `512x796`: rows and columns.
fn parse_size(text: &str) -> anyhow::Result<Geometry> {
    let (rows, cols) = text.split_once('x').unwrap_or((text, text));
    let side = |side: &str| side.parse::<usize>().ok().filter(|side| (32..=4_096).contains(side));
    let sides = side(rows).zip(side(cols));
    let (rows, cols) = sides.with_context(|| format!("--size {text}: expected 32 to 4096 pixels: 512, or 512x796"))?;
    Ok(Geometry::new(rows, cols))
}

/// A directory for the session, which goes when it is done.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let name = format!("apical-latency-{}-{}", std::process::id(), crate::journal::wall_ns());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn configuration(args: &LatencyArgs, geometry: Geometry, folder: &Scratch) -> anyhow::Result<RigConfig> {
    let cells = args.rois.min(10);
    let ids: Vec<u32> = (0..cells).collect();
    let (plus, minus) = ids.split_at(ids.len().div_ceil(2));
    let mut set = vec![
        format!("synthetic.height_px={}", geometry.height_px),
        format!("synthetic.width_px={}", geometry.width_px),
        format!("baseline.frames={BASELINE_FRAMES}"),
        format!("ensembles.plus={plus:?}"),
        format!("ensembles.minus={minus:?}"),
        "outputs.sync.enabled=true".to_owned(),
        "outputs.reward.device=\"simulated\"".to_owned(),
        "record.report=false".to_owned(),
        format!("record.directory={:?}", folder.0.display().to_string()),
    ];
    if args.source.config.is_none() {
        set.push("task.trial_frames=750".to_owned());
    }
    args.source.load(&set)
}

/// What is measured, and with what.
struct Bench {
    driver: InProcess,
    recorder: Recorder,
    path: std::path::PathBuf,
    ring: Vec<FrameSlot>,
    next: u64,
    seconds: f64,
    floor_ns: u64,
}

/// What was measured.
struct Measured {
    summary: Summary,
    seconds: f64,
    floor_ns: u64,
}

impl Bench {
    fn new(config: &RigConfig, geometry: Geometry, rois: u32) -> anyhow::Result<Self> {
        let mut source = SyntheticSource::new(&config.synthetic)?;
        let header = stream_header(source.header(), 30.0, "apical latency".to_owned());
        let shape = shape_of_header(&header);
        let rois = RoiSet { reference: Some(source.reference()), ..grid(geometry, rois) };
        let engine = Engine::new(config, &rois, &shape, 0)?;
        let stream = v1::session_head::Stream::Pixels(header);
        let (recorder, path) = Recorder::open(config, "latency", &rois, stream, &engine)?;
        let driver = driver(config, engine);
        let pixel_type = source.header().pixel_type;
        let mut assembly = FrameAssembly::new(geometry, pixel_type, config.synthetic.inverted);
        let mut bytes = Vec::new();
        let mut ring = Vec::with_capacity(RING_FRAMES);
        for _ in 0..RING_FRAMES {
            let recorded = source.next(&mut bytes);
            let mut slot = FrameSlot::new(geometry, pixel_type);
            let frame = FrameMeta { index: recorded.index, ..FrameMeta::default() };
            assembly.add(&StripMeta::whole(frame), &bytes, &mut slot)?;
            ring.push(slot);
        }
        let floor_ns = floor_ns(&ring);
        Ok(Self { driver, recorder, path, ring, next: 0, seconds: 0.0, floor_ns })
    }

    /// A baseline, a calibration, and the task begun; nothing of it is measured.
    fn warm_up(&mut self) -> anyhow::Result<()> {
        self.command(&Command::StartBaseline)?;
        while self.driver.engine().baselines_done() == 0 {
            self.frame();
        }
        snapshot(&mut self.driver, &self.recorder);
        // Without a threshold the trial does not run; everything else does.
        if self.command(&Command::Calibrate).is_ok() {
            self.command(&Command::StartTask { accept_template: true })?;
        }
        (0..RING_FRAMES).for_each(|_| self.frame());
        self.recorder.measure_anew();
        Ok(())
    }

    fn command(&mut self, command: &Command) -> anyhow::Result<()> {
        let outcome = self.recorder.command(&mut self.driver, command);
        ensure!(outcome == CommandOutcome::TookEffect, "{}: {outcome}", command.name());
        Ok(())
    }

    fn frame(&mut self) {
        let slot = &mut self.ring[(self.next % RING_FRAMES as u64) as usize];
        slot.meta.index = self.next;
        slot.meta.device_ns = self.next * 33_333_333;
        self.next += 1;
        slot.meta.received_host_ns = self.driver.clock().now_ns();
        self.driver.take(Input::Frame(slot), &mut self.recorder);
        self.driver.expire(&mut self.recorder);
    }

    fn measure(&mut self, seconds: f64, pace: Option<f64>) {
        let start_ns = self.driver.clock().now_ns();
        let end_ns = start_ns + (seconds * 1e9) as u64;
        for k in 0u64.. {
            if let Some(rate_hz) = pace {
                let due_ns = start_ns + (k as f64 * 1e9 / rate_hz) as u64;
                let now_ns = self.driver.clock().now_ns();
                std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(now_ns)));
            }
            if self.driver.clock().now_ns() >= end_ns {
                break;
            }
            self.frame();
        }
        self.seconds = (self.driver.clock().now_ns() - start_ns) as f64 / 1e9;
    }

    fn finish(mut self, config: &RigConfig) -> anyhow::Result<Measured> {
        self.driver.close_waiting(&mut self.recorder);
        let seconds = self.seconds;
        let summary = self.recorder.finish(config, &self.path)?;
        Ok(Measured { summary, seconds, floor_ns: self.floor_ns })
    }
}

/// Discs in rows and columns over the whole frame.
fn grid(geometry: Geometry, count: u32) -> RoiSet {
    let Geometry { height_px, width_px } = geometry;
    let cols = (f64::from(count) * width_px as f64 / height_px as f64).sqrt().ceil().max(1.0) as u32;
    let rows = count.div_ceil(cols);
    let place = |k: u32, of: u32, side: usize| ((2 * k + 1) as usize * side / (2 * of as usize)) as i64;
    let disc = |id: u32| {
        let (row, col) = (place(id / cols, rows, height_px), place(id % cols, cols, width_px));
        let within = |r: i64, c: i64| (0..height_px as i64).contains(&r) && (0..width_px as i64).contains(&c);
        let offsets =
            (-ROI_RADIUS_PX..=ROI_RADIUS_PX).flat_map(|dr| (-ROI_RADIUS_PX..=ROI_RADIUS_PX).map(move |dc| (dr, dc)));
        let pixels = offsets
            .filter(|(dr, dc)| dr * dr + dc * dc <= ROI_RADIUS_PX * ROI_RADIUS_PX && within(row + dr, col + dc))
            .map(|(dr, dc)| RoiPixel { row: (row + dr) as u32, col: (col + dc) as u32, weight: 1.0 });
        Roi { id, name: String::new(), plane: 0, radius_told_px: None, pixels: pixels.collect() }
    };
    RoiSet {
        geometry,
        rois: (0..count).map(disc).collect(),
        reference: None,
        reference_kind: ReferenceKind::Given,
        templates: Vec::new(),
        z_stack: Vec::new(),
        source: "a grid of discs".to_owned(),
    }
}

/// What it takes to read one frame from memory: the median over the ring.
fn floor_ns(ring: &[FrameSlot]) -> u64 {
    let clock = HostClock;
    let mut times: Vec<u64> = ring
        .iter()
        .map(|slot| {
            let start_ns = clock.now_ns();
            // The narrowest sum there is: only memory takes time.
            std::hint::black_box(slot.samples.iter().fold(0u16, |sum, &sample| sum.wrapping_add(sample)));
            clock.now_ns() - start_ns
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// A percentile with fewer than five samples above it is null.
fn percentiles(h: &Histogram<u64>) -> serde_json::Value {
    let us = |ns: u64| ns as f64 / 1e3;
    let at = |q: f64| ((1.0 - q) * h.len() as f64 >= 5.0).then(|| us(h.value_at_quantile(q)));
    let max = (!h.is_empty()).then(|| us(h.max()));
    serde_json::json!({ "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": max, "n": h.len() })
}

fn found(args: &LatencyArgs, geometry: Geometry, measured: &Measured) -> serde_json::Value {
    let Measured { summary, seconds, floor_ns } = measured;
    let stages: serde_json::Map<String, serde_json::Value> =
        Stage::ALL.iter().zip(&summary.stages).map(|(stage, h)| (stage.name().to_owned(), percentiles(h))).collect();
    serde_json::json!({
        "transport": "inprocess",
        "height_px": geometry.height_px,
        "width_px": geometry.width_px,
        "rois": args.rois,
        "frames": summary.counters.frames_decided,
        "frames_per_s": summary.counters.frames_decided as f64 / seconds,
        "decided_us": percentiles(&summary.total),
        "stages_us": stages,
        "floor_us": *floor_ns as f64 / 1e3,
    })
}

fn print(args: &LatencyArgs, geometry: Geometry, measured: &Measured) {
    let Measured { summary, seconds, floor_ns } = measured;
    let frames = summary.counters.frames_decided;
    println!(
        "{frames} frames of {} x {}, {} ROIs, in {seconds:.1} s: {:.0} frames/s",
        geometry.height_px,
        geometry.width_px,
        args.rois,
        frames as f64 / seconds
    );
    println!("reading one frame from memory: {:.0} us", *floor_ns as f64 / 1e3);
    println!("latency in us   {:>9} {:>9} {:>9} {:>9}", "median", "99 %", "99.9 %", "max");
    let rows = std::iter::once(("frame in -> decision", &summary.total));
    for (name, h) in rows.chain(Stage::ALL.iter().map(|stage| stage.name()).zip(&summary.stages)) {
        let p = percentiles(h);
        let cell = |key: &str| p[key].as_f64().map_or("-".to_owned(), |us| format!("{us:.1}"));
        println!("  {name:<20} {:>6} {:>9} {:>9} {:>9}", cell("p50"), cell("p99"), cell("p999"), cell("max"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_as_many_discs_as_asked_for_within_the_frame() {
        for (count, geometry) in
            [(10, Geometry::new(512, 512)), (200, Geometry::new(96, 200)), (7, Geometry::new(64, 512))]
        {
            let set = grid(geometry, count);
            assert_eq!(set.rois.len(), count as usize);
            assert_eq!(set.check(), Ok(()), "{count} in {geometry:?}");
        }
    }

    #[test]
    fn a_percentile_needs_five_samples_above_it() {
        let mut h = Histogram::<u64>::new(3).unwrap();
        (0..499).for_each(|_| h.record(1_000).unwrap());
        assert!(percentiles(&h)["p99"].is_null() && percentiles(&h)["p50"].as_f64().is_some());
        h.record(1_000).unwrap();
        assert!(percentiles(&h)["p99"].as_f64().is_some() && percentiles(&h)["p999"].is_null());
    }

    #[test]
    fn a_size_is_one_side_or_two() {
        assert_eq!(parse_size("512").unwrap(), Geometry::new(512, 512));
        assert_eq!(parse_size("512x796").unwrap(), Geometry::new(512, 796));
        for wrong in ["", "x", "512x", "31", "5000", "-1", "512x512x2"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
