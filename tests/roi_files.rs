//! ROI files as other programs wrote them. The numbers were computed with numpy from the same files.

mod outside;

use apical::config::sample::SampleConfig;
use apical::frame::Geometry;
use apical::sample::{ReferenceKind, RoiFileError, RoiSet, Sampler, formats, read_rois};
use outside::real;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/suite2p").join(name)
}

/// A folder of its own for files that a test writes, removed when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("apical-roi-files-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pixel_counts(set: &RoiSet) -> Vec<usize> {
    set.rois.iter().map(|roi| roi.pixels.len()).collect()
}

fn sums(set: &RoiSet, k: usize) -> (u32, u32, f64) {
    let pixels = &set.rois[k].pixels;
    let weights = pixels.iter().map(|p| f64::from(p.weight)).sum();
    (pixels.iter().map(|p| p.row).sum(), pixels.iter().map(|p| p.col).sum(), weights)
}

#[test]
fn a_stat_of_suite2p_is_read_with_its_ops() {
    let Some(path) = real("suite2p/stat.npy") else { return };
    let set = read_rois(&path, None).unwrap();
    assert_eq!(set.geometry, Geometry::new(176, 156));
    let counts = [63, 138, 60, 77, 100, 240, 31, 50, 55, 58, 95, 193, 48, 51, 198, 369, 62, 55, 48, 49, 32, 71, 55];
    assert_eq!(pixel_counts(&set), counts);
    assert_eq!(set.rois.iter().map(|roi| roi.id).collect::<Vec<_>>(), (0..23).collect::<Vec<_>>());
    for (k, rows, cols, weights) in [(0, 9162, 3925, 66.66018232703209), (22, 6862, 5778, 35.45031437277794)] {
        let (got_rows, got_cols, got_weights) = sums(&set, k);
        assert_eq!((got_rows, got_cols), (rows, cols));
        assert!((got_weights - weights).abs() < 1e-9);
    }
    let image = set.reference.as_ref().unwrap();
    assert_eq!(set.reference_kind, ReferenceKind::Given);
    assert_eq!((image.values[0], image.values[100 * 156 + 37]), (26.523_119, 43.742_176));
    let total: f64 = image.values.iter().map(|&value| f64::from(value)).sum();
    assert!((total - 942130.1225223541).abs() < 1e-6);
}

#[test]
fn the_annuli_are_those_of_suite2p() {
    let Some(path) = real("suite2p/stat.npy") else { return };
    let sampler = Sampler::new(&SampleConfig::default(), &read_rois(&path, None).unwrap()).unwrap();
    // length and sum of stat[k]["neuropil_mask"], whose entries are row * 156 + column
    let expected: [(usize, u64); 23] = [
        (869, 19742995),
        (569, 12891444),
        (353, 7290803),
        (512, 4852347),
        (549, 8148215),
        (467, 11930283),
        (617, 12871510),
        (696, 12514642),
        (492, 5004334),
        (726, 14454777),
        (654, 3114949),
        (448, 8331286),
        (823, 18366252),
        (852, 20450484),
        (1658, 28972936),
        (1098, 17164491),
        (397, 9061077),
        (460, 1598718),
        (678, 16935159),
        (369, 6402373),
        (378, 5158395),
        (379, 7899275),
        (375, 7374319),
    ];
    for (k, (count, sum)) in expected.into_iter().enumerate() {
        let indices: Vec<u64> = sampler.annulus_pixels(k).map(|(row, col)| u64::from(row * 156 + col)).collect();
        assert_eq!((indices.len(), indices.iter().sum::<u64>()), (count, sum), "ROI {k}");
    }
}

#[test]
fn a_frame_size_that_contradicts_ops_is_refused() {
    let Some(path) = real("suite2p/stat.npy") else { return };
    let error = read_rois(&path, Some(Geometry::new(512, 512))).unwrap_err().to_string();
    assert!(error.ends_with("drawn on frames of 176 x 156 pixels, expected 512 x 512"), "{error}");
}

#[test]
fn the_regions_of_neurofinder_are_read() {
    let files = [
        ("neurofinder/regions.json", 512, 330, 87, 22407, (25595, 18941), (27657, 19770), "9000", "9329"),
        ("neurofinder/crop_regions.json", 128, 40, 41, 2854, (391, 2206), (6056, 4083), "9012", "9207"),
    ];
    for (name, side_px, count, first_pixels, all_pixels, first, last, first_name, last_name) in files {
        let Some(path) = real(name) else { continue };
        let set = read_rois(&path, Some(Geometry::new(side_px, side_px))).unwrap();
        let counts = pixel_counts(&set);
        assert_eq!((counts.len(), counts[0], counts.iter().sum::<usize>()), (count, first_pixels, all_pixels));
        assert_eq!(sums(&set, 0), (first.0, first.1, first_pixels as f64));
        let (rows, cols, _) = sums(&set, count - 1);
        assert_eq!((rows, cols), last);
        assert_eq!((set.rois[0].name.as_str(), set.rois[count - 1].name.as_str()), (first_name, last_name));
        assert_eq!(set.reference_kind, ReferenceKind::None);
        assert!(matches!(read_rois(&path, None), Err(RoiFileError::GeometryUnknown { .. })));
        let small = read_rois(&path, Some(Geometry::new(100, 100))).unwrap_err().to_string();
        assert!(small.contains("outside the frame of 100 x 100 pixels"), "{small}");
    }
}

#[test]
fn both_numpys_and_all_four_protocols_give_the_same_cells() {
    for numpy in ["numpy1", "numpy2"] {
        for protocol in 2..=5 {
            let path = fixture(&format!("stat_{numpy}_protocol{protocol}.npy"));
            let set = read_rois(&path, Some(Geometry::new(6, 7))).unwrap_or_else(|error| panic!("{error}"));
            let pixels: Vec<_> = set.rois[0].pixels.iter().map(|p| (p.row, p.col, p.weight)).collect();
            assert_eq!(pixels, [(1, 2, 0.5), (1, 3, 1.0), (2, 2, 0.25)], "{}", path.display());
            assert_eq!((set.rois[1].plane, set.rois[1].pixels[0].weight), (1, 2.0), "{}", path.display());
        }
    }
}

#[test]
fn a_cell_outside_the_frame_is_refused_with_its_id_and_pixel() {
    let error = read_rois(&fixture("stat_numpy2_protocol4.npy"), Some(Geometry::new(4, 7))).unwrap_err().to_string();
    assert!(error.ends_with("ROI 1: pixel (row 4, column 5) lies outside the frame of 4 x 7 pixels"), "{error}");
}

#[test]
fn without_ops_and_without_a_frame_size_the_error_says_what_to_do() {
    let error = read_rois(&fixture("stat_numpy2_protocol4.npy"), None).unwrap_err().to_string();
    assert!(error.contains("put suite2p's ops.npy beside stat.npy"), "{error}");
}

#[test]
fn a_cut_stat_is_an_error_wherever_it_is_cut() {
    let folder = Folder::new("cut");
    let bytes = std::fs::read(fixture("stat_numpy2_protocol4.npy")).unwrap();
    for length in 0..bytes.len() {
        let path = folder.write("stat.npy", &bytes[..length]);
        assert!(read_rois(&path, Some(Geometry::new(6, 7))).is_err(), "cut at {length}");
    }
}

fn npy(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

/// An object array whose pickle is `body`.
fn object_npy(shape: &str, body: &[u8]) -> Vec<u8> {
    npy("|O", shape, body)
}

#[test]
fn a_pickle_that_would_run_a_command_is_refused_by_name() {
    let folder = Folder::new("forbidden");
    // in a list of cells, as suite2p's, and in a single object, as Cellpose's
    for shape in ["(1,)", "()"] {
        let path = folder.write("stat.npy", &object_npy(shape, b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."));
        let error = read_rois(&path, Some(Geometry::new(6, 7))).unwrap_err().to_string();
        let expected = "holds a Python object `os.system`, expected only numpy arrays, scalars and plain containers";
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn files_of_the_wrong_shape_or_kind_are_refused() {
    let folder = Folder::new("wrong");
    let size = Some(Geometry::new(6, 7));
    let message = |name: &str, bytes: &[u8]| read_rois(&folder.write(name, bytes), size).unwrap_err().to_string();
    // a list where an array of objects should be
    assert!(message("a.npy", &object_npy("(1,)", b"\x80\x02]K\x01a.")).contains("holds no list of objects"));
    let floats = npy("<f4", "(1,)", b"abcd");
    assert!(message("b.npy", &floats).contains("elements of type `<f4`, expected objects"));
    assert!(message("c.gif", b"GIF89a\x03\x04").contains("begins with `GIF89a??`"));
    assert!(message("c.zip", b"PK\x03\x04").contains("c.zip: zip: "));
    assert!(message("d.json", b"").contains("expected suite2p's stat.npy"));
    assert!(message("e.json", b"[{\"coordinates\": [[1, 2, 3]]}]").contains("line 1"));
    assert!(message("f.json", b"[{\"coordinates\": []}]").contains("ROI 0 has no pixels"));
    assert!(matches!(read_rois(&folder.0.join("none.json"), size), Err(RoiFileError::Read { .. })));
    // an ops.npy that is damaged is not passed over
    folder.write("ops.npy", b"\x93NUMPY");
    let stat = std::fs::read(fixture("stat_numpy2_protocol4.npy")).unwrap();
    assert!(message("stat.npy", &stat).contains("ops.npy: cut short"));
}

#[test]
fn our_json_finds_its_reference_beside_it() {
    let folder = Folder::new("json");
    let image = npy("<u2", "(2, 3)", &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 0, 1]);
    folder.write("mean.npy", &image);
    let text = r#"{"height_px": 2, "width_px": 3, "reference": "mean.npy", "rois": [{"pixels": [[1, 2]]}]}"#;
    let set = read_rois(&folder.write("rois.json", text.as_bytes()), None).unwrap();
    assert_eq!(set.reference.as_ref().unwrap().values, [1.0, 2.0, 3.0, 4.0, 5.0, 256.0]);
    let again = read_rois(&folder.write("again.json", formats::json::write(&set).as_bytes()), None).unwrap();
    assert_eq!((again.rois, again.reference), (set.rois, set.reference));
}

#[test]
fn a_stat_written_as_our_json_is_the_same_set() {
    let Some(path) = real("suite2p/stat.npy") else { return };
    let folder = Folder::new("convert");
    let set = read_rois(&path, None).unwrap();
    let again = read_rois(&folder.write("rois.json", formats::json::write(&set).as_bytes()), None).unwrap();
    assert_eq!((again.rois, again.reference, again.geometry), (set.rois, set.reference, set.geometry));
}

fn flipped(path: &Path, flips: &[(prop::sample::Index, u8)]) {
    let mut bytes = std::fs::read(path).unwrap();
    for (at, bit) in flips {
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << (bit % 8);
    }
    let _ = formats::suite2p::read(Path::new("nowhere/stat.npy"), &bytes, Some(Geometry::new(176, 156)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn flipped_bits_in_a_small_stat_never_panic(
        protocol in 2..=5, flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        flipped(&fixture(&format!("stat_numpy2_protocol{protocol}.npy")), &flips);
    }

    #[test]
    fn flipped_bits_in_a_recorded_stat_never_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30)
    ) {
        if let Some(path) = real("suite2p/stat.npy") {
            flipped(&path, &flips);
        }
    }
}
