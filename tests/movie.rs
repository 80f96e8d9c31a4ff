//! A rendered movie with known truth (recorded anatomy, cells, activity, motion), replayed through gRPC by the program:
//! shifts and dF/F against the truth. Needs `../shared` and a Python with numpy, scipy and tifffile; says so where they
//! are missing.

mod outside;

use std::path::{Path, PathBuf};
use std::process::Command;

use apical::journal::{JournalRecord, SessionFiles};
use apical::proto::v1;
use outside::{correlation, python, shared};

const FRAMES: usize = 900;
const BASELINE_FRAMES: usize = 300;

/// Renders a movie into the test's directory, unless it is there already; `None` where that cannot be.
fn movie(name: &str, more: &[&str]) -> Option<PathBuf> {
    let script = shared().join("tools/make_movie.py");
    if !script.is_file() {
        println!("skipped: {} is missing", script.display());
        return None;
    }
    let python = python("numpy, scipy, tifffile")?;
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !out.join("ops.npy").is_file() {
        let made = Command::new(&python)
            .arg(&script)
            .args(["--frames", &FRAMES.to_string(), "--out"])
            .arg(&out)
            .args(more)
            .status()
            .expect("python runs");
        assert!(made.success());
    }
    Some(out)
}

/// Replays the movie with these ROIs; the decisions of its frames, in order.
fn replay(movie: &Path, rois: &Path) -> Vec<v1::DecisionRecord> {
    let directory = tempfile::tempdir().expect("a directory");
    let session = directory.path().join("session");
    let out = Command::new(env!("CARGO_BIN_EXE_apical"))
        .arg("replay")
        .arg(movie.join("movie.tif"))
        .arg("--rois")
        .arg(rois)
        .args(["--baseline-frames", &BASELINE_FRAMES.to_string(), "--json", "--session-dir"])
        .arg(&session)
        .output()
        .expect("the program runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut decisions = Vec::new();
    let files = SessionFiles::open(&session).expect("a session");
    files
        .read(|record| {
            if let JournalRecord::Decision(decision) = record
                && decision.has_pixels
            {
                decisions.push(*decision);
            }
        })
        .expect("a whole journal");
    decisions
}

/// An array of the movie's truth, row after row, as numbers.
fn truth(movie: &Path, name: &str) -> Vec<f64> {
    let file = std::fs::File::open(movie.join("truth.npz")).expect("the truth");
    let mut archive = zip::ZipArchive::new(file).expect("an npz is a zip");
    let npy = npyz::NpyFile::new(archive.by_name(&format!("{name}.npy")).expect("the array")).expect("npy");
    npy.into_vec::<f32>().expect("float32").into_iter().map(f64::from).collect()
}

/// Every frame decided in order; shifts within 0.15 px RMSE per axis, none beyond 1 px; the 20 liveliest cells at 0.9.
fn judge(name: &str, movie: &Path, decisions: &[v1::DecisionRecord]) {
    let indices: Vec<u64> = decisions.iter().map(|d| d.frame_index).collect();
    assert_eq!(indices, (0..FRAMES as u64).collect::<Vec<_>>(), "{name}: every frame, in order");
    let shifts = truth(movie, "shifts");
    let after = &decisions[BASELINE_FRAMES..];
    for axis in 0..2 {
        let errors = after.iter().zip(BASELINE_FRAMES..).map(|(d, n)| {
            let found = if axis == 0 { d.dy_px } else { d.dx_px };
            found - shifts[2 * n + axis]
        });
        let errors: Vec<f64> = errors.collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let rmse = (errors.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / errors.len() as f64).sqrt();
        let worst = errors.iter().map(|e| (e - mean).abs()).fold(0.0, f64::max);
        println!("{name}: axis {axis}: RMSE {rmse:.4} px, worst {worst:.3} px");
        assert!(rmse <= 0.15 && worst <= 1.0, "{name}: axis {axis}: RMSE {rmse}, worst {worst}");
    }
    let traces = truth(movie, "traces");
    let of = |cell: usize| &traces[cell * FRAMES + BASELINE_FRAMES..(cell + 1) * FRAMES];
    let variance = |cell: usize| {
        let v = of(cell);
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        v.iter().map(|x| (x - mean).powi(2)).sum::<f64>()
    };
    let mut cells: Vec<usize> = (0..traces.len() / FRAMES).collect();
    cells.sort_by(|&a, &b| variance(b).total_cmp(&variance(a)));
    let mut found: Vec<f64> = cells[..20]
        .iter()
        .map(|&cell| correlation(&after.iter().map(|d| d.dff[cell]).collect::<Vec<_>>(), of(cell)))
        .collect();
    found.sort_by(f64::total_cmp);
    let median = f64::midpoint(found[9], found[10]);
    println!(
        "{name}: dF/F of the 20 most active cells: correlation {median:.3} in the median, {:.3} at least",
        found[0]
    );
    assert!(median >= 0.9, "{name}: {median}");
}

#[test]
fn shifts_and_activity_agree_with_the_truth() {
    let Some(movie) = movie("movie", &[]) else { return };
    judge("movie", &movie, &replay(&movie, &movie.join("stat.npy")));
}

#[test]
fn a_recording_displaced_against_its_masks_agrees_as_well() {
    let Some(movie) = movie("displaced", &["--displace", "5", "-4"]) else { return };
    let decisions = replay(&movie, &movie.join("stat.npy"));
    judge("displaced", &movie, &decisions);
    let offset = decisions.last().map(|d| (d.offset_dy_px, d.offset_dx_px, d.offset_trusted));
    println!("displaced: template against reference {offset:?}");
    // The same with nothing but the masks to render a reference from.
    let alone = tempfile::tempdir().expect("a directory");
    std::fs::copy(movie.join("stat.npy"), alone.path().join("stat.npy")).expect("copied");
    judge("displaced, masks alone", &movie, &replay(&movie, &alone.path().join("stat.npy")));
}
