//! How long sampling takes: `cargo bench --bench sampling`. One thread, a fractional shift, ROIs of about 100 px with
//! annuli of at least 350 px (discs drawn at random, which overlap here and there). Each row's bound is in its name, in
//! microseconds. `ram`: 96 frames in turn, some 50 MB, so that none is in a cache when its turn comes; `cached`: one
//! frame again and again.

use apical::config::sample::{SampleConfig, SampleMode};
use apical::frame::{FrameView, Geometry};
use apical::sample::{Roi, RoiPixel, RoiSet, SampleBuffer, Sampler};
use divan::Bencher;

fn main() {
    divan::main();
}

/// Numbers that look random, 0 to below 1.
fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Discs of radius 5.6 px, 97 to 101 pixels, with weights that fall to their edges.
fn rois(side_px: usize, count: u32) -> RoiSet {
    let mut next = uniform(u64::from(count));
    let mut disc = |id| {
        let mut place = || 8.0 + next() * (side_px as f64 - 16.0);
        let (row, col) = (place(), place());
        let near = |at: f64| at as u32 - 6..at as u32 + 8;
        let pixels = near(row).flat_map(|r| near(col).map(move |c| (r, c)));
        let weight = |(r, c): (u32, u32)| {
            let distance = ((f64::from(r) - row).powi(2) + (f64::from(c) - col).powi(2)).sqrt();
            (distance < 5.6).then(|| RoiPixel { row: r, col: c, weight: (1.1 - distance / 5.6) as f32 })
        };
        Roi { id, name: String::new(), plane: 0, radius_told_px: None, pixels: pixels.filter_map(weight).collect() }
    };
    RoiSet { geometry: Geometry::new(side_px, side_px), rois: (0..count).map(&mut disc).collect(), ..RoiSet::default() }
}

fn run(bencher: Bencher, side_px: usize, count: u32, frames: usize, mode: SampleMode) {
    let config = SampleConfig { mode, ..SampleConfig::default() };
    let mut sampler = Sampler::new(&config, &rois(side_px, count)).expect("a sampler");
    let mut out = SampleBuffer::new(sampler.roi_count());
    let mut next = uniform(7);
    let frames: Vec<Vec<u16>> =
        (0..frames).map(|_| (0..side_px * side_px).map(|_| (300.0 * (next() + next())) as u16).collect()).collect();
    let mut turn = 0;
    bencher.bench_local(|| {
        turn = (turn + 1) % frames.len();
        let samples = &frames[turn];
        let view = FrameView { geometry: Geometry::new(side_px, side_px), samples, bias: 0, saturation: 65_535 };
        let px = (turn % 8) as f64 * 0.37 - 1.2;
        sampler.step(&view, px + 0.1, -px + 0.3, &mut out);
        out.f[0]
    });
}

#[divan::bench(name = "512 px, 10 ROIs, ram, bound 30 us", sample_count = 2_000, sample_size = 1)]
fn ten(bencher: Bencher) {
    run(bencher, 512, 10, 96, SampleMode::Weighted);
}

#[divan::bench(name = "512 px, 200 ROIs, cached, bound 120 us", sample_count = 1_000, sample_size = 1)]
fn two_hundred(bencher: Bencher) {
    run(bencher, 512, 200, 1, SampleMode::Weighted);
}

#[divan::bench(name = "512 px, 200 ROIs, cached, demix", sample_count = 1_000, sample_size = 1)]
fn two_hundred_demixed(bencher: Bencher) {
    run(bencher, 512, 200, 1, SampleMode::Demix);
}

#[divan::bench(name = "512 px, 1000 ROIs, cached, bound 600 us", sample_count = 500, sample_size = 1)]
fn thousand(bencher: Bencher) {
    run(bencher, 512, 1_000, 1, SampleMode::Weighted);
}

#[divan::bench(name = "2048 px, 10000 ROIs, ram, bound 12000 us", sample_count = 60, sample_size = 1)]
fn ten_thousand(bencher: Bencher) {
    run(bencher, 2_048, 10_000, 8, SampleMode::Weighted);
}
