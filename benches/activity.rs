//! The activity stage, one thread, against its bounds: `cargo bench --bench activity`.

use apical::activity::Activity;
use apical::config::activity::{ActivityConfig, ActivityMode, Deconvolution};
use apical::config::load_text;
use apical::engine::{Command, Engine, Input, StreamShape};
use apical::frame::{FrameAssembly, FrameMeta, FrameSlot, Geometry, PixelType, StripMeta};
use apical::sample::{ReferenceKind, Roi, RoiPixel, RoiSet};
use apical::source::SyntheticSource;
use divan::Bencher;

fn main() {
    divan::main();
}

/// F of a frame: a value for each ROI around 1,000 counts, the same on every run.
fn frame(index: u64, rois: usize) -> Vec<f64> {
    let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    (0..rois).map(|_| 1000.0 + 100.0 * (draw() + draw() + draw())).collect()
}

/// A stage after a baseline of 3,000 frames, and frames to go on with.
fn after_baseline(config: &ActivityConfig, rois: usize) -> (Activity, Vec<Vec<f64>>) {
    let mut activity = Activity::new(config, rois, 3_000, 3_000);
    for index in 0..3_000 {
        activity.step(&frame(index, rois), &[], true);
    }
    activity.end_baseline();
    (activity, (3_000..9_000).map(|index| frame(index, rois)).collect())
}

/// F0 over 3,000 frames, dF/F, z-score. Bound for 200 ROIs: 40 us.
#[divan::bench(args = [10, 200, 1000], sample_count = 10_000, sample_size = 1)]
fn running_percentile_of_3000_frames(bencher: Bencher, rois: usize) {
    let (mut activity, frames) = after_baseline(&ActivityConfig::default(), rois);
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % frames.len();
        activity.step(&frames[next], &[], true).dff[0]
    });
}

/// The same with deconvolution, 200 ROIs; what it adds to the row above.
#[divan::bench(args = ["ar1", "ar2"], sample_count = 10_000, sample_size = 1)]
fn and_deconvolution_of_200_rois(bencher: Bencher, model: &str) {
    let deconvolution = if model == "ar2" { Deconvolution::Ar2 } else { Deconvolution::Ar1 };
    let config = ActivityConfig { deconvolution, decay_s: Some(1.0), ..ActivityConfig::default() };
    let (mut activity, frames) = after_baseline(&config, 200);
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % frames.len();
        activity.step(&frames[next], &[], true).rate[0]
    });
}

/// Spikes alone, 20 cells.
#[divan::bench(sample_count = 10_000, sample_size = 1)]
fn voltage_of_20_cells(bencher: Bencher) {
    let config = ActivityConfig { mode: ActivityMode::Voltage, frame_rate_hz: 1_000.0, ..ActivityConfig::default() };
    let (mut activity, frames) = after_baseline(&config, 20);
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % frames.len();
        activity.step(&frames[next], &[], true).rate[0]
    });
}

/// `Engine::step` in voltage mode, 96 x 200 with 20 cells, every stage on. Bound: 250 us, a quarter of one core at
/// 1,000 frames a second.
#[divan::bench(sample_count = 10_000, sample_size = 1)]
fn step_voltage_96x200_20_cells(bencher: Bencher) {
    let set = [
        "synthetic.height_px=96",
        "synthetic.width_px=200",
        "synthetic.frame_rate_hz=1000",
        "synthetic.anatomy.cells=20",
        "synthetic.anatomy.margin_px=2.0",
        "synthetic.anatomy.cell_radius_px=4.0",
        "activity.mode=voltage",
        "activity.frame_rate_hz=1000",
        "decode.signal=rate",
        "ensembles.plus=[0,1,2,3,4]",
        "ensembles.minus=[5,6,7,8,9]",
        "task.trial_frames=750",
        "baseline.frames=1000",
    ]
    .map(str::to_owned);
    let config = load_text("", &set).expect("a valid configuration");
    let mut source = SyntheticSource::new(&config.synthetic).expect("an animal");
    let geometry = Geometry::new(96, 200);
    let masks = source.rois().iter().zip(0..).map(|(mask, id)| Roi {
        id,
        name: String::new(),
        plane: 0,
        radius_told_px: None,
        pixels: mask.pixels.iter().map(|&(row, col, weight)| RoiPixel { row, col, weight }).collect(),
    });
    let rois = RoiSet {
        geometry,
        rois: masks.collect(),
        reference: Some(source.reference()),
        reference_kind: ReferenceKind::Given,
        templates: Vec::new(),
        z_stack: Vec::new(),
        source: String::new(),
    };
    assert_eq!(rois.rois.len(), 20);
    let shape = StreamShape::Pixels { geometry, pixel_type: PixelType::U16, detector_offset_counts: None };
    let mut engine = Engine::new(&config, &rois, &shape, 0).expect("an engine");
    let mut assembly = FrameAssembly::new(geometry, PixelType::U16, false);
    let mut bytes = Vec::new();
    let fill = |_| {
        let index = source.next(&mut bytes).index;
        let mut slot = FrameSlot::new(geometry, PixelType::U16);
        let frame = FrameMeta { index, ..FrameMeta::default() };
        assert_eq!(assembly.add(&StripMeta::whole(frame), &bytes, &mut slot), Ok(true));
        slot
    };
    let mut slots: Vec<FrameSlot> = (0..3_000).map(fill).collect();
    engine.step(&Input::Command(&Command::StartBaseline));
    for slot in &slots[..1_000] {
        engine.step(&Input::Frame(slot));
    }
    engine.step(&Input::Command(&Command::Calibrate));
    engine.step(&Input::Command(&Command::StartTask { accept_template: true }));
    let mut index = 1_000;
    bencher.bench_local(|| {
        let slot = &mut slots[(index % 3_000) as usize];
        slot.meta.index = index;
        index += 1;
        engine.step(&Input::Frame(slot)).decision.cursor
    });
}

/// The end of a baseline of 3,000 frames: histories and z-scores.
#[divan::bench(args = [10, 200], sample_count = 20, sample_size = 1)]
fn end_of_the_baseline(bencher: Bencher, rois: usize) {
    let mut activity = Activity::new(&ActivityConfig::default(), rois, 3_000, 3_000);
    for index in 0..3_000 {
        activity.step(&frame(index, rois), &[], true);
    }
    bencher.with_inputs(|| activity.clone()).bench_local_values(|mut activity| {
        activity.end_baseline();
        activity
    });
}
