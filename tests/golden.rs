//! Journals stay readable: small sessions as earlier versions wrote them, under `tests/golden`. They are read, not
//! recomputed: what a version decides may improve, what was recorded stays.

mod common;

use std::path::{Path, PathBuf};

use apical::engine::{Command, Engine, Input};
use apical::export::write_tables;
use apical::frame::{FrameMeta, FrameSlot, Geometry, PixelType};
use apical::journal::{Found, JournalRecord, SessionFiles, inspect, unpack};
use apical::proto::v1;
use apical::sample::RoiSet;
use common::record::{Recording, recorded};
use common::{Scripted, config};
use prost::Message;
use sha2::{Digest, Sha256};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What stands in a session, in a line for each kind of record: how many, and their hash.
fn contents(session: &Path) -> String {
    let files = SessionFiles::open(session).expect("a session");
    assert!(files.damage().is_empty() && files.unfinished().is_empty(), "{:?}", files.damage());
    let mut kinds = std::collections::BTreeMap::<&str, (u64, Sha256)>::new();
    let mut take = |kind, message: Vec<u8>| {
        let (count, hash) = kinds.entry(kind).or_default();
        *count += 1;
        hash.update(&message);
    };
    let read = files.read(|record| match record {
        JournalRecord::Head(r) => take("head", r.encode_to_vec()),
        JournalRecord::Input(r) => take("inputs", r.encode_to_vec()),
        JournalRecord::Decision(r) => take("decisions", r.encode_to_vec()),
        JournalRecord::Timing(r) => take("timing", r.encode_to_vec()),
        JournalRecord::Command(r) => take("commands", r.encode_to_vec()),
        JournalRecord::Event(r) => take("events", r.encode_to_vec()),
        JournalRecord::Snapshot(r) => take("snapshots", r.encode_to_vec()),
        JournalRecord::Latency(r) => take("latency", r.encode_to_vec()),
        JournalRecord::Health(r) => take("health", r.encode_to_vec()),
        JournalRecord::Loss(r) => take("losses", r.encode_to_vec()),
    });
    read.expect("it is whole");
    let head = files.head().expect("a head");
    let kept = files.kept_pixels(0).expect("pixels");
    if let (Some(mut pixels), Some(v1::session_head::Stream::Pixels(header))) = (kept, &head.stream) {
        let geometry = Geometry::new(header.height_px as usize, header.width_px as usize);
        let mut slot = FrameSlot::new(geometry, PixelType::U16);
        for seq in 0..10_000 {
            if let Found::Pixels(record) = pixels.find(seq) {
                unpack(&record, &mut slot).expect("a frame");
                take("pixels", slot.samples().iter().flat_map(|s| s.to_le_bytes()).collect());
            }
        }
    }
    kinds.into_iter().map(|(kind, (count, hash))| format!("{kind} {count} {}\n", hex(&hash.finalize()))).collect()
}

#[test]
fn sessions_of_earlier_versions_are_read() {
    let sessions: Vec<PathBuf> =
        std::fs::read_dir(golden()).expect("golden sessions").map(|e| e.unwrap().path()).collect();
    assert!(sessions.len() >= 2, "{sessions:?}");
    let out = tempfile::tempdir().expect("a directory");
    for session in sessions.iter().filter(|path| path.is_dir()) {
        let expected = std::fs::read_to_string(session.join("contents.txt")).expect("what stands in it");
        assert_eq!(contents(session), expected, "{}", session.display());
        assert!(inspect(&SessionFiles::open(session).unwrap()).whole);
        let tables = out.path().join(session.file_name().unwrap());
        assert!(write_tables(session, &tables).expect("tables").frames > 0);
    }
}

/// Makes the sessions of this version's layout; run by hand when the layout grows, and commit what it makes:
/// `cargo test --release --test golden -- --ignored`.
#[test]
#[ignore = "writes into tests/golden"]
fn make() {
    // Relative, so that no path of this machine stands in them.
    std::env::set_current_dir(golden()).expect("a directory");
    let here = Path::new(".");
    let name = |kind: &str| format!("{kind}-layout-{}-version-{}", apical::journal::FORMAT, env!("CARGO_PKG_VERSION"));
    let small = [
        "record.frames=\"all\"",
        "baseline.frames=30",
        "register.min_template_frames=8",
        "task.trial_frames=20",
        "calibration.segments=20",
        "record.sync_interval_ms=1",
    ];
    let pixels = recorded(here, &name("pixels"), &config(&small), 36);
    std::fs::write(pixels.join("contents.txt"), contents(&pixels)).expect("written");

    let config = config(&small);
    let shape = apical::engine::StreamShape::RoiValues { count: 6 };
    let engine = Engine::new(&config, &RoiSet::default(), &shape, 0).expect("an engine");
    let mut driver = common::driver_of(&config, engine);
    let stream = v1::RoiValuesHeader { roi_count: 6, frame_rate_hz: 30.0, ..Default::default() };
    let stream = v1::session_head::Stream::RoiValues(stream);
    let mut recording = Recording::of(here, &name("values"), &config, &RoiSet::default(), stream, &driver);
    let values: Vec<(FrameMeta, Vec<f64>)> = (0..200)
        .map(|index| {
            let meta = FrameMeta { index, device_ns: index * 33_333_333, ..FrameMeta::default() };
            let f = (0..6).map(|roi| 100.0 + ((index * 7 + roi * 31) % 23) as f64 + 0.25 * roi as f64);
            (meta, f.collect())
        })
        .collect();
    recording.play(&mut driver, &[Scripted::Command(Command::StartBaseline)], 50);
    for (meta, f) in &values {
        recording.play(&mut driver, &[Scripted::Take(Input::RoiValues { meta: *meta, f })], 50);
        if meta.index == 29 {
            let start = Scripted::Command(Command::StartTask { accept_template: false });
            recording.play(&mut driver, &[Scripted::Command(Command::Calibrate), start], 50);
        }
        if meta.index == 60 {
            recording.play(&mut driver, &[Scripted::Command(Command::ManualReward)], 50);
        }
    }
    recording.play(&mut driver, &[Scripted::Command(Command::Stop)], 1);
    let values = recording.close();
    std::fs::write(values.join("contents.txt"), contents(&values)).expect("written");
}
