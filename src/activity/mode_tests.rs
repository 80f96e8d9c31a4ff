//! Tests of what is not on by default: other F0s, smoothing, bleaching, deconvolution, voltage.

use super::*;
use crate::config::activity::{ActivityMode, Bleaching, Deconvolution, F0Mode, Smoothing, VoltageConfig, ZStatistics};
use proptest::prelude::*;

const ROIS: usize = 4;

fn with(change: impl FnOnce(&mut ActivityConfig)) -> ActivityConfig {
    let mut config = ActivityConfig { detector_offset_counts: Some(0.0), ..Default::default() };
    change(&mut config);
    config
}

/// Every way of the stage at least once.
fn ways() -> Vec<ActivityConfig> {
    vec![
        with(|_| {}),
        with(|c| c.f0_mode = F0Mode::Baseline),
        with(|c| (c.f0_mode, c.f0_tau_s) = (F0Mode::Exponential, 1.0)),
        with(|c| (c.f0_mode, c.f0_tau_s, c.bleaching) = (F0Mode::Robust, 1.0, Bleaching::Exponential)),
        with(|c| (c.smoothing, c.z_statistics) = (Smoothing::Boxcar, ZStatistics::Robust)),
        with(|c| (c.smoothing, c.z_score) = (Smoothing::Exponential, false)),
        with(|c| (c.deconvolution, c.deconvolution_lag_frames) = (Deconvolution::Ar1, 3)),
        with(|c| (c.deconvolution, c.decay_s) = (Deconvolution::Ar2, Some(0.4))),
        with(|c| {
            (c.mode, c.frame_rate_hz) = (ActivityMode::Voltage, 1_000.0);
            c.voltage = VoltageConfig { threshold_sd: 2.0, ..Default::default() };
        }),
    ]
}

/// Around 1,000 counts, with transients, the same on every run.
fn frame(index: usize) -> Vec<f64> {
    let at = |roi: usize| {
        let noise = ((index * 7919 + roi * 104_729 + 13) % 997) as f64 / 10.0;
        let since = (index + 17 * roi) % 53;
        1_000.0 + noise + 600.0 * libm::exp(-(since as f64) / 8.0)
    };
    (0..ROIS).map(at).collect()
}

/// Outputs of the frames after a baseline of 150, with doubted and missing ones among them.
fn run(config: &ActivityConfig, change: impl Fn(Vec<f64>) -> Vec<f64>) -> Vec<[Vec<f64>; 4]> {
    let mut activity = Activity::new(config, ROIS, 100, 150);
    let mut out = Vec::new();
    for index in 0..400 {
        if index == 150 {
            activity.end_baseline();
        }
        if index == 300 {
            activity.skip(5);
        }
        let a = activity.step(&change(frame(index)), &[], index % 11 != 10);
        if index >= 150 {
            out.push([a.dff, a.z, a.rate, a.f].map(<[f64]>::to_vec));
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn scaling_the_gain_leaves_dff_z_and_rate_unchanged(gain in 0.01f64..50.0) {
        for config in ways() {
            let (one, other) = (run(&config, |f| f), run(&config, |f| f.iter().map(|f| gain * f).collect()));
            for (frame, (a, b)) in one.iter().zip(&other).enumerate() {
                for (what, (a, b)) in ["dF/F", "z", "rate"].iter().zip(a.iter().zip(b)) {
                    for (a, b) in a.iter().zip(b) {
                        let same = (a - b).abs() <= 1e-6 * (1.0 + a.abs()) || a.is_nan() && b.is_nan();
                        prop_assert!(same, "{what} of frame {frame}: {a} and {b} at a gain of {gain}, {config:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn permuting_the_rois_permutes_the_answer(order in Just([0usize, 1, 2, 3]).prop_shuffle()) {
        for config in ways() {
            let (one, other) = (run(&config, |f| f), run(&config, |f| order.iter().map(|&roi| f[roi]).collect()));
            for (a, b) in one.iter().zip(&other) {
                for (a, b) in a.iter().zip(b) {
                    let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<u64>>();
                    let permuted: Vec<f64> = order.iter().filter_map(|&roi| a.get(roi).copied()).collect();
                    prop_assert_eq!(bits(&permuted), bits(b));
                }
            }
        }
    }
}

#[test]
fn snapshot_load_and_go_on_equals_uninterrupted_in_every_way() {
    for config in ways() {
        let new = || Activity::new(&config, ROIS, 100, 60);
        let mut one = new();
        let mut bytes = Vec::new();
        for index in 0..220 {
            if index == 60 {
                one.end_baseline();
            }
            bytes.clear();
            one.save(&mut bytes).unwrap();
            assert!(bytes.len() <= one.state_bytes().most, "{} bytes, {config:?}", bytes.len());
            let mut two = new();
            two.step(&frame(3), &[], true);
            assert_eq!(two.load(&bytes).unwrap(), bytes.len());
            let valid = index % 9 != 8;
            let bits = |a: ActivityFrame<'_>| {
                [a.f, a.f0, a.dff, a.z, a.rate].concat().iter().map(|v| v.to_bits()).collect::<Vec<u64>>()
            };
            if index == 100 {
                one.skip(7);
                two.skip(7);
            }
            let (a, b) = (bits(one.step(&frame(index), &[], valid)), bits(two.step(&frame(index), &[], valid)));
            assert_eq!(a, b, "frame {index}, {config:?}");
        }
        for cut in [bytes.len() - 1, bytes.len() / 2] {
            assert!(new().load(&bytes[..cut]).is_err(), "{config:?}");
        }
    }
}

#[test]
fn without_deconvolution_and_voltage_there_is_no_rate() {
    let mut activity = Activity::new(&with(|_| {}), ROIS, 10, 10);
    assert!(activity.step(&frame(0), &[], true).rate.is_empty());
    let mut activity = Activity::new(&with(|c| c.deconvolution = Deconvolution::Ar1), ROIS, 10, 10);
    let out = activity.step(&frame(0), &[], true);
    assert!(out.rate.len() == ROIS && out.rate.iter().all(|rate| rate.is_nan()), "none before the baseline's end");
}

#[test]
fn the_rate_is_that_of_dff_above_its_rest_deconvolved() {
    let config = with(|c| (c.deconvolution, c.decay_s) = (Deconvolution::Ar1, Some(0.3)));
    let mut activity = Activity::new(&config, ROIS, 100, 150);
    (0..150).for_each(|index| _ = activity.step(&frame(index), &[], true));
    activity.end_baseline();
    let (settings, rest) = (activity.settings(), activity.extras.rest[1]);
    let mut again = vec![0.0; 150];
    let row = activity.baseline().row(1).unwrap().to_vec();
    circular_dff(&row, &settings, &mut Windows::new(10.0, 1, 150), &mut again);
    let mut sorted = again.clone();
    sorted.sort_by(f64::total_cmp);
    assert_eq!(rest, (sorted[74] + sorted[75]) / 2.0, "the median");
    let mut alone = Deconvolver::new(false, 0, 1, HISTORY_FRAMES);
    alone.begin(0, Poles::of_frames(9.0, 0.0));
    again.iter().for_each(|dff| _ = alone.step(0, dff - rest));
    let mut largest = 0.0f64;
    for index in 150..400 {
        let valid = index % 7 != 6;
        let out = activity.step(&frame(index), &[], valid);
        let expected = alone.step(0, if valid { out.dff[1] - rest } else { f64::NAN });
        assert_eq!(out.rate[1].to_bits(), expected.to_bits());
        largest = largest.max(expected);
    }
    assert!(largest > 0.3, "{largest}");
}

#[test]
fn smoothing_is_of_dff_and_leaves_doubted_frames_out() {
    let config = with(|c| c.smoothing = Smoothing::Boxcar);
    let (smooth, plain) = (run(&config, |f| f), run(&with(|_| {}), |f| f));
    let good: Vec<usize> = (0..smooth.len()).filter(|&k| (k + 150) % 11 != 10).collect();
    for last in good.windows(3) {
        let mean = last.iter().map(|&k| plain[k][0][2]).fold(0.0, |sum, dff| sum + dff) / 3.0;
        assert_eq!(smooth[last[2]][0][2], mean);
    }
}

#[test]
fn fading_is_taken_out_of_the_baseline_and_of_what_follows() {
    // Half a percent in ten frames, and a transient now and then.
    let fades = |index: usize| libm::exp(-0.0005 * index as f64);
    let f = |index: usize| 1_000.0 * fades(index) * (1.0 + if index % 50 < 5 { 0.8 } else { 0.0 });
    let level = |bleaching: Bleaching| {
        let config = with(|c| (c.bleaching, c.f0_mode, c.f0_percentile) = (bleaching, F0Mode::Baseline, 50.0));
        let mut activity = Activity::new(&config, 1, 10, 400);
        (0..400).for_each(|index| _ = activity.step(&[f(index)], &[], true));
        activity.end_baseline();
        // 200 frames never came.
        activity.skip(200);
        let out: Vec<f64> = (600..800).map(|index| activity.step(&[f(index)], &[], true).dff[0]).collect();
        out[190]
    };
    assert!(level(Bleaching::Off) < -0.2, "{}", level(Bleaching::Off));
    assert!(level(Bleaching::Exponential).abs() < 0.01, "{}", level(Bleaching::Exponential));
}

#[test]
fn a_baseline_that_brightens_is_left_alone_and_the_correction_is_bounded() {
    assert_eq!(baseline::fading_gain(0.0, 1_000_000), 1.0);
    assert_eq!(baseline::fading_gain(0.001, 1_000_000), 2.0);
    let config = with(|c| c.bleaching = Bleaching::Exponential);
    let mut activity = Activity::new(&config, 1, 10, 400);
    (0..400).for_each(|index| _ = activity.step(&[1_000.0 + index as f64], &[], true));
    activity.end_baseline();
    assert_eq!(activity.step(&[1_500.0], &[], true).f, [1_500.0]);
}

#[test]
fn the_robust_z_score_is_in_median_absolute_deviations() {
    let config = with(|c| (c.z_statistics, c.f0_mode) = (ZStatistics::Robust, F0Mode::Baseline));
    let mut activity = Activity::new(&config, 1, 4, 5);
    for f in [90.0, 100.0, 110.0, 120.0, 900.0] {
        activity.step(&[f], &[], true);
    }
    activity.end_baseline();
    // F0 is the first value, 90: the 10th percentile of five.
    let (median, sd) = activity.z_statistics(0);
    assert!((median - 20.0 / 90.0).abs() < 1e-12 && (sd - 1.482_602_2 * 10.0 / 90.0).abs() < 1e-7, "{median} {sd}");
}
