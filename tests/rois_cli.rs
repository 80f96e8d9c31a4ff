//! `apical rois` as a person calls it: pictures, lists, conversions, and what it says of files that it cannot use.

mod outside;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use apical::sample::{Roi, read_rois};
use outside::{fixture, real};
use serde_json::Value;

fn rois(command: &str, paths: &[&Path], more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apical")).args(["rois", command]).args(paths).args(more).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refusal(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    said
}

/// Size of a PNG, and how many of its pixels are coloured.
fn picture(path: &Path) -> (u32, u32, usize) {
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap())).read_info().unwrap();
    let mut samples = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut samples).unwrap();
    let coloured = samples.chunks_exact(3).filter(|p| p[0] != p[1] || p[1] != p[2]).count();
    (info.height, info.width, coloured)
}

#[test]
fn both_archives_of_imagej_are_drawn_over_an_image() {
    let Some(image) = real("fov_mean_512x512_u16.tif") else { return };
    let folder = tempfile::tempdir().unwrap();
    for (name, count, least) in [("four_polygons", 4, 200), ("freehand_115", 115, 4_000)] {
        let Some(set) = real(&format!("rois/{name}.zip")) else { return };
        let out = folder.path().join(format!("{name}.png"));
        let more = ["--image", image.to_str().unwrap(), "--out", out.to_str().unwrap(), "--json"];
        let listing: Value = serde_json::from_str(&text(&rois("show", &[&set], &more))).unwrap();
        assert_eq!(listing["rois"].as_array().unwrap().len(), count);
        let (height, width, coloured) = picture(&out);
        assert_eq!((height, width), (1024, 1024), "{name}");
        assert!(coloured > least, "{name}: {coloured} coloured pixels");
        let page = out.with_extension("html");
        let more = ["--image", image.to_str().unwrap(), "--out", page.to_str().unwrap()];
        text(&rois("show", &[&set], &more));
        let page = std::fs::read_to_string(page).unwrap();
        assert_eq!(page.matches("<path").count(), count);
        assert!(page.contains("data:image/png;base64,"));
    }
}

#[test]
fn a_set_of_suite2p_is_drawn_on_its_own_mean_image_and_says_what_is_no_cell() {
    let Some(set) = real("suite2p/stat.npy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("set.png");
    let said = text(&rois("show", &[&set], &["--out", out.to_str().unwrap()]));
    assert!(said.contains("23 ROIs on frames of 176 x 156 pixels"), "{said}");
    assert_eq!(picture(&out).0, 5 * 176);
    let accepted = rois("show", &[&set], &["--json"]);
    let listing: Value = serde_json::from_str(&text(&accepted)).unwrap();
    assert!(listing["rois"].as_array().unwrap().iter().all(|roi| roi["accepted"].is_boolean()));
}

#[test]
fn a_set_is_drawn_on_the_mean_image_of_a_session() {
    let (Some(movie), Some(set)) =
        (real("neurofinder/crop_600x128x128_u16_deflate.tif"), real("neurofinder/crop_regions.json"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (session, out) = (folder.path().join("session"), folder.path().join("set.png"));
    let replay = Command::new(env!("CARGO_BIN_EXE_apical"))
        .args(["replay", "--in-process", "--baseline-frames", "200", "--json"])
        .arg(movie)
        .arg("--rois")
        .arg(&set)
        .arg("--session-dir")
        .arg(&session)
        .output()
        .unwrap();
    text(&replay);
    // the set does not say the frame's size: it is that of the session's image
    let more = ["--session", session.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let said = text(&rois("show", &[&set], &more));
    assert!(said.contains("40 ROIs on frames of 128 x 128 pixels"), "{said}");
    let (height, width, coloured) = picture(&out);
    assert!(height == 1024 && width == 1024 && coloured > 5_000, "{height} x {width}, {coloured} coloured pixels");
}

#[test]
fn a_list_has_place_size_and_centre_of_every_roi() {
    let listing: Value =
        serde_json::from_str(&text(&rois("show", &[&fixture("image_mask.nwb")], &["--json"]))).unwrap();
    assert_eq!((&listing["height_px"], &listing["width_px"]), (&6.into(), &7.into()));
    let first = &listing["rois"][0];
    assert_eq!(
        (&first["id"], &first["name"], &first["plane"], &first["pixels"]),
        (&0.into(), &"10".into(), &0.into(), &3.into())
    );
    assert_eq!(first["area_px"], 1.75);
    let centre = first["centre_px"].as_array().unwrap();
    assert!((centre[0].as_f64().unwrap() - 2.0 / 1.75).abs() < 1e-12, "{centre:?}");
    assert_eq!(listing["rois"][1]["accepted"], false);
    let plane = rois("show", &[&fixture("stack_seg.npy")], &["--plane", "1", "--json"]);
    let listing: Value = serde_json::from_str(&text(&plane)).unwrap();
    let ids: Vec<_> = listing["rois"].as_array().unwrap().iter().map(|roi| roi["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [3, 4, 5]);
}

/// A pipe can be read once, and has no size.
#[cfg(unix)]
#[test]
fn a_set_is_read_from_a_pipe() {
    for name in ["mean_seg.npy", "cells.json"] {
        let bytes = if name == "cells.json" {
            let set = read_rois(&fixture("mean_seg.npy"), None).unwrap();
            apical::sample::formats::json::write(&set).into_bytes()
        } else {
            std::fs::read(fixture(name)).unwrap()
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_apical"))
            .args(["rois", "show", "/dev/stdin", "--json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listing: Value = serde_json::from_str(&text(&child.wait_with_output().unwrap())).unwrap();
        let expected = read_rois(&fixture("mean_seg.npy"), None).unwrap().rois.len();
        assert_eq!(listing["rois"].as_array().unwrap().len(), expected, "{name}");
    }
}

#[test]
fn a_line_is_shown_as_no_cell_and_not_converted() {
    let Some(line) = real("rois/golden/line1.roi") else { return };
    let size = ["--height", "512", "--width", "512"];
    let said = text(&rois("show", &[&line], &size));
    assert!(said.contains("no cell: `line` is a straight line and has no area"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let said = refusal(&rois("convert", &[&line, &folder.path().join("a.json")], &size));
    assert!(said.contains("entry 0 `line` (straight line)"), "{said}");
    let said = refusal(&rois("show", &[&line], &[]));
    assert!(said.contains("say --height and --width"), "{said}");
}

#[test]
fn a_set_is_converted_there_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let (stat, json) = (folder.path().join("stat.npy"), folder.path().join("back.json"));
    let set = fixture("caiman.hdf5");
    let said = text(&rois("convert", &[&set, &stat], &[]));
    assert!(said.starts_with("3 ROIs in ") && said.contains("ops.npy") && said.contains("iscell.npy"), "{said}");
    text(&rois("convert", &[&stat, &json], &[]));
    // suite2p's file has radii, so what was measured is told there
    let told = |roi: Roi| Roi { radius_told_px: Some(roi.radius_px()), ..roi };
    let expected: Vec<Roi> = read_rois(&set, None).unwrap().rois.into_iter().map(told).collect();
    assert_eq!(read_rois(&json, None).unwrap().rois, expected);
    // nothing is overwritten, and nothing is written where one of three files is there
    let before = std::fs::read(&stat).unwrap();
    std::fs::remove_file(folder.path().join("ops.npy")).unwrap();
    let said = refusal(&rois("convert", &[&set, &stat], &[]));
    assert!(said.contains("is there already: give another name, or --force"), "{said}");
    assert!(!folder.path().join("ops.npy").exists());
    text(&rois("convert", &[&set, &stat], &["--force"]));
    assert_eq!(std::fs::read(&stat).unwrap(), before);
    let said = refusal(&rois("convert", &[&set, &folder.path().join("a.txt")], &[]));
    assert!(said.contains("expected a name ending in .json, or a path to stat.npy"), "{said}");
}

#[test]
fn rows_and_columns_are_exchanged_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("turned.json");
    text(&rois("convert", &[&fixture("pixel_mask.nwb"), &json], &["--transpose"]));
    let straight = read_rois(&fixture("pixel_mask.nwb"), None).unwrap();
    assert_eq!(read_rois(&json, None).unwrap().rois, straight.transposed().rois);
}

#[test]
fn an_image_of_another_size_is_refused() {
    let Some(image) = real("fov_mean_512x512_u16.tif") else { return };
    let more = ["--image", image.to_str().unwrap()];
    let said = refusal(&rois("show", &[&fixture("caiman.hdf5")], &more));
    assert!(said.contains("drawn on frames of 6 x 7 pixels, expected 512 x 512"), "{said}");
}
