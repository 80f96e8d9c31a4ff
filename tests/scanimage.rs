//! Files as ScanImage writes them: volumes with and without their flyback frames, several channels, several files of
//! one acquisition.

mod outside;
mod written;

use std::path::Path;
use std::process::Command;

use apical::source::{FrameRecording, OpenOptions};
use outside::{frames, real};
use written::{Form, Order, little_endian, pixels, save, scanimage_page};

const FORM: Form = Form::new(true, Order::ScanImage);

fn open(path: &Path) -> FrameRecording {
    frames(path, &OpenOptions { successors: true, ..OpenOptions::default() })
}

/// Index, plane, channel of every page that is given; each must hold the pixels of the page that `pages` names next.
fn places(recording: &mut FrameRecording, pages: impl IntoIterator<Item = usize>) -> Vec<(u64, u32, u32)> {
    let (mut buffer, mut found) = (Vec::new(), Vec::new());
    let mut pages = pages.into_iter();
    while let Some(frame) = recording.next(&mut buffer).unwrap() {
        let page = pages.next().expect("no more pages than expected");
        assert_eq!(buffer, little_endian(&pixels(&FORM, page)), "page {page}");
        found.push((frame.index, frame.plane, frame.channel));
    }
    assert_eq!(pages.next(), None, "every page comes");
    found
}

/// Descriptions of the frames with these numbers, `channels` pages each, at 30 frames a second.
fn numbered(numbers: impl IntoIterator<Item = u64>, channels: usize) -> Vec<String> {
    let page = |n: u64| scanimage_page(n, (n - 1) as f64 / 30.0);
    numbers.into_iter().flat_map(|n| std::iter::repeat_n(page(n), channels)).collect()
}

/// Three slices and one flyback frame, as versions from 2020 on write it; the 11 slices are left from another day.
const VOLUME: &str = "SI.VERSION_MAJOR = 2023\nSI.hChannels.channelSave = [1;2]\nSI.hFastZ.enable = true\n\
    SI.hFastZ.discardFlybackFrames = true\nSI.hFastZ.numDiscardFlybackFrames = 1\nSI.hStackManager.enable = true\n\
    SI.hStackManager.numSlices = 11\nSI.hStackManager.actualNumSlices = 3\nSI.hStackManager.framesPerSlice = 1\n\
    SI.hStackManager.numVolumes = 100\nSI.hStackManager.numFramesPerVolume = 3\n\
    SI.hStackManager.numFramesPerVolumeWithFlyback = 4\nSI.hRoiManager.scanFrameRate = 30\n\
    SI.hRoiManager.scanVolumeRate = 7.5\n";

#[test]
fn flyback_frames_that_are_saved_are_left_out_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v_00001.tif");
    save(&path, FORM, VOLUME, &numbered(1..=12, 2));
    let mut recording = open(&path);
    let header = recording.header().clone();
    assert_eq!((header.channels, header.planes, header.frame_count), (2, 3, Some(3)));
    assert_eq!(header.frame_rate_hz, Some(7.5));
    let kept = (0..24).filter(|page| page / 2 % 4 != 3);
    let expected: Vec<_> = kept.clone().map(|p| ((p / 8) as u64, (p / 2 % 4) as u32, (p % 2) as u32)).collect();
    assert_eq!(places(&mut recording, kept), expected);
    assert_eq!(recording.warnings().len(), 1, "{:?}", recording.warnings());
    assert!(recording.warnings()[0].contains("1 flyback frame(s) after each volume of 3"));
}

#[test]
fn flyback_frames_that_are_not_saved_leave_planes_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let planes = |count: u64| -> Vec<_> { (0..count).map(|k| (k / 3, (k % 3) as u32, 0)).collect() };
    let one = VOLUME.replace("[1;2]", "1");
    // The numbers skip them.
    let path = folder.path().join("a_00001.tif");
    save(&path, FORM, &one, &numbered((1..=12).filter(|n| n % 4 != 0), 1));
    let mut recording = open(&path);
    assert_eq!(places(&mut recording, 0..9), planes(9));
    // The numbers run on, and the times pause.
    let path = folder.path().join("b_00001.tif");
    let descriptions: Vec<_> = (0..9).map(|k| scanimage_page(k + 1, (k + k / 3) as f64 / 30.0)).collect();
    save(&path, FORM, &one, &descriptions);
    let mut recording = open(&path);
    assert_eq!(places(&mut recording, 0..9), planes(9));
    assert!(recording.warnings()[0].contains("they are not in the file"), "{:?}", recording.warnings());
}

#[test]
fn versions_before_2020_count_flyback_frames_in_the_volume() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old_00001.tif");
    let header = "SI.VERSION_MAJOR = '2016b'\nSI.hChannels.channelSave = 1\nSI.hFastZ.enable = true\n\
        SI.hFastZ.numFramesPerVolume = 4\nSI.hFastZ.numDiscardFlybackFrames = 1\nSI.hStackManager.numSlices = 3\n\
        SI.hRoiManager.scanFrameRate = 30\n";
    save(&path, FORM, header, &numbered(1..=8, 1));
    let mut recording = open(&path);
    assert_eq!((recording.header().planes, recording.header().frame_rate_hz), (3, Some(7.5)));
    assert_eq!(
        places(&mut recording, [0, 1, 2, 4, 5, 6]),
        [(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 0, 0), (1, 1, 0), (1, 2, 0)]
    );
}

#[test]
fn a_stack_that_is_not_enabled_and_repeated_frames_of_a_slice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s_00001.tif");
    let flat = VOLUME.replace("enable = true", "enable = false").replace("[1;2]", "1");
    save(&path, FORM, &flat, &numbered(1..=5, 1));
    let mut recording = open(&path);
    assert_eq!(recording.header().planes, 1);
    assert_eq!(places(&mut recording, 0..5), [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)]);
    let repeated = "SI.hChannels.channelSave = 1\nSI.hStackManager.enable = 1\nSI.hStackManager.actualNumSlices = 2\n\
        SI.hStackManager.framesPerSlice = 2\nSI.hStackManager.numFramesPerVolume = 4\n";
    save(&path, FORM, repeated, &numbered(1..=8, 1));
    let mut recording = open(&path);
    assert_eq!(
        places(&mut recording, 0..8),
        [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (2, 0, 0), (3, 0, 0), (2, 1, 0), (3, 1, 0)]
    );
}

#[test]
fn the_files_of_an_acquisition_are_one_recording_also_where_a_volume_is_cut_between_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let header = VOLUME.replace("[1;2]", "1");
    save(&at("m_00001_00001.tif"), FORM, &header, &numbered(1..=6, 1));
    save(&at("m_00001_00002.tif"), FORM, &header, &numbered(7..=12, 1));
    let kept = || [0, 1, 2, 4, 5, 0, 2, 3, 4];
    let expected: Vec<_> = (0..9).map(|k| (k / 3, (k % 3) as u32, 0)).collect();
    for path in [at("m_00001_00001.tif"), folder.path().to_owned()] {
        let mut recording = open(&path);
        assert_eq!(recording.header().frame_count, Some(3), "{}", path.display());
        assert_eq!(places(&mut recording, kept()), expected, "{}", path.display());
        assert!(recording.warnings().iter().any(|w| w.contains("2 files of one acquisition")));
    }
    // From its second file on, a recording begins within a volume.
    let mut recording = open(&at("m_00001_00002.tif"));
    assert_eq!(places(&mut recording, [0, 2, 3, 4]), [(0, 2, 0), (1, 0, 0), (1, 1, 0), (1, 2, 0)]);
    // A third one of another size ends the recording with a word.
    save(&at("m_00001_00003.tif"), Form { height: 6, rows_per_strip: 6, ..FORM }, &header, &numbered(13..=14, 1));
    let mut recording = open(&at("m_00001_00001.tif"));
    assert_eq!(places(&mut recording, kept()), expected);
    let said = recording.warnings().join("\n");
    assert!(said.contains("is read up to") && said.contains("6 x 7 uint16, expected 5 x 7"), "{said}");
    // One that is cut in the middle gives its whole pages, and the next goes on.
    std::fs::remove_file(at("m_00001_00003.tif")).unwrap();
    let bytes = std::fs::read(at("m_00001_00001.tif")).unwrap();
    let page = (bytes.len() - 16) / 6;
    std::fs::write(at("m_00001_00001.tif"), &bytes[..16 + 5 * page]).unwrap();
    let mut recording = open(&at("m_00001_00001.tif"));
    let places = places(&mut recording, [0, 1, 2, 4, 0, 2, 3, 4]);
    assert_eq!(places[3..5], [(1, 0, 0), (1, 2, 0)], "frame 6 is missing, and the others stand where they belong");
    assert!(recording.warnings().iter().any(|w| w.contains("lies beyond")), "{:?}", recording.warnings());
}

/// `warnings` of `apical replay FILE --json`, and the frames that it decided.
fn replayed(path: &Path, way: &[&str]) -> (Vec<String>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_apical"))
        .args(["replay", "--json", "--baseline-frames", "1", "--session-dir"])
        .arg(folder.path().join("session"))
        .arg(path)
        .args(way)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let warnings = report["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect();
    (warnings, report["frames_decided"].as_u64().unwrap())
}

#[test]
fn the_program_says_what_of_a_recording_it_could_not_use() {
    for (name, frames, said) in [
        ("scanimage57_2ch_6x512x512_i16_bigtiff.tif", 3, Some("the header says 1 channel(s) saved")),
        ("prairieview_512x512_u16.ome.tif", 1, Some("missing: 20171229_OG245_s-026_Cycle00001_Ch2_000001.ome.tif")),
        ("sima_example_20x128x256_u16.tif", 20, None),
        ("running_mouse_500x64x64_i16.tif", 500, None),
    ] {
        let Some(path) = real(name) else { continue };
        for way in [&["--in-process"][..], &[]] {
            let (warnings, decided) = replayed(&path, way);
            assert_eq!(decided, frames, "{name} {way:?}");
            match said {
                Some(said) => assert!(warnings.iter().any(|w| w.contains(said)), "{name} {way:?}: {warnings:?}"),
                // A short recording is all baseline, and that is said; nothing else is.
                None => assert_eq!(warnings, [] as [String; 0], "{name} {way:?}"),
            }
        }
    }
}

#[test]
fn what_reading_finds_on_the_way_is_said_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lost_00001.tif");
    let form = Form { height: 32, width: 32, rows_per_strip: 32, ..FORM };
    let mut descriptions = numbered(1..=20, 2);
    descriptions.remove(31);
    save(&path, form, "SI.hChannels.channelSave = [1;2]\n", &descriptions);
    let (warnings, _) = replayed(&path, &["--in-process"]);
    assert!(warnings.iter().any(|w| w.contains("frame 16 has 1 pages, expected 2")), "{warnings:?}");
}
