//! Tests of the activity stage.

use super::*;
use crate::config::activity::F0Mode;

fn config() -> ActivityConfig {
    ActivityConfig { detector_offset_counts: Some(0.0), ..Default::default() }
}

/// A reproducible row of values around 1,000 counts.
fn value(frame: usize, roi: usize) -> f64 {
    let mixed = (frame * 7919 + roi * 104_729 + 13) % 997;
    1000.0 + mixed as f64
}

fn row(frame: usize, rois: usize) -> Vec<f64> {
    (0..rois).map(|roi| value(frame, roi)).collect()
}

fn percentile_of(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile::hazen(&values, 10.0)
}

#[test]
fn corrected_f_is_without_offset_and_neuropil() {
    let config = ActivityConfig { detector_offset_counts: Some(100.0), ..config() };
    let mut activity = Activity::new(&config, 1, 10, 10).with_neuropil(0.5);
    assert_eq!(activity.step(&[300.0], &[200.0], true).f, [150.0]);
    assert_eq!(activity.step(&[300.0], &[], true).f, [200.0], "without neuropil only the offset is removed");
    activity.set_detector_offset(50.0);
    assert_eq!(activity.step(&[300.0], &[], true).f, [250.0]);
    assert_eq!(activity.detector_offset(), 50.0);
}

#[test]
fn during_the_baseline_f0_is_the_percentile_of_the_frames_so_far() {
    let mut activity = Activity::new(&config(), 2, 5, 30);
    for frame in 0..30 {
        let out = activity.step(&row(frame, 2), &[], true);
        for roi in 0..2 {
            assert_eq!(out.f0[roi], percentile_of((0..=frame).map(|f| value(f, roi)).collect()));
        }
        assert!(out.z[0].is_nan());
    }
    assert!(activity.baseline_is_full());
    assert_eq!(activity.baseline().row(1).unwrap()[7], value(7, 1));
}

#[test]
fn the_history_starts_full_with_the_last_frames_of_the_baseline() {
    let (baseline, window) = (30, 12);
    let mut activity = Activity::new(&config(), 2, window, baseline);
    for frame in 0..baseline {
        activity.step(&row(frame, 2), &[], true);
    }
    assert_eq!(activity.end_baseline(), baseline);
    for frame in baseline..baseline + 40 {
        let out = activity.step(&row(frame, 2), &[], true);
        for roi in 0..2 {
            let expected = percentile_of((frame + 1 - window..=frame).map(|f| value(f, roi)).collect());
            assert_eq!(out.f0[roi], expected, "frame {frame}");
            assert_eq!(out.dff[roi], (value(frame, roi) - expected) / expected);
        }
    }
}

#[test]
fn a_shorter_baseline_is_repeated_until_the_history_is_full() {
    let (baseline, window) = (5, 17);
    let mut activity = Activity::new(&config(), 1, window, baseline);
    for frame in 0..baseline {
        activity.step(&row(frame, 1), &[], true);
    }
    activity.end_baseline();
    // Oldest first: the repeated baseline, of which the last frame is the newest entry.
    let mut past: Vec<f64> = (0..4 * baseline).map(|f| value(f % baseline, 0)).collect();
    for frame in baseline..baseline + 30 {
        past.push(value(frame, 0));
        let expected = percentile_of(past[past.len() - window..].to_vec());
        assert_eq!(activity.step(&row(frame, 1), &[], true).f0[0], expected, "frame {frame}");
    }
}

#[test]
fn a_doubted_frame_stays_out_of_every_statistic() {
    let mut clean = Activity::new(&config(), 2, 8, 12);
    let mut doubted = clean.clone();
    for frame in 0..40 {
        if frame == 12 {
            assert_eq!(doubted.baseline().frames(), 12);
            clean.end_baseline();
            doubted.end_baseline();
            assert_eq!(clean.z_statistics(1), doubted.z_statistics(1));
        }
        if frame >= 12 && frame % 3 == 1 {
            let last = doubted.head.f0.clone();
            let out = doubted.step(&[9e6, f64::NAN], &[], false);
            assert_eq!(out.f0[0].to_bits(), last[0].to_bits(), "computed against the last F0");
            assert_eq!(out.dff[0], (9e6 - last[0]) / last[0]);
            assert!(!out.valid[1]);
        }
        let a = clean.step(&row(frame, 2), &[], true).dff.to_vec();
        assert_eq!(doubted.step(&row(frame, 2), &[], true).dff, a);
    }
}

#[test]
fn an_roi_whose_f0_is_under_the_floor_is_invalid() {
    let mut activity = Activity::new(&ActivityConfig { f0_floor: 50.0, ..config() }, 3, 4, 4);
    let out = activity.step(&[50.0, 51.0, f64::NAN], &[], true);
    assert_eq!(out.valid, [false, true, false]);
    assert!(out.dff[0].is_finite() && !out.valid[0], "told, and out of the cursor");
    assert_eq!(out.dff[1], 0.0);
}

#[test]
fn a_doubted_frame_of_the_baseline_keeps_its_place_with_the_last_good_values() {
    let mut activity = Activity::new(&config(), 1, 8, 6);
    for (value, valid) in [(9e6, false), (10.0, true), (9e6, false), (9e6, false), (12.0, true), (f64::NAN, false)] {
        activity.step(&[value], &[], valid);
    }
    assert!(activity.baseline_is_full());
    assert_eq!(activity.baseline().row(0).unwrap(), [10.0, 10.0, 10.0, 10.0, 12.0, 12.0]);
}

#[test]
fn a_detector_offset_found_at_the_end_is_as_good_as_one_known_from_the_start() {
    let mut late = Activity::new(&config(), 2, 8, 12).with_neuropil(0.5);
    let mut early = late.clone();
    early.set_detector_offset(4.0);
    for frame in 0..12 {
        let (f, fneu) = (row(frame, 2), row(frame + 5, 2));
        late.step(&f, &fneu, true);
        early.step(&f, &fneu, true);
    }
    late.rebase_detector_offset(4.0);
    late.end_baseline();
    early.end_baseline();
    let (a, b) = (late.step(&row(30, 2), &row(31, 2), true).dff[1], early.step(&row(30, 2), &row(31, 2), true).dff[1]);
    assert!((a - b).abs() < 1e-12, "{a} {b}");
}

#[test]
fn a_value_that_is_not_finite_leaves_the_other_frames_alone() {
    let mut activity = Activity::new(&config(), 1, 4, 8);
    for f in [100.0, f64::NAN, 120.0, f64::INFINITY, 140.0] {
        activity.step(&[f], &[], true);
    }
    assert_eq!(activity.head.f0, [100.0]);
    assert_eq!(activity.baseline().frames(), 5);
    activity.end_baseline();
    let out = activity.step(&[160.0], &[], true);
    assert_eq!((out.f0[0], out.valid[0]), (120.0, true), "NaN, 120, inf, 140, 160 without what is not finite");
    assert_eq!(activity.step(&[], &[], true).valid, [false], "a missing value is not finite");
}

#[test]
fn the_mode_baseline_keeps_its_f0() {
    let mut activity = Activity::new(&ActivityConfig { f0_mode: F0Mode::Baseline, ..config() }, 1, 4, 20);
    for frame in 0..20 {
        activity.step(&row(frame, 1), &[], true);
    }
    activity.end_baseline();
    let expected = percentile_of((0..20).map(|f| value(f, 0)).collect());
    for frame in 20..60 {
        assert_eq!(activity.step(&row(frame, 1), &[], true).f0[0], expected);
    }
}

#[test]
fn the_z_score_is_against_the_baselines_dff_with_the_circular_f0() {
    let (baseline, window) = (25, 10);
    let mut activity = Activity::new(&config(), 1, window, baseline);
    for frame in 0..baseline {
        activity.step(&row(frame, 1), &[], true);
    }
    activity.end_baseline();
    // The circular F0 of the baseline is what the stage gives when the baseline is shown once more.
    let mut again = activity.clone();
    let dff: Vec<f64> = (0..baseline).map(|frame| again.step(&row(frame, 1), &[], true).dff[0]).collect();
    let (mean, sd) = mean_sd(&dff);
    assert_eq!(activity.z_statistics(0), (mean, sd));
    let out = activity.step(&[1234.0], &[], true);
    assert_eq!(out.z[0], (out.dff[0] - mean) / sd);
}

#[test]
fn an_empty_baseline_leaves_an_empty_history() {
    let mut activity = Activity::new(&config(), 1, 3, 5);
    assert_eq!(activity.end_baseline(), 0);
    assert_eq!(activity.step(&[10.0], &[], false).valid, [false]);
    let out = activity.step(&[10.0], &[], true);
    assert_eq!((out.f0[0], out.valid[0]), (10.0, true));
    assert!(out.z[0].is_nan());
}

#[test]
fn frames_beyond_the_capacity_are_not_kept() {
    let mut activity = Activity::new(&config(), 1, 3, 2);
    for f in [10.0, 20.0, 5.0] {
        activity.step(&[f], &[], true);
    }
    assert_eq!(activity.baseline().row(0).unwrap(), [10.0, 20.0]);
    activity.begin_baseline();
    assert_eq!(activity.baseline().frames(), 0);
    assert_eq!(activity.step(&[7.0], &[], true).f0, [7.0]);
}

#[test]
fn snapshot_load_and_go_on_equals_uninterrupted() {
    let mut one = Activity::new(&config(), 3, 16, 20);
    let mut bytes = Vec::new();
    for frame in 0..80 {
        if frame == 20 {
            one.end_baseline();
        }
        bytes.clear();
        bytes.push(42);
        one.save(&mut bytes).unwrap();
        let mut two = Activity::new(&config(), 3, 16, 20);
        two.step(&[1.0, 2.0, 3.0], &[], true);
        assert_eq!(two.load(&bytes[1..]).unwrap(), bytes.len() - 1);
        let f = if frame % 7 == 3 { vec![f64::NAN, 4.0, 5.0] } else { row(frame, 3) };
        let a: Vec<u64> = one.step(&f, &[], frame % 5 != 4).dff.iter().map(|v| v.to_bits()).collect();
        let b: Vec<u64> = two.step(&f, &[], frame % 5 != 4).dff.iter().map(|v| v.to_bits()).collect();
        assert_eq!(a, b, "frame {frame}");
        assert_eq!(one.windows_in_use(), two.windows_in_use());
    }
}

/// F and Fneu of two ROIs: what moves the neuropil is in them by 0.3 and by 0.8.
fn contaminated(frame: usize) -> ([f64; 2], [f64; 2]) {
    let t = frame as f64;
    let noise = |k: usize| value(frame, k) / 500.0;
    let neuropil = [300.0 + 40.0 * libm::sin(t / 31.0) + noise(1), 500.0 + 60.0 * libm::cos(t / 47.0) + noise(2)];
    ([200.0 + 0.3 * neuropil[0] + noise(3), 200.0 + 0.8 * neuropil[1] + noise(4)], neuropil)
}

#[test]
fn estimated_coefficients_correct_the_baseline_and_what_follows() {
    let mut activity = Activity::new(&config(), 2, 300, 1_200).with_estimated_neuropil(30.0);
    for frame in 0..1_200 {
        let (f, fneu) = contaminated(frame);
        activity.step(&f, &fneu, frame % 50 != 7);
    }
    assert_eq!(activity.neuropil_coefficients(), [0.7, 0.7]);
    // an offset that is known late moves both
    activity.rebase_detector_offset(20.0);
    activity.end_baseline();
    let found = activity.neuropil_coefficients().to_vec();
    assert!((found[0] - 0.3).abs() < 0.02 && (found[1] - 0.8).abs() < 0.02, "{found:?}");
    for (roi, found) in found.into_iter().enumerate() {
        let mut given = Activity::new(&config(), 2, 300, 1_200).with_neuropil(found);
        for frame in 0..1_200 {
            let (f, fneu) = contaminated(frame);
            given.step(&f, &fneu, frame % 50 != 7);
        }
        given.rebase_detector_offset(20.0);
        given.end_baseline();
        for (a, b) in activity.baseline().row(roi).unwrap().iter().zip(given.baseline().row(roi).unwrap()) {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
        let mut estimated = activity.clone();
        for frame in 1_200..1_300 {
            let (f, fneu) = contaminated(frame);
            let (a, b) = (estimated.step(&f, &fneu, true).dff[roi], given.step(&f, &fneu, true).dff[roi]);
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
    }
    activity.begin_baseline();
    assert_eq!(activity.neuropil_coefficients(), [0.7, 0.7]);
}

#[test]
fn estimated_coefficients_are_saved_in_and_after_the_baseline() {
    let new = || Activity::new(&config(), 2, 300, 600).with_estimated_neuropil(30.0);
    let mut one = new();
    let mut two = new();
    let mut bytes = Vec::new();
    for frame in 0..700 {
        if frame == 600 {
            one.end_baseline();
            two.end_baseline();
            assert_ne!(one.neuropil_coefficients()[0], 0.7);
            assert_eq!(one.neuropil_coefficients(), two.neuropil_coefficients());
        }
        let (f, fneu) = contaminated(frame);
        let a = one.step(&f, &fneu, frame % 9 != 4).dff.to_vec();
        assert_eq!(a, two.step(&f, &fneu, frame % 9 != 4).dff, "frame {frame}");
        if frame % 97 == 50 {
            bytes.clear();
            one.save(&mut bytes).unwrap();
            assert!(bytes.len() < one.state_bytes().most);
            two = new();
            assert_eq!(two.load(&bytes).unwrap(), bytes.len());
            assert!(new().load(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}

#[test]
fn a_state_of_another_shape_is_refused() {
    let mut bytes = Vec::new();
    Activity::new(&config(), 3, 16, 20).save(&mut bytes).unwrap();
    let mut other = Activity::new(&config(), 4, 16, 20);
    let error = other.load(&bytes).unwrap_err().to_string();
    assert_eq!(error, "activity: the state has ROIs 3, expected 4");
    let mut same = Activity::new(&config(), 3, 16, 20);
    same.step(&[1.0, 2.0, 3.0], &[], true);
    bytes.clear();
    same.save(&mut bytes).unwrap();
    assert!(matches!(same.load(&bytes[..bytes.len() - 1]), Err(StateError::Short { .. })));
    assert!(same.load(&[]).is_err());
}

impl Activity {
    fn windows_in_use(&self) -> Vec<Vec<f64>> {
        (0..self.head.roi_count).map(|roi| self.windows.sorted(roi)).collect()
    }
}
