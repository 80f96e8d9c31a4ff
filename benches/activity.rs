//! The activity stage, one thread, against its bounds: `cargo bench --bench activity`.

use apical::activity::Activity;
use apical::config::activity::ActivityConfig;
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
