//! Files that are still being written: a page comes out when it is whole, as it was written, and never before; through
//! the library after every single byte, and through the program while a thread writes.

mod outside;
mod written;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use apical::frame::{Geometry, PixelType};
use apical::journal::{JournalRecord, SessionFiles};
use apical::source::{FrameRecording, OpenOptions, Poll, open_growing};
use outside::frames;
use written::{Form, Order, Write, Writer, apply, in_pieces, little_endian, pixels, scanimage_page, whole};

const PAGES: usize = 6;

/// Follows a file while it is written; what it gave must be pages in their order.
struct Follower {
    path: PathBuf,
    options: OpenOptions,
    recording: Option<FrameRecording>,
    given: usize,
}

impl Follower {
    fn new(path: &Path, options: OpenOptions) -> Self {
        Follower { path: path.to_owned(), options, recording: None, given: 0 }
    }

    /// Takes what is whole now, and holds every page against what was written.
    fn look(&mut self, form: &Form, what: &str) -> Poll {
        if self.recording.is_none() {
            self.recording = open_growing(&self.path, &self.options, false).unwrap().ok();
        }
        let Some(recording) = &mut self.recording else { return Poll::Waiting { grown: false } };
        let mut buffer = Vec::new();
        loop {
            let polled = recording.poll(&mut buffer).unwrap_or_else(|e| panic!("{what}: {e}"));
            let Poll::Page(frame) = polled else { return polled };
            assert_eq!(buffer, little_endian(&pixels(form, self.given)), "{what}: page {}", self.given);
            assert_eq!(frame.index, self.given as u64, "{what}");
            self.given += 1;
        }
    }

    fn finish(&mut self, form: &Form, what: &str) {
        self.recording.as_mut().unwrap().finish();
        assert_eq!(self.look(form, what), Poll::End, "{what}");
    }
}

/// Writes piece after piece; after each the follower may have no page that is not whole, and must have all that are.
fn written_in_pieces(form: &Form, software: &str, writes: &[Write], what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("growing.tif");
    let mut file = File::create(&path).unwrap();
    let mut follower = Follower::new(&path, OpenOptions::default());
    follower.look(form, what);
    for write in writes {
        apply(&mut file, write);
        follower.look(form, what);
        if let Some(page) = write.completes
            // ScanImage's channels are known with the second frame number.
            && (software.is_empty() || page >= 9)
        {
            assert_eq!(follower.given, page + 1, "{what}: page {page} is whole");
        }
    }
    follower.finish(form, what);
    let pages = writes.iter().filter(|write| write.completes.is_some()).count();
    assert_eq!(follower.given, pages, "{what}");
    assert_eq!(follower.recording.unwrap().warnings(), [] as [String; 0], "{what}");
}

#[test]
fn no_page_comes_before_it_is_whole_and_every_page_as_soon_as_it_is() {
    for order in [Order::ScanImage, Order::Libtiff, Order::Tifffile] {
        for (big, big_endian, rows_per_strip) in
            [(false, false, 5), (true, false, 5), (true, false, 2), (false, true, 2), (true, true, 5)]
        {
            let form = Form { big_endian, rows_per_strip, ..Form::new(big, order) };
            let mut writer = Writer::new(form, "");
            for page in 0..PAGES {
                writer.page(&format!("page {page} of a growing file"));
            }
            let writes = writer.end();
            for sizes in [&[1][..], &[3, 17, 1, 64], &[4096], &[2, 300]] {
                written_in_pieces(&form, "", &in_pieces(&writes, sizes), &format!("{form:?} in {sizes:?}"));
            }
        }
    }
}

#[test]
fn scanimages_numbers_and_times_are_whole_as_well() {
    for order in [Order::ScanImage, Order::Libtiff, Order::Tifffile] {
        let form = Form::new(true, order);
        let software = "SI.VERSION_MAJOR = 2023\nSI.hChannels.channelSave = 1\n";
        let mut writer = Writer::new(form, software);
        for page in 0..12 {
            writer.page(&scanimage_page(page + 1, page as f64 / 30.0));
        }
        let writes = writer.end();
        for sizes in [&[1][..], &[5, 90]] {
            written_in_pieces(&form, software, &in_pieces(&writes, sizes), &format!("{order:?} in {sizes:?}"));
        }
    }
}

#[test]
fn a_raw_binary_gives_its_whole_pages_as_it_grows() {
    let form = Form::new(false, Order::ScanImage);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.bin");
    let bytes: Vec<u8> = (0..PAGES).flat_map(|page| little_endian(&pixels(&form, page))).collect();
    let page_bytes = bytes.len() / PAGES;
    let geometry = Some(Geometry::new(form.height, form.width));
    let options = OpenOptions { geometry, pixel_type: Some(PixelType::U16), ..OpenOptions::default() };
    let mut follower = Follower::new(&path, options);
    follower.look(&form, "not there");
    let mut file = File::create(&path).unwrap();
    for (at, &byte) in bytes.iter().enumerate() {
        apply(&mut file, &Write { at: at as u64, bytes: vec![byte], completes: None });
        follower.look(&form, "raw");
        assert_eq!(follower.given, (at + 1) / page_bytes);
    }
    apply(&mut file, &Write { at: bytes.len() as u64, bytes: vec![7; 3], completes: None });
    follower.finish(&form, "raw");
    let warnings = follower.recording.unwrap().warnings().to_vec();
    assert!(warnings[0].starts_with("3 bytes follow the last of 6 whole pages"), "{warnings:?}");
}

#[test]
fn a_page_that_is_never_finished_is_left_out_and_said() {
    for order in [Order::ScanImage, Order::Libtiff, Order::Tifffile] {
        let form = Form::new(true, order);
        let mut writer = Writer::new(form, "");
        (0..3).for_each(|_| writer.page("text"));
        let pieces = in_pieces(&writer.end(), &[1]);
        let last = pieces.iter().position(|piece| piece.completes == Some(2)).unwrap();
        // The last byte of the last page's last part; of a pointer that is a zero, so all of it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("growing.tif");
        let mut file = File::create(&path).unwrap();
        let missing = if order == Order::Libtiff { 8 } else { 90 };
        pieces[..=last - missing].iter().for_each(|piece| apply(&mut file, piece));
        let mut follower = Follower::new(&path, OpenOptions::default());
        follower.look(&form, "cut");
        follower.finish(&form, "cut");
        assert_eq!(follower.given, 2, "{order:?}");
        let warnings = follower.recording.unwrap().warnings().to_vec();
        // Pixels to which nothing points are nobody's.
        if order != Order::Libtiff {
            assert!(warnings[0].contains("never finished and is left out"), "{order:?}: {warnings:?}");
        }
    }
}

/// Follows three pages, then does `harm` to the file; what the follower says.
fn harmed(name: &str, harm: impl FnOnce(&Path, &[u8], &Form)) -> String {
    let form = Form::new(true, Order::Libtiff);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let raw = name.ends_with(".bin");
    let bytes = if raw {
        (0..3).flat_map(|page| little_endian(&pixels(&form, page))).collect()
    } else {
        let mut writer = Writer::new(form, "");
        (0..3).for_each(|_| writer.page("text"));
        whole(&writer.end())
    };
    std::fs::write(&path, &bytes).unwrap();
    let geometry = raw.then_some(Geometry::new(form.height, form.width));
    let pixel_type = raw.then_some(PixelType::U16);
    let mut follower = Follower::new(&path, OpenOptions { geometry, pixel_type, ..OpenOptions::default() });
    // Whether a look sees growth depends on what was seen when the file was opened.
    assert_eq!(follower.look(&form, name), Poll::Waiting { grown: !raw }, "{name}");
    assert_eq!(follower.given, 3);
    harm(&path, &bytes, &form);
    let recording = follower.recording.as_mut().unwrap();
    let mut buffer = Vec::new();
    let error = recording.poll(&mut buffer).unwrap_err().to_string();
    assert_eq!(recording.poll(&mut buffer).unwrap(), Poll::End, "nothing follows an error");
    error
}

#[test]
fn a_followed_file_that_is_cut_rewritten_or_replaced_is_an_error() {
    for name in ["growing.tif", "growing.bin"] {
        let cut = harmed(name, |path, bytes, _| {
            File::options().write(true).open(path).unwrap().set_len(bytes.len() as u64 / 2).unwrap();
        });
        assert!(cut.contains("after 3 whole pages") && cut.contains("was cut to"), "{name}: {cut}");
        let replaced = harmed(name, |path, bytes, _| {
            let other = path.with_extension("other");
            std::fs::write(&other, bytes).unwrap();
            std::fs::rename(&other, path).unwrap();
        });
        if cfg!(unix) {
            assert!(replaced.contains("replaced while it was followed"), "{name}: {replaced}");
        }
        // The same file, begun anew and already longer than before.
        let anew = harmed(name, |path, bytes, form| {
            let mut other = little_endian(&pixels(form, 9)).repeat(9);
            if name.ends_with(".tif") {
                let mut writer = Writer::new(Form { height: 9, rows_per_strip: 2, ..*form }, "");
                (0..5).for_each(|_| writer.page("another"));
                other = whole(&writer.end());
            }
            assert!(other.len() > bytes.len());
            std::fs::write(path, other).unwrap();
        });
        assert!(anew.contains("written anew"), "{name}: {anew}");
    }
}

#[test]
fn a_page_of_another_size_and_a_chain_that_returns_end_a_followed_file() {
    let form = Form::new(true, Order::Libtiff);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("growing.tif");
    let mut writer = Writer::new(form, "");
    (0..2).for_each(|_| writer.page("text"));
    let bytes = whole(&writer.end());
    // The second directory's pointer leads back to the first.
    let first = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    let second_at = first as usize + 8 + 12 * 20;
    let second = u64::from_le_bytes(bytes[second_at..second_at + 8].try_into().unwrap());
    let mut circle = bytes.clone();
    let pointer = second as usize + 8 + 12 * 20;
    circle[pointer..pointer + 8].copy_from_slice(&first.to_le_bytes());
    std::fs::write(&path, &circle).unwrap();
    let mut follower = Follower::new(&path, OpenOptions::default());
    follower.look(&form, "circle");
    follower.finish(&form, "circle");
    assert_eq!(follower.given, 2);
    let warnings = follower.recording.unwrap().warnings().to_vec();
    assert!(warnings[0].contains(&format!("returns to byte {first}")), "{warnings:?}");
    // A finished file says the same as an error, after its pages.
    let mut recording = frames(&path, &OpenOptions::default());
    let mut buffer = Vec::new();
    assert!(recording.next(&mut buffer).unwrap().is_some() && recording.next(&mut buffer).unwrap().is_some());
    let error = recording.next(&mut buffer).unwrap_err().to_string();
    assert!(error.contains("returns to byte"), "{error}");
    // A width of 8 in place of 7, in the second directory.
    let mut other = bytes;
    other[second as usize + 20] = 6;
    std::fs::write(&path, &other).unwrap();
    let mut recording = open_growing(&path, &OpenOptions::default(), false).unwrap().unwrap();
    assert!(matches!(recording.poll(&mut buffer).unwrap(), Poll::Page(_)));
    assert!(matches!(recording.poll(&mut buffer).unwrap(), Poll::Waiting { .. }), "it may be half written");
    recording.finish();
    let error = recording.poll(&mut buffer).unwrap_err().to_string();
    assert!(error.contains("page 1 is 5 x 6 uint16, expected 5 x 7 uint16"), "{error}");
}

#[test]
fn a_growing_acquisition_goes_on_in_its_next_file() {
    let folder = tempfile::tempdir().unwrap();
    let form = Form::new(true, Order::ScanImage);
    let software = "SI.hChannels.channelSave = 1\n";
    let mut number = 0;
    let mut follower = Follower::new(
        &folder.path().join("m_00001_00001.tif"),
        OpenOptions { successors: true, ..OpenOptions::default() },
    );
    for name in ["m_00001_00001.tif", "m_00001_00002.tif"] {
        let mut writer = Writer::new(form, software);
        let pages_before = number;
        for _ in 0..12 {
            writer.page_of(&pixels(&form, number), &scanimage_page(number as u64 + 1, number as f64 / 30.0));
            number += 1;
        }
        let mut file = File::create(folder.path().join(name)).unwrap();
        for piece in in_pieces(&writer.end(), &[200]) {
            apply(&mut file, &piece);
            follower.look(&form, name);
        }
        assert_eq!(follower.given, pages_before + 12, "{name}");
    }
    follower.finish(&form, "the end");
    assert_eq!(follower.given, 24);
}

#[test]
fn damage_in_a_growing_file_is_an_error_or_a_warning_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("growing.tif");
    let mut buffer = Vec::new();
    for (big, order) in [(false, Order::ScanImage), (true, Order::Libtiff), (true, Order::Tifffile)] {
        let form = Form { rows_per_strip: 2, ..Form::new(big, order) };
        let mut writer = Writer::new(form, "SI.hChannels.channelSave = 1\n");
        (1..=3).for_each(|n| writer.page(&scanimage_page(n, 0.1)));
        let bytes = whole(&writer.end());
        let mut opened = 0;
        for at in 0..bytes.len() {
            // Another bit at every byte; 3 and 8 have no common factor.
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (3 * at % 8);
            for (damaged, is_cut) in [(&bytes[..at], true), (&flipped[..], false)] {
                std::fs::write(&path, damaged).unwrap();
                let _ = open_growing(&path, &OpenOptions::default(), false);
                let Ok(Ok(mut recording)) = open_growing(&path, &OpenOptions::default(), true) else { continue };
                opened += 1;
                recording.finish();
                let mut given = 0;
                while let Ok(Some(_)) = recording.next(&mut buffer) {
                    assert!(!is_cut || buffer == little_endian(&pixels(&form, given)), "{order:?} cut at {at}");
                    given += 1;
                    assert!(given <= 3, "{order:?}: byte {at}");
                }
            }
        }
        assert!(opened > 0, "{order:?}: no damaged file was opened, so nothing was read");
    }
}

// ---- The program ------------------------------------------------------------------------------------------------

const SIZE: usize = 64;

fn spawn(recording: &Path, session: &Path, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_apical"))
        .args(["replay", "--tail", "--json", "--baseline-frames", "4"])
        .arg(recording)
        .arg("--session-dir")
        .arg(session)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn report(out: Output) -> serde_json::Value {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Decisions on frames in a session's journal, as far as it is written; empty while there is none.
fn decided(session: &Path) -> Vec<Vec<u8>> {
    let mut decisions = Vec::new();
    if let Ok(files) = SessionFiles::open(session) {
        // A record that is being written ends inside a chunk: what is before it counts.
        let _ = files.read(|record| {
            if let JournalRecord::Decision(mut decision) = record
                && decision.has_pixels
            {
                // The numbers of inputs depend on when commands were taken.
                decision.input_seq = 0;
                decisions.push(prost::Message::encode_to_vec(&decision));
            }
        });
    }
    decisions
}

/// Waits until the program has recorded so many decisions on frames, or has ended without.
fn until_decided(child: &mut Child, session: &Path, frames: usize) {
    while decided(session).len() < frames {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(decided(session).len(), frames, "it ended: {status}");
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A movie of `pages` large enough to be registered.
fn movie(pages: usize, big: bool, order: Order) -> Vec<Write> {
    let form = Form { height: SIZE, width: SIZE, rows_per_strip: SIZE, ..Form::new(big, order) };
    let mut writer = Writer::new(form, "");
    for page in 0..pages {
        let values: Vec<u16> = (0..SIZE * SIZE)
            .map(|k| (500 + (k * k / 7 + k / SIZE * 131) % 900 + (page * 37 + k * 11) % 50) as u16)
            .collect();
        writer.page_of(&values, "movie");
    }
    writer.end()
}

#[test]
fn the_program_follows_a_file_and_decides_what_it_would_have_decided_on_the_whole() {
    const FRAMES: usize = 40;
    for (big, order, way) in [
        (true, Order::ScanImage, &["--in-process"][..]),
        (false, Order::Libtiff, &[]),
        (true, Order::Tifffile, &["--in-process"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let writes = movie(FRAMES, big, order);
        let more: Vec<&str> = [way, &["--set", "source.idle_timeout_s=1.5"]].concat();
        let mut child = spawn(&at("growing.tif"), &at("live"), &more);
        // The file appears after the program has begun to wait, and stands still until half of it is decided.
        let half = writes.iter().position(|write| write.completes == Some(FRAMES / 2 - 1)).unwrap();
        let mut file = File::create(at("growing.tif")).unwrap();
        for piece in in_pieces(&writes[..=half], &[1, 5, 700, 13, 4096]) {
            apply(&mut file, &piece);
        }
        until_decided(&mut child, &at("live"), FRAMES / 2);
        for piece in in_pieces(&writes[half + 1..], &[900, 1, 31]) {
            apply(&mut file, &piece);
        }
        let live = report(child.wait_with_output().unwrap());
        assert_eq!(live["frames_decided"], FRAMES, "{order:?} {way:?}: {live}");
        assert_eq!(live["warnings"].as_array().map(Vec::len), Some(0), "{live}");
        std::fs::write(at("whole.tif"), whole(&writes)).unwrap();
        let out = Command::new(env!("CARGO_BIN_EXE_apical"))
            .args(["replay", "--json", "--baseline-frames", "4", "--in-process"])
            .arg(at("whole.tif"))
            .arg("--session-dir")
            .arg(at("whole"))
            .output()
            .unwrap();
        assert_eq!(report(out)["frames_decided"], FRAMES);
        assert_eq!(decided(&at("live")), decided(&at("whole")), "{order:?} {way:?}");
    }
}

#[test]
fn the_program_follows_a_raw_binary_of_two_channels() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let form = ["--height", "64", "--width", "64", "--pixel-type", "uint16", "--channels", "2"];
    let more = [&form[..], &["--set", "source.idle_timeout_s=1.5", "--set", "stream.channel=1"]].concat();
    let mut child = spawn(&at("growing.raw"), &at("live"), &more);
    let page =
        |k: usize| little_endian(&(0..SIZE * SIZE).map(|p| (700 + p * p / 9 % 500 + k) as u16).collect::<Vec<_>>());
    let bytes: Vec<u8> = (0..20).flat_map(page).collect();
    let mut file = File::create(at("growing.raw")).unwrap();
    let half = bytes.len() / 2 + 1_001;
    apply(&mut file, &Write { at: 0, bytes: bytes[..half].to_vec(), completes: None });
    until_decided(&mut child, &at("live"), 5);
    apply(&mut file, &Write { at: half as u64, bytes: bytes[half..].to_vec(), completes: None });
    let report = report(child.wait_with_output().unwrap());
    assert_eq!(report["frames_decided"], 10, "{report}");
    let told = report["warnings"].to_string();
    assert!(!told.contains("left out"), "every byte is used: {told}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_followed_recording_in_order() {
    for way in [&["--in-process"][..], &[]] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut bytes = whole(&movie(10, true, Order::Libtiff));
        bytes.extend([0; 100]);
        std::fs::write(at("growing.tif"), bytes).unwrap();
        let mut child = spawn(&at("growing.tif"), &at("session"), way);
        until_decided(&mut child, &at("session"), 10);
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let report = report(child.wait_with_output().unwrap());
        assert_eq!(report["frames_decided"], 10, "{way:?}: {report}");
        let verified = Command::new(env!("CARGO_BIN_EXE_apical")).arg("verify").arg(at("session")).output().unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }
}

#[test]
fn a_file_that_never_comes_and_traces_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let never = spawn(&at("never.tif"), &at("s"), &["--set", "source.idle_timeout_s=0.1"]);
    let out = never.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("never.tif"), "{said}");
    std::fs::write(at("F.npy"), b"\x93NUMPY").unwrap();
    let out = spawn(&at("F.npy"), &at("s"), &[]).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("expected a TIFF, BigTIFF or raw binary to follow"), "{said}");
    let bad = spawn(&at("never.tif"), &at("s"), &["--set", "source.poll_interval_ms=0"]).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(!bad.status.success() && said.contains("source.poll_interval_ms: 0, expected 0.1 to 10000"), "{said}");
}
