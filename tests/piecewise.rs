//! Frames whose parts moved differently, by a known amount: F of ROIs with blocks and without, and the record of such a
//! session.

mod common;

use apical::config::{RigConfig, load_text};
use apical::engine::{Command, Engine, EngineError, Input, StreamShape};
use apical::frame::{FrameMeta, FrameSlot, Geometry, PixelType};
use apical::journal::{SessionFiles, VerifyOptions, verify};
use apical::sample::{ReferenceKind, Roi, RoiPixel, RoiSet, SampleBuffer, Sampler};

const SIZE: usize = 256;
const BASELINE: usize = 60;
const FRAMES: usize = 110;
const COUNTS_DARK: f64 = 100.0;
const COUNTS_PHOTON: f64 = 120.0;

/// Numbers that look random and are the same everywhere.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Roughly normal, mean 0, standard deviation 1.
    fn normal(&mut self) -> f64 {
        (0..6).map(|_| self.uniform() - 0.5).sum::<f64>() * 2.0_f64.sqrt()
    }
}

/// Somata as (row, column, brightness); every fifth is an ROI.
struct Field {
    somata: Vec<(f64, f64, f64)>,
    photons: f64,
}

impl Field {
    fn new(photons: f64) -> Self {
        let mut noise = Noise(9);
        let mut place = || 330.0 * noise.uniform() - 37.0;
        let places: Vec<_> = (0..420).map(|_| (place(), place())).collect();
        Self { somata: places.into_iter().map(|(r, c)| (r, c, 0.5 + noise.uniform())).collect(), photons }
    }

    /// Photons at a place of the brain at rest.
    fn near(&self, row: f64, column: f64, soma: (f64, f64, f64)) -> f64 {
        let d2 = (row - soma.0).powi(2) + (column - soma.1).powi(2);
        if d2 < 80.0 { soma.2 * (-d2 / 8.0).exp() } else { 0.0 }
    }

    /// A frame in which the content at each place was moved by `moved(row, column)`.
    fn frame(&self, seed: usize, moved: &dyn Fn(f64, f64) -> (f64, f64)) -> Vec<u16> {
        let mut light = vec![0.4; SIZE * SIZE];
        for &soma in &self.somata {
            let reach = |at: f64| (at - 14.0).max(0.0) as usize..((at + 15.0).max(0.0) as usize).min(SIZE);
            for r in reach(soma.0) {
                for c in reach(soma.1) {
                    let (dy, dx) = moved(r as f64, c as f64);
                    light[r * SIZE + c] += self.near(r as f64 - dy, c as f64 - dx, soma);
                }
            }
        }
        let mut noise = Noise(seed as u64 * 7_919 + 5);
        let sample = |light: &f64| {
            let photons = self.photons * light;
            (COUNTS_DARK + COUNTS_PHOTON * (photons + photons.sqrt() * noise.normal())).clamp(0.0, 65_535.0) as u16
        };
        light.iter().map(sample).collect()
    }

    /// Discs of radius 3 around the ROIs.
    fn rois(&self) -> RoiSet {
        let inside = |s: &&(f64, f64, f64)| [s.0, s.1].iter().all(|at| (14.0..SIZE as f64 - 14.0).contains(at));
        let disc = |(id, soma): (usize, &(f64, f64, f64))| {
            let around = (-3..=3).flat_map(|y: i32| (-3..=3).map(move |x| (y, x))).filter(|(y, x)| y * y + x * x <= 9);
            let (r0, c0) = (soma.0.round() as i32, soma.1.round() as i32);
            let pixel = |(y, x)| RoiPixel { row: (r0 + y) as u32, col: (c0 + x) as u32, weight: 1.0 };
            Roi {
                id: id as u32,
                name: String::new(),
                plane: 0,
                radius_told_px: None,
                pixels: around.map(pixel).collect(),
            }
        };
        let rois = self.somata.iter().step_by(5).filter(inside).enumerate().map(disc).collect();
        let geometry = Geometry::new(SIZE, SIZE);
        let values = self.frame(0, &|_, _| (0.0, 0.0)).into_iter().map(f32::from).collect();
        let reference = Some(apical::frame::Image { geometry, values });
        RoiSet {
            geometry,
            rois,
            reference,
            reference_kind: ReferenceKind::Given,
            source: String::new(),
            ..RoiSet::default()
        }
    }
}

/// Where the content seen at a place of frame `t` was moved from: from the baseline's end on lines move differently,
/// and a slow wave comes on top, up to 1.5 px, different in every frame; `deform` of it.
fn moved(t: usize, deform: f64, row: f64, column: f64) -> (f64, f64) {
    let (deform, t, size) = (if t < BASELINE { 0.0 } else { deform }, t as f64, SIZE as f64);
    let rate = (0.9 * t).sin() * (row / size - 0.5);
    let wave = (0.6 * t).cos() * (6.0 * column / size + 0.35 * t).sin();
    ((0.4 * t).sin() + deform * (0.5 + 2.0 * rate), (0.3 * t).cos() - 1.0 + deform * (3.0 * rate + wave))
}

/// F of every ROI where it truly lies on the frame.
fn true_f(sampler: &mut Sampler, t: usize, deform: f64, slot: &FrameSlot) -> Vec<f64> {
    let lies = |k: usize| {
        let (row, column) = sampler.centre_px(k);
        (0..9).fold((0.0, 0.0), |by, _| moved(t, deform, row + by.0, column + by.1))
    };
    let shifts: Vec<_> = (0..sampler.roi_count()).map(lies).collect();
    let mut out = SampleBuffer::new(shifts.len());
    sampler.step_moved(&slot.view(), &shifts, 0.0, &mut out);
    out.f
}

/// Root mean square difference between F and F at the true places, over frames and ROIs, relative to the mean F.
fn error_of_f(slots: &[FrameSlot], rois: &RoiSet, deform: f64, piecewise: bool) -> f64 {
    let set = [
        format!("register.piecewise={piecewise}"),
        "register.blocks_y=4".to_owned(),
        "register.blocks_x=4".to_owned(),
        "register.min_template_frames=10".to_owned(),
        "sample.neuropil_coefficient=0.0".to_owned(),
        format!("baseline.frames={BASELINE}"),
    ];
    let config: RigConfig = load_text("", &set).expect("a valid configuration");
    let geometry = Geometry::new(SIZE, SIZE);
    let shape = StreamShape::Pixels { geometry, pixel_type: PixelType::U16, detector_offset_counts: None };
    let mut engine = Engine::new(&config, rois, &shape, 0).expect("an engine");
    let mut sampler = Sampler::new(&config.sample, rois).expect("a sampler");
    engine.step(&Input::Command(&Command::StartBaseline));
    let (mut sum, mut total, mut count) = (0.0, 0.0, 0.0);
    for (t, slot) in slots.iter().enumerate() {
        let d = engine.step(&Input::Frame(slot)).decision;
        let blocks = if piecewise { 16 } else { 0 };
        assert_eq!((d.block_dy_px.len(), d.block_dx_px.len()), (blocks, blocks));
        if t >= BASELINE {
            for (f, truth) in d.f.iter().zip(true_f(&mut sampler, t, deform, slot)) {
                sum += (f - truth).powi(2);
                total += truth - COUNTS_DARK;
                count += 1.0;
            }
        }
    }
    (sum / count).sqrt() / (total / count)
}

#[test]
fn f_is_nearer_to_the_truth_where_parts_of_a_frame_moved_differently_and_no_worse_where_not() {
    for photons in [1.0, 8.0] {
        let field = Field::new(photons);
        let rois = field.rois();
        for (deform, what) in [(1.0, "deformed"), (0.0, "moved as a whole")] {
            let slot = |t: usize| {
                let mut slot = FrameSlot::new(Geometry::new(SIZE, SIZE), PixelType::U16);
                slot.samples_mut().copy_from_slice(&field.frame(t, &|row, column| moved(t, deform, row, column)));
                slot.meta = FrameMeta { index: t as u64, ..FrameMeta::default() };
                slot
            };
            let slots: Vec<_> = (0..FRAMES).map(slot).collect();
            let [rigid, blocks] = [false, true].map(|piecewise| error_of_f(&slots, &rois, deform, piecewise));
            let (a, b) = (100.0 * rigid, 100.0 * blocks);
            println!("{photons} photons, {what}: F is {a:.2} % from F at the true places, with blocks {b:.2} %");
            if deform > 0.0 {
                assert!(blocks < 0.6 * rigid);
            } else {
                assert!(blocks < 1.2 * rigid + 0.005);
            }
        }
    }
}

#[test]
fn a_session_with_blocks_is_recomputed_from_its_pixels_its_boxes_and_its_f() {
    let folder = tempfile::tempdir().expect("a directory");
    for keep in ["all", "rois", "none"] {
        let record = format!("record.frames={keep:?}");
        let phase = if keep == "rois" { "register.bidirectional_phase=1.0" } else { "register.max_jump_px=9.0" };
        let blocks = ["register.piecewise=true", "register.blocks_y=4", "register.blocks_x=3"];
        let config = common::config(&[&record, phase, blocks[0], blocks[1], blocks[2]]);
        let (rois, mut slots) = common::frames(&config, 400);
        for (t, slot) in slots.iter_mut().enumerate() {
            for (row, line) in slot.samples_mut().chunks_exact_mut(common::SIDE_PX).enumerate() {
                line.rotate_right((t + row) / 40 % 3);
            }
        }
        let mut driver = common::driver(&config, &rois);
        let mut recording = common::record::Recording::create(folder.path(), keep, &config, &rois, &driver);
        recording.play(&mut driver, &common::script(&slots), 50);
        let session = recording.close();
        let files = SessionFiles::open(&session).expect("a session");
        let whole = verify(&files, &VerifyOptions::default()).expect("it can be read");
        assert_eq!((whole.differences, &whole.damage[..]), (0, &[][..]), "{keep}: {:?}", whole.first_difference);
        for set in ["register.simd=false", "register.simd=true"] {
            let later = VerifyOptions { from_input: Some(300), set: vec![set.to_owned()], ..VerifyOptions::default() };
            assert_eq!(verify(&files, &later).expect("a snapshot").differences, 0, "{keep}");
        }
        match keep {
            "all" => {
                assert_eq!(whole.frames_from_pixels, whole.frames_compared);
                let other =
                    VerifyOptions { set: vec!["register.piecewise=false".to_owned()], ..VerifyOptions::default() };
                let differs = verify(&files, &other).expect("it can be read");
                assert!(differs.differences > 300, "blocks would not have mattered: {differs:?}");
            }
            "rois" => assert!(whole.frames_sampled_again > 380, "{whole:?}"),
            _ => assert!(whole.frames_compared > 380, "{whole:?}"),
        }
    }
}

#[test]
fn blocks_too_small_for_the_frames_are_refused_by_name() {
    let config = common::config(&["register.piecewise=true"]);
    let (rois, _) = common::frames(&config, 0);
    match Engine::new(&config, &rois, &common::shape(), 0) {
        Err(EngineError::Blocks(said)) => {
            assert_eq!(said, "register.blocks_y: 8 blocks in 96 pixels, expected at most 4 (24 pixels each)");
        }
        other => panic!("{:?}", other.map(|_| "an engine").map_err(|e| e.to_string())),
    }
}
