//! Tests of the calibration.

use super::*;
use crate::activity::{Activity, mean_sd};
use crate::config::activity::{ActivityConfig, ActivityMode, Bleaching, Deconvolution, F0Mode, Smoothing, ZStatistics};
use crate::config::decode::DecodeConfig;
use crate::decode::Decoder;
use proptest::prelude::*;

const FRAMES: usize = 300;
const ROIS: usize = 4;
const TRIAL_FRAMES: u32 = 40;

/// Reproducible counts around 1,000, ROI after ROI.
fn traces() -> Vec<f64> {
    let mut random = 1u64;
    let value = |_| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1000.0 + ((random >> 33) % 601) as f64
    };
    (0..ROIS * FRAMES).map(value).collect()
}

fn two() -> Ensembles {
    Ensembles { plus: vec![0, 2], minus: vec![1, 3] }
}

fn activity() -> ActivityConfig {
    ActivityConfig { detector_offset_counts: Some(0.0), ..Default::default() }
}

fn input<'a>(values: &'a [f64], ensembles: &'a Ensembles) -> CalibrationInput<'a> {
    let config = activity();
    CalibrationInput {
        block: BaselineBlock::new(values, ROIS, values.len() / ROIS, values.len() / ROIS).unwrap(),
        settings: ActivitySettings::new(&config, config.f0_window_frames(TRIAL_FRAMES)),
        floors: &[],
        ensembles,
        signal: Signal::Dff,
        smooth_frames: 3,
        trial_frames: TRIAL_FRAMES,
    }
}

fn settings() -> ActivitySettings {
    ActivitySettings::new(&activity(), 160)
}

fn run(input: &CalibrationInput<'_>, config: &CalibrationConfig) -> Result<Calibration, CalibrationError> {
    let mut workspace = CalibrationWorkspace::new(&settings(), FRAMES, 200, 8);
    let mut out = Calibration::with_capacity(200);
    calibrate(input, config, &mut workspace, &mut out).map(|()| out)
}

/// The definition, segment by segment, on the x that the workspace holds.
fn slow(x: &[f64], starts: &[u32]) -> (f64, f64, f64, f64, f64) {
    let segments: Vec<Vec<f64>> = starts
        .iter()
        .map(|&start| (0..TRIAL_FRAMES as usize).map(|at| x[(start as usize + at) % x.len()]).collect())
        .collect();
    let mut pooled: Vec<f64> = segments.concat();
    pooled.sort_by(f64::total_cmp);
    let (low, high) = (pooled[0], pooled[pooled.len() - 1]);
    let exceeds = |segment: &Vec<f64>, threshold: f64| {
        let last = segment.len() - 1;
        (0..=last).any(|at| {
            let around = &segment[at.saturating_sub(1)..=(at + 1).min(last)];
            around.iter().sum::<f64>() / around.len() as f64 > threshold
        })
    };
    let fraction = |t: f64| segments.iter().filter(|s| exceeds(s, t)).count() as f64 / segments.len() as f64;
    let candidates = (0..).map(|k| low + f64::from(k) * 0.005).take_while(|&t| t <= high);
    let threshold = candidates.into_iter().find(|&t| fraction(t) <= 0.5).unwrap();
    let half = pooled.len() / 2;
    let median = (pooled[half - 1] + pooled[half]) / 2.0;
    let lower: Vec<f64> = pooled.iter().copied().filter(|&d| d <= median).collect();
    let mirrored: Vec<f64> = lower.iter().copied().chain(lower.iter().map(|&d| 2.0 * median - d)).collect();
    let (mean, sd) = mean_sd(&mirrored);
    (low, threshold, fraction(threshold), mean, sd)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-11 * (1.0 + b.abs())
}

#[test]
fn the_calibration_is_that_of_the_definition() {
    let values = traces();
    for ensembles in [two(), Ensembles { plus: vec![1, 3], minus: vec![] }] {
        let input = input(&values, &ensembles);
        let mut workspace = CalibrationWorkspace::new(&settings(), FRAMES, 200, 8);
        let mut out = Calibration::default();
        calibrate(&input, &CalibrationConfig::default(), &mut workspace, &mut out).unwrap();
        let (low, threshold, fraction, mean, sd) = slow(workspace.x(), &out.segment_starts);
        assert_eq!((out.range_low, out.threshold, out.chance_fraction), (low, threshold, fraction));
        assert!(close(out.mu_half, mean) && close(out.sigma_half, sd), "{out:?} {mean} {sd}");
        assert!(close(out.z_half.unwrap(), (threshold - mean) / sd));
        assert_eq!((out.threshold_today, out.carried_over), (threshold, false));
        assert_eq!(out.baseline_frames, FRAMES as u32);
        assert!(fraction <= 0.5 && fraction > 0.1);
        assert!(!ensembles.minus.is_empty() || low >= 0.0, "one population: clipped at 0");
    }
}

/// The configurations in which the signal of the cursor is made in another way.
fn ways() -> Vec<(Signal, ActivityConfig)> {
    let with = |change: fn(&mut ActivityConfig)| {
        let mut config = activity();
        change(&mut config);
        config
    };
    vec![
        (Signal::Dff, activity()),
        (Signal::Z, activity()),
        (Signal::Z, with(|c| c.z_statistics = ZStatistics::Robust)),
        (Signal::Dff, with(|c| (c.f0_mode, c.f0_tau_s) = (F0Mode::Exponential, 3.0))),
        (Signal::Z, with(|c| (c.f0_mode, c.smoothing) = (F0Mode::Robust, Smoothing::Boxcar))),
        (Signal::Z, with(|c| (c.f0_mode, c.smoothing) = (F0Mode::Baseline, Smoothing::Exponential))),
        (Signal::Dff, with(|c| c.bleaching = Bleaching::Exponential)),
        (Signal::Rate, with(|c| (c.deconvolution, c.decay_s) = (Deconvolution::Ar1, Some(0.5)))),
        (Signal::Rate, with(|c| (c.deconvolution, c.deconvolution_lag_frames) = (Deconvolution::Ar1, 4))),
        (Signal::Rate, with(|c| (c.deconvolution, c.smoothing) = (Deconvolution::Ar2, Smoothing::Boxcar))),
        (
            Signal::Rate,
            with(|c| (c.mode, c.frame_rate_hz, c.voltage.threshold_sd) = (ActivityMode::Voltage, 500.0, 1.2)),
        ),
    ]
}

#[test]
fn x_is_what_the_task_computes_when_the_baseline_is_shown_again() {
    let values = traces();
    for (signal, config) in ways() {
        let decode = DecodeConfig { signal, smooth_frames: 1 };
        let ensembles = Ensembles { plus: vec![0, 2], minus: vec![1, 3] };
        let mut decoder = Decoder::new(&decode, &ensembles, ROIS).unwrap();
        let mut activity = Activity::new(&config, ROIS, 160, FRAMES);
        let frame = |at: usize| -> Vec<f64> { (0..ROIS).map(|roi| values[roi * FRAMES + at]).collect() };
        for at in 0..FRAMES {
            activity.step(&frame(at), &[], true);
        }
        activity.end_baseline();
        let mut workspace = CalibrationWorkspace::new(&activity.settings(), FRAMES, 200, 8);
        let mut out = Calibration::default();
        let ensembles = two();
        let settings = activity.settings();
        let input = CalibrationInput { signal, settings, block: activity.baseline(), ..input(&values, &ensembles) };
        // What the threshold is, and whether there is one, is another matter.
        let _ = calibrate(&input, &CalibrationConfig::default(), &mut workspace, &mut out);
        let (x, block) = (workspace.x().to_vec(), activity.baseline());
        let shown: Vec<Vec<f64>> =
            (0..FRAMES).map(|at| (0..ROIS).map(|roi| block.row(roi).unwrap()[at]).collect()).collect();
        // The block has fading taken out already; its frames are shown as they are.
        activity.forget_fading();
        decoder.begin(0.0);
        for (at, expected) in x.iter().enumerate() {
            let out = activity.step(&shown[at], &[], true);
            let x = decoder.step(out.dff, out.z, out.rate, out.valid, true).x;
            assert_eq!(x.to_bits(), expected.to_bits(), "{signal:?}, frame {at}, {config:?}");
        }
        assert!(x.iter().any(|&x| x != 0.0), "{signal:?}: nothing happened, {config:?}");
    }
}

#[test]
fn starts_are_drawn_without_replacement_and_by_the_seed() {
    let draw = |seed| {
        let (mut frames, mut starts) = (vec![0; FRAMES], vec![0; 200]);
        draw_starts(seed, &mut frames, &mut starts);
        starts
    };
    let starts = draw(1);
    let mut sorted = starts.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 200);
    assert!(sorted.iter().all(|&start| (start as usize) < FRAMES));
    assert_eq!(starts, draw(1));
    assert_ne!(starts, draw(2));
    // The stream is part of the session's definition: these may never change.
    assert_eq!(starts[..8], PINNED);
}

#[test]
fn day_1_keeps_z_half() {
    let values = traces();
    let ensembles = two();
    let input = input(&values, &ensembles);
    let today = run(&input, &CalibrationConfig::default()).unwrap();
    let z_half = today.z_half.unwrap();
    let with = |day1: f64| run(&input, &CalibrationConfig { day1_z_half: Some(day1), ..Default::default() }).unwrap();
    for day1 in [z_half, z_half + 1.0] {
        let later = with(day1);
        assert_eq!((later.threshold, later.carried_over), (today.threshold, false), "never beyond today's");
    }
    let later = with(z_half - 0.5);
    assert!(later.carried_over);
    assert_eq!(later.threshold, today.mu_half + today.sigma_half * (z_half - 0.5));
    assert!(later.threshold < today.threshold);
    assert_eq!(later.threshold_today, today.threshold);
    assert_eq!((later.z_half, later.chance_fraction), (today.z_half, today.chance_fraction), "both are today's");
}

#[test]
fn a_baseline_of_fewer_than_200_frames_is_an_error() {
    let values = vec![1000.0; ROIS * 199];
    let error = run(&input(&values, &two()), &CalibrationConfig::default()).unwrap_err();
    assert_eq!(error.to_string(), "calibration: the baseline has 199 valid frames, expected at least 200");
}

#[test]
fn a_threshold_at_or_below_range_low_is_an_error() {
    let values = traces();
    let ensembles = two();
    let config = CalibrationConfig { day1_z_half: Some(-50.0), ..Default::default() };
    let error = run(&input(&values, &ensembles), &config).unwrap_err();
    assert!(matches!(error, CalibrationError::ThresholdTooLow { threshold, range_low } if threshold <= range_low));
    let flat = vec![1000.0; ROIS * FRAMES];
    let error = run(&input(&flat, &ensembles), &CalibrationConfig::default()).unwrap_err();
    assert_eq!(error, CalibrationError::ThresholdTooLow { threshold: 0.0, range_low: 0.0 });
    let error = run(&input(&flat, &ensembles), &config).unwrap_err();
    assert_eq!(error, CalibrationError::NoSpread);
}

#[test]
fn a_population_without_a_valid_cell_is_an_error() {
    let mut values = traces();
    values[2 * FRAMES + 17] = f64::NAN;
    let ensembles = two();
    run(&input(&values, &ensembles), &CalibrationConfig::default()).expect("the other cell of P+ is valid");
    values[17] = f64::INFINITY;
    let error = run(&input(&values, &ensembles), &CalibrationConfig::default()).unwrap_err();
    assert_eq!(error, CalibrationError::NotFinite { frame: 17 });
}

#[test]
fn empty_ensembles_are_an_error() {
    let values = traces();
    let error = run(&input(&values, &Ensembles::default()), &CalibrationConfig::default()).unwrap_err();
    assert_eq!(error, CalibrationError::Ensembles(EnsembleError::Empty));
}

#[test]
fn an_error_leaves_the_result_alone() {
    let values = traces();
    let ensembles = two();
    let mut out = run(&input(&values, &ensembles), &CalibrationConfig::default()).unwrap();
    let before = out.clone();
    let mut small = CalibrationWorkspace::new(&settings(), FRAMES, 199, 8);
    let error = calibrate(&input(&values, &ensembles), &CalibrationConfig::default(), &mut small, &mut out);
    assert_eq!(error, Err(CalibrationError::Workspace { what: "segments", got: 199, expected: 200 }));
    let zero = CalibrationInput { trial_frames: 0, ..input(&values, &ensembles) };
    assert!(calibrate(&zero, &CalibrationConfig::default(), &mut small, &mut out).is_err());
    assert_eq!(out, before);
}

#[test]
fn a_wild_x_ends_all_the_same() {
    let mut values = traces();
    values[5] = 1e300;
    let ensembles = two();
    // A few frames without bound do not matter; a trace of them leaves no candidate that few segments exceed.
    assert!(run(&input(&values, &ensembles), &CalibrationConfig::default()).is_ok());
    for (index, value) in values[..FRAMES].iter_mut().enumerate() {
        *value = if index % 5 == 0 { 2.0 } else { 1e300 };
    }
    let error = run(&input(&values, &ensembles), &CalibrationConfig::default()).unwrap_err();
    assert!(matches!(error, CalibrationError::NoThreshold { .. }), "{error}");
}

#[test]
fn the_mode_baseline_and_a_trial_longer_than_the_baseline_work() {
    let values = traces();
    let ensembles = two();
    let mut input = input(&values, &ensembles);
    input.settings.mode = F0Mode::Baseline;
    input.trial_frames = 2 * FRAMES as u32 + 10;
    let out = run(&input, &CalibrationConfig { target_fraction: 0.0, ..Default::default() }).unwrap();
    assert_eq!(out.chance_fraction, 0.0, "all segments see the whole baseline, so only a fraction of 0 is possible");
}

proptest! {
    #[test]
    fn visits_are_counted_around_the_baseline(
        starts in prop::collection::vec(0u32..30, 1..20),
        length in 1usize..100,
    ) {
        let mut visits = vec![0; 30];
        count_visits(&starts, length, &mut visits);
        let mut expected = vec![0u64; 30];
        for &start in &starts {
            for at in 0..length {
                expected[(start as usize + at) % 30] += 1;
            }
        }
        prop_assert_eq!(visits, expected);
    }

    #[test]
    fn the_first_candidate_is_the_first(low in -5.0f64..5.0, span in 0.0f64..2.0, wanted in -6.0f64..8.0) {
        let high = low + span;
        let expected = (0..).map(|k| low + f64::from(k) * 0.005).take_while(|&t| t <= high).find(|&t| t >= wanted);
        prop_assert_eq!(first_candidate(low, high, 0.005, |t| t >= wanted), expected);
    }

    #[test]
    fn a_bounded_draw_is_below_its_bound(seed in any::<u64>(), bound in 1u64..) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        prop_assert!(bounded(&mut random, bound) < bound);
    }
}

/// The first starts of seed 1 among 300 frames.
const PINNED: [u32; 8] = [114, 89, 239, 275, 257, 46, 221, 236];
