//! The stage's rules, on scenes whose truth is known: blobs rendered analytically at any shift, noise from a seed.

use proptest::prelude::*;

use super::{FitVerdict, RegisterError, Registration, Rigid};
use crate::config::register::RegisterConfig;
use crate::frame::{FrameView, Geometry, Image};

/// A linear congruential generator: the same noise everywhere.
pub(super) struct Noise(pub(super) u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Roughly normal, mean 0, standard deviation 1.
    fn normal(&mut self) -> f64 {
        (0..6).map(|_| self.uniform() - 0.5).sum::<f64>() * 2.0f64.sqrt()
    }
}

/// Somata of some 5 px on a dim ground, as (row, column, amplitude).
pub(super) struct Scene {
    pub(super) geometry: Geometry,
    blobs: Vec<(f64, f64, f64)>,
}

impl Scene {
    pub(super) fn new(height_px: usize, width_px: usize, seed: u64) -> Self {
        let mut noise = Noise(seed);
        let count = (height_px + 60) * (width_px + 60) / 250;
        let mut place = |size: usize| noise.uniform() * (size + 120) as f64 - 60.0;
        let blobs = (0..count).map(|_| (place(height_px), place(width_px))).collect::<Vec<_>>();
        let blobs = blobs.into_iter().map(|(r, c)| (r, c, 0.3 + noise.uniform())).collect();
        Self { geometry: Geometry::new(height_px, width_px), blobs }
    }

    /// Light at every pixel where the content seen at (row, column) lies `moved(row, column)` from its place at rest.
    pub(super) fn light_moved(&self, moved: &dyn Fn(f64, f64) -> (f64, f64)) -> Vec<f64> {
        let Geometry { height_px, width_px } = self.geometry;
        let mut light = vec![0.3; self.geometry.count()];
        let shifts: Vec<(f64, f64)> =
            (0..light.len()).map(|i| moved((i / width_px) as f64, (i % width_px) as f64)).collect();
        for &(row, column, amplitude) in &self.blobs {
            let reach = |at: f64, size: usize| (at - 16.0).max(0.0) as usize..((at + 17.0).max(0.0) as usize).min(size);
            for r in reach(row, height_px) {
                for c in reach(column, width_px) {
                    let (dy, dx) = shifts[r * width_px + c];
                    let d2 = (r as f64 - dy - row).powi(2) + (c as f64 - dx - column).powi(2);
                    if d2 < 80.0 {
                        light[r * width_px + c] += amplitude * (-d2 / 8.0).exp();
                    }
                }
            }
        }
        light
    }

    /// Light at every pixel with the content displaced; about 0.2 to 2.
    pub(super) fn light(&self, dy: f64, dx: f64) -> Vec<f64> {
        let Geometry { height_px, width_px } = self.geometry;
        let mut light = vec![0.3; self.geometry.count()];
        for &(row, column, amplitude) in &self.blobs {
            let (r0, c0) = (row + dy, column + dx);
            for r in (r0 - 8.0).max(0.0) as usize..((r0 + 9.0).max(0.0) as usize).min(height_px) {
                for c in (c0 - 8.0).max(0.0) as usize..((c0 + 9.0).max(0.0) as usize).min(width_px) {
                    let d2 = (r as f64 - r0).powi(2) + (c as f64 - c0).powi(2);
                    light[r * width_px + c] += amplitude * (-d2 / 8.0).exp();
                }
            }
        }
        light
    }

    /// Samples at `photons` per unit of light; 0 photons means no noise.
    pub(super) fn samples(&self, dy: f64, dx: f64, photons: f64, seed: u64) -> Vec<u16> {
        Self::noisy(self.light(dy, dx), photons, seed)
    }

    /// Samples of light.
    pub(super) fn noisy(light: Vec<f64>, photons: f64, seed: u64) -> Vec<u16> {
        let mut noise = Noise(seed.wrapping_mul(77_777) + 1);
        let mut sample = |light: f64| {
            let variance = if photons > 0.0 { light / photons } else { 0.0 };
            (1000.0 + 500.0 * (light + variance.sqrt() * noise.normal())).clamp(0.0, 65_535.0) as u16
        };
        light.into_iter().map(&mut sample).collect()
    }

    pub(super) fn image(&self, dy: f64, dx: f64) -> Image {
        Image { geometry: self.geometry, values: self.light(dy, dx).iter().map(|&v| v as f32).collect() }
    }
}

pub(super) fn view(geometry: Geometry, samples: &[u16]) -> FrameView<'_> {
    FrameView { geometry, samples, bias: 0, saturation: 65_535 }
}

pub(super) fn config() -> RegisterConfig {
    RegisterConfig { min_template_frames: 8, ..RegisterConfig::default() }
}

/// A tracker after a baseline of 20 frames that move a little.
pub(super) fn ready(scene: &Scene, config: &RegisterConfig, photons: f64) -> Rigid {
    let mut rigid = Rigid::new(config, scene.geometry);
    rigid.begin_baseline();
    for t in 0..20u32 {
        let (dy, dx) = wander(t);
        let r = rigid.step(&view(scene.geometry, &scene.samples(dy, dx, photons, u64::from(t))));
        assert_eq!(r.verdict, FitVerdict::Good, "baseline frame {t}: {r:?}");
    }
    rigid.freeze_template().expect("20 frames are enough");
    rigid
}

/// A small motion that starts at (0, 0).
pub(super) fn wander(t: u32) -> (f64, f64) {
    let t = f64::from(t);
    (0.9 * (0.7 * t).sin(), 1.3 * (0.45 * t).sin())
}

fn step(rigid: &mut Rigid, scene: &Scene, dy: f64, dx: f64, photons: f64, seed: u64) -> Registration {
    rigid.step(&view(scene.geometry, &scene.samples(dy, dx, photons, seed)))
}

/// How far a registration is from the truth, in pixels, the larger of the axes.
pub(super) fn error(r: &Registration, dy: f64, dx: f64) -> f64 {
    (r.dy_px - dy).abs().max((r.dx_px - dx).abs())
}

#[test]
fn the_estimate_is_not_biased_between_pixels() {
    let scene = Scene::new(128, 160, 3);
    let mut rigid = Rigid::new(&RegisterConfig { min_template_frames: 1, ..config() }, scene.geometry);
    rigid.load_template(&scene.image(0.0, 0.0)).expect("a good image");
    for k in 0..=20 {
        let (dy, dx) = (0.1 * f64::from(k), -0.07 * f64::from(k));
        let r = step(&mut rigid, &scene, dy, dx, 0.0, 0);
        assert!(error(&r, dy, dx) < 0.01 && r.verdict == FitVerdict::Good, "{dy} {dx}: {r:?}");
    }
}

#[test]
fn a_template_of_one_noisy_frame_does_not_hold_the_shift_back() {
    let scene = Scene::new(160, 160, 4);
    let (mut sum, mut count) = (0.0, 0.0);
    for seed in 0..12 {
        let mut rigid = Rigid::new(&config(), scene.geometry);
        rigid.begin_baseline();
        step(&mut rigid, &scene, 0.0, 0.0, 8.0, 2 * seed);
        let r = step(&mut rigid, &scene, 0.5, -0.5, 8.0, 2 * seed + 1);
        sum += r.dy_px - r.dx_px;
        count += 2.0;
    }
    assert!((sum / count - 0.5f64).abs() < 0.03, "mean shift {}", sum / count);
}

#[test]
fn noisy_frames_are_registered_to_a_few_hundredths_of_a_pixel() {
    let scene = Scene::new(256, 200, 5);
    let mut rigid = ready(&scene, &config(), 10.0);
    let mut errors = Vec::new();
    for t in 0..40 {
        let (dy, dx) = (3.0 * (0.31 * f64::from(t)).sin(), 4.0 * (0.23 * f64::from(t)).sin());
        let r = step(&mut rigid, &scene, dy, dx, 10.0, 500 + t as u64);
        assert_eq!(r.verdict, FitVerdict::Good);
        errors.push((r.dy_px - dy, r.dx_px - dx));
    }
    let n = errors.len() as f64;
    let mean = errors.iter().fold((0.0, 0.0), |m, e| (m.0 + e.0 / n, m.1 + e.1 / n));
    let rmse = |e: &dyn Fn(&(f64, f64)) -> f64| (errors.iter().map(|v| e(v).powi(2)).sum::<f64>() / n).sqrt();
    let (y, x) = (rmse(&|e| e.0 - mean.0), rmse(&|e| e.1 - mean.1));
    assert!(y < 0.035 && x < 0.035, "rmse {y} {x}");
}

#[test]
fn a_jump_of_40_px_is_found_at_the_very_next_frame() {
    let scene = Scene::new(320, 320, 6);
    let mut rigid = ready(&scene, &config(), 3.0);
    // the template's own position is that of its frames, a fraction of a pixel from the scene's
    let rest = step(&mut rigid, &scene, 0.0, 0.0, 3.0, 899);
    let mut moved = |dy: f64, dx: f64, seed: u64| {
        let r = step(&mut rigid, &scene, dy, dx, 3.0, seed);
        assert!(error(&r, rest.dy_px + dy, rest.dx_px + dx) < 0.25, "{r:?} {rest:?}");
        (r.verdict, r.reacquired)
    };
    assert_eq!(moved(40.0, -40.0, 900), (FitVerdict::Jump, true));
    assert_eq!(moved(40.3, -39.8, 901), (FitVerdict::Good, false));
    assert_eq!(moved(0.2, 0.1, 902), (FitVerdict::Jump, true));
}

#[test]
fn the_score_is_about_one_in_its_place_and_collapses_away_from_it() {
    for photons in [3.0, 0.6] {
        let scene = Scene::new(320, 320, 7);
        let rigid = ready(&scene, &config(), photons);
        for seed in 0..4 {
            let samples = scene.samples(0.0, 0.0, photons, 300 + seed);
            let score = |lag| rigid.score_at(&view(scene.geometry, &samples), lag);
            assert!(score((0, 0)) > 0.7, "{}", score((0, 0)));
            for wrong in [(3, 0), (0, -3), (40, 0), (-40, 40)] {
                assert!(score(wrong) < config().min_score, "{wrong:?}: {}", score(wrong));
            }
        }
    }
}

#[test]
fn content_beyond_the_largest_shift_is_doubted_not_guessed() {
    let scene = Scene::new(200, 200, 25);
    let mut rigid = ready(&scene, &config(), 10.0);
    for dy in [36.0, 45.0] {
        let r = step(&mut rigid, &scene, dy, 0.0, 10.0, 60);
        assert!(r.verdict == FitVerdict::LowScore && r.dy_px.abs() < 3.0, "{dy}: {r:?}");
    }
    assert_eq!(step(&mut rigid, &scene, 0.5, 0.0, 10.0, 61).verdict, FitVerdict::Good);
}

#[test]
fn a_frame_of_another_place_is_low_score_and_does_not_move_the_tracker() {
    let (scene, other) = (Scene::new(200, 200, 8), Scene::new(200, 200, 9));
    let mut rigid = ready(&scene, &config(), 3.0);
    let good = step(&mut rigid, &scene, 1.0, -1.0, 3.0, 40);
    let r = step(&mut rigid, &other, 0.0, 0.0, 3.0, 41);
    assert_eq!((r.verdict, r.dy_px, r.dx_px), (FitVerdict::LowScore, good.dy_px, good.dx_px));
}

#[test]
fn blank_saturated_and_torn_frames_are_marked_and_do_not_move_the_tracker() {
    let scene = Scene::new(320, 256, 10);
    let mut rigid = ready(&scene, &config(), 3.0);
    let good = step(&mut rigid, &scene, 1.0, -1.0, 3.0, 50);
    let fresh = scene.samples(2.0, 0.0, 3.0, 51);
    let far = scene.samples(30.0, -30.0, 3.0, 52);
    let changed = |change: &dyn Fn(usize, u16) -> u16| -> Vec<u16> {
        fresh.iter().enumerate().map(|(i, &s)| change(i / 256, s)).collect()
    };
    let mut noise = Noise(3);
    let dark: Vec<u16> = (0..320 * 256).map(|_| (100.0 + 3.0 * noise.normal()) as u16).collect();
    let cases = [
        (FitVerdict::Blank, vec![0; 320 * 256]),
        (FitVerdict::Blank, vec![65_534; 320 * 256]),
        (FitVerdict::Blank, dark),
        (FitVerdict::Saturated, changed(&|row, s| if row % 8 == 0 { 65_535 } else { s })),
        (FitVerdict::Torn, changed(&|row, s| if row < 250 { s } else { 0 })),
        (FitVerdict::Torn, changed(&|row, s| if row < 310 { s } else { 0 })),
        (
            FitVerdict::Torn,
            fresh.iter().zip(&far).enumerate().map(|(i, (&a, &b))| if i / 256 < 170 { a } else { b }).collect(),
        ),
    ];
    for (k, (verdict, samples)) in cases.iter().enumerate() {
        let r = rigid.step(&view(scene.geometry, samples));
        assert_eq!((r.verdict, r.dy_px, r.dx_px), (*verdict, good.dy_px, good.dx_px), "case {k}: {r:?}");
    }
    assert_eq!(step(&mut rigid, &scene, 1.2, -1.1, 3.0, 53).verdict, FitVerdict::Good);
}

#[test]
fn doubted_frames_stay_out_of_the_template() {
    let scene = Scene::new(128, 128, 11);
    let mut rigid = Rigid::new(&config(), scene.geometry);
    rigid.begin_baseline();
    assert_eq!(rigid.step(&view(scene.geometry, &[0; 128 * 128])).verdict, FitVerdict::Blank);
    for t in 0..10 {
        step(&mut rigid, &scene, 0.0, 0.0, 3.0, t);
        rigid.step(&view(scene.geometry, &[65_535; 128 * 128]));
        rigid.step(&view(scene.geometry, &[7; 128 * 128]));
    }
    assert_eq!(rigid.template_frames(), 10);
}

#[test]
fn a_baseline_whose_first_frame_was_of_another_place_starts_anew() {
    let (scene, other) = (Scene::new(160, 160, 12), Scene::new(160, 160, 13));
    let mut rigid = Rigid::new(&config(), scene.geometry);
    rigid.begin_baseline();
    step(&mut rigid, &other, 0.0, 0.0, 3.0, 0);
    for t in 1..40 {
        step(&mut rigid, &scene, 0.1, 0.0, 3.0, t);
    }
    rigid.freeze_template().expect("32 frames");
    assert_eq!(rigid.template_frames(), 32);
}

#[test]
fn a_template_needs_its_frames_and_a_baseline() {
    let scene = Scene::new(64, 64, 14);
    let mut rigid = Rigid::new(&config(), scene.geometry);
    assert_eq!(rigid.freeze_template(), Err(RegisterError::NoBaseline));
    assert_eq!(step(&mut rigid, &scene, 0.0, 0.0, 3.0, 0).verdict, FitVerdict::NotReady);
    rigid.begin_baseline();
    for t in 0..7 {
        step(&mut rigid, &scene, 0.0, 0.0, 3.0, t);
    }
    assert_eq!(rigid.freeze_template(), Err(RegisterError::TooFewFrames { have: 7, need: 8 }));
    step(&mut rigid, &scene, 0.0, 0.0, 3.0, 8);
    assert!(!rigid.is_frozen());
    assert_eq!(rigid.freeze_template(), Ok(()));
    assert!(rigid.is_frozen());
    let mean = rigid.template().expect("a template").values.iter().sum::<f32>() / 4096.0;
    assert!((1100.0..2500.0).contains(&mean), "{mean}");
}

#[test]
fn another_size_is_not_ready_and_off_is_off() {
    let scene = Scene::new(64, 64, 15);
    let mut rigid = ready(&scene, &config(), 3.0);
    let other = view(Geometry::new(32, 128), &[5; 4096]);
    assert_eq!(rigid.step(&other).verdict, FitVerdict::NotReady);
    let mut off = Rigid::new(&RegisterConfig { enabled: false, ..config() }, scene.geometry);
    let r = step(&mut off, &scene, 3.0, 3.0, 0.0, 0);
    assert_eq!((r.verdict, r.dy_px, r.dx_px), (FitVerdict::Off, 0.0, 0.0));
}

#[test]
fn every_size_works_or_says_not_ready() {
    for (height, width) in [(1, 1), (2, 300), (9, 9), (16, 16), (24, 17), (64, 64), (127, 93), (40, 796), (33, 34)] {
        let scene = Scene::new(height, width, 16);
        let mut rigid = Rigid::new(&config(), scene.geometry);
        let _ = rigid.set_reference(&scene.image(0.0, 0.0));
        rigid.begin_baseline();
        for t in 0..20 {
            let r = step(&mut rigid, &scene, 0.0, 0.3, 30.0, t);
            let expected = if height.min(width) < 12 { FitVerdict::NotReady } else { FitVerdict::Good };
            assert!(
                r.verdict == expected || (height < 40 && r.verdict != FitVerdict::NotReady),
                "{height} x {width}: {r:?}"
            );
        }
        if height.min(width) >= 40 {
            rigid.freeze_template().expect("20 frames");
            let r = step(&mut rigid, &scene, 1.0, 1.3, 30.0, 99);
            assert!(error(&r, 1.0, 1.0) < 0.1, "{height} x {width}: {r:?}");
        }
    }
}

#[test]
fn gain_and_offset_of_the_detector_do_not_matter() {
    let scene = Scene::new(128, 128, 17);
    let mut rigid = ready(&scene, &config(), 3.0);
    let mut same = ready(&scene, &config(), 3.0);
    let samples = scene.samples(1.3, -0.6, 3.0, 77);
    let other: Vec<u16> = samples.iter().map(|&s| 2 * s + 500).collect();
    let (a, b) = (rigid.step(&view(scene.geometry, &samples)), same.step(&view(scene.geometry, &other)));
    assert!(error(&a, b.dy_px, b.dx_px) < 1e-6 && (a.score - b.score).abs() < 1e-6, "{a:?} {b:?}");
}

#[test]
fn signed_pixels_with_a_bias_give_the_same_shifts_and_a_template_in_counts() {
    let scene = Scene::new(96, 96, 18);
    let (mut plain, mut signed) = (Rigid::new(&config(), scene.geometry), Rigid::new(&config(), scene.geometry));
    plain.begin_baseline();
    signed.begin_baseline();
    for t in 0..12 {
        let samples = scene.samples(0.0, wander(t).1, 3.0, u64::from(t));
        let raised: Vec<u16> = samples.iter().map(|&s| s + 32_768 - 2_000).collect();
        let a = plain.step(&view(scene.geometry, &samples));
        let b =
            signed.step(&FrameView { geometry: scene.geometry, samples: &raised, bias: 32_768, saturation: 65_535 });
        assert!(error(&a, b.dy_px, b.dx_px) < 1e-3, "{a:?} {b:?}");
    }
    let (a, b) = (plain.template().expect("one"), signed.template().expect("one"));
    assert!(a.values.iter().zip(&b.values).all(|(a, b)| (a - 2_000.0 - b).abs() < 0.01));
}

#[test]
fn the_template_is_registered_to_a_mean_image_and_to_masks_by_its_eighth_frame() {
    let scene = Scene::new(256, 256, 19);
    let mean = scene.image(0.0, 0.0);
    // bright cells alone, zero elsewhere
    let masks = Image { geometry: scene.geometry, values: mean.values.iter().map(|&v| (v - 0.8).max(0.0)).collect() };
    for reference in [mean, masks] {
        let mut rigid = Rigid::new(&config(), scene.geometry);
        rigid.set_reference(&reference).expect("a good image");
        assert_eq!(rigid.offset(), None);
        rigid.begin_baseline();
        for t in 0..8 {
            step(&mut rigid, &scene, 5.0, -4.0, 3.0, t);
        }
        let offset = rigid.offset().expect("an offset");
        assert!(offset.trusted && (offset.dy_px - 5.0).abs() < 0.15 && (offset.dx_px + 4.0).abs() < 0.15, "{offset:?}");
        rigid.set_reference(&Scene::new(256, 256, 20).image(0.0, 0.0)).expect("a good image");
        let offset = rigid.offset().expect("an offset");
        assert!(!offset.trusted, "another field of view: {offset:?}");
    }
}

#[test]
fn another_days_template_is_found_again_at_another_gain() {
    let scene = Scene::new(200, 200, 21);
    let mut rigid = Rigid::new(&config(), scene.geometry);
    rigid.load_template(&scene.image(0.0, 0.0)).expect("a good image");
    for t in 0..40 {
        let (dy, dx) = (20.0 + wander(t).0, -14.0 + wander(t).1);
        let r = step(&mut rigid, &scene, dy, dx, 10.0, u64::from(t));
        assert!(r.verdict == FitVerdict::Good && error(&r, dy, dx) < 0.2, "frame {t}: {r:?}");
        assert_eq!(r.reacquired, t == 0);
    }
    let mut rigid = Rigid::new(&config(), scene.geometry);
    rigid.load_template(&Scene::new(200, 200, 22).image(0.0, 0.0)).expect("a good image");
    for t in 0..5 {
        assert_eq!(step(&mut rigid, &scene, 0.0, 0.0, 2.0, t).verdict, FitVerdict::LowScore);
    }
}

#[test]
fn images_that_cannot_be_used_are_refused_with_what_is_wrong() {
    let mut rigid = Rigid::new(&config(), Geometry::new(20, 30));
    let wrong = Image::zeros(Geometry::new(30, 20));
    assert!(matches!(rigid.set_reference(&wrong), Err(RegisterError::WrongSize { got_height_px: 30, .. })));
    let mut image = Image::zeros(Geometry::new(20, 30));
    assert_eq!(rigid.load_template(&image), Err(RegisterError::Featureless));
    image.values[3] = f32::NAN;
    assert_eq!(rigid.load_template(&image), Err(RegisterError::NotFinite { count: 1 }));
}

#[test]
fn snapshot_load_and_go_on_equals_uninterrupted_bit_for_bit() {
    let scene = Scene::new(96, 112, 23);
    let frame = |t: u32| scene.samples(wander(t).0, wander(t).1, 2.0, u64::from(t));
    for cut in [0, 1, 5, 19, 20, 25] {
        let mut whole = Rigid::new(&config(), scene.geometry);
        whole.set_reference(&scene.image(1.0, 2.0)).expect("a good image");
        whole.begin_baseline();
        let mut resumed = None;
        for t in 0..30 {
            if t == cut {
                let mut bytes = vec![0xee; 3];
                whole.save(&mut bytes);
                let mut other = Rigid::new(&config(), scene.geometry);
                assert_eq!(other.load(&bytes[3..]), Ok(bytes.len() - 3));
                resumed = Some(other);
                assert!(Rigid::new(&config(), Geometry::new(112, 96)).load(&bytes[3..]).is_err());
                assert!(whole.load(&bytes[3..bytes.len() - 1]).is_err());
                whole.load(&bytes[3..]).expect("its own state");
            }
            for rigid in [Some(&mut whole), resumed.as_mut()].into_iter().flatten() {
                if t == 20 {
                    rigid.freeze_template().expect("20 frames");
                }
            }
            let expected = whole.step(&view(scene.geometry, &frame(t)));
            if let Some(rigid) = &mut resumed {
                assert_eq!(rigid.step(&view(scene.geometry, &frame(t))), expected, "cut {cut}, frame {t}");
                assert_eq!(rigid.offset(), whole.offset());
            }
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        whole.save(&mut a);
        resumed.expect("resumed").save(&mut b);
        assert!(a == b);
    }
}

#[test]
fn a_damaged_state_is_refused_and_leaves_the_tracker_as_it_was() {
    let scene = Scene::new(64, 64, 24);
    let mut rigid = ready(&scene, &config(), 3.0);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    rigid.save(&mut before);
    for cut in [0, 3, 10, 100, before.len() - 1] {
        assert!(rigid.load(&before[..cut]).is_err());
    }
    rigid.save(&mut after);
    assert!(before == after);
}

/// Further out a tear is seen where enough shows in the smaller part: 200 rows that all moved alike are a frame that
/// fits.
#[test]
fn most_tears_nearer_to_an_edge_are_seen() {
    let (mut tears, mut seen) = (0, 0);
    for seed in 0..30 {
        let scene = Scene::new(256, 192, seed);
        let mut rigid = ready(&scene, &config(), 3.0);
        step(&mut rigid, &scene, 1.0, -1.0, 3.0, 50);
        let mut state = Vec::new();
        rigid.save(&mut state);
        let still = scene.samples(1.5, -0.5, 3.0, 51);
        for (fy, fx) in [(-16.0, 3.0), (-8.0, -10.0), (8.0, 0.0), (11.0, 10.0)] {
            let moved = scene.samples(1.5 + fy, -0.5 + fx, 3.0, 52);
            for cut in [48, 62, 76, 180, 194, 208] {
                for (above, below) in [(&still, &moved), (&moved, &still)] {
                    rigid.load(&state).expect("its own state");
                    let torn = [&above[..cut * 192], &below[cut * 192..]].concat();
                    tears += 1;
                    seen += usize::from(rigid.step(&view(scene.geometry, &torn)).verdict != FitVerdict::Good);
                }
            }
        }
    }
    assert!(seen * 100 >= tears * 98, "{seen} of {tears}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_copy_moved_by_whole_pixels_changes_the_estimate_by_as_much(
        my in -8i32..=8, mx in -8i32..=8, seed in 0u64..99,
    ) {
        let scene = Scene::new(96, 96, seed);
        let mut rigid = ready(&scene, &config(), 50.0);
        let samples = scene.samples(0.3, -0.2, 50.0, 1000 + seed);
        let first = rigid.step(&view(scene.geometry, &samples));
        let at = |i: i32, m: i32| (i - m).clamp(0, 95) as usize;
        let moved: Vec<u16> =
            (0..96 * 96).map(|i| samples[at(i / 96, my) * 96 + at(i % 96, mx)]).collect();
        let second = rigid.step(&view(scene.geometry, &moved));
        prop_assert_eq!(second.verdict, FitVerdict::Good);
        let (dy, dx) = (first.dy_px + f64::from(my), first.dx_px + f64::from(mx));
        prop_assert!(error(&second, dy, dx) < 0.15, "{:?} {:?}", first, second);
    }

    #[test]
    fn a_movie_moved_by_a_known_amount_moves_every_estimate_by_as_much(
        my in -9.0f64..9.0, mx in -9.0f64..9.0, seed in 0u64..99,
    ) {
        // a scene that reaches the edges wherever it is moved to, bright enough to know a shift to a few hundredths
        let scene = Scene::new(128, 128, seed);
        let (mut here, mut there) = (ready(&scene, &config(), 50.0), ready(&scene, &config(), 50.0));
        for t in 0..6u32 {
            let (dy, dx) = wander(3 * t);
            let still = step(&mut here, &scene, dy, dx, 50.0, u64::from(t) + 40);
            let moved = step(&mut there, &scene, dy + my, dx + mx, 50.0, u64::from(t) + 60);
            prop_assert_eq!((still.verdict, moved.verdict), (FitVerdict::Good, FitVerdict::Good));
            prop_assert!(error(&moved, still.dy_px + my, still.dx_px + mx) < 0.15, "{:?} {:?}", still, moved);
        }
    }

    #[test]
    fn wherever_the_middle_of_a_frame_is_torn_or_emptied_the_tracker_stays(
        cut in 104usize..152, fy in 12.0f64..20.0, fx in -30.0f64..30.0, level in any::<u16>(), seed in 0u64..99,
    ) {
        let scene = Scene::new(256, 192, seed);
        let mut rigid = ready(&scene, &config(), 3.0);
        let good = step(&mut rigid, &scene, 1.0, -1.0, 3.0, 50);
        let (fresh, far) = (scene.samples(1.5, -0.5, 3.0, 51), scene.samples(fy, fx, 3.0, 52));
        let at = cut * 192;
        let torn = [&fresh[..at], &far[at..]].concat();
        let cut_short = [&fresh[..at], &vec![level; fresh.len() - at][..]].concat();
        let one_level = vec![level; fresh.len()];
        for (k, samples) in [torn, cut_short, one_level].iter().enumerate() {
            let r = rigid.step(&view(scene.geometry, samples));
            prop_assert!(!matches!(r.verdict, FitVerdict::Good | FitVerdict::Jump), "case {}: {:?}", k, r);
            prop_assert_eq!((r.dy_px, r.dx_px), (good.dy_px, good.dx_px), "case {}: {:?}", k, r);
        }
        let r = step(&mut rigid, &scene, 1.2, -1.1, 3.0, 53);
        prop_assert!(r.verdict == FitVerdict::Good && error(&r, good.dy_px + 0.2, good.dx_px - 0.1) < 0.3, "{:?}", r);
    }

    #[test]
    fn a_tear_in_the_middle_four_tenths_is_seen(
        cut in 77usize..=179, fy in 6.0f64..=20.0, fx in -20.0f64..=20.0, up in any::<bool>(), first in any::<bool>(),
        seed in 0u64..99,
    ) {
        let scene = Scene::new(256, 192, seed);
        let mut rigid = ready(&scene, &config(), 3.0);
        step(&mut rigid, &scene, 1.0, -1.0, 3.0, 50);
        let moved = scene.samples(1.5 + if up { -fy } else { fy }, -0.5 + fx, 3.0, 52);
        let (a, b) = (scene.samples(1.5, -0.5, 3.0, 51), moved);
        let (above, below) = if first { (b, a) } else { (a, b) };
        let r = rigid.step(&view(scene.geometry, &[&above[..cut * 192], &below[cut * 192..]].concat()));
        prop_assert!(r.verdict != FitVerdict::Good, "{:?}", r);
    }

    #[test]
    fn the_portable_and_the_vector_path_give_the_same_bits(
        height in 40usize..90, width in 40usize..130, seed in 0u64..99,
    ) {
        let scene = Scene::new(height, width, seed);
        // Few cells fall into a small frame, and sometimes none.
        let values = scene.image(0.0, 1.0).values;
        prop_assume!(values.windows(2).any(|w| w[0] != w[1]));
        let mut fast = Rigid::new(&config(), scene.geometry);
        let mut plain = Rigid::new(&RegisterConfig { simd: false, ..config() }, scene.geometry);
        for rigid in [&mut fast, &mut plain] {
            rigid.set_reference(&scene.image(0.0, 1.0)).expect("a good image");
            rigid.begin_baseline();
        }
        for t in 0..12u32 {
            let samples = scene.samples(wander(t).0, wander(t).1, 1.0, u64::from(t) + seed);
            prop_assert_eq!(fast.step(&view(scene.geometry, &samples)), plain.step(&view(scene.geometry, &samples)));
        }
        prop_assert_eq!(fast.offset(), plain.offset());
    }

    #[test]
    fn no_frame_makes_it_panic_or_leave_the_numbers(kind in 0usize..6, seed in 0u64..1000, size in 12usize..40) {
        let geometry = Geometry::new(size, size + 3);
        let mut noise = Noise(seed);
        let mut rigid = Rigid::new(&config(), geometry);
        rigid.begin_baseline();
        for t in 0..14usize {
            let sample = |noise: &mut Noise, i: usize| match kind {
                0 => (noise.uniform() * 65_535.0) as u16,
                1 => if noise.uniform() < 0.01 { 65_535 } else { 0 },
                2 => (i % 7 * t) as u16,
                3 => if i == t { 1 } else { 0 },
                4 => (i * 31 + t) as u16,
                _ => if i % (size + 3) == t { 9_999 } else { 3 },
            };
            let samples: Vec<u16> = (0..geometry.count()).map(|i| sample(&mut noise, i)).collect();
            let r = rigid.step(&view(geometry, &samples));
            prop_assert!(r.dy_px.is_finite() && r.dx_px.is_finite() && (0.0..=1.0).contains(&r.score), "{:?}", r);
            prop_assert!(r.dy_px.abs() < 10.0 && r.dx_px.abs() < 10.0);
        }
    }
}
