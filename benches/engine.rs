//! `Engine::step` on 512 x 512 uint16 with 10 and with 200 ROIs, every stage on: `cargo bench --bench engine`. Frames
//! back to back, and one every 33 ms, when caches have gone cold and the clock has gone down. Beside each row stands
//! the floor of every pass over a frame: to read one from memory, at the same pace.

use std::hint::black_box;
use std::time::Duration;

use apical::config::{RigConfig, load_text};
use apical::engine::{Clock, Command, Engine, HostClock, Input, StreamShape};
use apical::frame::{FrameAssembly, FrameMeta, FrameSlot, Geometry, PixelType, StripMeta};
use apical::journal::{Percentiles, latency_histogram};
use apical::sample::{ReferenceKind, Roi, RoiPixel, RoiSet};
use apical::source::SyntheticSource;
use hdrhistogram::Histogram;

const FRAMES: usize = 64;

/// Before any step counts.
const WARM_UP: usize = 500;
/// Frames back to back, enough for a 99.9 %.
const MANY: usize = 10_000;
/// Frames at 30 a second: 40 s.
const PACED: usize = 1_200;
const PERIOD: Duration = Duration::from_nanos(33_333_333);

fn main() {
    println!("{:<46}{:>7}{:>9}{:>9}{:>9}{:>9}{:>9}", "us", "frames", "median", "99 %", "99.9 %", "largest", "floor");
    for (pace, count, pause) in [("back to back", MANY, Duration::ZERO), ("every 33 ms", PACED, PERIOD)] {
        let [floor, ..] = Percentiles::of(&timed(count, pause, floor())).cells(1);
        for (rois, deconvolution) in [(10, "off"), (200, "off"), (200, "ar1")] {
            let name = if deconvolution == "off" { "" } else { ", AR(1)" };
            let name = format!("Engine::step, {rois} ROIs{name}, {pace}");
            let us = Percentiles::of(&timed(count, pause, step(rois, deconvolution)));
            let [p50, p99, p999, max] = us.cells(1);
            println!("{name:<46}{:>7}{p50:>9}{p99:>9}{p999:>9}{max:>9}{floor:>9}", us.n);
        }
    }
}

/// Runs it so many times, with a pause before each; how long it took, in nanoseconds.
fn timed(count: usize, pause: Duration, mut run: impl FnMut()) -> Histogram<u64> {
    let mut taken_ns = latency_histogram();
    (0..WARM_UP).for_each(|_| run());
    for _ in 0..count {
        std::thread::sleep(pause);
        let start_ns = HostClock.now_ns();
        run();
        taken_ns += HostClock.now_ns() - start_ns;
    }
    taken_ns
}

fn config(cells: usize, deconvolution: &str) -> RigConfig {
    let ids: Vec<usize> = (0..10).collect();
    let set = [
        format!("synthetic.anatomy.cells={cells}"),
        "synthetic.anatomy.margin_px=2.0".to_owned(),
        format!("ensembles.plus={:?}", &ids[..5]),
        format!("ensembles.minus={:?}", &ids[5..]),
        "task.trial_frames=750".to_owned(),
        "baseline.frames=220".to_owned(),
        format!("activity.deconvolution={deconvolution}"),
    ];
    load_text("", &set).expect("a valid configuration")
}

fn slots(source: &mut SyntheticSource, count: usize) -> Vec<FrameSlot> {
    let geometry = source.header().geometry;
    let mut assembly = FrameAssembly::new(geometry, PixelType::U16, false);
    let mut bytes = Vec::new();
    let fill = |_| {
        let recorded = source.next(&mut bytes);
        let mut slot = FrameSlot::new(geometry, PixelType::U16);
        let frame = FrameMeta { index: recorded.index, ..FrameMeta::default() };
        assert_eq!(assembly.add(&StripMeta::whole(frame), &bytes, &mut slot), Ok(true));
        slot
    };
    (0..count).map(fill).collect()
}

/// Reads one of many frames.
fn floor() -> impl FnMut() {
    let frames: Vec<Vec<u16>> = (0..FRAMES).map(|k| vec![k as u16; 512 * 512]).collect();
    let mut next = 0;
    move || {
        next = (next + 1) % FRAMES;
        black_box(frames[next].iter().fold(0u16, |sum, &sample| sum.wrapping_add(sample)));
    }
}

/// A step of a session in which a trial runs.
fn step(rois: usize, deconvolution: &str) -> impl FnMut() {
    let config = config(rois, deconvolution);
    let mut source = SyntheticSource::new(&config.synthetic).expect("an animal");
    let set = RoiSet {
        geometry: Geometry::new(512, 512),
        rois: source
            .rois()
            .iter()
            .zip(0..)
            .map(|(mask, id)| Roi {
                id,
                name: String::new(),
                plane: 0,
                radius_told_px: None,
                pixels: mask.pixels.iter().map(|&(row, col, weight)| RoiPixel { row, col, weight }).collect(),
            })
            .collect(),
        reference: Some(source.reference()),
        reference_kind: ReferenceKind::Given,
        templates: Vec::new(),
        z_stack: Vec::new(),
        source: String::new(),
    };
    let shape = StreamShape::Pixels {
        geometry: Geometry::new(512, 512),
        pixel_type: PixelType::U16,
        detector_offset_counts: None,
    };
    let mut engine = Engine::new(&config, &set, &shape, 0).expect("an engine");
    engine.step(&Input::Command(&Command::StartBaseline));
    let baseline = slots(&mut source, 220);
    for slot in &baseline {
        engine.step(&Input::Frame(slot));
    }
    engine.step(&Input::Command(&Command::Calibrate));
    engine.step(&Input::Command(&Command::StartTask { accept_template: true }));
    let mut frames = slots(&mut source, FRAMES);
    let mut index = 220;
    move || {
        let slot = &mut frames[(index % FRAMES as u64) as usize];
        slot.meta.index = index;
        index += 1;
        black_box(engine.step(&Input::Frame(slot)).decision.cursor);
    }
}
