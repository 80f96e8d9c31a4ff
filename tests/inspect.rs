//! `inspect` and `diff` on sessions that are made here, with the same script as `tests/determinism.rs`.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use apical::config::RigConfig;
use apical::engine::{Command, Decision, Input, InputSummary, Record, RecordSink, Timing};
use apical::export::write_tables;
use apical::frame::FrameSlot;
use apical::journal::inspect::GapKind;
use apical::journal::{
    Counters, Inspection, JournalItem, JournalWriter, Published, SessionDirectory, SessionFiles, Summary, diff,
    inspect, journal_file,
};
use apical::proto::v1;
use apical::sample::RoiSet;
use common::{BASELINE_FRAMES, FRAMES, Scripted, config, driver, frames, play, script};

/// Frames of the sessions without incidents.
const SHORT: u64 = 420;

/// Writes what happens into a journal.
struct Recorder {
    writer: JournalWriter,
    summary: Summary,
    events: u64,
    lose: Option<u64>,
}

impl RecordSink for Recorder {
    fn record(&mut self, input: &InputSummary, decision: &Decision, timing: &Timing) {
        let record = Record { input: *input, decision: decision.clone(), timing: *timing, ticket: 0 };
        let step = Published::new(&record, self.events, None);
        self.events += step.events.len() as u64;
        if let InputSummary::Command(command) = input {
            self.writer.push_waiting(JournalItem::Command(v1::CommandRecord {
                input_seq: decision.input_seq,
                operator_name: "tester".to_owned(),
                command: command.name().to_owned(),
                outcome: decision.command.to_string(),
                ..Default::default()
            }));
        }
        if self.lose != Some(decision.input_seq) {
            self.summary.take(&step);
            self.writer.push_waiting(JournalItem::Step(step));
        }
    }
}

/// A recorded session, and what its records summed up to as they were made.
fn recorded(folder: &Path, name: &str, config: &RigConfig, rois: &RoiSet, script: &[Scripted<'_>]) -> Made {
    recorded_but(folder, name, config, rois, script, None)
}

struct Made {
    directory: PathBuf,
    summary: Summary,
    events: u64,
}

fn recorded_but(
    folder: &Path,
    name: &str,
    config: &RigConfig,
    rois: &RoiSet,
    script: &[Scripted<'_>],
    lose: Option<u64>,
) -> Made {
    let mut config = config.clone();
    config.record.directory = folder.to_owned();
    config.record.sync_interval_ms = 1;
    let stream = v1::session_head::Stream::Pixels(common::service::header());
    let made = SessionDirectory::create(&config, name, rois, stream).unwrap();
    let mut driver = driver(&config, rois);
    let mut recorder = Recorder { writer: made.writer, summary: Summary::default(), events: 0, lose };
    play(&mut driver, script, &mut recorder);
    let (mut state, limits) = (Vec::new(), vec![0; 7]);
    driver.engine().save(&mut state);
    let input_seq = driver.engine().decision().input_seq;
    recorder.writer.push_waiting(JournalItem::snapshot(&v1::SnapshotRecord { input_seq, state: state.into(), limits }));
    recorder.writer.close();
    Made { directory: made.path, summary: recorder.summary, events: recorder.events }
}

/// Baseline, calibration, trials; `left_out` frames never come.
fn plain<'a>(slots: &'a [FrameSlot], left_out: &[u64]) -> Vec<Scripted<'a>> {
    let mut script = vec![Scripted::Command(Command::StartBaseline)];
    for slot in slots.iter().filter(|slot| !left_out.contains(&slot.meta.index)) {
        script.push(Scripted::Take(Input::Frame(slot)));
        if slot.meta.index + 1 == BASELINE_FRAMES {
            script.push(Scripted::Command(Command::Calibrate));
            script.push(Scripted::Command(Command::StartTask { accept_template: true }));
        }
    }
    script.push(Scripted::Command(Command::Stop));
    script
}

fn files(directory: &Path) -> SessionFiles {
    SessionFiles::open(directory).unwrap()
}

fn inspected(directory: &Path) -> Inspection {
    inspect(&files(directory))
}

fn stage<'a>(found: &'a apical::journal::Comparison, name: &str) -> &'a apical::journal::diff::StageDifference {
    found.stages.iter().find(|s| s.stage == name).unwrap()
}

/// Exit status and standard output of `apical`.
fn apical(arguments: &[&str], directories: &[&Path]) -> (Option<i32>, String) {
    let run = Process::new(env!("CARGO_BIN_EXE_apical")).args(arguments).args(directories).output().unwrap();
    (run.status.code(), String::from_utf8(run.stdout).unwrap())
}

#[test]
fn the_numbers_are_those_of_the_summary_and_of_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let (rois, slots) = frames(&config, FRAMES);
    let made = recorded(folder.path(), "session", &config, &rois, &script(&slots));
    let found = inspected(&made.directory);
    assert!(found.whole && found.damage.is_empty(), "{:?}", found.damage);
    assert_eq!((found.session_id.as_str(), found.segments.len()), ("session", 1));
    let of_summary = Counters::of(&made.summary.counters);
    assert_eq!((found.counters, found.segments[0].counters), (of_summary, of_summary));
    assert!(of_summary.hits > 0 && of_summary.frames_refused > 0 && of_summary.rewards_limited > 0, "{of_summary:?}");
    let written = write_tables(&made.directory, &folder.path().join("tables")).unwrap();
    let s = &found.segments[0];
    assert_eq!((written.events, made.events), (s.events.values().sum(), s.events.values().sum()));
    // Skipped frames have their rows; those that were refused do not.
    assert_eq!(written.frames, of_summary.frames_decided + of_summary.frames_skipped);
    let outcomes = |name: &str| s.trials.iter().filter(|t| t.outcome == name).count() as u64;
    assert_eq!((outcomes("hit"), outcomes("miss")), (of_summary.hits, of_summary.misses));
    assert_eq!(s.trials.len() as u64, of_summary.trials);
    assert!(s.trials.iter().all(|t| t.outcome_frame.is_none_or(|frame| frame >= t.first_frame)), "{:?}", s.trials);
}

#[test]
fn a_segment_tells_what_happened_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let (rois, slots) = frames(&config, FRAMES);
    let made = recorded(folder.path(), "session", &config, &rois, &script(&slots));
    let found = inspected(&made.directory);
    let s = &found.segments[0];
    assert_eq!((s.version.as_str(), s.ended, s.stream.rois), (env!("CARGO_PKG_VERSION"), true, 6));
    assert_eq!((s.stream.kind, s.stream.height_px, s.stream.adapter.as_str()), ("pixels", 96, "test"));
    assert_eq!((s.inputs.first, s.inputs.missing), (Some(0), 0));
    assert_eq!(s.inputs.last, Some(s.inputs.count - 1));
    assert_eq!((s.first_frame, s.last_frame), (Some(0), Some(FRAMES - 1)));
    let rate = s.rate_device.as_ref().unwrap();
    assert!((rate.rate_hz - 30.0).abs() < 0.01, "{rate:?}");
    // The longest is that over the five frames that were skipped.
    assert_eq!((rate.longest_before_frame, (rate.longest_ms / 33.333_333).round()), (425, 6.0));
    assert_eq!(s.rate_host, None, "frames of the script arrived nowhere");

    let told: Vec<_> = s.gaps.first.iter().map(|g| (g.kind, g.frame, g.frames)).collect();
    let expected = [(GapKind::Missing, 400, 1), (GapKind::Overload, 420, 5), (GapKind::Silence, 469, 0)];
    assert_eq!(told[..3], expected);
    assert_eq!(s.gaps.overload_frames, 5);
    assert_eq!(s.gaps.overload_frames + s.gaps.missing_frames, s.counters.frames_skipped);
    let second = s.gaps.first[1].duration_s.unwrap();
    assert!((second - 0.2).abs() < 1e-3, "{second}");
    assert_eq!((s.gaps.silences, s.gaps.first[2].duration_s), (1, Some(0.07)));

    let commands: Vec<_> = s.commands.iter().map(|c| (c.command.as_str(), c.took_effect)).collect();
    assert_eq!(commands[..2], [("calibrate", false), ("start baseline", true)]);
    assert!(commands.contains(&("set ensembles P+ 0,2,4; P- 1,3,5", true)), "{commands:?}");
    assert!(commands.contains(&("change threshold to 0.9", true)), "{commands:?}");
    assert!(s.commands.iter().all(|c| c.operator == "tester"));
    assert_eq!(s.commands[0].outcome, "there is no complete baseline; start one first");
    assert_eq!((s.baselines.len(), s.baselines[0].last_frame), (1, Some(BASELINE_FRAMES)));
    assert_eq!(s.thresholds.iter().map(|t| t.chance_fraction.is_some()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(s.thresholds[1].threshold.to_bits(), 0.9_f64.to_bits());

    let r = &s.rewards;
    assert_eq!(r.by_hand, 2);
    assert_eq!(r.limits_reached.iter().map(|l| l.count).sum::<u64>(), s.counters.rewards_limited);
    assert_eq!(r.limits_reached[0].limit, "limits.min_interval_ms");
    assert!(r.limits_reached[0].first.contains("expected at least 700000 us"), "{:?}", r.limits_reached);
    let width_ms = config.outputs.reward.width_ms;
    assert!((r.on.total_ms - width_ms * s.counters.rewards_sent as f64).abs() < 1e-9, "{r:?}");
    assert!(r.on.most_in_60_s_device_ms > 0.0 && r.on.most_in_60_s_device_ms <= r.on.total_ms);
    assert_eq!((s.device_faults.len(), s.device_faults[0].frame), (1, 519));
    assert_eq!((s.snapshots.count, s.snapshots.inputs.clone()), (1, vec![s.inputs.count - 1]));
}

#[test]
fn a_journal_that_is_cut_is_inspected_up_to_the_cut_and_the_damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let (rois, slots) = frames(&config, SHORT);
    let made = recorded(folder.path(), "session", &config, &rois, &plain(&slots, &[]));
    let journal = made.directory.join(journal_file(0));
    let whole = std::fs::read(&journal).unwrap();
    let (mut before, mut inside) = (0, 0);
    for length in (1..16).map(|sixteenths| whole.len() * sixteenths / 16) {
        std::fs::write(&journal, &whole[..length]).unwrap();
        let found = inspected(&made.directory);
        let decided = found.counters.frames_decided;
        assert!((before..=SHORT).contains(&decided), "{decided} frames in {length} bytes, {before} in fewer");
        before = decided;
        let [damage] = &found.damage[..] else { panic!("{length} bytes: {:?}", found.damage) };
        assert_eq!((damage.file.as_str(), damage.unfinished, found.whole), ("journal-000.mcap", true, true));
        if decided > 0 && decided < SHORT {
            inside = length;
        }
    }
    assert!(inside > 0, "no cut fell among the frames");

    // Another segment behind a damaged one is read all the same.
    let mut changed = whole.clone();
    changed[inside] ^= 0x55;
    std::fs::write(&journal, &changed).unwrap();
    std::fs::write(made.directory.join(journal_file(1)), &whole).unwrap();
    std::fs::write(made.directory.join(journal_file(3)), &whole).unwrap();
    let found = inspected(&made.directory);
    assert_eq!((found.whole, found.segments.len(), found.damage.len()), (false, 3, 2), "{:?}", found.damage);
    assert!(found.segments[0].counters.frames_decided < SHORT);
    assert_eq!(found.segments[1].counters.frames_decided, SHORT);
    assert!(found.damage[1].file.contains("journal-002.mcap"), "{:?}", found.damage);
    let (status, text) = apical(&["inspect"], &[&made.directory]);
    assert_eq!(status, Some(1));
    assert!(text.contains("DAMAGED") && text.contains("journal-000.mcap: "), "{text}");
}

#[test]
fn an_input_that_was_lost_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let (rois, slots) = frames(&config, 40);
    let made = recorded_but(folder.path(), "session", &config, &rois, &plain(&slots, &[]), Some(7));
    let found = inspected(&made.directory);
    assert_eq!((found.whole, found.segments[0].inputs.missing), (false, 1));
    assert!(found.damage[0].what.contains("lost, 1 of them"), "{:?}", found.damage);
}

#[test]
fn a_session_equals_itself_and_one_with_other_inputs_between_the_same_frames() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let (rois, slots) = frames(&config, SHORT);
    let a = recorded(folder.path(), "a", &config, &rois, &plain(&slots, &[])).directory;
    let found = diff(&files(&a), &files(&a)).unwrap();
    assert!(found.equal, "{found:?}");
    assert_eq!((found.frames_compared, found.stages.len()), (SHORT, 6));
    assert!(found.stages.iter().all(|s| s.frames == 0 && s.fields.is_empty()));
    // Silence in the baseline is an input that changes no decision on a frame; another place is no difference either.
    let mut script = plain(&slots, &[]);
    script.insert(100, Scripted::Take(Input::Gap { silent_ns: 80_000_000 }));
    let elsewhere = folder.path().join("elsewhere");
    let b = recorded(&elsewhere, "b", &config, &rois, &script).directory;
    let found = diff(&files(&a), &files(&b)).unwrap();
    assert!(found.equal, "{found:?}");
    assert_eq!(found.frames_compared, SHORT);
    let keys: Vec<_> = found.configuration.iter().map(|k| (k.key.as_str(), k.counts)).collect();
    assert_eq!(keys, [("record.directory", false)]);
    assert_eq!(apical(&["diff"], &[&a, &b]).0, Some(0));
}

#[test]
fn other_ensembles_differ_first_in_the_decoder_and_after_the_baseline() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (config(&[]), config(&["ensembles.plus=[0, 2]"]));
    let (rois, slots) = frames(&one, SHORT);
    let a = recorded(folder.path(), "a", &one, &rois, &plain(&slots, &[])).directory;
    let b = recorded(folder.path(), "b", &other, &rois, &plain(&slots, &[])).directory;
    let found = diff(&files(&a), &files(&b)).unwrap();
    assert!(!found.equal);
    let first = found.first.as_ref().unwrap();
    assert_eq!((first.stage, first.place.frame), ("decode", BASELINE_FRAMES));
    for name in ["register", "sample", "activity"] {
        assert_eq!((stage(&found, name).frames, stage(&found, name).first_frame), (0, None), "{name}");
    }
    let decode = stage(&found, "decode");
    assert_eq!((decode.first_frame, decode.frames), (Some(BASELINE_FRAMES), SHORT - BASELINE_FRAMES));
    let x = decode.fields.iter().find(|f| f.field == "x").unwrap();
    assert!(x.largest.as_ref().is_some_and(|p| p.a != p.b && p.frame >= BASELINE_FRAMES), "{x:?}");
    let [key] = &found.configuration[..] else { panic!("{:?}", found.configuration) };
    assert_eq!((key.key.as_str(), key.a.as_deref(), key.b.as_deref(), key.counts), {
        ("ensembles.plus", Some("[0, 2, 4]"), Some("[0, 2]"), true)
    });
    let (status, json) = apical(&["diff", "--json"], &[&a, &b]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, json["first"]["stage"].as_str(), json["equal"].as_bool()), {
        (Some(1), Some("decode"), Some(false))
    });
}

#[test]
fn frames_that_one_session_lacks_are_counted_in_runs() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let (rois, slots) = frames(&config, 120);
    let a = recorded(folder.path(), "a", &config, &rois, &plain(&slots, &[5])).directory;
    let b = recorded(folder.path(), "b", &config, &rois, &plain(&slots[..100], &[50, 51, 52])).directory;
    let found = diff(&files(&a), &files(&b)).unwrap();
    let runs =
        |l: &apical::journal::diff::Lacking| l.first.iter().map(|r| (r.first_frame, r.frames)).collect::<Vec<_>>();
    assert_eq!((found.equal, found.frames_compared), (false, 100 - 4));
    assert_eq!((found.only_in_a.frames, runs(&found.only_in_a)), (23, vec![(50, 3), (100, 20)]));
    assert_eq!((found.only_in_b.frames, runs(&found.only_in_b)), (1, vec![(5, 1)]));
    assert!(
        found.outcomes.iter().any(|o| (o.counter, o.a, o.b) == ("frames_decided", 119, 97)),
        "{:?}",
        found.outcomes
    );
}

#[test]
fn a_reward_by_hand_is_a_difference_of_the_frame_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let (rois, slots) = frames(&config, 60);
    let a = recorded(folder.path(), "a", &config, &rois, &plain(&slots, &[])).directory;
    let mut script = plain(&slots, &[]);
    // Behind the command that begins the baseline, and frames 0 to 29.
    script.insert(31, Scripted::Command(Command::ManualReward));
    let b = recorded(folder.path(), "b", &config, &rois, &script).directory;
    let found = diff(&files(&a), &files(&b)).unwrap();
    let trigger = stage(&found, "trigger");
    assert_eq!((trigger.frames, trigger.first_frame), (1, Some(29)));
    assert_eq!(found.stages.iter().map(|s| s.frames).sum::<u64>(), 1, "{:?}", found.stages);
    assert!(found.outcomes.iter().any(|o| (o.counter, o.a, o.b) == ("rewards_sent", 0, 1)), "{:?}", found.outcomes);
}

#[test]
fn what_people_read_fits_a_terminal_of_100_columns() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[]);
    let (rois, slots) = frames(&config, FRAMES);
    let directory = recorded(folder.path(), "session", &config, &rois, &script(&slots)).directory;
    let (status, text) = apical(&["inspect"], &[&directory]);
    assert_eq!(status, Some(0), "{text}");
    // The line with the directory is as long as its path.
    let wide: Vec<&str> = text.lines().skip(1).filter(|line| line.chars().count() > 100).collect();
    assert!(wide.is_empty(), "{wide:#?}");
    let (status, json) = apical(&["inspect", "--json"], &[&directory]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, json["whole"].as_bool()), (Some(0), Some(true)));
    assert_eq!(json["segments"][0]["gaps"]["first"][1]["kind"].as_str(), Some("overload"));
}
