//! Bidirectional scanning: frames whose odd lines lie aside of the even ones by a known amount.

use super::tests::{Scene, config, error, view, wander};
use super::{FitVerdict, Rigid};
use crate::config::register::{BidirectionalPhase, PhaseWord, RegisterConfig};

/// A frame whose even lines are displaced by the shift, and whose odd lines lie `phase` columns further right.
fn frame(scene: &Scene, dy: f64, dx: f64, phase: f64, photons: f64, seed: u64) -> Vec<u16> {
    let width = scene.geometry.width_px;
    let (even, odd) = (scene.samples(dy, dx, photons, seed), scene.samples(dy, dx + phase, photons, seed + 7_000));
    let lines = even.chunks(width).zip(odd.chunks(width)).enumerate();
    lines.flat_map(|(row, (even, odd))| if row % 2 == 1 { odd } else { even }).copied().collect()
}

fn with(phase: BidirectionalPhase) -> RegisterConfig {
    RegisterConfig { bidirectional_phase: phase, ..config() }
}

const ESTIMATE: BidirectionalPhase = BidirectionalPhase::Word(PhaseWord::Estimate);

#[test]
fn the_baseline_tells_the_phase_and_shifts_are_those_of_even_lines() {
    for (phase, seed) in [(-3.4, 31), (0.0, 32), (0.5, 33), (1.7, 34), (6.2, 35)] {
        let scene = Scene::new(192, 200, seed);
        for mode in [ESTIMATE, BidirectionalPhase::Px(phase)] {
            let mut rigid = Rigid::new(&with(mode), scene.geometry);
            rigid.begin_baseline();
            for t in 0..40u32 {
                let (dy, dx) = wander(t);
                let r = rigid.step(&view(scene.geometry, &frame(&scene, dy, dx, phase, 3.0, u64::from(t))));
                assert_eq!(r.verdict, FitVerdict::Good, "{mode:?}: {phase}, frame {t}: {r:?}");
            }
            rigid.freeze_template().expect("40 frames");
            assert!((rigid.odd_lines_px() - phase).abs() < 0.1, "{phase}: {}", rigid.odd_lines_px());
            // the template is made of frames moved by whole pixels: where it lies is a constant below half a pixel
            let mut first = None;
            for (t, (dy, dx)) in
                [(0.0, 0.0), (0.5, 0.3), (1.0, -0.7), (2.5, 1.5), (-1.0, 0.0), (7.0, -8.4)].into_iter().enumerate()
            {
                let samples = frame(&scene, dy, dx, phase, 30.0, 100 + t as u64);
                let r = rigid.step(&view(scene.geometry, &samples));
                let (y, x) = *first.get_or_insert((r.dy_px, r.dx_px));
                assert!(y.abs() < 0.5 && x.abs() < 0.5, "{phase}: {r:?}");
                assert_eq!(r.verdict, FitVerdict::Good, "{mode:?}: {phase}, {dy} {dx}: {r:?}");
                assert!(error(&r, dy + y, dx + x) < 0.08, "{mode:?}: {phase}, {dy} {dx}: {r:?} from {y} {x}");
            }
        }
    }
}

#[test]
fn a_phase_goes_with_the_saved_state_and_every_path_gives_the_same_bits() {
    let scene = Scene::new(96, 140, 36);
    let samples = |t: u32| frame(&scene, wander(t).0, wander(t).1, 1.7, 3.0, u64::from(t));
    for cut in [0, 3, 19, 25] {
        let mut whole = Rigid::new(&with(ESTIMATE), scene.geometry);
        let mut plain = Rigid::new(&RegisterConfig { simd: false, ..with(ESTIMATE) }, scene.geometry);
        whole.begin_baseline();
        plain.begin_baseline();
        for t in 0..30 {
            if t == 20 {
                whole.freeze_template().expect("20 frames");
                plain.freeze_template().expect("20 frames");
            }
            if t == cut {
                let mut bytes = Vec::new();
                whole.save(&mut bytes);
                whole = Rigid::new(&with(ESTIMATE), scene.geometry);
                assert_eq!(whole.load(&bytes), Ok(bytes.len()));
            }
            let samples = samples(t);
            let expected = plain.step(&view(scene.geometry, &samples));
            assert_eq!(whole.step(&view(scene.geometry, &samples)), expected, "cut {cut}, frame {t}");
            assert_eq!(whole.odd_lines_px().to_bits(), plain.odd_lines_px().to_bits());
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        whole.save(&mut a);
        plain.save(&mut b);
        assert!(a == b);
    }
}

#[test]
fn a_phase_of_a_state_that_cannot_be_is_refused() {
    let scene = Scene::new(64, 64, 37);
    let mut rigid = Rigid::new(&with(ESTIMATE), scene.geometry);
    let mut bytes = Vec::new();
    rigid.save(&mut bytes);
    let at = bytes.len() - 8;
    for px in [f64::NAN, 99.0] {
        bytes[at..].copy_from_slice(&px.to_le_bytes());
        let said = rigid.load(&bytes).expect_err("no phase").to_string();
        assert!(said.contains("phase of odd lines"), "{said}");
    }
}

#[test]
fn frames_too_small_for_a_phase_are_taken_as_they_are() {
    for (height, width) in [(1, 1), (9, 9), (16, 12), (40, 24), (24, 40)] {
        let scene = Scene::new(height, width, 38);
        for mode in [ESTIMATE, BidirectionalPhase::Px(-7.5)] {
            let mut rigid = Rigid::new(&with(mode), scene.geometry);
            rigid.begin_baseline();
            for t in 0..12 {
                let r = rigid.step(&view(scene.geometry, &scene.samples(0.0, 0.3, 30.0, t)));
                assert!(r.dy_px.is_finite() && r.dx_px.is_finite());
            }
        }
    }
}
