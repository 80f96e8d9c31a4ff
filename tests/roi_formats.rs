//! ROI files of CaImAn, Cellpose, ImageJ and NWB. `tests/data/rois` was written by h5py, pynwb and numpy
//! (`tests/reference/roi_fixtures.py`); the recorded files and their expected values are not in the repository.

mod outside;
mod regions;

use apical::frame::{Geometry, Image};
use apical::sample::formats::imagej::{ImageJRoi, ImageJShape};
use apical::sample::formats::suite2p_write;
use apical::sample::{ReferenceKind, RoiFile, RoiFileError, RoiSet, formats, read_roi_file, read_rois};
use outside::{fixture, real};
use regions::{named, put, roi_bytes, triangle};
use serde_json::Value;
use std::path::Path;

/// The frame of the fixtures.
const FRAME: Geometry = Geometry::new(6, 7);

/// Plane, name, and every pixel as (row, column, weight).
type Plain = (u32, String, Vec<(u32, u32, f32)>);

fn plain(set: &RoiSet) -> Vec<Plain> {
    let pixels = |roi: &apical::sample::Roi| roi.pixels.iter().map(|p| (p.row, p.col, p.weight)).collect();
    set.rois.iter().map(|roi| (roi.plane, roi.name.clone(), pixels(roi))).collect()
}

/// The ROIs that the script of the fixtures draws, in the order of rows.
fn drawn(names: [&str; 3]) -> Vec<Plain> {
    let pixels = [
        vec![(1, 2, 0.5), (1, 3, 1.0), (2, 2, 0.25)],
        vec![(4, 5, 2.0), (5, 6, 1.0)],
        vec![(0, 0, 1.0), (0, 1, 1.0), (1, 2, 1.0)],
    ];
    names.into_iter().zip(pixels).map(|(name, pixels)| (0, name.to_owned(), pixels)).collect()
}

fn error_of(path: &Path, geometry: Option<Geometry>) -> String {
    read_rois(path, geometry).unwrap_err().to_string()
}

#[test]
fn a_sparse_matrix_of_caiman_is_read_down_the_columns() {
    let file = read_roi_file(&fixture("caiman.hdf5"), None).unwrap();
    assert_eq!(file.set.geometry, FRAME);
    assert_eq!(plain(&file.set), drawn(["0", "1", "2"]));
    assert_eq!(file.accepted, Some(vec![true, false, true]));
    assert_eq!(file.set.reference_kind, ReferenceKind::None);
    let other = error_of(&fixture("caiman.hdf5"), Some(Geometry::new(7, 6)));
    assert!(other.ends_with("drawn on frames of 6 x 7 pixels, expected 7 x 6"), "{other}");
}

#[test]
fn masks_of_nwb_have_x_before_y_however_they_are_stored() {
    for (name, weights) in [("image_mask.nwb", true), ("pixel_mask.nwb", true), ("packed.nwb", false)] {
        let file = read_roi_file(&fixture(name), None).unwrap_or_else(|error| panic!("{error}"));
        let mut expected = drawn(["10", "11", "12"]);
        if !weights {
            expected.iter_mut().flat_map(|roi| &mut roi.2).for_each(|p| p.2 = 1.0);
        }
        assert_eq!((file.set.geometry, plain(&file.set)), (FRAME, expected), "{name}");
        let accepted = (name != "pixel_mask.nwb").then(|| vec![true, false, true]);
        assert_eq!(file.accepted, accepted, "{name}");
        // whoever knows the frame's size decides the order of the axes
        let turned = read_rois(&fixture(name), Some(Geometry::new(7, 6))).unwrap();
        assert_eq!(turned.transposed(), read_rois(&fixture(name), None).unwrap(), "{name}");
        let other = error_of(&fixture(name), Some(Geometry::new(8, 8)));
        assert!(other.ends_with("drawn on frames of 6 x 7 pixels, expected 8 x 8"), "{other}");
    }
}

#[test]
fn the_label_image_of_cellpose_becomes_one_roi_a_number() {
    let set = read_rois(&fixture("mean_seg.npy"), None).unwrap();
    let ones = |pixels: &[(u32, u32)]| pixels.iter().map(|&(row, col)| (row, col, 1.0)).collect::<Vec<_>>();
    let cells =
        [("1", ones(&[(1, 2), (1, 3), (2, 2)])), ("2", ones(&[(4, 5), (5, 6)])), ("7", ones(&[(3, 0), (3, 1)]))];
    let in_plane = |plane| cells.iter().map(move |(name, pixels)| (plane, (*name).to_owned(), pixels.clone()));
    assert_eq!((set.geometry, plain(&set)), (FRAME, in_plane(0).collect()));
    // a stack of label images, which numpy stored with the first index fastest
    let stack = read_rois(&fixture("stack_seg.npy"), None).unwrap();
    assert_eq!(plain(&stack), in_plane(0).chain(in_plane(1)).collect::<Vec<_>>());
}

/// One `.roi` file as the JSON beside it has it.
fn as_json(roi: &ImageJRoi) -> Value {
    let xs = |points: &[[f64; 2]]| points.iter().map(|p| p[0]).collect::<Vec<_>>();
    let ys = |points: &[[f64; 2]]| points.iter().map(|p| p[1]).collect::<Vec<_>>();
    let [top, left, bottom, right] = roi.bounds.map(f64::from);
    match &roi.shape {
        ImageJShape::Polygon(p) | ImageJShape::Open { points: p, .. } => {
            serde_json::json!({ "x": xs(p), "y": ys(p), "n": p.len() as f64 })
        }
        ImageJShape::Rectangle { rect: [left, top, width, height], arc_px } => {
            serde_json::json!({ "left": left, "top": top, "width": width, "height": height, "arc_size": arc_px })
        }
        ImageJShape::Oval { rect: [left, top, width, height] } => {
            serde_json::json!({ "left": left, "top": top, "width": width, "height": height })
        }
        ImageJShape::Ellipse { ends: [[x1, y1], [x2, y2]], aspect_ratio } => {
            serde_json::json!({ "ex1": x1, "ey1": y1, "ex2": x2, "ey2": y2, "aspect_ratio": aspect_ratio })
        }
        ImageJShape::Composite(paths) => serde_json::json!({
            "left": left, "top": top, "width": right - left, "height": bottom - top, "paths": paths
        }),
        ImageJShape::RotatedRectangle { .. } | ImageJShape::Other { .. } => panic!("none of these is in the folder"),
    }
}

/// The word of the JSON for a shape.
fn words(shape: &ImageJShape) -> &'static [&'static str] {
    match shape {
        ImageJShape::Polygon(_) => &["polygon", "freehand"],
        ImageJShape::Rectangle { .. } => &["rectangle"],
        ImageJShape::Oval { .. } => &["oval"],
        ImageJShape::Ellipse { .. } => &["freehand"],
        ImageJShape::Composite(_) => &["composite"],
        ImageJShape::Open { kind: "freehand line", .. } => &["freeline"],
        ImageJShape::Open { kind: "polyline", .. } => &["polyline"],
        ImageJShape::Open { kind: "points", .. } => &["point"],
        _ => &[],
    }
}

#[test]
fn every_roi_of_imagej_that_has_a_json_gives_its_values() {
    let Some(folder) = real("rois/golden") else { return };
    let mut compared = 0;
    for entry in std::fs::read_dir(&folder).unwrap().filter_map(Result::ok) {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let json = &json[&stem];
        let roi = ImageJRoi::parse(&std::fs::read(path.with_extension("roi")).unwrap()).unwrap();
        assert!(words(&roi.shape).contains(&json["type"].as_str().unwrap()), "{stem}: {:?}", roi.shape);
        let got = as_json(&roi);
        let stroke = serde_json::json!(roi.stroke_px);
        let mut values = 0;
        for (key, expected) in json.as_object().unwrap() {
            // what is drawn on the screen, and what is compared below
            if ["type", "name", "position", "counters", "slices"].contains(&key.as_str()) {
                continue;
            }
            // of a shape without a box it is the width of its line
            let line = key == "width" && got.get(key).is_none();
            same(if line { &stroke } else { &got[key] }, expected, &format!("{stem}: {key}"));
            values += 1;
        }
        assert!(values >= 3, "{stem}: only {values} values");
        // the JSON has the file's name; this one region has another of its own
        let name = if roi.name.is_empty() || stem == "point" { &stem } else { &roi.name };
        assert_eq!(json["name"], **name, "{stem}");
        match &json["position"] {
            Value::Number(position) => assert_eq!(position.as_u64(), Some(roi.position.into()), "{stem}"),
            place => {
                let expected = ["channel", "slice", "frame"].map(|key| place[key].as_u64().unwrap() as u32);
                assert_eq!([roi.channel, roi.slice, roi.frame], expected, "{stem}");
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 21);
}

/// Equal numbers, however JSON writes them.
fn same(got: &Value, expected: &Value, what: &str) {
    match (got, expected) {
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{what}");
            a.iter().zip(b).for_each(|(a, b)| same(a, b, what));
        }
        _ => {
            let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{what}: {value}"));
            assert_eq!(number(got) as f32, number(expected) as f32, "{what}");
        }
    }
}

#[test]
fn lines_and_points_are_read_and_are_no_cells() {
    let frame = Some(Geometry::new(512, 512));
    let ends = [
        ("line1", "straight line", "line", [[260.0, 52.0], [89.0, 103.0]]),
        ("line2", "straight line", "0001-0158-0117", [[100.5, 158.5], [132.5, 156.5]]),
    ];
    for (file, kind, name, expected) in ends {
        let Some(path) = real(&format!("rois/golden/{file}.roi")) else { return };
        let roi = ImageJRoi::parse(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(roi.shape, ImageJShape::Open { kind, points: expected.to_vec() });
        assert_eq!(roi.name, name);
        let read = read_roi_file(&path, frame).unwrap();
        assert_eq!((read.set.rois.len(), read.no_cells[0].kind.as_str()), (0, kind));
        let error = error_of(&path, frame);
        let said = format!("1 entry has no area and so no cell: entry 0 `{name}` ({kind}); take it out of the file");
        assert!(error.ends_with(&said), "{error}");
    }
    let expected =
        [("point", "points"), ("multipoint", "points"), ("polyline", "polyline"), ("freeline", "freehand line")];
    for (file, kind) in expected {
        let Some(path) = real(&format!("rois/golden/{file}.roi")) else { return };
        let no_cells = read_roi_file(&path, frame).unwrap().no_cells;
        assert!(no_cells.len() == 1 && no_cells[0].kind == kind, "{no_cells:?}");
    }
}

#[test]
fn the_pixels_of_an_oval_are_those_that_imagej_itself_took() {
    // ImageJ drew these composites around the pixels of its ovals, so their outlines say which those were.
    let ovals = [
        ("composite-two-ovals", 0, [14.0, 7.0, 21.0, 16.0]),
        ("composite-two-ovals", 1, [3.0, 27.0, 23.0, 23.0]),
        ("composite-oval-in-rect", 0, [60.0, 37.0, 24.0, 15.0]),
    ];
    for (file, outline, rect) in ovals {
        let Some(path) = real(&format!("rois/golden/{file}.roi")) else { return };
        let ImageJShape::Composite(outlines) = ImageJRoi::parse(&std::fs::read(path).unwrap()).unwrap().shape else {
            panic!("{file} is no composite");
        };
        let (xs, ys): (Vec<f64>, Vec<f64>) = outlines[outline].iter().map(|p| (p[0], p[1])).unzip();
        let reach = |v: &[f64]| (v.iter().copied().fold(f64::MAX, f64::min), v.iter().copied().fold(0.0, f64::max));
        let ((left, right), (top, bottom)) = (reach(&xs), reach(&ys));
        assert_eq!([left, top, right - left, bottom - top], rect, "{file}");
        let expected = pixels_of(&roi_bytes(1, [0; 4], &composite(&outlines[outline])));
        let bounds = [top, left, bottom, right].map(|side| side as i16);
        assert_eq!(pixels_of(&roi_bytes(2, bounds, &[])), expected, "{file} {outline}");
    }
}

fn composite(outline: &[[f64; 2]]) -> Vec<f32> {
    let step = |(k, p): (usize, &[f64; 2])| [if k == 0 { 0.0 } else { 1.0 }, p[0] as f32, p[1] as f32];
    outline.iter().enumerate().flat_map(step).chain([4.0]).collect()
}

fn pixels_of(bytes: &[u8]) -> Vec<(u32, u32, f32)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.roi");
    std::fs::write(&path, bytes).unwrap();
    let set = read_rois(&path, Some(Geometry::new(128, 128))).unwrap_or_else(|error| panic!("{error}"));
    plain(&set).remove(0).2
}

#[test]
fn every_kind_with_an_area_covers_the_pixels_whose_centre_is_inside() {
    let count = |bytes: &[u8]| pixels_of(bytes).len();
    let rectangle = roi_bytes(1, [3, 4, 13, 24], &[]);
    assert_eq!(count(&rectangle), 200);
    let mut rounded = rectangle.clone();
    rounded[54..56].copy_from_slice(&4_u16.to_be_bytes());
    assert_eq!(count(&rounded), 200 - 4, "a corner of radius 2 loses one pixel of four");
    // with fractions: left 4.5 leaves out the pixels whose centre is at 4.5 on the right side only
    let mut fractions = rectangle.clone();
    fractions[50..52].copy_from_slice(&128_u16.to_be_bytes());
    put(&mut fractions, 18, &[4.25, 3.25, 2.5, 1.5]);
    assert_eq!(
        pixels_of(&fractions).iter().map(|p| (p.0, p.1)).collect::<Vec<_>>(),
        [(3, 4), (3, 5), (3, 6), (4, 4), (4, 5), (4, 6)]
    );
    let disc = count(&roi_bytes(2, [0, 0, 100, 100], &[]));
    assert!((f64::from(disc as u32) - std::f64::consts::PI * 2500.0).abs() < 30.0, "{disc}");
    // an ellipse along the diagonal, and a rectangle at an angle: their areas
    let mut ellipse = roi_bytes(7, [0; 4], &[]);
    ellipse[49] = 3;
    put(&mut ellipse, 18, &[20.0, 20.0, 80.0, 100.0]);
    put(&mut ellipse, 52, &[0.4]);
    let area = std::f64::consts::PI * 50.0 * 20.0;
    assert!((count(&ellipse) as f64 - area).abs() < 20.0, "{} and not {area}", count(&ellipse));
    ellipse[49] = 5;
    put(&mut ellipse, 52, &[30.0]);
    assert!((count(&ellipse) as f64 - 3000.0).abs() < 20.0, "{} and not 3000", count(&ellipse));
    for kind in [0, 7, 8] {
        assert_eq!(count(&triangle(kind)), 4 + 3 + 2 + 1, "type {kind}");
    }
    // half a circle by two cubic curves
    let k = 0.552_284_8 * 40.0;
    let drawing = [
        [0.0, 20.0, 60.0, 3.0, 20.0, 60.0 - k, 60.0 - k, 20.0, 60.0, 20.0, 3.0, 60.0 + k, 20.0],
        [100.0, 60.0 - k, 100.0, 60.0, 2.0, 100.0, 60.0, 20.0, 60.0, 4.0, 0.0, 1.0, 1.0],
    ];
    let half = count(&roi_bytes(1, [0; 4], &drawing.concat()[..23]));
    assert!((half as f64 - std::f64::consts::PI * 800.0).abs() < 30.0, "{half}");
}

#[test]
fn the_z_position_of_imagej_is_the_plane_and_the_place_in_a_movie_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cell 7.roi");
    let mut bytes = triangle(0);
    bytes[56..60].copy_from_slice(&41_i32.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let set = read_rois(&path, Some(Geometry::new(64, 64))).unwrap();
    assert_eq!((set.rois[0].plane, set.rois[0].name.as_str()), (0, "cell 7"));
    std::fs::write(&path, named(bytes, "soma", [1, 3, 2])).unwrap();
    let set = read_rois(&path, Some(Geometry::new(64, 64))).unwrap();
    assert_eq!((set.rois[0].plane, set.rois[0].name.as_str()), (2, "soma"));
}

#[test]
fn archives_of_the_roi_manager_keep_its_order_and_names() {
    let frame = Some(Geometry::new(512, 512));
    let Some(path) = real("rois/four_polygons.zip") else { return };
    let set = read_rois(&path, frame).unwrap();
    let names: Vec<_> = set.rois.iter().map(|roi| (roi.id, roi.name.as_str(), roi.plane)).collect();
    assert_eq!(names, [(0, "01", 0), (1, "02", 0), (2, "03", 0), (3, "04", 0)]);
    assert!(error_of(&path, None).contains("give the frame's height and width"));
    let Some(path) = real("rois/freehand_115.zip") else { return };
    let set = read_rois(&path, frame).unwrap();
    assert_eq!(set.rois.len(), 115);
    assert_eq!(set.rois[0].name, "0045-0279");
    let outside = error_of(&path, Some(Geometry::new(256, 256)));
    assert!(outside.contains("lies outside the frame of 256 x 256 pixels"), "{outside}");
}

fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn a_line_among_cells_keeps_its_place_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.zip");
    let (cell, mut line) = (triangle(7), roi_bytes(3, [0; 4], &[]));
    put(&mut line, 18, &[1.0, 2.0, 3.0, 4.0]);
    let members: [(&str, &[u8]); 4] =
        [("a.roi", &cell), ("b.roi", &line), ("__MACOSX/._a.roi", b"junk"), ("c.roi", &cell)];
    std::fs::write(&path, zip_of(&members)).unwrap();
    let frame = Some(Geometry::new(64, 64));
    let file = read_roi_file(&path, frame).unwrap();
    assert_eq!(file.set.rois.iter().map(|roi| (roi.id, roi.name.as_str())).collect::<Vec<_>>(), [(0, "a"), (2, "c")]);
    assert_eq!((file.no_cells[0].id, file.no_cells[0].name.as_str()), (1, "b"));
    assert!(error_of(&path, frame).contains("entry 1 `b` (straight line)"));
    std::fs::write(&path, zip_of(&[("a.roi", &cell), ("readme.txt", b"hello")])).unwrap();
    assert!(error_of(&path, frame).contains("zip: `readme.txt` is no region"));
    std::fs::write(&path, zip_of(&[("a.roi", &cell[..70])])).unwrap();
    assert!(error_of(&path, frame).contains("entry 0: `a`: cut short: 70 bytes, expected at least 76"));
    // nine megabytes of zeros, which are nothing in the archive
    std::fs::write(&path, zip_of(&[("a.roi", &vec![0; 9 << 20])])).unwrap();
    assert!(error_of(&path, frame).contains("too large unpacked"));
}

/// suite2p's three files in a folder of their own.
fn written(set: &RoiSet, accepted: &[bool]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("stat.npy"), suite2p_write::stat(set)).unwrap();
    std::fs::write(folder.path().join("ops.npy"), suite2p_write::ops(set)).unwrap();
    std::fs::write(folder.path().join("iscell.npy"), suite2p_write::iscell(accepted)).unwrap();
    folder
}

#[test]
fn a_session_of_suite2p_is_read_whole_and_written_back_equal() {
    let Some(path) = real("suite2p/stat.npy") else { return };
    let file = read_roi_file(&path, None).unwrap();
    let accepted = file.accepted.clone().unwrap();
    assert_eq!((accepted.len(), file.set.rois.len()), (23, 23));
    let folder = written(&file.set, &accepted);
    let again = read_roi_file(&folder.path().join("stat.npy"), None).unwrap();
    let without_source = |file: RoiFile| RoiFile { set: RoiSet { source: String::new(), ..file.set }, ..file };
    assert_eq!(without_source(again), without_source(file));
}

#[test]
fn numpy_reads_what_was_written_as_suite2p_had_it() {
    let Some(path) = real("suite2p/stat.npy") else { return };
    let Some(python) = std::env::var_os("APICAL_PYTHON") else {
        println!("skipped: APICAL_PYTHON names no Python with numpy");
        return;
    };
    let file = read_roi_file(&path, None).unwrap();
    let folder = written(&file.set, &file.accepted.unwrap());
    // every key that we write, in every cell, with its type
    let script = "
import sys, numpy as np
old, new = (np.load(f'{d}/stat.npy', allow_pickle=True) for d in sys.argv[1:])
assert len(old) == len(new) and new.dtype == object
for a, b in zip(old, new):
    assert set(b) == {'ypix', 'xpix', 'lam', 'overlap', 'med', 'npix', 'radius'}, set(b)
    for k in ('ypix', 'xpix', 'lam', 'overlap'):
        assert a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]), k
    assert a['npix'] == b['npix'] and tuple(b['med']) in set(zip(a['ypix'], a['xpix']))
# suite2p takes the soma alone for a radius, and the median of all radii for its masks
ratio = np.median([b['radius'] / a['radius'] for a, b in zip(old, new)])
assert 0.8 < ratio < 2, ratio
old, new = (np.load(f'{d}/ops.npy', allow_pickle=True).item() for d in sys.argv[1:])
assert (old['Ly'], old['Lx']) == (new['Ly'], new['Lx']) and np.array_equal(old['meanImg'].astype('f4'), new['meanImg'])
old, new = (np.load(f'{d}/iscell.npy') for d in sys.argv[1:])
assert np.array_equal(old[:, 0], new[:, 0])
";
    let ran = std::process::Command::new(python)
        .args(["-W", "error", "-c", script])
        .args([path.parent().unwrap(), folder.path()])
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn every_format_is_the_same_set_after_our_json_and_after_stat() {
    for name in ["caiman.hdf5", "mean_seg.npy", "stack_seg.npy", "image_mask.nwb"] {
        let set = read_rois(&fixture(name), None).unwrap();
        let folder = written(&set, &vec![true; set.rois.len()]);
        let json = folder.path().join("rois.json");
        std::fs::write(&json, formats::json::write(&set)).unwrap();
        assert_eq!(plain(&read_rois(&json, None).unwrap()), plain(&set), "{name}");
        let stat = plain(&read_rois(&folder.path().join("stat.npy"), None).unwrap());
        // stat.npy has no names
        let nameless = plain(&set).into_iter().enumerate().map(|(k, roi)| (roi.0, k.to_string(), roi.2));
        assert_eq!(stat, nameless.collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_list_of_cells_that_belongs_to_another_stat_is_refused_where_it_is_asked_for() {
    let set = read_rois(&fixture("caiman.hdf5"), None).unwrap();
    let folder = written(&set, &[true, false]);
    let stat = folder.path().join("stat.npy");
    assert_eq!(plain(&read_rois(&stat, None).unwrap()).len(), 3);
    let error = read_roi_file(&stat, None).unwrap_err().to_string();
    assert!(error.ends_with("2 x 2 values, expected one row for each of the 3 cells of stat.npy"), "{error}");
}

#[test]
fn a_transposed_set_has_its_reference_transposed() {
    let mut set = read_rois(&fixture("caiman.hdf5"), None).unwrap();
    set.reference = Some(Image { geometry: FRAME, values: (0..42_u8).map(f32::from).collect() });
    set.reference_kind = ReferenceKind::Given;
    let turned = set.clone().transposed();
    assert_eq!(turned.reference.as_ref().unwrap().values[..7], [0.0, 7.0, 14.0, 21.0, 28.0, 35.0, 1.0]);
    assert_eq!(turned.check(), Ok(()));
    assert_eq!(turned.transposed(), set);
}

#[test]
fn files_of_another_kind_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let set = read_rois(&fixture("caiman.hdf5"), None).unwrap();
    let error = error_of(&write("ops.npy", &suite2p_write::ops(&set)), None);
    assert!(error.contains("is suite2p's ops.npy: give the stat.npy beside it"), "{error}");
    let plain = folder.path().join("plain.h5");
    rust_hdf5::H5File::create(&plain).unwrap().close().unwrap();
    let error = error_of(&plain, None);
    assert!(error.contains("neither `estimates` (CaImAn) nor `processing` (NWB)"), "{error}");
    let error = error_of(&write("a.roi", b"Iout\x00\xe3\x0c\x00"), Some(FRAME));
    assert!(error.contains("cut short: 8 bytes, expected at least 64"), "{error}");
    let mut unknown = roi_bytes(12, [0; 4], &[]);
    let error = error_of(&write("b.roi", &unknown), Some(FRAME));
    assert!(error.contains("region of type 12, expected 0 to 10"), "{error}");
    unknown[6] = 3;
    put(&mut unknown, 18, &[f32::NAN]);
    assert!(error_of(&write("c.roi", &unknown), Some(FRAME)).contains("x of an end is NaN, expected a finite number"));
    assert!(matches!(read_rois(&folder.path().join("none.h5"), None), Err(RoiFileError::Read { .. })));
    let text = include_bytes!("roi_formats.rs");
    assert!(error_of(&write("d.txt", text), None).contains("expected suite2p's stat.npy, Cellpose's"));
}
