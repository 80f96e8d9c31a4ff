//! Blocks on scenes whose deformation is known.

use super::tests::{Scene, config, ready, view};
use super::{FitVerdict, Rigid};
use crate::config::register::{BidirectionalPhase, RegisterConfig};
use crate::frame::Image;

/// Blocks of about 96 pixels in 256 x 256.
fn blocks() -> RegisterConfig {
    RegisterConfig { piecewise: true, blocks_y: 4, blocks_x: 4, ..config() }
}

/// A shear by line time and a slow wave, up to 1.5 px each, different in every frame.
fn deformed(t: u32, row: f64, column: f64) -> (f64, f64) {
    let t = f64::from(t);
    let (rate, wave, phase) = ((0.9 * t).sin(), (0.6 * t + 1.0).cos(), 0.35 * t);
    let lines = row / 255.0 - 0.5;
    let slow = (column / 255.0 * 4.0 + phase).sin();
    (0.8 + 2.0 * rate * lines, -0.4 + 3.0 * rate * lines + 1.2 * wave * slow)
}

/// A frame that moves as a whole.
fn still(t: u32, _: f64, _: f64) -> (f64, f64) {
    (0.9 * f64::from(t).sin(), 1.3 * (0.7 * f64::from(t)).cos())
}

/// Where the content of a place on the template is found, in pixels from there.
fn found_at(truth: &dyn Fn(f64, f64) -> (f64, f64), row: f64, column: f64) -> (f64, f64) {
    let mut moved = truth(row, column);
    for _ in 0..8 {
        moved = truth(row + moved.0, column + moved.1);
    }
    moved
}

/// Root mean square errors of the local shift at places all over the frame: of the rigid shift, and of the blocks'.
fn errors(scene: &Scene, photons: f64, truth: fn(u32, f64, f64) -> (f64, f64)) -> [f64; 2] {
    let mut rigid = ready(scene, &blocks(), photons);
    let (mut sums, mut count) = ([0.0; 2], 0.0);
    let rest = rigid.step(&view(scene.geometry, &scene.samples(0.0, 0.0, 0.0, 1)));
    for t in 0..24 {
        let light = scene.light_moved(&|row, column| truth(t, row, column));
        let r = rigid.step(&view(scene.geometry, &Scene::noisy(light, photons, 7_000 + u64::from(t))));
        assert!(matches!(r.verdict, FitVerdict::Good | FitVerdict::Jump), "{t}: {r:?}");
        let (dy, dx) = rigid.block_shifts();
        for place in 0..100 {
            let (row, column) = (8.0 + f64::from(place / 10) * 26.5, 8.0 + f64::from(place % 10) * 26.5);
            let moved = found_at(&|row, column| truth(t, row, column), row, column);
            let beyond = rigid.block_grid().expect("blocks").at(dy, dx, row, column);
            let off = |by: (f64, f64)| {
                let (y, x) = (r.dy_px - rest.dy_px + by.0 - moved.0, r.dx_px - rest.dx_px + by.1 - moved.1);
                y * y + x * x
            };
            sums[0] += off((0.0, 0.0));
            sums[1] += off(beyond);
            count += 2.0;
        }
    }
    sums.map(|sum| (sum / count).sqrt())
}

#[test]
fn blocks_follow_a_deformation_that_the_frames_shift_cannot_and_leave_a_rigid_frame_alone() {
    let scene = Scene::new(256, 256, 40);
    for (photons, share, worse_px) in [(1.0, 0.45, 0.03), (8.0, 0.25, 0.015)] {
        let [whole, local] = errors(&scene, photons, deformed);
        assert!(local < share * whole, "{photons} photons: rigid {whole:.3} px, blocks {local:.3} px");
        let [whole, local] = errors(&scene, photons, still);
        assert!(local < whole + worse_px, "{photons} photons, at rest: rigid {whole:.3} px, blocks {local:.3} px");
    }
}

#[test]
fn the_frames_own_shift_score_and_verdict_do_not_depend_on_blocks() {
    let scene = Scene::new(160, 200, 41);
    let (mut with, mut without) = (ready(&scene, &blocks(), 3.0), ready(&scene, &config(), 3.0));
    for t in 0..6 {
        let light = scene.light_moved(&|row, column| deformed(t, row, column));
        let samples = Scene::noisy(light, 3.0, u64::from(t));
        let view = view(scene.geometry, &samples);
        assert_eq!(with.step(&view), without.step(&view));
    }
    assert!(with.block_shifts().0.iter().any(|&px| px != 0.0));
    assert_eq!((without.block_shifts(), without.block_grid()), ((&[][..], &[][..]), None));
}

#[test]
fn a_dark_half_follows_the_other() {
    let scene = Scene::new(256, 256, 42);
    let mut rigid = ready(&scene, &blocks(), 8.0);
    let light = scene.light_moved(&|row, _| (0.0, 3.0 * (row / 255.0 - 0.5)));
    let mut samples = Scene::noisy(light, 8.0, 5);
    // the right half has lost its light: a frame of which half can be told
    for line in samples.chunks_exact_mut(256) {
        for (k, sample) in line[128..].iter_mut().enumerate() {
            *sample = 1000 + (k % 3) as u16;
        }
    }
    let r = rigid.step(&view(scene.geometry, &samples));
    assert!(matches!(r.verdict, FitVerdict::Good | FitVerdict::Jump), "{r:?}");
    let (_, dx) = rigid.block_shifts();
    for row in 0..4 {
        let of = |column: usize| f64::from(dx[row * 4 + column]);
        assert!((of(3) - of(0)).abs() < 0.15 && (of(2) - of(0)).abs() < 0.15, "row {row}: {dx:?}");
    }
    let spread = f64::from(dx[15]) - f64::from(dx[3]);
    assert!((spread - 3.0 * (208.5 - 45.5) / 255.0).abs() < 0.3, "{dx:?}");
}

#[test]
fn a_frame_that_is_not_believed_leaves_the_blocks_as_they_were_and_a_baseline_puts_them_at_rest() {
    let scene = Scene::new(160, 160, 43);
    let mut rigid = ready(&scene, &blocks(), 8.0);
    let light = scene.light_moved(&|row, column| deformed(3, 1.6 * row, 1.6 * column));
    rigid.step(&view(scene.geometry, &Scene::noisy(light, 8.0, 9)));
    let owned = |rigid: &Rigid| (rigid.block_shifts().0.to_vec(), rigid.block_shifts().1.to_vec());
    let before = owned(&rigid);
    assert!(before.1.iter().any(|&px| px.abs() > 0.3), "{before:?}");
    assert_eq!(rigid.step(&view(scene.geometry, &[7; 160 * 160])).verdict, FitVerdict::Blank);
    assert_eq!(owned(&rigid), before);
    let mut saved = Vec::new();
    rigid.save(&mut saved);
    let mut other = Rigid::new(&blocks(), scene.geometry);
    assert_eq!(other.load(&saved), Ok(saved.len()));
    assert_eq!(owned(&other), before);
    let next = Scene::noisy(scene.light_moved(&|row, column| deformed(4, 1.6 * row, column)), 3.0, 10);
    assert_eq!(rigid.step(&view(scene.geometry, &next)), other.step(&view(scene.geometry, &next)));
    assert_eq!(owned(&rigid), owned(&other));
    let far = RegisterConfig { max_block_shift_px: 0.5, ..blocks() };
    let refused = Rigid::new(&far, scene.geometry).load(&saved).map_err(|e| e.to_string());
    assert!(refused.is_err_and(|e| e.contains("its blocks lie further than they may")));
    rigid.begin_baseline();
    assert!(owned(&rigid).0.iter().chain(&owned(&rigid).1).all(|&px| px == 0.0));
}

#[test]
fn every_path_and_every_cutting_into_strips_gives_the_same_bits() {
    let scene = Scene::new(150, 180, 44);
    for phase in [0.0, 1.7] {
        let phase = if phase == 0.0 { config().bidirectional_phase } else { BidirectionalPhase::Px(phase) };
        let of = |simd| {
            let config = RegisterConfig { simd, bidirectional_phase: phase, blocks_y: 5, ..blocks() };
            let mut rigid = Rigid::new(&config, scene.geometry);
            let values = scene.light_moved(&|_, _| (0.0, 0.0)).iter().map(|&v| v as f32).collect();
            rigid.load_template(&Image { geometry: scene.geometry, values }).expect("an image");
            rigid
        };
        let (mut fast, mut plain) = (of(true), of(false));
        for t in 0..8 {
            // far enough that tiles leave the frame
            let far = 3.0 * f64::from(t);
            let moved = |row: f64, column: f64| {
                let (dy, dx) = deformed(t, row, column);
                (dy - far, dx + far)
            };
            let samples = Scene::noisy(scene.light_moved(&moved), 8.0, u64::from(t));
            let view = view(scene.geometry, &samples);
            assert_eq!(fast.step(&view), plain.step(&view));
            let bits = |rigid: &Rigid| -> Vec<u32> {
                let (dy, dx) = rigid.block_shifts();
                dy.iter().chain(dx).map(|px| px.to_bits()).collect()
            };
            assert_eq!(bits(&fast), bits(&plain));
            fast.blocks_do_not_depend_on_strips(&view, &[0, 1, 40, 41, 97, 150]);
        }
        assert!(fast.block_shifts().0.iter().any(|&px| px != 0.0));
    }
}

#[test]
fn a_deviation_beyond_the_largest_is_cut_there() {
    let scene = Scene::new(256, 256, 45);
    let mut rigid = ready(&scene, &RegisterConfig { max_block_shift_px: 0.5, ..blocks() }, 8.0);
    let light = scene.light_moved(&|row, _| (0.0, 4.0 * (row / 255.0 - 0.5)));
    rigid.step(&view(scene.geometry, &Scene::noisy(light, 8.0, 3)));
    let largest = rigid.block_shifts().1.iter().fold(0.0f32, |most, px| most.max(px.abs()));
    assert_eq!(largest, 0.5);
}
