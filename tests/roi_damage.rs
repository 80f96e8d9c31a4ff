//! Damaged and hostile ROI files: every cut and many flipped bits end in a set or in an error, never in a panic, and
//! never in an allocation that the file does not justify.

mod outside;
mod regions;

use apical::frame::Geometry;
use apical::sample::formats::suite2p_write;
use apical::sample::{RoiFile, RoiFileError, read_roi_file, read_rois};
use outside::fixture;
use regions::{named, put, roi_bytes, triangle};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

struct Watching;

thread_local! {
    /// The largest piece of memory that this thread has asked for.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn watch(layout: Layout) {
    LARGEST.with(|largest| largest.set(largest.get().max(layout.size())));
}

// SAFETY: everything is handed on to the system's allocator; the counter is a constant-initialised cell without memory.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch(layout);
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        watch(layout);
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// No file here has more than 60 KB. Packed masks may unfold to 1,100 times their size, and their numbers are held with
/// eight bytes each: one mask as large as a file of 22 KB can hold takes 200 MB.
const MOST_BYTES: usize = 256 << 20;

/// Damages one file over and over.
struct Bench {
    folder: tempfile::TempDir,
    name: &'static str,
    bytes: Vec<u8>,
    frame: Option<Geometry>,
}

impl Bench {
    fn new(name: &'static str, bytes: Vec<u8>, frame: Option<Geometry>) -> Bench {
        // thousands of small files: in memory, where the system has a place for that
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Bench { folder, name, bytes, frame }
    }

    fn of(name: &'static str) -> Bench {
        Bench::new(name, std::fs::read(fixture(name)).unwrap(), None)
    }

    fn read(&self, bytes: &[u8], what: &str) -> Result<RoiFile, RoiFileError> {
        let path = self.folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        LARGEST.with(|largest| largest.set(0));
        let read = read_roi_file(&path, self.frame);
        let largest = LARGEST.with(Cell::get);
        assert!(largest <= MOST_BYTES, "{}, {what}: {largest} bytes at once", self.name);
        if let Ok(file) = &read {
            assert_eq!(file.set.check(), Ok(()), "{}, {what}", self.name);
        }
        read
    }

    /// Reads every beginning of it, `step` bytes apart; whether all of them were errors.
    fn cuts(&self, step: usize) -> bool {
        self.read(&self.bytes, "whole").unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let lengths = (0..self.bytes.len()).step_by(step);
        lengths.filter(|&length| self.read(&self.bytes[..length], &format!("cut at {length}")).is_ok()).count() == 0
    }

    /// Flips each of `bits` in every byte, `step` bytes apart; and sets whole bytes to the largest value.
    fn flips(&self, step: usize, bits: &[u8]) {
        for at in (0..self.bytes.len()).step_by(step) {
            for mask in bits.iter().map(|bit| 1 << bit).chain([0xff]) {
                let mut bytes = self.bytes.clone();
                bytes[at] ^= mask;
                let _ = self.read(&bytes, &format!("byte {at} changed by {mask:#x}"));
            }
        }
    }
}

const ALL_BITS: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7];

#[test]
fn cellpose() {
    for name in ["mean_seg.npy", "stack_seg.npy"] {
        let bench = Bench::of(name);
        assert!(bench.cuts(1), "{name}");
        bench.flips(1, ALL_BITS);
    }
}

#[test]
fn caiman() {
    let bench = Bench::of("caiman.hdf5");
    bench.cuts(7);
    bench.flips(3, &[0, 6]);
}

#[test]
fn nwb_with_image_masks() {
    let bench = Bench::of("image_mask.nwb");
    bench.cuts(31);
    bench.flips(9, &[7]);
}

#[test]
fn nwb_with_packed_masks() {
    let bench = Bench::of("packed.nwb");
    bench.cuts(13);
    bench.flips(3, &[6]);
}

#[test]
fn nwb_with_pixel_masks() {
    let bench = Bench::of("pixel_mask.nwb");
    bench.cuts(29);
    bench.flips(8, &[5]);
}

/// A `.roi` file of some type with a name, whose points or drawing are three corners of a triangle.
fn region(kind: u8, subtype: u8, fractions: bool, drawing: bool) -> Vec<u8> {
    let mut bytes = triangle(kind);
    if drawing {
        let values = [0.0, 10.0, 10.0, 1.0, 15.0, 10.0, 2.0, 15.0, 15.0, 10.0, 15.0, 4.0];
        bytes = roi_bytes(kind, [10, 10, 15, 15], &values);
        // The number of points, which a drawing does not need.
        bytes[17] = 3;
    } else if fractions {
        let corners = [10.0_f32, 15.0, 10.0, 10.0, 10.0, 15.0];
        corners.iter().for_each(|value| bytes.extend(value.to_be_bytes()));
    }
    put(&mut bytes, 18, &[10.0, 10.0, 20.0, 15.0]);
    bytes[49] = subtype;
    bytes[51] = if fractions { 128 } else { 0 };
    if subtype > 0 {
        put(&mut bytes, 52, &[0.5]);
    }
    named(bytes, "soma", [1, 3, 2])
}

const FRAME: Option<Geometry> = Some(Geometry::new(64, 64));

#[test]
fn regions_of_imagej() {
    let kinds =
        [(0, 0, true, false), (1, 0, true, false), (1, 0, false, true), (2, 0, false, false), (7, 3, true, false)];
    for (kind, subtype, fractions, drawing) in kinds {
        let bench = Bench::new("region", region(kind, subtype, fractions, drawing), FRAME);
        assert!(bench.cuts(1), "type {kind}");
        bench.flips(1, ALL_BITS);
    }
}

#[test]
fn archives_of_imagej() {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, kind, method) in [("a", 0, zip::CompressionMethod::Deflated), ("b", 7, zip::CompressionMethod::Stored)] {
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        writer.start_file(format!("{name}.roi"), options).unwrap();
        writer.write_all(&region(kind, 0, false, false)).unwrap();
    }
    let bench = Bench::new("archive", writer.finish().unwrap().into_inner(), FRAME);
    assert!(bench.cuts(1));
    bench.flips(1, ALL_BITS);
}

#[test]
fn what_we_write_for_suite2p() {
    let set = read_rois(&fixture("caiman.hdf5"), None).unwrap();
    let bench = Bench::new("stat", suite2p_write::stat(&set), Some(set.geometry));
    assert!(bench.cuts(1));
    bench.flips(1, ALL_BITS);
}

#[test]
fn extents_that_no_file_of_this_size_can_hold_are_refused_before_anything_is_read() {
    let path = fixture("huge.nwb");
    LARGEST.with(|largest| largest.set(0));
    let error = read_rois(&path, None).unwrap_err().to_string();
    assert!(error.contains("claims to hold 1000000 x 4096 x 4096 values of 8 bytes in a file of"), "{error}");
    assert!(LARGEST.with(Cell::get) < MOST_BYTES);
}
