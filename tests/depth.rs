//! A brain that sinks under the microscope: followed against a z-stack, warned of, recorded and recomputed.

mod common;

use std::path::Path;
use std::sync::Arc;

use apical::config::RigConfig;
use apical::engine::{Command, Engine, Input, InputSummary, RecordSink, Step, WARNING_Z_DRIFT};
use apical::frame::{FrameMeta, FrameSlot, Geometry, PixelType};
use apical::journal::{Published, SessionFiles, VerifyOptions, input_of, verify, with_images};
use apical::proto::v1::{self, EventKind};
use apical::sample::RoiSet;
use common::record::Recording;
use common::{Collect, SIDE_PX, Scripted, config, driver, driver_of, frames, play, shape};
use prost::Message;
use tiff::encoder::{TiffEncoder, colortype::Gray16};

const BASELINE: u64 = 120;
const FRAMES: u64 = 600;
/// Depth of the baseline, in um.
const REST_UM: f64 = 8.0;

/// A number from 0 to 1 for each seed.
fn random(seed: u64) -> f64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    for _ in 0..3 {
        x ^= x >> 29;
        x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    (x >> 11) as f64 / (1u64 << 53) as f64
}

/// Cells that are 4 um thick, scattered over 40 um, as they are seen at a depth; in counts.
fn at_depth(depth_um: f64) -> Vec<f64> {
    let mut image = vec![130.0; SIDE_PX * SIDE_PX];
    for cell in 0..180 {
        let place = |k: u64| random(10 * cell + k);
        let (y, x, z) = (place(0) * SIDE_PX as f64, place(1) * SIDE_PX as f64, place(2) * 40.0 - 12.0);
        let height = 150.0 * place(3) * (-0.5 * ((z - depth_um) / 4.0).powi(2)).exp();
        for row in 0..SIDE_PX {
            for col in 0..SIDE_PX {
                let d2 = (row as f64 - y).powi(2) + (col as f64 - x).powi(2);
                image[row * SIDE_PX + col] += height * (-d2 / 18.0).exp();
            }
        }
    }
    image
}

/// The depth of a frame: at rest, then sinking to 4 um below it and coming back.
fn depth_um(index: u64) -> f64 {
    match index {
        0..200 => REST_UM,
        200..400 => REST_UM + 4.0,
        _ => REST_UM + 1.0,
    }
}

fn slots() -> Vec<FrameSlot> {
    let geometry = Geometry::new(SIDE_PX, SIDE_PX);
    let images: Vec<_> = [0, 200, 400].map(|index| at_depth(depth_um(index))).into();
    let slot = |index: u64| {
        let image = &images[(index / 200) as usize];
        let noise = |at: usize| 60.0 * (random(index * 100_000 + at as u64) - 0.5);
        let samples: Vec<u16> = image.iter().enumerate().map(|(at, v)| (v + noise(at)) as u16).collect();
        let meta = FrameMeta { index, device_ns: index * 33_333_333, ..FrameMeta::default() };
        let mut slot = FrameSlot::new(geometry, PixelType::U16);
        slot.meta = meta;
        slot.samples_mut().copy_from_slice(&samples);
        slot
    };
    (0..FRAMES).map(|index| slot(index.min(599))).collect()
}

/// A stack of nine slices, 2 um apart, from a file as a microscope leaves it.
fn with_stack(folder: &Path) -> (RigConfig, RoiSet) {
    let file = folder.join("stack.tif");
    let mut encoder = TiffEncoder::new(std::fs::File::create(&file).unwrap()).unwrap();
    for slice in 0..9 {
        let counts: Vec<u16> = at_depth(2.0 * f64::from(slice)).iter().map(|&v| v as u16).collect();
        encoder.write_image::<Gray16>(SIDE_PX as u32, SIDE_PX as u32, &counts).unwrap();
    }
    let more = [
        format!("register.z_stack={file:?}"),
        "register.z_step_um=2.0".to_owned(),
        "register.z_average_frames=60".to_owned(),
        "register.z_warning_um=3.0".to_owned(),
        format!("baseline.frames={BASELINE}"),
        "calibration.segments=50".to_owned(),
        "record.frames=\"all\"".to_owned(),
    ];
    let config = config(&more.iter().map(String::as_str).collect::<Vec<_>>());
    let set = RoiSet { reference: None, reference_kind: apical::sample::ReferenceKind::None, ..frames(&config, 1).0 };
    let set = with_images(set, &config, &shape()).expect("the stack");
    assert_eq!(set.z_stack.len(), 9);
    (config, set)
}

fn script(slots: &[FrameSlot]) -> Vec<Scripted<'_>> {
    let frames = slots.iter().map(|slot| Scripted::Take(Input::Frame(slot)));
    std::iter::once(Scripted::Command(Command::StartBaseline)).chain(frames).collect()
}

#[test]
fn it_is_followed_and_warned_of_once_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let (config, set) = with_stack(folder.path());
    let slots = slots();
    let mut steps = Collect::default();
    play(&mut driver(&config, &set), &script(&slots), &mut steps);
    let drift = |index: u64| steps.0[index as usize + 1].decision.z_drift_um;
    assert_eq!(drift(BASELINE - 1), None);
    for (index, expected) in [(199, 0.0), (399, 4.0), (599, 1.0)] {
        let found = drift(index).expect("it is known");
        assert!((found - expected).abs() < 0.6, "frame {index}: {found} um, expected {expected}");
    }
    let warnings: Vec<(u64, f64)> = steps
        .0
        .iter()
        .flat_map(|s| s.events.iter())
        .filter(|e| e.kind() == EventKind::Warning && e.id == WARNING_Z_DRIFT)
        .map(|e| (e.frame_index, e.value))
        .collect();
    assert!(matches!(warnings[..], [(200..400, 3.0..4.0)]), "{warnings:?}");
}

#[test]
fn a_replay_a_snapshot_and_a_verification_from_pixels_give_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (config, set) = with_stack(folder.path());
    let slots = slots();
    let script = script(&slots);
    let mut whole = driver(&config, &set);
    let mut recording = Recording::create(folder.path(), "sinks", &config, &set, &whole);
    recording.play(&mut whole, &script, 90);
    let files = SessionFiles::open(&recording.close()).unwrap();
    std::fs::remove_file(folder.path().join("stack.tif")).unwrap();
    let report = verify(&files, &VerifyOptions::default()).unwrap();
    assert_eq!((report.differences, report.frames_from_pixels, &report.damage), (0, FRAMES, &Vec::new()));
    assert!(report.snapshots_compared > 4);
    let report = verify(&files, &VerifyOptions { without_pixels: true, ..VerifyOptions::default() }).unwrap();
    assert_eq!((report.differences, report.frames_compared), (0, FRAMES));

    let mut steps = Collect::default();
    play(&mut driver(&config, &set), &script, &mut steps);
    let mut engine = Engine::new(&config, &set, &shape(), 0).unwrap();
    let mut replayed = Collect::default();
    for step in &steps.0 {
        let mut command = None;
        let input = input_of(&step.input, &step.decision, &mut command).unwrap();
        let Step { decision, timing } = engine.step(&input);
        replayed.record(&InputSummary::of(&input), decision, &timing);
    }
    let encoded = |steps: &[Arc<Published>]| steps.iter().map(|s| s.decision.encode_to_vec()).collect::<Vec<_>>();
    assert!(encoded(&steps.0) == encoded(&replayed.0));

    for cut in [60, 125, 300] {
        let mut first = driver(&config, &set);
        play(&mut first, &script[..cut], &mut Collect::default());
        let mut state = Vec::with_capacity(first.engine().state_bytes().most);
        first.engine().save(&mut state);
        let mut engine = Engine::new(&config, &set, &shape(), 0).unwrap();
        engine.load(&state).unwrap();
        let mut rest = Collect::default();
        play(&mut driver_of(&config, engine), &script[cut..], &mut rest);
        let frames = |steps: &[Arc<Published>]| {
            let only = steps.iter().filter(|s| s.input.kind() == v1::InputKind::Frame);
            only.map(|s| v1::DecisionRecord { input_seq: 0, ..s.decision.clone() }.encode_to_vec()).collect::<Vec<_>>()
        };
        let all = frames(&steps.0);
        assert!(frames(&rest.0) == all[all.len() - frames(&rest.0).len()..], "cut at {cut}");
    }
}

#[test]
fn a_stack_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (config, set) = with_stack(folder.path());
    let one = RoiSet { z_stack: set.z_stack[..1].to_vec(), ..set.clone() };
    let error = |set: &RoiSet| Engine::new(&config, set, &shape(), 0).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        error(&one).starts_with("register.z_stack: 1 slices of 96 x 96 pixels, expected 2 to 64"),
        "{}",
        error(&one)
    );
    let mut other = set.clone();
    other.z_stack[3].geometry = Geometry::new(48, 192);
    assert!(error(&other).contains("the image is 48 x 192"), "{}", error(&other));
    let read = |more: &[&str]| {
        let more: Vec<String> = more.iter().map(|&s| s.to_owned()).collect();
        apical::config::load_text("", &more).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(read(&["register.z_step_um=2"]).contains("expected 0, or register.z_stack, or several planes"));
    assert!(read(&["register.z_stack=\"a.tif\""]).contains("register.z_step_um: 0 with register.z_stack"));
    assert_eq!(read(&["register.z_step_um=20", "stream.plane=[0, 1]"]), "");
}
