//! The stages against an independent implementation: `tests/reference/task_reference.py`, plain numpy, which wrote the
//! golden numbers beside it. Cases on synthetic traces run everywhere; those on recorded traces need
//! `../shared/data/real` (or the folder that `APICAL_SHARED` names).
//!
//! Calibration within 1e-9 relative, cursor and x within 1e-9, F0 within 1e-9 relative; rotation, step, state, what is
//! shown and every event exactly. After a change of the draw or of a case:
//! `cargo test --test task_reference -- --ignored write_segment_starts`, then run the script.

mod outside;

use apical::activity::Activity;
use apical::config::sample::NeuropilCoefficient;
use apical::config::{
    activity::ActivityConfig, calibration::CalibrationConfig, decode::DecodeConfig, sample::SampleConfig,
    task::TaskConfig,
};
use apical::decode::{Decoder, Ensembles, feedback::Feedback};
use apical::task::calibration::{Calibration, CalibrationInput, CalibrationWorkspace, calibrate};
use apical::task::{Task, TaskEvent, TaskInput, TaskState};
use npyz::NpyFile;
use outside::real;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Case {
    name: String,
    input: Source,
    baseline_frames: usize,
    activity: ActivityConfig,
    #[serde(default)]
    decode: DecodeConfig,
    ensembles: Ensembles,
    #[serde(default)]
    sample: SampleConfig,
    task: TaskConfig,
    calibration: CalibrationConfig,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Source {
    Recorded { rows: Vec<usize> },
    Synthetic { seed: u64, rois: usize, frames: usize },
}

#[derive(Deserialize)]
struct Golden {
    first_frame: usize,
    calibration: GoldenCalibration,
    cursor: Vec<f64>,
    rotation: Vec<f64>,
    step: String,
    state: Vec<(char, usize)>,
    shown: Vec<(Option<f64>, usize)>,
    events: Vec<(usize, String, u32)>,
    sampled: Vec<Sample>,
}

#[derive(Deserialize)]
struct GoldenCalibration {
    threshold: f64,
    range_low: f64,
    mu_half: f64,
    sigma_half: f64,
    z_half: f64,
    chance_fraction: f64,
    threshold_today: f64,
    carried_over: bool,
    baseline_frames: u32,
}

#[derive(Deserialize)]
struct Sample {
    frame: usize,
    x: Option<f64>,
    f0: Vec<f64>,
}

/// F and neuropil, frame after frame, and which frames registration doubts.
struct Traces {
    f: Vec<Vec<f64>>,
    fneu: Vec<Vec<f64>>,
    doubted: Vec<bool>,
}

/// The same generator as the script's, in integers alone.
fn synthetic(seed: u64, rois: usize, frames: usize) -> Traces {
    let mut state = seed;
    let mut below = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut traces = Traces { f: Vec::new(), fneu: Vec::new(), doubted: Vec::new() };
    let mut transient = vec![0u64; rois];
    for _ in 0..frames {
        let (mut f, mut fneu) = (Vec::new(), Vec::new());
        for (roi, transient) in transient.iter_mut().enumerate() {
            if below(97) == 0 {
                *transient += 200 + below(400);
            }
            *transient -= *transient / 16;
            f.push((900 + 20 * roi as u64 + below(60) + *transient) as f64);
            fneu.push((400 + below(40)) as f64);
        }
        traces.f.push(f);
        traces.fneu.push(fneu);
        traces.doubted.push(below(23) == 0);
    }
    traces
}

/// Recorded traces, scaled per ROI to 1000 + 500 * (t - min) / (max - min); `None` where the recording is missing.
fn recorded(rows: &[usize]) -> Option<Traces> {
    let file = std::fs::File::open(real("cells_170x170_58x3000.npz")?).expect("it opens");
    let mut archive = zip::ZipArchive::new(file).expect("an npz is a zip");
    let npy = NpyFile::new(archive.by_name("traces.npy").expect("traces")).expect("npy");
    let frames = npy.shape()[1] as usize;
    let values: Vec<f32> = npy.into_vec().expect("float32");
    let scaled: Vec<Vec<f64>> = rows
        .iter()
        .map(|&row| {
            let row: Vec<f64> = values[row * frames..(row + 1) * frames].iter().map(|&v| f64::from(v)).collect();
            let low = row.iter().copied().fold(f64::INFINITY, f64::min);
            let high = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter().map(|t| 1000.0 + 500.0 * ((t - low) / (high - low))).collect()
        })
        .collect();
    let f = (0..frames).map(|frame| scaled.iter().map(|row| row[frame]).collect()).collect();
    Some(Traces { f, fneu: vec![Vec::new(); frames], doubted: vec![false; frames] })
}

fn traces(case: &Case) -> Option<Traces> {
    match &case.input {
        Source::Recorded { rows } => recorded(rows),
        Source::Synthetic { seed, rois, frames } => Some(synthetic(*seed, *rois, *frames)),
    }
}

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

fn json<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = reference().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs the baseline of a case, and calibrates at its end. Returns the first frame after it.
fn baseline(case: &Case, traces: &Traces) -> (Activity, Calibration, usize) {
    let rois = traces.f[0].len();
    let window_frames = case.activity.f0_window_frames(case.task.trial_frames);
    let NeuropilCoefficient::Share(share) = case.sample.neuropil_coefficient else { panic!("expected a number") };
    let mut activity = Activity::new(&case.activity, rois, window_frames, case.baseline_frames).with_neuropil(share);
    let mut frame = 0;
    while !activity.baseline_is_full() {
        activity.step(&traces.f[frame], &traces.fneu[frame], !traces.doubted[frame]);
        frame += 1;
    }
    activity.end_baseline();
    let decoder = Decoder::new(&case.decode, &case.ensembles, rois).expect("ensembles");
    let input = CalibrationInput {
        block: activity.baseline(),
        settings: activity.settings(),
        floors: activity.floors(),
        ensembles: decoder.ensembles(),
        signal: decoder.signal(),
        smooth_frames: case.decode.smooth_frames,
        trial_frames: case.task.trial_frames,
    };
    let segments = case.calibration.segments as usize;
    let mut workspace = CalibrationWorkspace::new(&activity.settings(), case.baseline_frames, segments, rois);
    let mut calibration = Calibration::with_capacity(segments);
    calibrate(&input, &case.calibration, &mut workspace, &mut calibration).expect("a threshold");
    (activity, calibration, frame)
}

fn assert_close(what: &str, got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance, "{what}: {got}, expected {expected}");
}

fn compare_calibration(name: &str, got: &Calibration, golden: &GoldenCalibration) {
    let values = [
        ("threshold", got.threshold, golden.threshold),
        ("range_low", got.range_low, golden.range_low),
        ("mu_half", got.mu_half, golden.mu_half),
        ("sigma_half", got.sigma_half, golden.sigma_half),
        ("z_half", got.z_half.expect("spread"), golden.z_half),
        ("threshold_today", got.threshold_today, golden.threshold_today),
    ];
    for (key, got, expected) in values {
        assert_close(&format!("{name}: {key}"), got, expected, 1e-9 * expected.abs() + 1e-15);
    }
    assert_eq!(got.chance_fraction, golden.chance_fraction, "{name}");
    assert_eq!((got.carried_over, got.baseline_frames), (golden.carried_over, golden.baseline_frames), "{name}");
}

fn expand<T: Copy>(runs: &[(T, usize)]) -> Vec<T> {
    runs.iter().flat_map(|&(value, count)| std::iter::repeat_n(value, count)).collect()
}

fn letter(state: TaskState) -> char {
    match state {
        TaskState::Start => 'S',
        TaskState::Control => 'C',
        TaskState::Hit => 'H',
        TaskState::Aversive => 'A',
        TaskState::Iti => 'I',
        TaskState::Idle | TaskState::Baseline | TaskState::Paused => '?',
    }
}

fn word(event: &TaskEvent) -> &'static str {
    match event {
        TaskEvent::TrialStart => "start",
        TaskEvent::Hit => "hit",
        TaskEvent::Aversive => "aversive",
        TaskEvent::Miss => "miss",
        TaskEvent::RewardDue => "reward",
        TaskEvent::NoiseCue { .. } => "noise",
    }
}

/// Returns the outcomes that occurred, or `None` where the recording is missing.
fn compare(name: &str) -> Option<Vec<&'static str>> {
    let cases: Vec<Case> = json("cases.json");
    let case = cases.into_iter().find(|case| case.name == name).expect("the case exists");
    let traces = traces(&case)?;
    let golden: Golden = json(&format!("golden_{name}.json"));
    let starts: BTreeMap<String, Vec<u32>> = json("segment_starts.json");
    let (mut activity, calibration, first) = baseline(&case, &traces);
    assert_eq!(first, golden.first_frame);
    assert_eq!(calibration.segment_starts, starts[name]);
    compare_calibration(name, &calibration, &golden.calibration);

    let mut decoder = Decoder::new(&case.decode, &case.ensembles, traces.f[0].len()).expect("ensembles");
    let mut feedback = Feedback::new(&case.task);
    let mut task = Task::new(&case.task);
    decoder.begin(calibration.range_low);
    feedback.set_range(calibration.threshold, calibration.range_low);
    task.begin_trials();
    let (states, shown, steps) = (expand(&golden.state), expand(&golden.shown), golden.step.as_bytes());
    assert_eq!(golden.cursor.len(), traces.f.len() - first);
    let mut sampled = golden.sampled.iter().peekable();
    let mut events = Vec::new();
    for frame in first..traces.f.len() {
        let at = frame - first;
        let valid = !traces.doubted[frame];
        let values = activity.step(&traces.f[frame], &traces.fneu[frame], valid);
        let decoded = decoder.step(values.dff, values.z, values.rate, values.valid, valid);
        if let Some(sample) = sampled.next_if(|sample| sample.frame == frame) {
            for (roi, (&got, &expected)) in values.f0.iter().zip(&sample.f0).enumerate() {
                assert_close(&format!("{name}: F0 of ROI {roi}, frame {frame}"), got, expected, 1e-9 * expected);
            }
            assert_eq!(decoded.valid, sample.x.is_some());
            assert_close(&format!("{name}: x, frame {frame}"), decoded.x, sample.x.unwrap_or(decoded.x), 1e-9);
        }
        assert_close(&format!("{name}: cursor, frame {frame}"), decoded.cursor, golden.cursor[at], 1e-9);
        let rotation_deg = feedback.rotation_deg(decoded.cursor);
        let step = feedback.step(decoded.cursor);
        assert_eq!(rotation_deg, golden.rotation[at], "{name}: rotation, frame {frame}");
        assert_eq!(step, usize::from(steps[at] - b'0'), "{name}: step, frame {frame}");
        let out = task.step(TaskInput { valid: decoded.valid, rotation_deg, step });
        assert_eq!(letter(out.state), states[at], "{name}: state, frame {frame}");
        assert_eq!(out.shown_deg, shown[at], "{name}: shown, frame {frame}");
        events.extend(out.events.as_slice().iter().map(|event| (frame, word(event).to_owned(), out.trial_number)));
    }
    assert!(sampled.next().is_none());
    assert_eq!(events, golden.events, "{name}");
    let occurred = |outcome: &&&str| events.iter().any(|(_, event, _)| event == **outcome);
    Some(["hit", "aversive", "miss"].iter().filter(occurred).copied().collect())
}

#[test]
fn recorded_two_populations() {
    if let Some(outcomes) = compare("recorded_two_populations") {
        assert_eq!(outcomes, ["hit", "aversive", "miss"]);
    }
}

#[test]
fn recorded_one_population_and_other_lengths() {
    if let Some(outcomes) = compare("recorded_one_population") {
        assert_eq!(outcomes, ["hit", "miss"]);
    }
}

#[test]
fn recorded_day_2_carries_day_1_over() {
    if let Some(outcomes) = compare("recorded_day_2") {
        assert!(outcomes.contains(&"hit"));
    }
}

#[test]
fn synthetic_dff_with_neuropil_and_doubted_frames() {
    assert_eq!(compare("synthetic_dff").expect("needs no recording"), ["hit", "aversive", "miss"]);
}

#[test]
fn synthetic_z_with_a_hold() {
    assert!(compare("synthetic_z").expect("needs no recording").contains(&"hit"));
}

/// Writes the product's draws for the script.
#[test]
#[ignore = "writes tests/reference/segment_starts.json"]
fn write_segment_starts() {
    let cases: Vec<Case> = json("cases.json");
    let mut starts = BTreeMap::new();
    for case in &cases {
        if let Some(traces) = traces(case) {
            starts.insert(case.name.clone(), baseline(case, &traces).1.segment_starts);
        }
    }
    let text = serde_json::to_string(&starts).expect("numbers").replace("],", "],\n") + "\n";
    std::fs::write(reference().join("segment_starts.json"), text).expect("written");
}

/// The same cases through the whole program: `replay F.npy` over gRPC and in process, its journal against the script.
fn replayed(name: &str, more: &[&str]) -> Option<()> {
    let cases: Vec<Case> = json("cases.json");
    let case = cases.into_iter().find(|case| case.name == name).expect("the case exists");
    let traces = traces(&case)?;
    let golden: Golden = json(&format!("golden_{name}.json"));
    let directory = tempfile::tempdir().expect("a directory");
    let npy = directory.path().join("F.npy");
    // Values that the microscope has integrated come without the detector's offset.
    let offset = case.activity.detector_offset_counts.unwrap_or(0.0);
    let f: Vec<Vec<f64>> = traces.f.iter().map(|values| values.iter().map(|v| v - offset).collect()).collect();
    write_npy(&npy, &f);
    let config = directory.path().join("rig.toml");
    std::fs::write(&config, toml_of(&case)).expect("written");
    let session = directory.path().join("session");
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_apical"))
        .args(["replay", "--json", "--config"])
        .args([&config, &npy])
        .arg("--session-dir")
        .arg(&session)
        .args(more)
        .output()
        .expect("the program runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut decisions = Vec::new();
    let files = apical::journal::SessionFiles::open(&session).expect("a session");
    let mut calibration = None;
    files
        .read(|record| {
            if let apical::journal::JournalRecord::Decision(decision) = record {
                calibration = calibration.take().or_else(|| decision.calibration.clone());
                if decision.verdict() == apical::proto::v1::FrameVerdict::Decided {
                    decisions.push(decision);
                }
            }
        })
        .expect("a whole journal");
    compare_calibration(name, &apical::journal::calibration_of(&calibration.expect("calibrated")), &golden.calibration);
    assert_eq!(decisions.len(), traces.f.len());
    let (states, shown) = (expand(&golden.state), expand(&golden.shown));
    for (at, d) in decisions[golden.first_frame..].iter().enumerate() {
        let frame = d.frame_index;
        assert_close(&format!("{name}: cursor, frame {frame}"), d.cursor, golden.cursor[at], 1e-9);
        assert_eq!(d.rotation_deg, golden.rotation[at], "{name}: rotation, frame {frame}");
        let state = apical::journal::state_name(d.state()).chars().next().map(|c| c.to_ascii_uppercase());
        assert_eq!(state, Some(states[at]), "{name}: state, frame {frame}");
        let got = (!d.displayed_deg.is_nan()).then_some(d.displayed_deg);
        assert_eq!(got, shown[at], "{name}: shown, frame {frame}");
    }
    Some(())
}

fn write_npy(path: &Path, f: &[Vec<f64>]) {
    use npyz::WriterBuilder;
    let (rois, frames) = (f[0].len(), f.len());
    let file = std::io::BufWriter::new(std::fs::File::create(path).expect("created"));
    let shape = [rois as u64, frames as u64];
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd().expect("begun");
    for roi in 0..rois {
        for values in f {
            writer.push(&values[roi]).expect("written");
        }
    }
    writer.finish().expect("finished");
}

fn toml_of(case: &Case) -> String {
    let mut config = apical::config::RigConfig {
        activity: case.activity.clone(),
        decode: case.decode.clone(),
        task: Some(case.task.clone()),
        calibration: case.calibration.clone(),
        ..Default::default()
    };
    config.ensembles.plus = case.ensembles.plus.clone();
    config.ensembles.minus = case.ensembles.minus.clone();
    config.baseline.frames = case.baseline_frames as u32;
    apical::config::to_toml(&config)
}

#[test]
fn the_whole_program_agrees_over_grpc() {
    for name in ["recorded_two_populations", "recorded_one_population", "recorded_day_2"] {
        if replayed(name, &[]).is_none() {
            return;
        }
    }
}

#[test]
fn the_whole_program_agrees_in_process() {
    for name in ["recorded_two_populations", "recorded_one_population", "recorded_day_2"] {
        if replayed(name, &["--in-process"]).is_none() {
            return;
        }
    }
}
