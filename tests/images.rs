//! A template of another day: a session begins with it instead of making its own, and its journal holds it.

mod common;

use std::path::Path;

use apical::engine::{Command, Input};
use apical::frame::FrameSlot;
use apical::journal::{SessionFiles, VerifyOptions, verify, with_images};
use apical::proto::v1::{self, EventKind};
use apical::sample::RoiSet;
use common::record::{Recording, recorded};
use common::{BASELINE_FRAMES, Collect, Scripted, config, driver, frames, play, shape};

/// Another day: what was at row r, column c lies so much further down and right.
const MOVED_PX: (usize, usize) = (4, 3);

/// A frame whose content lies further down and right; its edge repeats.
fn moved(slot: &FrameSlot) -> FrameSlot {
    let (height, width) = (slot.geometry.height_px, slot.geometry.width_px);
    let mut moved = slot.clone();
    for row in 0..height {
        for col in 0..width {
            let from = row.saturating_sub(MOVED_PX.0) * width + col.saturating_sub(MOVED_PX.1);
            moved.samples_mut()[row * width + col] = slot.samples()[from];
        }
    }
    moved
}

fn script(slots: &[FrameSlot]) -> Vec<Scripted<'_>> {
    let begin = [Scripted::Command(Command::StartBaseline)];
    let middle =
        [Scripted::Command(Command::Calibrate), Scripted::Command(Command::StartTask { accept_template: false })];
    let (baseline, rest) = slots.split_at(BASELINE_FRAMES as usize);
    let frame = |slot| Scripted::Take(Input::Frame(slot));
    begin.into_iter().chain(baseline.iter().map(frame)).chain(middle).chain(rest.iter().map(frame)).collect()
}

/// Day 2, with the template of the session in `day1`: set, frames, and where its own session lies.
fn day2(folder: &Path, day1: &Path) -> (RoiSet, Vec<FrameSlot>, std::path::PathBuf) {
    let config = config(&[&format!("register.template={day1:?}"), "record.frames=\"all\""]);
    let (set, slots) = frames(&config, 320);
    let slots: Vec<FrameSlot> = slots.iter().map(moved).collect();
    let set = with_images(set, &config, &shape()).expect("day 1 has one");
    let mut driver = driver(&config, &set);
    let mut recording = Recording::create(folder, "day2", &config, &set, &driver);
    recording.play(&mut driver, &script(&slots), 100);
    (set, slots, recording.close())
}

#[test]
fn a_session_follows_the_template_of_another_day_from_its_first_frame() {
    let folder = tempfile::tempdir().unwrap();
    let day1 = recorded(folder.path(), "day1", &config(&[]), 260);
    let (set, slots, _) = day2(folder.path(), &day1);
    let mut steps = Collect::default();
    let mut driver = driver(&config(&[]), &set);
    let before = driver.engine().template(0).expect("there from the start");
    play(&mut driver, &script(&slots), &mut steps);
    let frames: Vec<_> = steps.0.iter().filter(|s| s.input.kind() == v1::InputKind::Frame).collect();
    assert!(frames.iter().all(|s| s.decision.verdict() == v1::FrameVerdict::Decided));
    let mean = |pick: fn(&v1::DecisionRecord) -> f64| {
        frames.iter().map(|s| pick(&s.decision)).sum::<f64>() / frames.len() as f64
    };
    // The brain moves about its rest; the recording lies aside of the day before.
    let (dy, dx) = (mean(|d| d.dy_px), mean(|d| d.dx_px));
    assert!((dy - MOVED_PX.0 as f64).abs() < 1.0 && (dx - MOVED_PX.1 as f64).abs() < 1.0, "{dy} {dx}");
    // It stays the template, frozen, and on the reference.
    assert_eq!(driver.engine().template(0), Some(before));
    let last = &frames.last().unwrap().decision;
    assert!(last.template_frozen && last.offset_trusted && last.offset_score > 0.5);
    let done = steps.0.iter().flat_map(|s| s.decision.event_kind.iter().zip(&s.decision.event_value));
    let good: Vec<f64> = done.filter(|(kind, _)| **kind == EventKind::BaselineDone as i32).map(|(_, v)| *v).collect();
    assert_eq!(good, [BASELINE_FRAMES as f64]);
}

#[test]
fn its_journal_is_enough_to_recompute_it() {
    let folder = tempfile::tempdir().unwrap();
    let day1 = recorded(folder.path(), "day1", &config(&[]), 260);
    let (_, _, session) = day2(folder.path(), &day1);
    std::fs::remove_dir_all(&day1).unwrap();
    let report = verify(&SessionFiles::open(&session).unwrap(), &VerifyOptions::default()).unwrap();
    assert_eq!((report.differences, report.frames_from_pixels, &report.damage), (0, 320, &Vec::new()));
    assert!(report.snapshots_compared > 2);
}

#[test]
fn an_image_of_another_program_serves_as_well_and_what_does_not_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let set = || frames(&config(&[]), 1).0;
    let image = set().reference.unwrap();
    let file = folder.path().join("mean.tif");
    let counts: Vec<u16> = image.values.iter().map(|v| (v * 100.0) as u16).collect();
    let mut encoder = tiff::encoder::TiffEncoder::new(std::fs::File::create(&file).unwrap()).unwrap();
    let (height, width) = (image.geometry.height_px as u32, image.geometry.width_px as u32);
    encoder.write_image::<tiff::encoder::colortype::Gray16>(width, height, &counts).unwrap();
    let named = |template: &Path, more: &str| config(&[&format!("register.template={template:?}"), more]);
    let read = with_images(set(), &named(&file, "stream.channel=0"), &shape()).unwrap();
    assert_eq!((read.templates.len(), read.templates[0].plane), (1, 0));
    assert_eq!(read.templates[0].image.values[..3], counts[..3].iter().map(|&c| f32::from(c)).collect::<Vec<_>>()[..]);
    let error = |template: &Path, more| with_images(set(), &named(template, more), &shape()).unwrap_err().to_string();
    assert!(error(&file, "stream.plane=[0, 1]").ends_with("mean.tif: 1 images, expected 2: one for each plane read"));
    assert!(error(folder.path(), "stream.channel=0").starts_with("register.template: "));
    let early = recorded(folder.path(), "early", &config(&[]), 20);
    assert!(
        error(&early, "stream.channel=0").contains("no template of plane 0"),
        "{}",
        error(&early, "stream.channel=0")
    );
    let small = RoiSet { templates: read.templates, ..RoiSet::default() };
    let other = apical::engine::StreamShape::Pixels {
        geometry: apical::frame::Geometry::new(64, 64),
        pixel_type: apical::frame::PixelType::U16,
        detector_offset_counts: None,
    };
    let nothing = apical::config::load_text("", &[]).unwrap();
    let error = apical::engine::Engine::new(&nothing, &small, &other, 0).err().map(|e| e.to_string());
    let expected = "the template of plane 0: the image is 96 x 96 with 9216 values, expected 64 x 64";
    assert_eq!(error.as_deref(), Some(expected));
}
