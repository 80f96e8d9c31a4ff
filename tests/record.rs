//! The record: nothing lost, everything recomputable, no damage unseen.

mod common;

use std::path::{Path, PathBuf};

use apical::config::RigConfig;
use apical::engine::{Command, Engine, Input};
use apical::journal::{
    JournalError, SessionFiles, VerifyError, VerifyOptions, VerifyReport, engine_of, inspect, journal_file,
    pixels_file, resume, verify,
};
use common::record::recorded;
use common::{FRAMES, Scripted, config, driver, frames, script};

fn check(directory: &Path, options: &VerifyOptions) -> Result<VerifyReport, VerifyError> {
    verify(&SessionFiles::open(directory)?, options)
}

fn whole(directory: &Path, options: &VerifyOptions) -> VerifyReport {
    let report = check(directory, options).expect("it can be read");
    assert_eq!((report.differences, &report.damage[..]), (0, &[][..]), "{:?}", report.first_difference);
    report
}

fn with_pixels() -> RigConfig {
    config(&["record.frames=\"all\"", "record.sync_interval_ms=5"])
}

/// Numbers that look random and are the same every time.
fn draws(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut x = seed;
    move |below| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(x) * u128::from(below)) >> 64) as u64
    }
}

#[test]
fn a_session_is_recomputed_from_its_pixels_and_from_any_snapshot() {
    recomputed_from_pixels_and_snapshots(&with_pixels());
}

#[test]
fn so_is_one_whose_template_followed() {
    let mut config = with_pixels();
    (config.register.template_update_frames, config.register.template_update_share) = (100, 0.5);
    recomputed_from_pixels_and_snapshots(&config);
}

fn recomputed_from_pixels_and_snapshots(config: &RigConfig) {
    let folder = tempfile::tempdir().unwrap();
    let session = recorded(folder.path(), "session", config, FRAMES);
    let from_pixels = whole(&session, &VerifyOptions::default());
    assert_eq!(from_pixels.frames_from_pixels, from_pixels.frames_compared);
    assert!(from_pixels.frames_compared > 880 && from_pixels.snapshots_compared >= 8, "{from_pixels:?}");
    let from_f = whole(&session, &VerifyOptions { without_pixels: true, ..VerifyOptions::default() });
    assert_eq!((from_f.frames_compared, from_f.frames_from_pixels), (from_pixels.frames_compared, 0));
    let last = from_pixels.inputs_compared - 1;
    for without_pixels in [false, true] {
        let options = VerifyOptions { from_input: Some(last / 2), without_pixels, ..VerifyOptions::default() };
        let half = whole(&session, &options);
        let start = half.from_snapshot.expect("a snapshot");
        assert!(start <= last / 2 && start + 250 > last / 2, "{start} of {last}");
        assert_eq!(half.inputs_compared, last - start);
        assert_eq!(half.frames_from_pixels > 0, !without_pixels);
    }
    let none = check(&session, &VerifyOptions { from_input: Some(3), ..VerifyOptions::default() });
    assert!(matches!(none, Err(VerifyError::NoSnapshot { from_input: 3 })), "{none:?}");
}

#[test]
fn boxes_around_the_rois_give_the_f_that_was_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&["record.frames=\"rois\""]);
    config.sample.neuropil_coefficient = apical::config::sample::NeuropilCoefficient::Share(0.7);
    let session = recorded(folder.path(), "session", &config, FRAMES);
    let report = whole(&session, &VerifyOptions::default());
    assert_eq!((report.frames_from_pixels, report.frames_sampled_again > 880), (0, true), "{report:?}");
    let size = |name: String| std::fs::metadata(session.join(name)).unwrap().len();
    assert!(size(pixels_file(0)) > size(journal_file(0)), "the boxes are there");
}

#[test]
fn demixed_rois_and_estimated_neuropil_are_recomputed_as_well() {
    let folder = tempfile::tempdir().unwrap();
    for frames in ["all", "rois", "none"] {
        let more = ["sample.mode=demix", "sample.neuropil_coefficient=estimate", "activity.frame_rate_hz=10"];
        let config = config(&[&format!("record.frames={frames}"), more[0], more[1], more[2]]);
        let session = recorded(folder.path(), frames, &config, FRAMES);
        let report = whole(&session, &VerifyOptions::default());
        assert_eq!(report.frames_from_pixels > 880, frames == "all", "{report:?}");
        assert!(report.frames_compared > 880, "{report:?}");
    }
}

#[test]
fn a_session_of_one_simd_path_is_recomputed_on_the_other() {
    let folder = tempfile::tempdir().unwrap();
    for (name, recorded_with, verified_with) in [("on", true, false), ("off", false, true)] {
        let simd = format!("register.simd={recorded_with}");
        let config = config(&[&simd, "record.frames=\"all\""]);
        let session = recorded(folder.path(), name, &config, FRAMES);
        let set = vec![format!("register.simd={verified_with}")];
        let report = whole(&session, &VerifyOptions { set, ..VerifyOptions::default() });
        assert_eq!(report.frames_from_pixels, report.frames_compared);
    }
}

#[test]
fn a_setting_that_matters_is_a_difference() {
    let folder = tempfile::tempdir().unwrap();
    let session = recorded(folder.path(), "session", &config(&[]), 300);
    let set = vec!["activity.f0_floor=80000.0".to_owned()];
    let report = check(&session, &VerifyOptions { set, ..VerifyOptions::default() }).expect("it can be read");
    let first = report.first_difference.expect("a difference");
    assert!(report.differences > 0 && first.recorded != first.computed);
}

/// A small session whose journal has many seals.
fn small(parent: &Path) -> PathBuf {
    let config = config(&[
        "record.frames=\"rois\"",
        "record.sync_interval_ms=1",
        "baseline.frames=40",
        "calibration.segments=20",
        "task.trial_frames=30",
    ]);
    recorded(parent, "session", &config, 120)
}

#[test]
fn a_journal_cut_anywhere_is_whole_up_to_its_last_seal() {
    let folder = tempfile::tempdir().unwrap();
    let session = small(folder.path());
    let journal = session.join(journal_file(0));
    let bytes = std::fs::read(&journal).unwrap();
    let all = whole(&session, &VerifyOptions::default());
    assert!(all.unfinished.is_empty());
    let mut draw = draws(1);
    let (mut unreadable, mut partial) = (0, 0);
    for _ in 0..1_000 {
        let length = draw(bytes.len() as u64) as usize;
        std::fs::write(&journal, &bytes[..length]).unwrap();
        match check(&session, &VerifyOptions::default()) {
            Ok(report) => {
                assert_eq!((report.differences, &report.damage[..]), (0, &[][..]), "cut at {length}");
                assert_eq!(report.unfinished.len(), 1, "cut at {length}");
                let last = SessionFiles::open(&session).unwrap().last_input_seq();
                assert_eq!(report.inputs_compared, last.map_or(0, |seq| seq + 1), "cut at {length}");
                partial += u32::from(report.inputs_compared > 0 && report.inputs_compared < all.inputs_compared);
            }
            Err(VerifyError::Journal(JournalError::NoHead { .. })) => unreadable += 1,
            Err(e) => panic!("cut at {length}: {e}"),
        }
        let found = inspect(&SessionFiles::open(&session).unwrap());
        assert!(found.damage.iter().all(|damage| damage.unfinished), "cut at {length}: {:?}", found.damage);
    }
    assert!(unreadable < 500 && partial > 50, "{unreadable} without a head, {partial} in between");
}

#[test]
fn a_flipped_bit_is_damage_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let session = small(folder.path());
    let closed = std::fs::read(session.join(journal_file(0))).unwrap();
    // The same as a crash leaves it: up to a seal, and a bit of what comes behind it.
    let open = SessionFiles::open(&session).unwrap().segments[0].scan.whole_bytes as usize;
    let torn = [&closed[..open], &closed[open..open + 5]].concat();
    let pixels = std::fs::read(session.join(pixels_file(0))).unwrap();
    let rig = std::fs::read(session.join("rig.toml")).unwrap();
    let mut draw = draws(2);
    for (name, bytes, flips) in [
        (journal_file(0), &closed, 1_000),
        (journal_file(0), &closed[..open].to_vec(), 500),
        (pixels_file(0), &pixels, 300),
        ("rig.toml".to_owned(), &rig, 50),
    ] {
        let path = session.join(&name);
        for _ in 0..flips {
            let bit = draw(8 * bytes.len() as u64) as usize;
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &damaged).unwrap();
            match check(&session, &VerifyOptions::default()) {
                Ok(report) => {
                    assert!(report.damage.iter().any(|d| d.contains(&name)), "{name}, bit {bit}: {report:?}");
                    assert_eq!(report.differences, 0, "{name}, bit {bit}");
                }
                Err(e) => assert!(e.to_string().contains(&name), "{name}, bit {bit}: {e}"),
            }
            let found = inspect(&SessionFiles::open(&session).unwrap());
            assert!(found.damage.iter().any(|d| d.file == name && !d.unfinished), "{name}, bit {bit}: {found:?}");
            assert!(resume(&SessionFiles::open(&session).unwrap()).is_err(), "{name}, bit {bit}");
        }
        std::fs::write(&path, bytes).unwrap();
    }
    std::fs::write(session.join(journal_file(0)), torn).unwrap();
    let report = whole(&session, &VerifyOptions::default());
    assert_eq!(report.unfinished.len(), 1);
}

#[test]
fn a_missing_segment_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let session = small(folder.path());
    let journal = session.join(journal_file(0));
    std::fs::copy(&journal, session.join(journal_file(2))).unwrap();
    let report = check(&session, &VerifyOptions::default()).unwrap();
    assert!(report.damage.iter().any(|d| d.contains("journal-001.mcap: it is missing")), "{:?}", report.damage);
    // A segment that does not begin where the one before it ends.
    std::fs::rename(session.join(journal_file(2)), session.join(journal_file(1))).unwrap();
    let report = check(&session, &VerifyOptions::default()).unwrap();
    assert!(report.damage.iter().any(|d| d.contains("begins with input 0")), "{:?}", report.damage);
}

#[test]
fn a_session_goes_on_from_its_record_as_if_it_had_been_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&["record.sync_interval_ms=1"]);
    let (rois, slots) = frames(&config, FRAMES);
    let script = script(&slots);
    // Everything but the end.
    let script = &script[..script.len() - 2];
    let mut draw = draws(3);
    for round in 0..6 {
        let name = format!("session-{round}");
        let mut live = driver(&config, &rois);
        let mut recording = common::record::Recording::create(folder.path(), &name, &config, &rois, &live);
        let stop = 260 + draw(script.len() as u64 - 300) as usize;
        recording.play(&mut live, &script[..stop], 150);
        let session = recording.close();
        let point = resume(&SessionFiles::open(&session).unwrap()).expect("it goes on");
        assert_eq!(point.head.segment, 1);
        assert_eq!(point.head.first_input_seq, live.engine().next_seq());
        assert!(point.snapshot_seq.is_some() && point.recomputed < 400, "{:?}", point.snapshot_seq);
        assert!(!point.continuation.template_lost);
        let mut again = engine_of(&point.head).expect("an engine");
        again.load(&point.state).expect("its state");
        // The engine that was never interrupted takes the same word, and the same frames.
        let mut state = Vec::new();
        live.engine().save(&mut state);
        let mut reference = Engine::new(&config, &rois, &common::shape(), 0).expect("an engine");
        reference.load(&state).expect("its state");
        let word = Input::Continued { segment: 1, template_lost: false };
        assert_eq!(format!("{:?}", again.step(&word).decision), format!("{:?}", reference.step(&word).decision));
        for item in &script[stop..] {
            let input = match item {
                Scripted::Take(Input::Frame(slot)) => Input::Frame(slot),
                Scripted::Command(command) => Input::Command(command),
                Scripted::Take(_) => continue,
            };
            let (a, b) = (again.step(&input).decision.clone(), reference.step(&input).decision);
            // Registration tracks from where the snapshot had it, and finds nearly the same in this noise.
            let off = (a.registration.dy_px - b.registration.dy_px).abs();
            assert!(off < 0.15, "round {round}, frame {}: {off} px", b.frame_index);
            assert_eq!((a.state, a.trial, a.screen), (b.state, b.trial, b.screen), "round {round}");
        }
    }
}

#[test]
fn what_was_on_its_way_is_unknown_and_what_was_ended_stays_ended() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let session = recorded(folder.path(), "ended", &config, 300);
    let error = resume(&SessionFiles::open(&session).unwrap()).unwrap_err().to_string();
    assert!(error.contains("ended by a command"), "{error}");

    let (rois, slots) = frames(&config, 300);
    let script = script(&slots);
    // A board that never answers.
    let engine = Engine::new(&config, &rois, &common::shape(), 0).expect("an engine");
    let mut mute = common::driver_with(&config, engine, Box::new(apical::trigger::NullTrigger));
    let mut recording = common::record::Recording::create(folder.path(), "mute", &config, &rois, &mute);
    recording.play(&mut mute, &script[..280], 100);
    let reward = [Scripted::Command(Command::ManualReward)];
    recording.play(&mut mute, &reward, 1_000);
    let session = recording.close();
    let point = resume(&SessionFiles::open(&session).unwrap()).expect("it goes on");
    assert_eq!(point.continuation.waiting.len(), 1, "{:?}", point.continuation);
    let mut limits = apical::trigger::Limits::new(&config.limits);
    limits.load(&point.limits, 1_000_000_000_000).expect("counts");
    assert_eq!(limits.pulses_session(), mute.limits().expect("limits").pulses_session());
}

#[test]
fn a_baseline_that_was_being_taken_is_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let (rois, slots) = frames(&config, 150);
    let mut live = driver(&config, &rois);
    let mut recording = common::record::Recording::create(folder.path(), "early", &config, &rois, &live);
    recording.play(&mut live, &script(&slots)[..100], 40);
    let session = recording.close();
    let point = resume(&SessionFiles::open(&session).unwrap()).expect("it goes on");
    assert!(point.continuation.template_lost);
    let mut again = engine_of(&point.head).expect("an engine");
    again.load(&point.state).expect("its state");
    again.step(&Input::Continued { segment: 1, template_lost: true });
    assert!(!again.baseline_runs());
    let outcome = again.step(&Input::Command(&Command::StartBaseline)).decision.command;
    assert_eq!(outcome, apical::engine::CommandOutcome::TookEffect);
}
