//! Recorded files, read and held against counts and pixel sums that an independent program (Python's tifffile and
//! numpy) gave. The data is not in the repository: without it each test says so and passes.

mod outside;

use apical::frame::{Geometry, PixelType};
use apical::source::{FrameRecording, OpenOptions, RecordedFrame, Recording, RecordingError, open_recording};
use outside::{frames, real};

fn sum(buffer: &[u8], pixel_type: PixelType) -> i64 {
    let pairs = buffer.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match pixel_type {
        PixelType::U8 => buffer.iter().map(|&v| i64::from(v)).sum(),
        PixelType::U16 => pairs.map(|pair| i64::from(u16::from_le_bytes(pair))).sum(),
        PixelType::I16 => pairs.map(|pair| i64::from(i16::from_le_bytes(pair))).sum(),
    }
}

/// Every page: what it is, and the sum of its pixels.
fn read_all(recording: &mut FrameRecording) -> Vec<(RecordedFrame, i64)> {
    let (mut pages, mut buffer) = (Vec::new(), Vec::new());
    while let Some(frame) = recording.next(&mut buffer).unwrap() {
        pages.push((frame, sum(&buffer, recording.header().pixel_type)));
    }
    pages
}

#[test]
fn scanimage_channels_numbers_and_times_come_from_the_pages() {
    let Some(path) = real("scanimage57_2ch_6x512x512_i16_bigtiff.tif") else { return };
    let mut recording = frames(&path, &OpenOptions::default());
    let header = recording.header().clone();
    assert_eq!((header.geometry, header.pixel_type), (Geometry::new(512, 512), PixelType::I16));
    assert_eq!((header.frame_count, header.channels, header.planes), (Some(3), 2, 1));
    assert_eq!(header.description, "TIFF, ScanImage 5.7");
    assert!(header.frame_rate_hz.is_some_and(|rate| (rate - 29.98).abs() < 0.01), "{:?}", header.frame_rate_hz);
    let pages = read_all(&mut recording);
    let place: Vec<_> = pages.iter().map(|(f, _)| (f.index, f.channel, f.device_ns)).collect();
    assert_eq!(
        place,
        [
            (0, 0, Some(0)),
            (0, 1, Some(0)),
            (1, 0, Some(33_351_950)),
            (1, 1, Some(33_351_950)),
            (2, 0, Some(66_703_900)),
            (2, 1, Some(66_703_900)),
        ]
    );
    let sums: Vec<i64> = pages.iter().map(|&(_, sum)| sum).collect();
    assert_eq!(sums, [-137_833_043, -139_271, -138_535_062, 80_285, -138_989_234, 131_731]);
    assert_eq!(recording.warnings().len(), 1, "{:?}", recording.warnings());
    assert!(recording.warnings()[0].contains("channelSave"), "{:?}", recording.warnings());
}

#[test]
fn prairieview_names_its_missing_companion() {
    let Some(path) = real("prairieview_512x512_u16.ome.tif") else { return };
    let mut recording = frames(&path, &OpenOptions::default());
    let header = recording.header();
    assert_eq!((header.frame_count, header.channels, header.planes), (Some(1), 1, 1));
    assert_eq!(header.description, "OME-TIFF, Prairie View 5.4.64.40");
    let named = "missing: 20171229_OG245_s-026_Cycle00001_Ch2_000001.ome.tif";
    assert!(recording.warnings().iter().any(|w| w.contains(named)), "{:?}", recording.warnings());
    let pages = read_all(&mut recording);
    assert_eq!(pages, [(RecordedFrame { index: 0, plane: 0, channel: 0, device_ns: Some(0) }, 66_623_457)]);
}

#[test]
fn plain_and_deflated_stacks_give_every_page() {
    for (name, geometry, pixel_type, count, first, last, total) in [
        ("sima_example_20x128x256_u16.tif", (128, 256), PixelType::U16, 20, 36_379_098, 35_345_380, 718_163_711),
        ("running_mouse_500x64x64_i16.tif", (64, 64), PixelType::I16, 500, 369_908, 266_630, 165_350_240),
        (
            "neurofinder/crop_600x128x128_u16_deflate.tif",
            (128, 128),
            PixelType::U16,
            600,
            5_829_599,
            7_159_202,
            3_936_850_595,
        ),
        (
            "neurofinder/full_64x512x512_u16_deflate.tif",
            (512, 512),
            PixelType::U16,
            64,
            44_163_331,
            45_310_502,
            2_993_122_715,
        ),
        // Most significant byte first, and no compression tag.
        ("fov_mean_512x512_u16.tif", (512, 512), PixelType::U16, 1, 212_889_262, 212_889_262, 212_889_262i64),
    ] {
        let Some(path) = real(name) else { continue };
        let mut recording = frames(&path, &OpenOptions::default());
        let header = recording.header();
        assert_eq!((header.geometry, header.pixel_type), (Geometry::new(geometry.0, geometry.1), pixel_type), "{name}");
        assert_eq!(header.frame_count, Some(count), "{name}");
        let pages = read_all(&mut recording);
        assert!(recording.warnings().is_empty(), "{name}: {:?}", recording.warnings());
        assert_eq!(pages.len(), count, "{name}");
        assert!(pages.iter().enumerate().all(|(i, (frame, _))| frame.index == i as u64 && frame.channel == 0));
        let sums: Vec<i64> = pages.iter().map(|&(_, sum)| sum).collect();
        assert_eq!((sums[0], sums[count - 1], sums.iter().sum::<i64>()), (first, last, total), "{name}");
    }
}

#[test]
fn a_cut_file_gives_its_whole_pages_and_then_an_error_that_counts_them() {
    for (name, cut) in [
        ("running_mouse_500x64x64_i16.tif", 1_000_000u64),
        ("scanimage57_2ch_6x512x512_i16_bigtiff.tif", 2_000_000),
        ("neurofinder/full_64x512x512_u16_deflate.tif", 5_000_000),
        ("sima_example_20x128x256_u16.tif", 1_317_000),
    ] {
        let Some(path) = real(name) else { continue };
        let bytes = std::fs::read(&path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let short = folder.path().join("cut.tif");
        std::fs::write(&short, &bytes[..cut as usize]).unwrap();
        let whole: Vec<i64> =
            read_all(&mut frames(&path, &OpenOptions::default())).into_iter().map(|(_, sum)| sum).collect();
        let mut recording = frames(&short, &OpenOptions::default());
        let (mut sums, mut buffer) = (Vec::new(), Vec::new());
        let error = loop {
            match recording.next(&mut buffer) {
                Ok(Some(_)) => sums.push(sum(&buffer, recording.header().pixel_type)),
                Ok(None) => panic!("{name}: ended without an error after {} pages", sums.len()),
                Err(error) => break error,
            }
        };
        assert!(!sums.is_empty() && sums.len() < whole.len(), "{name}: {}", sums.len());
        assert_eq!(sums, whole[..sums.len()], "{name}");
        let channels = recording.header().channels as usize;
        let RecordingError::Truncated { whole_pages, whole_frames, .. } = error else { panic!("{name}: {error}") };
        assert_eq!((whole_pages, whole_frames), (sums.len(), sums.len() / channels), "{name}");
        assert_eq!(recording.next(&mut buffer).unwrap(), None, "{name}");
    }
}

#[test]
fn suite2p_traces_are_rois_by_frames() {
    for (name, first, last, total) in [
        ("suite2p/F.npy", 44.5495491027832, 40.652931213378906, 836438.7939720154),
        ("suite2p/Fneu.npy", 37.51493835449219, 39.59199905395508, 695134.546327591),
        ("suite2p/spks.npy", 0.0, 0.0, 30756.20387740541),
    ] {
        let Some(path) = real(name) else { continue };
        let Recording::RoiValues(values) = open_recording(&path, &OpenOptions::default()).unwrap() else {
            panic!("{name} gave frames")
        };
        assert_eq!((values.rois(), values.frames()), (23, 864));
        let sum: f64 = (0..864).flat_map(|frame| values.column(frame).unwrap()).sum();
        assert_eq!((values.value(1, 0), values.value(22, 863)), (Some(first), Some(last)), "{name}");
        assert!((sum - total).abs() <= 1e-9 * f64::abs(total), "{name}: {sum}");
    }
    let Some(path) = real("suite2p/stat.npy") else { return };
    let error = open_recording(&path, &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains("object array"), "{error}");
}

#[test]
fn a_geometry_that_the_file_contradicts_is_an_error() {
    let Some(path) = real("sima_example_20x128x256_u16.tif") else { return };
    let options = OpenOptions { geometry: Some(Geometry::new(256, 128)), ..OpenOptions::default() };
    let error = open_recording(&path, &options).unwrap_err().to_string();
    assert!(error.contains("holds 128 x 256 uint16, but 256 x 128 uint16 was asked for"), "{error}");
}
