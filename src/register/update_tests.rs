//! The slow update, on scenes that change.

use super::tests::{Scene, config, error, ready, view};
use super::{FitVerdict, RegisterError, Registration, Rigid};
use crate::config::register::RegisterConfig;

/// A new template every 100 frames, half of it theirs.
fn following() -> RegisterConfig {
    RegisterConfig { template_update_frames: 100, template_update_share: 0.5, ..config() }
}

fn step(rigid: &mut Rigid, scene: &Scene, (dy, dx): (f64, f64), seed: u64) -> Registration {
    rigid.step(&view(scene.geometry, &scene.samples(dy, dx, 8.0, 4_000 + seed)))
}

fn mean_shift(seen: &[Registration]) -> (f64, f64) {
    let n = seen.len() as f64;
    seen.iter().fold((0.0, 0.0), |sum, r| (sum.0 + r.dy_px / n, sum.1 + r.dx_px / n))
}

#[test]
fn a_rest_between_pixels_does_not_make_it_wander() {
    let scene = Scene::new(128, 128, 61);
    let mut rigid = ready(&scene, &following(), 8.0);
    let seen: Vec<_> = (0..1_050).map(|t| step(&mut rigid, &scene, (0.45, -0.4), t)).collect();
    assert!(seen.iter().all(|r| r.verdict == FitVerdict::Good));
    let origin = rigid.origin();
    assert!(origin.0.abs().max(origin.1.abs()) > 0.1, "the template moved to where the frames lie: {origin:?}");
    let (first, last) = (mean_shift(&seen[..50]), mean_shift(&seen[1_000..]));
    assert!((first.0 - last.0).abs() < 0.02 && (first.1 - last.1).abs() < 0.02, "{first:?} {last:?}");
}

#[test]
fn it_follows_what_turns_into_something_else_and_a_frozen_one_does_not() {
    let (old, new) = (Scene::new(160, 160, 62), Scene::new(160, 160, 63));
    let seen = |config: &RegisterConfig| -> Vec<Registration> {
        let mut rigid = ready(&old, config, 8.0);
        let mixed = |t: u32, at: (f64, f64)| {
            let share = (f64::from(t) / 1_500.0).min(1.0);
            let lights = old.light(at.0, at.1).into_iter().zip(new.light(at.0, at.1));
            Scene::noisy(lights.map(|(o, n)| o * (1.0 - share) + n * share).collect(), 8.0, 9_000 + u64::from(t))
        };
        (0..1_600).map(|t| rigid.step(&view(old.geometry, &mixed(t, place(t))))).collect()
    };
    let (following, frozen) = (seen(&following()), seen(&config()));
    let first = following[0];
    let rest = (first.dy_px - place(0).0, first.dx_px - place(0).1);
    for (t, r) in (0..).zip(&following) {
        let at = place(t);
        let off = error(r, at.0 + rest.0, at.1 + rest.1);
        assert!(matches!(r.verdict, FitVerdict::Good | FitVerdict::Jump) && off < 0.3, "{t}: {r:?}, off by {off} px");
    }
    assert!(following[1_500..].iter().all(|r| r.score > 0.7));
    assert!(frozen[1_500..].iter().all(|r| r.verdict == FitVerdict::LowScore));
}

/// Up to 6 px away from rest.
fn place(t: u32) -> (f64, f64) {
    let t = f64::from(t);
    (4.0 * (0.031 * t).sin(), 6.0 * (0.017 * t).cos() - 6.0)
}

#[test]
fn a_frame_that_bleaches_is_as_good_as_it_was() {
    let scene = Scene::new(128, 128, 64);
    let mut rigid = ready(&scene, &following(), 8.0);
    let mut seen = Vec::new();
    for t in 0..900u32 {
        let gain = (1.0 - f64::from(t) / 1_600.0).max(0.5);
        let light = scene.light(0.2, 0.1).iter().map(|light| gain * light).collect();
        seen.push(rigid.step(&view(scene.geometry, &Scene::noisy(light, 8.0, u64::from(t)))));
    }
    assert!(seen.iter().all(|r| r.verdict == FitVerdict::Good));
    let score = seen[800..].iter().map(|r| r.score).sum::<f64>() / 100.0;
    assert!(score > 0.93, "{score}");
}

#[test]
fn when_it_is_made_and_whether_the_state_was_saved_makes_no_difference() {
    let scene = Scene::new(96, 112, 65);
    let saved = |rigid: &mut Rigid| {
        rigid.settle();
        let mut bytes = Vec::new();
        rigid.save(&mut bytes);
        bytes
    };
    let (mut late, mut early) = (ready(&scene, &following(), 8.0), ready(&scene, &following(), 8.0));
    let mut updates = 0;
    for t in 0..450 {
        let at = ((t % 7) as f64 * 0.3, (t % 5) as f64 * -0.4);
        let expected = step(&mut late, &scene, at, t);
        if t % 53 == 20 {
            let state = saved(&mut early);
            early = Rigid::new(&following(), scene.geometry);
            assert_eq!(early.load(&state), Ok(state.len()));
        }
        assert_eq!(step(&mut early, &scene, at, t), expected, "frame {t}");
        updates += usize::from(early.settle());
    }
    assert_eq!(updates, 4);
    // one that was due when it was saved is made by whoever loads it
    let mut due = Vec::new();
    for t in 0..50 {
        step(&mut late, &scene, (0.1, 0.1), t);
    }
    late.save(&mut due);
    let mut loaded = Rigid::new(&following(), scene.geometry);
    assert_eq!(loaded.load(&due), Ok(due.len()));
    assert_eq!(saved(&mut loaded), saved(&mut late));
}

#[test]
fn a_template_of_another_day_is_followed_from_its_own_light() {
    let scene = Scene::new(128, 128, 66);
    let mut rigid = Rigid::new(&following(), scene.geometry);
    rigid.load_template(&scene.image(0.0, 0.0)).expect("a good image");
    let mut seen = Vec::new();
    for t in 0..550 {
        let samples = scene.samples(0.3, -0.2, 8.0, t);
        let frame = crate::frame::FrameView { bias: 1_000, ..view(scene.geometry, &samples) };
        let r = rigid.step(&frame);
        assert_eq!(r.verdict, FitVerdict::Good, "{t}: {r:?}");
        assert!(error(&r, 0.3, -0.2) < 0.3 && (t < 50 || r.score > 0.7), "{t}: {r:?}");
        seen.push(r);
    }
    let last = mean_shift(&seen[500..]);
    assert!((last.0 - 0.3).abs() < 0.03 && (last.1 + 0.2).abs() < 0.03, "{last:?}");
    // the frames' counts stand 1,000 above their bias: a mean of light alone
    let mean = rigid.template().expect("a template").values.iter().sum::<f32>() / 16_384.0;
    let light = scene.light(0.0, 0.0).iter().sum::<f64>() / 16_384.0;
    assert!((f64::from(mean) / (500.0 * light) - 1.0).abs() < 0.05, "{mean} {light}");
}

#[test]
fn a_damaged_update_is_refused() {
    let scene = Scene::new(64, 64, 67);
    let rigid = ready(&scene, &following(), 8.0);
    let mut state = Vec::new();
    rigid.save(&mut state);
    let sums = rigid.accumulator.saved_len();
    // the record of the update stands before the sums: a number of frames, then five of 8 bytes
    let at = state.len() - sums - 5 * 8 - 1;
    state[at] = 101;
    let refused = Rigid::new(&following(), scene.geometry).load(&state);
    assert!(matches!(refused, Err(RegisterError::BadState { why, .. }) if why.contains("update")), "{refused:?}");
}
