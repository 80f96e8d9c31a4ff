//! `apical rois detect` as a person calls it: on a recording of the Neurofinder contest, on a rendered movie with known
//! truth, and on small ones that are made here.

mod outside;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use apical::sample::{read_roi_file, read_rois};
use outside::{python, real, shared};
use serde_json::Value;

fn detect(recording: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apical")).args(["rois", "detect"]).arg(recording).args(more).output().unwrap()
}

fn report(recording: &Path, more: &[&str]) -> Value {
    let output = detect(recording, &[more, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refusal(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    said
}

/// Recall and precision, printed.
fn told(name: &str, report: &Value) -> (f64, f64) {
    let truth = &report["truth"];
    let (recall, precision) = (truth["recall"].as_f64().unwrap(), truth["precision"].as_f64().unwrap());
    println!(
        "{name}: {} ROIs, recall {recall:.3} of {}, precision {precision:.3}, F1 {:.3}; with a transient {}, found {}; \
         {:.1} s",
        report["rois"],
        truth["rois"],
        truth["f1"].as_f64().unwrap(),
        truth["with_transient"],
        truth["with_transient_found"],
        report["seconds"].as_f64().unwrap()
    );
    (recall, precision)
}

#[test]
fn half_of_the_published_rois_that_have_a_transient_are_found() {
    let (Some(movie), Some(regions)) =
        (real("neurofinder/full_64x512x512_u16_deflate.tif"), real("neurofinder/regions.json"))
    else {
        return;
    };
    let report = report(&movie, &["--truth", regions.to_str().unwrap()]);
    told("neurofinder", &report);
    let truth = &report["truth"];
    assert_eq!(truth["rois"], 330);
    let (moving, found) = (truth["with_transient"].as_u64().unwrap(), truth["with_transient_found"].as_u64().unwrap());
    assert!(moving >= 10, "{moving} have a transient");
    assert!(2 * found >= moving, "{found} of {moving}");
}

#[test]
fn cells_of_a_rendered_movie_are_found_and_little_else() {
    let script = shared().join("tools/make_movie.py");
    if !script.is_file() {
        println!("skipped: {} is missing", script.display());
        return;
    }
    let Some(python) = python("numpy, scipy, tifffile") else { return };
    let movie = Path::new(env!("CARGO_TARGET_TMPDIR")).join("detect-seed-2");
    if !movie.join("ops.npy").is_file() {
        let made = Command::new(&python).arg(&script).args(["--seed", "2", "--out"]).arg(&movie).status();
        assert!(made.expect("python runs").success());
    }
    let truth = movie.join("stat.npy");
    let report = report(&movie.join("movie.tif"), &["--truth", truth.to_str().unwrap()]);
    let (recall, precision) = told("rendered, seed 2", &report);
    assert_eq!(report["truth"]["rois"], 522);
    assert!(recall >= 0.8 && precision >= 0.8, "recall {recall}, precision {precision}");
}

const SIDE: usize = 96;
const CELLS: [(f64, f64); 5] = [(24.0, 24.0), (24.0, 70.0), (50.0, 45.0), (70.0, 24.0), (72.0, 74.0)];

/// A raw binary of int16 in which textured tissue moves and discs on it brighten by turns.
fn recording(folder: &Path, frames: usize, brighten: bool) -> PathBuf {
    let mut seed = 1_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    let (mut bytes, mut shift) = (Vec::new(), (0.0_f64, 0.0_f64));
    for t in 0..frames {
        shift = ((shift.0 + 0.5 * random()).clamp(-4.0, 4.0), (shift.1 + 0.5 * random()).clamp(-4.0, 4.0));
        for at in 0..SIDE * SIDE {
            let (row, col) = ((at / SIDE) as f64 - shift.0, (at % SIDE) as f64 - shift.1);
            let mut light = 400.0 + 60.0 * ((row * 0.9).sin() * (col * 0.7).cos() + (row * 0.23 + col * 0.31).sin());
            for (k, cell) in CELLS.iter().enumerate() {
                let distance = ((row - cell.0).powi(2) + (col - cell.1).powi(2)).sqrt();
                let active = brighten && (t + 30 * k) % 150 < 12;
                light += if active { 250.0 * (5.0 - distance).clamp(0.0, 1.0) } else { 0.0 };
            }
            bytes.extend(((light + 80.0 * random()) as i16).to_le_bytes());
        }
    }
    let path = folder.join(format!("movie-{frames}-{brighten}.bin"));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn cells_on_moving_tissue_are_written_drawn_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let movie = recording(folder.path(), 400, true);
    let discs: Vec<Value> = CELLS
        .iter()
        .map(|(row, col)| serde_json::json!({ "disc": { "row": row, "col": col, "radius_px": 4.5 } }))
        .collect();
    let truth = folder.path().join("truth.json");
    let set = serde_json::json!({ "height_px": SIDE, "width_px": SIDE, "rois": discs });
    std::fs::write(&truth, set.to_string()).unwrap();
    let (out, picture) = (folder.path().join("stat.npy"), folder.path().join("rois.png"));
    let size = ["--height", "96", "--width", "96", "--truth", truth.to_str().unwrap()];
    let files = ["--out", out.to_str().unwrap(), "--picture", picture.to_str().unwrap()];
    let report = report(&movie, &[&size[..], &files].concat());
    let (recall, precision) = told("discs on moving tissue", &report);
    assert_eq!((recall, precision), (1.0, 1.0));
    assert_eq!(report["truth"]["with_transient"], 5);
    assert_eq!((&report["frames"], &report["height_px"]), (&400.into(), &96.into()));
    let read = read_roi_file(&out, None).unwrap();
    assert_eq!(read.accepted, Some(vec![true; 5]));
    assert_eq!(read.set.rois.len(), 5);
    assert!(read.set.reference.is_some());
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));

    // the same file gives the same ROIs, and does not overwrite them by itself
    let again = folder.path().join("again.json");
    let args = ["--height", "96", "--width", "96", "--out", again.to_str().unwrap()];
    assert!(detect(&movie, &args).status.success());
    let said = refusal(&detect(&movie, &args));
    assert!(said.contains("is there already"), "{said}");
    let first = std::fs::read(&again).unwrap();
    assert!(detect(&movie, &[&args[..], &["--force"]].concat()).status.success());
    assert_eq!(std::fs::read(&again).unwrap(), first);
    let json = read_rois(&again, None).unwrap();
    let pixels = |set: &apical::sample::RoiSet| set.rois.iter().map(|roi| roi.pixels.clone()).collect::<Vec<_>>();
    assert_eq!(pixels(&json), pixels(&read.set));
}

#[test]
fn tissue_without_activity_gives_no_rois_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let movie = recording(folder.path(), 120, false);
    let output = detect(&movie, &["--height", "96", "--width", "96"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("0 ROIs") && said.contains("nothing in it brightens beyond noise"), "{said}");
}

#[test]
fn what_cannot_be_searched_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let movie = recording(folder.path(), 1, true);
    let size = ["--height", "96", "--width", "96"];
    let with = |more: &[&str]| refusal(&detect(&movie, &[&size[..], more].concat()));
    let said = with(&[]);
    assert!(said.contains("1 frames of plane 0") && said.contains("at least 20"), "{said}");
    for (more, expected) in [
        (["--diameter", "1"], "detect.diameter_px: 1, expected 3 to 60"),
        (["--max-area", "0.1"], "detect.max_area: 0.1, expected more than min_area, 0.15"),
        (["--out", "rois.txt"], "expected a name ending in .json, or a path to stat.npy"),
        (["--picture", "rois.jpg"], "expected a name ending in .png or .html"),
        (["--plane", "3"], "--plane 3"),
        (["--channel", "1"], "--channel 1"),
        (["--truth", "nowhere.json"], "nowhere.json"),
    ] {
        let said = with(&more);
        assert!(said.contains(expected), "{more:?}: {said}");
    }
}
