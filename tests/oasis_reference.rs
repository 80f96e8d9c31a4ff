//! Online deconvolution against the published implementation of OASIS: `tests/reference/oasis_reference.py`, which
//! wrote the numbers beside it with pinned versions from PyPI. Rates within 1e-4; on recorded cells the correlation
//! with the true spikes within 0.005.

mod outside;

use std::path::Path;

use apical::activity::{Deconvolver, HISTORY_FRAMES, Poles, Windows};
use outside::{correlation, real};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Traces {
    traces: Vec<Trace>,
}

#[derive(Deserialize)]
struct Trace {
    name: String,
    decay: f64,
    rise: f64,
    /// None: a missing frame.
    y: Vec<Option<f64>>,
    rates: BTreeMap<u32, Vec<f64>>,
}

#[derive(Deserialize)]
struct Cells {
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
struct Cell {
    cell: usize,
    decay: f64,
    rise: f64,
    correlations: BTreeMap<usize, f64>,
    whole_trace: f64,
}

fn reference(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A deconvolver of one ROI.
fn one(poles: Poles, lag_frames: u32, history: usize) -> Deconvolver {
    let mut deconvolver = Deconvolver::new(poles.rise > 0.0, lag_frames, 1, history);
    deconvolver.begin(0, poles);
    deconvolver
}

#[test]
fn the_rate_at_a_lag_is_that_of_the_published_implementation() {
    let read: Traces = serde_json::from_str(&reference("oasis.json")).unwrap();
    assert!(read.traces.len() >= 7);
    for trace in &read.traces {
        let poles = Poles { decay: trace.decay, rise: trace.rise };
        for (&lag, expected) in &trace.rates {
            let mut deconvolver = one(poles, lag, HISTORY_FRAMES);
            let mut worst = 0.0f64;
            let mut largest = 0.0f64;
            for (frame, (&y, &expected)) in trace.y.iter().zip(expected).enumerate() {
                let rate = deconvolver.step(0, y.unwrap_or(f64::NAN));
                let off = (rate - expected).abs();
                assert!(off <= 1e-4, "{}, lag {lag}, frame {frame}: {rate}, expected {expected}", trace.name);
                (worst, largest) = (worst.max(off), largest.max(rate));
            }
            println!("{}, lag {lag}: worst difference {worst:.1e} of rates up to {largest:.2}", trace.name);
            assert!(largest > 0.01, "{}: nothing was compared", trace.name);
        }
    }
}

/// The columns of a CSV with a head; an empty field is NaN.
fn columns(path: &Path) -> Vec<Vec<f64>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut columns = Vec::new();
    for line in text.lines().skip(1) {
        for (index, field) in line.split(',').enumerate() {
            if columns.len() <= index {
                columns.push(Vec::new());
            }
            columns[index].push(field.trim().parse().unwrap_or(f64::NAN));
        }
    }
    columns
}

/// Sums of four frames: 25 Hz.
fn binned(values: &[f64]) -> Vec<f64> {
    values.chunks_exact(4).map(|bin| bin.iter().sum()).collect()
}

#[test]
fn on_recorded_cells_the_rate_follows_the_true_spikes_as_the_published_implementation_does() {
    let Some(folder) = real("spikes") else { return };
    let calcium = columns(&folder.join("5.train.calcium.csv"));
    let spikes = columns(&folder.join("5.train.spikes.csv"));
    let read: Cells = serde_json::from_str(&reference("oasis_spikes.json")).unwrap();
    assert_eq!(read.cells.len(), 9);
    println!("correlation with the true spikes in bins of 40 ms: ours / oasis-deconv");
    for cell in &read.cells {
        let both = calcium[cell.cell].iter().zip(&spikes[cell.cell]);
        let (y, truth): (Vec<f64>, Vec<f64>) = both.filter(|(y, s)| y.is_finite() && s.is_finite()).unzip();
        let mut all = Windows::new(50.0, 1, y.len());
        let rest = y.iter().enumerate().fold(f64::NAN, |_, (slot, &y)| all.set(0, slot, y));
        let mut line = format!("cell {}:", cell.cell);
        for (&lag, &expected) in &cell.correlations {
            let mut deconvolver = one(Poles { decay: cell.decay, rise: cell.rise }, lag as u32, HISTORY_FRAMES);
            let mut rate: Vec<f64> = y.iter().map(|y| deconvolver.step(0, y - rest)).skip(lag).collect();
            rate.resize(y.len(), 0.0);
            let found = correlation(&binned(&rate), &binned(&truth));
            line += &format!("  {} ms {found:.4} / {expected:.4}", 10 * lag);
            assert!((found - expected).abs() <= 0.005, "{line}");
        }
        println!("{line}  (whole trace at once: {:.4})", cell.whole_trace);
    }
}

/// A deterministic uniform number, 0 to below 1.
fn draw(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f64 / (1u64 << 24) as f64
}

#[test]
fn frozen_pools_change_nothing_where_the_history_is_many_time_constants() {
    let largest_difference = |poles: Poles, y: &mut dyn FnMut(u64) -> f64| {
        let (mut bounded, mut whole) = (one(poles, 6, HISTORY_FRAMES), one(poles, 6, 30_000));
        (0..20_000).fold((0.0f64, 0.0f64), |(worst, largest), frame| {
            let y = y(frame);
            let (a, b) = (bounded.step(0, y), whole.step(0, y));
            (worst.max((a - b).abs()), largest.max(b))
        })
    };
    // The last has a history of no more than one and a half time constants.
    for (poles, name, bound) in [
        (Poles::of_frames(30.0, 0.0), "AR(1), 1 s at 30 Hz", 1e-9),
        (Poles::of_frames(30.0, 3.0), "AR(2), 1 s and 0.1 s at 30 Hz", 1e-9),
        (Poles::of_frames(200.0, 10.0), "AR(2), 2 s and 0.1 s at 100 Hz", 1e-4),
        (Poles::of_frames(2_000.0, 0.0), "AR(1), 2 s at 1 kHz", 0.02),
    ] {
        let (mut state, mut c) = (1, 0.0);
        let (worst, largest) = largest_difference(poles, &mut |frame| {
            c = c * poles.decay + if draw(&mut state) < 0.02 { 1.0 } else { 0.0 };
            // Silent for a third of the time, and the baseline wanders.
            let drift = 0.2 * libm::sin(frame as f64 / 3_000.0);
            if frame % 9_000 > 6_000 {
                c = 0.0
            }
            c + drift + 0.4 * (draw(&mut state) - 0.5)
        });
        println!("{name}: largest deviation {worst:.1e} of rates up to {largest:.2}");
        assert!(worst <= bound, "{name}: {worst}");
        assert!(bound < 0.01 || worst > 0.0, "{name}: no pool was frozen before its time, so nothing was tested");
    }
}
