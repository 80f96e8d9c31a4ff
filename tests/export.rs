//! Tables and report of whole sessions: recorded by the built program, exported through the library.

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use apical::config::load_text;
use apical::engine::{Command, Engine, Input, InputSummary, Record, StreamShape};
use apical::export::{ExportError, Written, write_report, write_tables};
use apical::frame::FrameMeta;
use apical::journal::{
    JournalItem, JournalRecord, JournalWriter, Published, SessionDirectory, SessionFiles, journal_file,
};
use apical::proto::v1;
use apical::sample::RoiSet;

const ROIS: usize = 6;
const FRAMES: usize = 900;
const BASELINE: usize = 300;

const RIG: &str = r#"
[baseline]
frames = 300

[ensembles]
plus = [0, 1, 2]
minus = [3, 4, 5]

[task]
trial_frames = 60
start_frames = 5
hit_hold_frames = 12
hit_reward_frame = 3
aversive_hold_frames = 12
iti_frames = 5
miss_iti_frames = 15
miss_noise_frame = 5

[outputs.reward]
width_ms = 30.0

[limits]
max_pulse_width_ms = 50.0
min_interval_ms = 200.0
max_on_ms_per_minute = 3000.0
max_on_ms_per_session = 30000.0
max_pulses_per_minute = 100
max_pulses_per_session = 1000
"#;

/// Fluorescence in counts: a level, a little noise of a fixed sequence, and transients that begin now and then, P+ more
/// often alone than together with P-.
fn fluorescence() -> Vec<f32> {
    let mut state = 12_345_u32;
    let mut draw = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24)
    };
    let mut values = vec![0.0; ROIS * FRAMES];
    let mut calcium = [0.0; ROIS];
    for frame in 0..FRAMES {
        let (plus, minus) = (draw() < 0.03, draw() < 0.02);
        for (roi, dff) in calcium.iter_mut().enumerate() {
            *dff *= 0.93;
            if if roi < 3 { plus } else { minus } {
                *dff += 0.8 + 0.4 * draw();
            }
            values[roi * FRAMES + frame] = (100.0 * (1.0 + *dff) + 4.0 * (draw() - 0.5)) as f32;
        }
    }
    values
}

/// numpy's format, version 1.0.
fn write_npy(path: &Path, values: &[f32]) {
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({ROIS}, {}), }}", values.len() / ROIS);
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    values.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

/// A session that the program recorded, and what it said of it.
fn recorded(folder: &Path) -> (PathBuf, serde_json::Value) {
    let (traces, rig, session) = (folder.join("F.npy"), folder.join("rig.toml"), folder.join("session"));
    write_npy(&traces, &fluorescence());
    std::fs::write(&rig, RIG).unwrap();
    let run = Process::new(env!("CARGO_BIN_EXE_apical"))
        .arg("replay")
        .arg(&traces)
        .args(["--in-process", "--config"])
        .arg(&rig)
        .args(["--set", "outputs.reward.device=\"simulated\"", "--set", "record.sync_interval_ms=1", "--session-dir"])
        .arg(&session)
        .arg("--json")
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    (session, serde_json::from_slice(&run.stdout).unwrap())
}

/// A table as fields, its header first.
fn table(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

fn column<'a>(table: &'a [Vec<String>], name: &str) -> Vec<&'a str> {
    let k = table[0].iter().position(|c| c == name).unwrap();
    table[1..].iter().map(|row| row[k].as_str()).collect()
}

/// Every decision on a frame, in order.
fn decisions(session: &Path) -> Vec<v1::DecisionRecord> {
    let mut found = Vec::new();
    let files = SessionFiles::open(session).unwrap();
    files
        .read(|record| match record {
            JournalRecord::Decision(d) if !d.f_counts.is_empty() => found.push(*d),
            _ => {}
        })
        .unwrap();
    found
}

fn bits(field: &str) -> u64 {
    if field.is_empty() { f64::NAN.to_bits() } else { field.parse::<f64>().unwrap().to_bits() }
}

fn canonical(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

#[test]
fn the_tables_hold_every_frame_with_the_same_bits_as_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let (session, summary) = recorded(folder.path());
    let out = folder.path().join("tables");
    let written = write_tables(&session, &out).unwrap();
    assert_eq!(written.frames, FRAMES as u64);
    let (frames, activity) = (table(&out.join("frames.csv")), table(&out.join("activity.csv")));
    let header = "frame,device_ns,dy_px,dx_px,score,cursor,rotation_deg,shown_deg,state,reward,latency_us";
    assert_eq!(frames[0].join(","), header);
    assert_eq!((frames.len(), activity.len()), (FRAMES + 1, FRAMES + 1));
    assert!(frames.iter().all(|row| row.len() == 11) && activity.iter().all(|row| row.len() == 1 + 5 * ROIS));

    let decided = decisions(&session);
    assert_eq!(decided.len(), FRAMES);
    let same = |name: &str, of: &dyn Fn(&v1::DecisionRecord) -> f64| {
        let table = if frames[0].iter().any(|c| c == name) { &frames } else { &activity };
        for (d, field) in decided.iter().zip(column(table, name)) {
            assert_eq!(bits(field), canonical(of(d)), "{name} of frame {}: {field:?}", d.frame_index);
        }
    };
    same("cursor", &|d| d.cursor);
    same("rotation_deg", &|d| d.rotation_deg);
    same("shown_deg", &|d| d.displayed_deg);
    same("F_0", &|d| d.f_counts[0]);
    same("f0_3", &|d| d.f0_counts[3]);
    same("dff_4", &|d| d.dff[4]);
    same("z_5", &|d| d.z[5]);
    for ((k, d), row) in decided.iter().enumerate().zip(&frames[1..]) {
        assert_eq!((row[0].parse(), row[1].parse()), (Ok(k as u64), Ok(d.device_ns)));
    }
    // No pixels, no shift; no neuropil either.
    assert!(["dy_px", "dx_px", "score"].iter().all(|name| column(&frames, name).iter().all(|f| f.is_empty())));
    assert!(column(&activity, "Fneu_2").iter().all(|f| f.is_empty()));

    let states = column(&frames, "state");
    assert!(states[..BASELINE - 1].iter().all(|s| *s == "baseline"), "{:?}", &states[..BASELINE]);
    assert!(states[BASELINE..BASELINE + 5].iter().all(|s| *s == "start"), "{:?}", &states[BASELINE..BASELINE + 9]);
    for state in ["control", "hit", "iti"] {
        assert!(states.contains(&state), "no frame is in {state}");
    }
    let rewards = column(&frames, "reward").iter().filter(|r| **r == "1").count();
    assert!(rewards > 0);
    assert_eq!(summary["rewards_sent"].as_u64(), Some(rewards as u64));
    assert!(column(&frames, "latency_us").iter().all(|us| us.parse::<f64>().is_ok_and(|us| us >= 0.0)));
}

#[test]
fn the_table_of_events_counts_as_the_summary_does() {
    let folder = tempfile::tempdir().unwrap();
    let (session, summary) = recorded(folder.path());
    let out = folder.path().join("tables");
    let written = write_tables(&session, &out).unwrap();
    let events = table(&out.join("events.csv"));
    assert_eq!(events[0].join(","), "frame,device_ns,kind,id,value");
    assert_eq!(events.len() as u64, written.events + 1);
    let kinds = column(&events, "kind");
    let count = |kind: &str| kinds.iter().filter(|k| **k == kind).count() as u64;
    for (kind, key) in [
        ("trial_started", "trials"),
        ("hit", "hits"),
        ("aversive", "aversive"),
        ("miss", "misses"),
        ("reward_intended", "rewards_intended"),
        ("reward_sent", "rewards_sent"),
        ("reward_acknowledged", "rewards_acknowledged"),
    ] {
        assert_eq!(Some(count(kind)), summary[key].as_u64(), "{kind}");
    }
    assert_eq!((count("baseline_started"), count("calibrated"), count("stopped")), (1, 1, 1));
}

#[test]
fn the_report_is_one_file_that_loads_nothing_and_tells_every_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let (session, summary) = recorded(folder.path());
    let path = session.join("report.html");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(write_report(&session).unwrap(), path);
    let mut names: Vec<String> =
        std::fs::read_dir(&session).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["journal-000.mcap", "report.html", "rig.toml"]);
    let html = std::fs::read_to_string(&path).unwrap();
    assert_eq!(html.matches("<html").count(), 1);
    for link in ["http://", "https://", "src=\"/", "<script", "<link", "@import"] {
        // The name of SVG's namespace is no address that anything loads.
        let rest = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!rest.contains(link), "{link} in the report");
    }
    let outcomes = |name: &str| html.matches(&format!("<span class=\"dot\"></span>{name}</span>")).count() as u64;
    for (name, key) in [("hit", "hits"), ("aversive", "aversive"), ("miss", "misses")] {
        assert_eq!(Some(outcomes(name)), summary[key].as_u64(), "{name}");
    }
    assert!(summary["hits"].as_u64() > Some(1) && html.contains("acknowledged"));
    // The baseline's x was recomputed, since only then there is a picture of it.
    assert!(html.contains("Distribution of x in the baseline"));
    assert!(html.contains("A recording was played"));
}

/// A session without a program: six frames of two ROIs, of which two never came.
fn with_missing_frames(folder: &Path) -> PathBuf {
    let text = format!("[baseline]\nframes = 4\n[record]\ndirectory = {:?}\n", folder.display().to_string());
    let config = load_text(&text, &[]).unwrap();
    let shape = StreamShape::RoiValues { count: 2 };
    let header = v1::RoiValuesHeader { roi_count: 2, frame_rate_hz: 10.0, ..Default::default() };
    let stream = v1::session_head::Stream::RoiValues(header);
    let rois = RoiSet::default();
    let mut engine = Engine::new(&config, &rois, &shape, 0).unwrap();
    let SessionDirectory { path, mut writer, .. } = SessionDirectory::create(&config, "gaps", &rois, stream).unwrap();
    let mut events = 0;
    step(&mut engine, &writer, &mut events, &Input::Command(&Command::StartBaseline));
    for index in [10, 11, 14, 15] {
        let meta = FrameMeta { index, device_ns: index * 100_000_000, ..FrameMeta::default() };
        step(&mut engine, &writer, &mut events, &Input::RoiValues { meta, f: &[100.0, 0.1 + 0.2] });
    }
    writer.close();
    path
}

fn step(engine: &mut Engine, writer: &JournalWriter, events: &mut u64, input: &Input<'_>) {
    let summary = match input {
        Input::RoiValues { meta, .. } => InputSummary::RoiValues(*meta),
        Input::Command(command) => InputSummary::Command(**command),
        other => panic!("{other:?}"),
    };
    let step = engine.step(input);
    let record = Record { input: summary, decision: step.decision.clone(), timing: step.timing, ticket: 0 };
    let published = Published::new(&record, *events, None);
    *events += published.events.len() as u64;
    writer.push_waiting(JournalItem::Step(published));
}

#[test]
fn frames_that_never_came_have_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let session = with_missing_frames(folder.path());
    let out = folder.path().join("tables");
    assert_eq!(write_tables(&session, &out).unwrap().frames, 6);
    let text = std::fs::read_to_string(out.join("frames.csv")).unwrap();
    let rows: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(rows[2..4], ["12,,,,,,,,baseline,0,", "13,,,,,,,,baseline,0,"]);
    assert_eq!(rows[4], "14,1400000000,,,,,,,baseline,0,");
    let activity = table(&out.join("activity.csv"));
    assert_eq!(column(&activity, "frame"), ["10", "11", "12", "13", "14", "15"]);
    let f_1 = "0.30000000000000004";
    assert_eq!(column(&activity, "F_1"), [f_1, f_1, "", "", f_1, f_1]);
    let html = std::fs::read_to_string(write_report(&session).unwrap()).unwrap();
    assert!(html.contains("2 frames were skipped or never came"), "{html}");
}

#[test]
fn of_a_journal_that_ends_early_everything_before_is_exported_and_the_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (session, _) = recorded(folder.path());
    let journal = session.join(journal_file(0));
    let whole = std::fs::read(&journal).unwrap();
    let mut kept = Vec::new();
    for sixteenths in 1..16 {
        std::fs::write(&journal, &whole[..whole.len() * sixteenths / 16]).unwrap();
        let out = folder.path().join(format!("tables-{sixteenths}"));
        let said = match write_tables(&session, &out) {
            Ok(Written { frames, events, out, unfinished }) => {
                let rows = |name: &str| table(&out.join(name)).len() as u64 - 1;
                assert_eq!((rows("frames.csv"), rows("activity.csv"), rows("events.csv")), (frames, frames, events));
                kept.push(frames);
                unfinished.join("; ")
            }
            // Not even the head is whole.
            Err(ExportError::Journal(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(said.contains("journal-000.mcap"), "{said}");
        if kept.last().is_some_and(|frames| *frames > 0) {
            let html = std::fs::read_to_string(write_report(&session).unwrap()).unwrap();
            assert!(html.contains("without closing its journal"));
        }
    }
    assert!(kept.is_sorted() && kept.iter().any(|k| (1..FRAMES as u64).contains(k)), "{kept:?}");
}

#[test]
fn of_a_damaged_journal_everything_before_is_exported_and_the_damage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (session, _) = recorded(folder.path());
    let journal = session.join(journal_file(0));
    let whole = std::fs::read(&journal).unwrap();
    let out = folder.path().join("tables");
    // How much a block holds is the disk's affair: the last place whose damage leaves some frames and not all.
    let told = (1..16).rev().find_map(|sixteenths| {
        let mut bytes = whole.clone();
        bytes[whole.len() * sixteenths / 16] ^= 1;
        std::fs::write(&journal, bytes).unwrap();
        let _ = std::fs::remove_dir_all(&out);
        match write_tables(&session, &out) {
            Err(ExportError::BrokenOff { frames, source, .. }) if (1..FRAMES as u64).contains(&frames) => Some(source),
            Err(ExportError::BrokenOff { .. }) => None,
            other => panic!("expected the damage to be told: {other:?}"),
        }
    });
    let source = told.expect("one of fifteen places has frames before it and behind it");
    assert!(source.to_string().contains("journal-000.mcap: damaged: bytes "), "{source}");
    let html = std::fs::read_to_string(write_report(&session).unwrap()).unwrap();
    assert!(html.contains("The journal breaks off"));
}

#[test]
fn a_folder_without_a_session_is_refused_and_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let error = write_tables(folder.path(), &folder.path().join("out")).unwrap_err();
    assert!(error.to_string().contains("no session here"), "{error}");
    assert!(write_report(folder.path()).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
