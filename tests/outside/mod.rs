//! What tests find outside of the code: recorded files, files of other programs, a Python; and how alike two traces
//! are.

#![allow(dead_code, reason = "each test uses a part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use apical::source::{FrameRecording, OpenOptions, Recording, open_recording};

/// The folder of what is shared and not in the repository: the one that APICAL_SHARED names, or the one beside it.
pub fn shared() -> PathBuf {
    std::env::var_os("APICAL_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from)
}

/// A file or folder of recorded data, or `None`, said aloud, where there is none.
pub fn real(name: &str) -> Option<PathBuf> {
    let path = shared().join("data/real").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is missing", path.display());
    None
}

/// A ROI file that another program wrote (`tests/reference/roi_fixtures.py`).
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rois").join(name)
}

/// Opens a recording of frames.
pub fn frames(path: &Path, options: &OpenOptions) -> FrameRecording {
    match open_recording(path, options).unwrap_or_else(|error| panic!("{error}")) {
        Recording::Frames(frames) => frames,
        Recording::RoiValues(_) => panic!("{} gave values of ROIs", path.display()),
    }
}

/// The interpreter that APICAL_PYTHON names, or `python3`, if it has these packages (`numpy, scipy`). `None`, said
/// aloud, where `python3` lacks them; whoever names an interpreter wants the test.
pub fn python(packages: &str) -> Option<String> {
    let python = std::env::var("APICAL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", &format!("import {packages}")]).output();
    if has.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(std::env::var_os("APICAL_PYTHON").is_none(), "APICAL_PYTHON={python} lacks one of {packages}");
    println!("skipped: {python} lacks one of {packages}");
    None
}

/// Pearson's correlation.
pub fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(&a, &b)| f(a - ma, b - mb)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}
