//! Frames of a bidirectional scanner, whose odd lines lie aside of the even ones by a known amount: the baseline tells
//! by how much, and shifts and F are those of the same movie without it.

mod common;

use apical::config::synthetic::{AnatomyConfig, SyntheticConfig};
use apical::config::{RigConfig, load_text};
use apical::engine::{Command, Engine, Input, StreamShape};
use apical::frame::{FrameMeta, FrameSlot, Geometry, PixelType};
use apical::journal::{SessionFiles, VerifyOptions, inspect, verify};
use apical::mouse::Optics;
use apical::sample::{ReferenceKind, Roi, RoiPixel, RoiSet};

const SIZE: usize = 256;
const CELLS: usize = 16;
const BASELINE: usize = 120;
const FRAMES: usize = 200;

/// The same field of view at the same moments: frames whose lines are straight, and frames whose odd lines lie aside.
struct Movie {
    straight: Vec<FrameSlot>,
    aside: Vec<FrameSlot>,
    truth: Vec<(f64, f64)>,
    rois: RoiSet,
}

fn movie(phase_px: f64) -> Movie {
    let mut config = SyntheticConfig {
        height_px: SIZE,
        width_px: SIZE,
        anatomy: AnatomyConfig { cells: CELLS, margin_px: 4.0, ..AnatomyConfig::default() },
        ..SyntheticConfig::default()
    };
    config.detector.photons_per_px = 8.0;
    config.motion.limit_px = 16.0;
    // two eyes of one animal: the same spikes, the same glow, one of them looking aside
    let (mut even, mut odd) = (Optics::new(&config, 11).expect("valid"), Optics::new(&config, 11).expect("valid"));
    let rates = [0.5; CELLS];
    let rois = (0..).zip(even.masks()).map(|(id, mask)| Roi {
        id,
        name: String::new(),
        plane: 0,
        radius_told_px: None,
        pixels: mask.pixels.iter().map(|&(row, col, weight)| RoiPixel { row, col, weight }).collect(),
    });
    let rois = RoiSet {
        geometry: Geometry::new(SIZE, SIZE),
        rois: rois.collect(),
        reference: Some(even.reference()),
        reference_kind: ReferenceKind::Given,
        templates: Vec::new(),
        z_stack: Vec::new(),
        source: String::new(),
    };
    let mut movie = Movie { straight: Vec::new(), aside: Vec::new(), truth: Vec::new(), rois };
    let slot = |index: usize, samples: Vec<u16>| {
        let mut slot = FrameSlot::new(Geometry::new(SIZE, SIZE), PixelType::U16);
        slot.samples_mut().copy_from_slice(&samples);
        slot.meta = FrameMeta { index: index as u64, ..FrameMeta::default() };
        slot
    };
    for index in 0..FRAMES {
        let t = index as f64;
        let (dy, dx) = (1.9 * libm::sin(0.11 * t), 1.4 * libm::sin(0.07 * t));
        let straight = even.render_at(&rates, (dy, dx)).to_vec();
        let beside = odd.render_at(&rates, (dy, dx + phase_px));
        let lines = straight.chunks(SIZE).zip(beside.chunks(SIZE)).enumerate();
        let aside = lines.flat_map(|(row, (a, b))| if row % 2 == 1 { b } else { a }).copied().collect();
        movie.truth.push((even.truth().dy_px, even.truth().dx_px));
        movie.straight.push(slot(index, straight));
        movie.aside.push(slot(index, aside));
    }
    movie
}

/// What an engine says of the frames after the baseline: mean F of each ROI less the detector's offset, the largest
/// error of a shift (rows, columns, pixels), and the phase. The engine is saved and loaded on the way.
fn run(movie: &Movie, frames: &[FrameSlot], phase: &str) -> (Vec<f64>, f64, f64) {
    let set = [
        format!("baseline.frames={BASELINE}"),
        format!("register.bidirectional_phase={phase}"),
        "ensembles.plus=[0, 1]".to_owned(),
        "ensembles.minus=[2, 3]".to_owned(),
        "activity.detector_offset_counts=100.0".to_owned(),
    ];
    let config: RigConfig = load_text("", &set).expect("a valid configuration");
    let geometry = Geometry::new(SIZE, SIZE);
    let shape = StreamShape::Pixels { geometry, pixel_type: PixelType::U16, detector_offset_counts: None };
    let new = || Engine::new(&config, &movie.rois, &shape, 0).expect("an engine");
    let mut engine = new();
    engine.step(&Input::Command(&Command::StartBaseline));
    let (mut sums, mut errors, mut phase_px) = (vec![0.0; CELLS], Vec::new(), 0.0);
    for (index, slot) in frames.iter().enumerate() {
        if index == BASELINE / 2 || index == BASELINE + 20 {
            let mut saved = Vec::new();
            engine.save(&mut saved);
            let mut other = new();
            other.load(&saved).expect("its own state");
            let said = [&mut engine, &mut other].map(|engine| {
                let d = engine.step(&Input::Frame(slot)).decision;
                format!(
                    "{:?}",
                    (d.registration, d.offset, d.odd_lines_px, &d.f, &d.f_neuropil, &d.f0, d.template_frozen)
                )
            });
            assert_eq!(said[0], said[1], "frame {index}");
            engine = other;
            continue;
        }
        let decision = engine.step(&Input::Frame(slot)).decision;
        phase_px = decision.odd_lines_px;
        if index >= BASELINE {
            let (registration, offset) = (decision.registration, decision.offset.expect("a reference"));
            let truth = movie.truth[index];
            errors.push((registration.dy_px + offset.dy_px - truth.0).abs());
            errors.push((registration.dx_px + offset.dx_px - truth.1).abs());
            sums.iter_mut().zip(&decision.f).for_each(|(sum, f)| *sum += f - 100.0);
        }
    }
    (sums, errors.into_iter().fold(0.0, f64::max), phase_px)
}

/// How far F is from F of the straight frames, at most, relative.
fn deviation(f: &[f64], straight: &[f64]) -> f64 {
    f.iter().zip(straight).map(|(f, s)| (f / s - 1.0).abs()).fold(0.0, f64::max)
}

#[test]
fn lines_that_lie_aside_are_read_where_they_lie() {
    for phase_px in [1.7, -0.6] {
        let movie = movie(phase_px);
        let (straight, error, none) = run(&movie, &movie.straight, "\"off\"");
        assert_eq!(none, 0.0);
        let (_, _, nothing) = run(&movie, &movie.straight, "\"estimate\"");
        let (estimated, estimated_error, found) = run(&movie, &movie.aside, "\"estimate\"");
        let (given, given_error, _) = run(&movie, &movie.aside, &format!("{phase_px:?}"));
        let (ignored, _, _) = run(&movie, &movie.aside, "\"off\"");
        let of = |f: &[f64]| 100.0 * deviation(f, &straight);
        println!(
            "odd lines {phase_px} px aside: found {found:.3} px (straight frames {nothing:.3}); F off by {:.2} %, \
             given {:.2} %, uncorrected {:.2} %; largest error of a shift {estimated_error:.3} px, given \
             {given_error:.3}, straight {error:.3}",
            of(&estimated),
            of(&given),
            of(&ignored),
        );
        assert!((found - phase_px).abs() < 0.1 && nothing.abs() < 0.1, "{found} {nothing}");
        assert!(of(&estimated) < 1.0 && of(&given) < 1.0);
        assert!(estimated_error < error + 0.1 && given_error < error + 0.1);
        if phase_px > 1.0 {
            assert!(of(&ignored) > 1.0, "the movie would not show what is corrected");
        }
    }
}

#[test]
fn a_session_with_lines_aside_is_recomputed_from_its_pixels_its_boxes_and_its_f() {
    let folder = tempfile::tempdir().expect("a directory");
    for keep in ["all", "rois", "none"] {
        let set = [format!("record.frames={keep:?}"), "register.bidirectional_phase=\"estimate\"".to_owned()];
        let config = common::config(&[&set[0], &set[1]]);
        let (rois, mut slots) = common::frames(&config, 400);
        for slot in &mut slots {
            for line in slot.samples_mut().chunks_exact_mut(common::SIDE_PX).skip(1).step_by(2) {
                line.rotate_right(3);
            }
        }
        let mut driver = common::driver(&config, &rois);
        let mut recording = common::record::Recording::create(folder.path(), keep, &config, &rois, &driver);
        recording.play(&mut driver, &common::script(&slots), 50);
        let session = recording.close();
        let files = SessionFiles::open(&session).expect("a session");
        let whole = verify(&files, &VerifyOptions::default()).expect("it can be read");
        assert_eq!((whole.differences, &whole.damage[..]), (0, &[][..]), "{keep}: {:?}", whole.first_difference);
        let later = VerifyOptions { from_input: Some(300), ..VerifyOptions::default() };
        assert_eq!(verify(&files, &later).expect("a snapshot").differences, 0, "{keep}");
        match keep {
            "all" => assert_eq!(whole.frames_from_pixels, whole.frames_compared),
            "rois" => assert!(whole.frames_sampled_again > 380, "{whole:?}"),
            _ => assert!(whole.frames_compared > 380, "{whole:?}"),
        }
        let seen = inspect(&files);
        let found: Vec<f64> = seen.segments.iter().flat_map(|s| &s.baselines).filter_map(|b| b.odd_lines_px).collect();
        assert!(!found.is_empty() && found.iter().all(|px| (px - 3.0).abs() < 0.1), "{found:?}");
    }
}
