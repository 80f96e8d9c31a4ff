//! The configurations that are shipped: they load, and the published experiment runs as its file stands.

use std::path::{Path, PathBuf};
use std::process::Command;

use apical::config::{RigConfig, load_file, to_toml};

const GRATING: &str = "deploy/rigs/grating-2026.toml";

fn rig(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn every_shipped_configuration_loads() {
    let mut loaded = 0;
    for entry in std::fs::read_dir(rig("deploy/rigs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            load_file(&path, &[]).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            loaded += 1;
        }
    }
    assert!(loaded >= 2, "{loaded} files in deploy/rigs");
}

/// The dotted keys of a table.
fn keys(table: &toml::Table, before: &str, found: &mut Vec<String>) {
    for (key, value) in table {
        let key = if before.is_empty() { key.clone() } else { format!("{before}.{key}") };
        match value {
            toml::Value::Table(inner) => keys(inner, &key, found),
            _ => found.push(key),
        }
    }
}

fn keys_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    keys(&text.parse().unwrap(), "", &mut found);
    found
}

#[test]
fn the_experiment_is_written_out_whole() {
    let text = std::fs::read_to_string(rig(GRATING)).unwrap();
    let written = keys_of(&text);
    let resolved = keys_of(&to_toml(&load_file(&rig(GRATING), &[]).unwrap()));
    let missing: Vec<_> =
        resolved.iter().filter(|key| !key.starts_with("synthetic.") && !written.contains(key)).collect();
    assert!(missing.is_empty(), "{GRATING} leaves to the defaults: {missing:?}");
    let source = |line: &&str| line.contains(" = ") && !line.starts_with('#');
    for line in text.lines().filter(source) {
        let explained = line.contains("# [") || line.contains("# not read") || line.starts_with("enabled = false");
        let listed = line.starts_with("plus = ") || line.starts_with("minus = ");
        assert!(explained || listed, "{GRATING}: {line:?} says not where its value comes from");
    }
}

#[test]
fn the_task_of_the_experiment_is_the_default_task() {
    let config = load_file(&rig(GRATING), &[]).unwrap();
    let default = RigConfig::default();
    assert_eq!(config.task, Some(Default::default()));
    assert_eq!(config.decode, default.decode);
    assert_eq!(config.calibration, default.calibration);
    assert_eq!((config.activity.f0_percentile, config.activity.f0_window_trials), (10.0, 4.0));
    assert_eq!(config.activity.detector_offset_counts, Some(0.0));
}

/// Ten ROIs x `frames` of float32 with some transients, as `.npy`, from a generator of its own.
fn traces(path: &Path, frames: usize) {
    let mut state = 0x2026_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    let mut data = Vec::new();
    for _ in 0..10 {
        let mut calcium = 0.0_f32;
        for _ in 0..frames {
            calcium *= 0.935;
            if draw() < 0.01 {
                calcium += 2.0 * draw();
            }
            data.extend_from_slice(&(1_000.0 * (1.0 + calcium) + 20.0 * (draw() - 0.5)).to_le_bytes());
        }
    }
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (10, {frames}), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    std::fs::write(path, bytes).unwrap();
}

fn apical(arguments: &[&str]) -> serde_json::Value {
    let ran = Command::new(env!("CARGO_BIN_EXE_apical")).args(arguments).arg("--json").output().unwrap();
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap()
}

#[test]
fn the_experiment_replays_traces_without_rois_device_or_network() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    traces(Path::new(&at("F.npy")), 3_000);
    let (traces, config) = (at("F.npy"), rig(GRATING));
    let config = config.to_str().unwrap();
    let (over_grpc, in_process) = (at("grpc"), at("in-process"));
    let first = apical(&["replay", &traces, "--config", config, "--session-dir", &over_grpc]);
    let second = apical(&["replay", &traces, "--config", config, "--session-dir", &in_process, "--in-process"]);
    for key in ["frames_decided", "trials", "hits", "aversive", "misses", "rewards_intended", "rewards_acknowledged"] {
        assert_eq!(first[key], second[key], "{key}");
    }
    assert_eq!(first["frames_decided"], 3_000);
    assert_ne!(first["trials"], 0);
    assert_ne!(first["rewards_intended"], 0, "the traces were made so that some trials are hits");
    assert_eq!(
        first["rewards_acknowledged"], first["rewards_intended"],
        "the simulated board knows that its host lives"
    );
    for session in [&over_grpc, &in_process] {
        let verified = apical(&["verify", session]);
        assert_eq!((&verified["differences"], &verified["frames_compared"]), (&0.into(), &3_000.into()));
    }
}
