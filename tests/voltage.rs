//! Voltage imaging through the engine: 96 x 200 pixels at 1 kHz, 20 cells, spikes of known time. The table that it
//! prints (`cargo test --release --test voltage -- --nocapture`) says what a threshold finds, and what it finds that
//! was not.

use apical::activity::{ActivitySettings, SpikeDetector};
use apical::config::activity::{ActivityConfig, ActivityMode};
use apical::config::load_text;
use apical::engine::{Command, Engine, Input, StreamShape};
use apical::frame::{FrameAssembly, FrameMeta, FrameSlot, Geometry, PixelType, StripMeta};
use apical::sample::{ReferenceKind, Roi, RoiPixel, RoiSet};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const FRAMES: usize = 60_000;
const RATE_HZ: f64 = 1_000.0;
/// Heights of a spike, in standard deviations of the noise of one frame. The high-pass leaves two thirds of them.
const SPIKES_SD: [f64; 3] = [6.0, 8.0, 10.0];

fn uniform(random: &mut ChaCha8Rng) -> f64 {
    f64::from(random.next_u32()) / 4_294_967_296.0
}

fn normal(random: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| uniform(random)).sum::<f64>() - 6.0
}

/// A minute of F: noise of 10 counts, a level that fades, a slow potential, and spikes at 5 Hz of two frames, the
/// second half as high. With the frames in which they begin.
fn trace(seed: u64, spike_sd: f64) -> (Vec<f64>, Vec<usize>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut f: Vec<f64> = (0..FRAMES)
        .map(|frame| {
            let seconds = frame as f64 / RATE_HZ;
            1_000.0 - 2.0 * seconds + 30.0 * libm::sin(12.0 * seconds) + 10.0 * normal(&mut random)
        })
        .collect();
    let mut times = Vec::new();
    let mut free_from = 1_000;
    for frame in 1_000..FRAMES - 1 {
        if frame >= free_from && uniform(&mut random) < 5.0 / RATE_HZ {
            f[frame] += 10.0 * spike_sd;
            f[frame + 1] += 5.0 * spike_sd;
            times.push(frame);
            free_from = frame + 5;
        }
    }
    (f, times)
}

/// Share of the spikes that were found within a frame, false alarms a second, and the largest delay in frames.
fn score(threshold_sd: f64, spike_sd: f64) -> (f64, f64, usize) {
    let mut config = ActivityConfig { mode: ActivityMode::Voltage, frame_rate_hz: RATE_HZ, ..Default::default() };
    config.voltage.threshold_sd = threshold_sd;
    let settings = ActivitySettings::new(&config, 1);
    let mut detector = SpikeDetector::new(settings.spikes.expect("the mode is voltage"), 1);
    let (mut hits, mut spikes, mut false_alarms, mut seconds, mut delay) = (0, 0, 0, 0.0, 0);
    for seed in 0..4 {
        let (f, times) = trace(seed, spike_sd);
        detector.begin(0);
        let found: Vec<usize> =
            f.iter().enumerate().filter(|&(_, &f)| detector.step(0, f).is_spike).map(|(frame, _)| frame).collect();
        for &time in &times {
            if let Some(&at) = found.iter().find(|&&at| (time..=time + 1).contains(&at)) {
                hits += 1;
                delay = delay.max(at - time);
            }
        }
        let near = |at: &usize| times.iter().any(|time| (*time..=time + 1).contains(at));
        false_alarms += found.iter().filter(|at| **at >= 1_000 && !near(at)).count();
        spikes += times.len();
        seconds += (FRAMES - 1_000) as f64 / RATE_HZ;
    }
    (f64::from(hits) / spikes as f64, false_alarms as f64 / seconds, delay)
}

#[test]
fn spikes_of_known_time_are_found_and_few_that_were_not() {
    println!("spikes at 5 Hz in noise, 4 traces of 60 s at 1 kHz, thresholds and heights in SD of the noise");
    for spike_sd in SPIKES_SD {
        println!("height {spike_sd}\nthreshold   found   false alarms (1/s)   largest delay (frames)");
        let thresholds = [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0];
        let table: Vec<_> = thresholds.into_iter().map(|threshold| (threshold, score(threshold, spike_sd))).collect();
        for (threshold, (found, false_alarms, delay)) in &table {
            println!("{threshold:9.1} {:6.1} % {false_alarms:20.3} {delay:24}", 100.0 * found);
        }
        for pair in table.windows(2) {
            assert!(pair[1].1.1 <= pair[0].1.1 + 0.01, "a higher threshold gives fewer false alarms");
        }
        let (found, false_alarms, _) = table[4].1;
        assert!(found > if spike_sd > 9.0 { 0.97 } else { 0.3 }, "{found} at the default of 4, height {spike_sd}");
        assert!(false_alarms < 0.2, "{false_alarms} a second at the default of 4");
    }
}

/// 20 cells of 5 x 5 pixels in a frame of 96 x 200.
fn cells() -> RoiSet {
    let pixels = |id: u32| {
        let (row, col) = (20 + 40 * (id / 10), 10 + 19 * (id % 10));
        (0..25).map(move |k| RoiPixel { row: row + k / 5, col: col + k % 5, weight: 1.0 }).collect()
    };
    RoiSet {
        geometry: Geometry::new(96, 200),
        rois: (0..20)
            .map(|id| Roi { id, name: String::new(), plane: 0, radius_told_px: None, pixels: pixels(id) })
            .collect(),
        reference: None,
        reference_kind: ReferenceKind::Given,
        templates: Vec::new(),
        z_stack: Vec::new(),
        source: String::new(),
    }
}

#[test]
fn the_engine_counts_the_spikes_of_pixels() {
    let set = [
        "activity.mode=voltage",
        "activity.frame_rate_hz=1000",
        "activity.detector_offset_counts=0",
        "activity.voltage.rate_tau_s=0.5",
        "decode.signal=rate",
        "register.enabled=false",
        "sample.neuropil_coefficient=0",
        "ensembles.plus=[0]",
        "ensembles.minus=[1]",
        "baseline.frames=500",
        "task.trial_frames=750",
    ]
    .map(str::to_owned);
    let config = load_text("", &set).expect("a valid configuration");
    let geometry = Geometry::new(96, 200);
    let shape = StreamShape::Pixels { geometry, pixel_type: PixelType::U16, detector_offset_counts: None };
    let rois = cells();
    let mut engine = Engine::new(&config, &rois, &shape, 0).expect("an engine");
    engine.step(&Input::Command(&Command::StartBaseline));
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut assembly = FrameAssembly::new(geometry, PixelType::U16, false);
    let mut slot = FrameSlot::new(geometry, PixelType::U16);
    let mut rates = Vec::new();
    for index in 0..4_000u64 {
        // ROI 0 has a spike in one frame of 40.
        let spike = if index % 40 == 39 { 300 } else { 0 };
        let mut pixels: Vec<u16> = (0..96 * 200).map(|_| 1_000 + (random.next_u32() % 100) as u16).collect();
        for pixel in &rois.rois[0].pixels {
            pixels[(pixel.row * 200 + pixel.col) as usize] += spike;
        }
        let bytes: Vec<u8> = pixels.iter().flat_map(|v| v.to_le_bytes()).collect();
        let frame = FrameMeta { index, device_ns: index * 1_000_000, ..FrameMeta::default() };
        assert_eq!(assembly.add(&StripMeta::whole(frame), &bytes, &mut slot), Ok(true));
        let decision = engine.step(&Input::Frame(&slot)).decision;
        assert_eq!(decision.rate.len(), 20);
        assert_eq!(decision.rate[0].is_nan(), index < 500, "frame {index}");
        if index == 3_999 {
            rates.extend_from_slice(&decision.rate);
            let x = decision.x;
            assert!((x - (rates[0] - rates[1])).abs() < 1e-12, "the cursor reads the rate");
        }
    }
    assert!((22.0..28.0).contains(&rates[0]), "{} Hz, expected 25", rates[0]);
    assert!(rates[1..].iter().all(|&rate| rate < 1.0), "{rates:?}");
}
