//! Writing what suite2p reads: `stat.npy`, and the `ops.npy` and `iscell.npy` that belong beside it.
//!
//! In: a [`RoiSet`]. Out: the bytes of the three files. `stat.npy` is a pickle of protocol 3 (Python 3, numpy 1 and 2)
//! with one dictionary for each ROI: `ypix`, `xpix`, `lam`, `npix`, `overlap` (pixels that another ROI of the plane has
//! too), `med` (the pixel nearest to the medians), `radius`, and `iplane` where there are several planes. What suite2p
//! measures from a movie (`skew`, `std`, ..) is not there. Ids become places: an ROI's row number in these files is its
//! place in the set. `ops.npy` holds `Ly`, `Lx`, and `meanImg` where the set has a reference of its own.

use crate::frame::Geometry;
use crate::sample::overlap::shared_pixels;
use crate::sample::rois::{ReferenceKind, Roi, RoiSet};
use std::collections::BTreeMap;

/// The bytes of a `stat.npy`.
pub fn stat(set: &RoiSet) -> Vec<u8> {
    let shared = shared_pixels(set.rois.iter());
    let several = set.rois.iter().any(|roi| roi.plane != 0);
    let mut writer = Writer::new();
    writer.open_objects(Some(set.rois.len()));
    for roi in &set.rois {
        let row = roi.pixels.iter().flat_map(|p| i64::from(p.row).to_le_bytes()).collect();
        let col = roi.pixels.iter().flat_map(|p| i64::from(p.col).to_le_bytes()).collect();
        let lam = roi.pixels.iter().flat_map(|p| p.weight.to_le_bytes()).collect();
        let overlap = roi.pixels.iter().map(|p| u8::from(shared.contains(&(roi.plane, p.row, p.col)))).collect();
        let count = roi.pixels.len();
        writer.put(b"}(");
        for (key, dtype, data) in
            [("ypix", "i8", row), ("xpix", "i8", col), ("lam", "f4", lam), ("overlap", "b1", overlap)]
        {
            let data: Vec<u8> = data;
            writer.text(key);
            writer.array(dtype, &[count], &data);
        }
        let [med_row, med_col] = middle(roi);
        writer.text("med");
        writer.put(b"](");
        writer.integer(med_row);
        writer.integer(med_col);
        writer.put(b"e");
        writer.text("radius");
        writer.put(b"G");
        writer.put(&roi.radius_px().to_be_bytes());
        writer.text("npix");
        writer.integer(count as u32);
        if several {
            writer.text("iplane");
            writer.integer(roi.plane);
        }
        writer.put(b"u");
    }
    writer.close_objects();
    npy("|O", &format!("({},)", set.rois.len()), &writer.bytes)
}

/// The bytes of an `ops.npy` with the frame's size and, where the set has one of its own, the mean image.
pub fn ops(set: &RoiSet) -> Vec<u8> {
    let Geometry { height_px, width_px } = set.geometry;
    let mut writer = Writer::new();
    writer.open_objects(None);
    writer.put(b"}(");
    for (key, side) in [("Ly", height_px), ("Lx", width_px)] {
        writer.text(key);
        writer.integer(side as u32);
    }
    if let Some(image) = set.reference.as_ref().filter(|_| set.reference_kind == ReferenceKind::Given) {
        let data: Vec<u8> = image.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.text("meanImg");
        writer.array("f4", &[height_px, width_px], &data);
    }
    writer.put(b"u");
    writer.close_objects();
    npy("|O", "()", &writer.bytes)
}

/// The bytes of an `iscell.npy`: for each ROI whether it is a cell, twice (suite2p's second column is a probability).
pub fn iscell(accepted: &[bool]) -> Vec<u8> {
    let data: Vec<u8> =
        accepted.iter().flat_map(|&cell| [f64::from(u8::from(cell)); 2]).flat_map(f64::to_le_bytes).collect();
    npy("<f8", &format!("({}, 2)", accepted.len()), &data)
}

/// The pixel nearest to the medians of rows and columns; the first of several.
fn middle(roi: &Roi) -> [u32; 2] {
    let median = |mut values: Vec<u32>| {
        values.sort_unstable();
        let at = |k: usize| f64::from(values.get(k).copied().unwrap_or(0));
        let half = values.len() / 2;
        if values.len() % 2 == 1 { at(half) } else { (at(half.saturating_sub(1)) + at(half)) / 2.0 }
    };
    let row = median(roi.pixels.iter().map(|p| p.row).collect());
    let col = median(roi.pixels.iter().map(|p| p.col).collect());
    let distance = |p: &&crate::sample::RoiPixel| {
        let (dy, dx) = (f64::from(p.row) - row, f64::from(p.col) - col);
        dy * dy + dx * dx
    };
    let nearest = roi.pixels.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
    nearest.map_or([0; 2], |p| [p.row, p.col])
}

/// A `.npy` file, its data aligned to 64 bytes as numpy has it.
fn npy(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}");
    let padding = 63 - (10 + text.len()) % 64;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

/// Writes the few instructions of a pickle that numpy's arrays, texts and whole numbers need.
struct Writer {
    bytes: Vec<u8>,
    /// What has been kept for reuse: functions and element types.
    kept: BTreeMap<String, u8>,
}

impl Writer {
    fn new() -> Writer {
        Writer { bytes: b"\x80\x03".to_vec(), kept: BTreeMap::new() }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.put(b"X");
        self.put(&(text.len() as u32).to_le_bytes());
        self.put(text.as_bytes());
    }

    /// A whole number; larger than what 31 bits hold only where a frame has more pixels than any.
    fn integer(&mut self, value: u32) {
        self.put(b"J");
        self.put(&i32::try_from(value).unwrap_or(i32::MAX).to_le_bytes());
    }

    /// Fetches what was kept under a name, or keeps what `make` writes.
    fn keep(&mut self, name: &str, make: impl FnOnce(&mut Writer)) {
        if let Some(slot) = self.kept.get(name) {
            let fetch = [b'h', *slot];
            return self.put(&fetch);
        }
        make(self);
        // six names at most: two functions, four element types
        let slot = self.kept.len() as u8;
        self.kept.insert(name.to_owned(), slot);
        self.put(&[b'q', slot]);
    }

    /// The first half of an array: everything up to its data.
    fn begin_array(&mut self, dtype: &str, shape: &[usize]) {
        self.keep("reconstruct", |w| w.put(b"cnumpy.core.multiarray\n_reconstruct\n"));
        self.keep("ndarray", |w| w.put(b"cnumpy\nndarray\n"));
        self.put(b"K\x00\x85C\x01b\x87R(K\x01(");
        shape.iter().for_each(|&side| self.integer(side as u32));
        self.put(b"t");
        self.keep(dtype, |w| {
            w.put(b"cnumpy\ndtype\n");
            w.text(dtype);
            w.put(b"\x89\x88\x87R(K\x03");
            w.text(if dtype == "O8" || dtype == "b1" { "|" } else { "<" });
            w.put(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK");
            // objects: numpy must not copy them as bytes
            w.put(if dtype == "O8" { b"\x3f" } else { b"\x00" });
            w.put(b"tb");
        });
        self.put(b"\x89");
    }

    fn array(&mut self, dtype: &str, shape: &[usize], data: &[u8]) {
        self.begin_array(dtype, shape);
        self.put(b"B");
        self.put(&(data.len() as u32).to_le_bytes());
        self.put(data);
        self.put(b"tb");
    }

    /// Begins the outermost array, of so many objects, or of one that stands alone.
    fn open_objects(&mut self, count: Option<usize>) {
        self.begin_array("O8", count.as_slice());
        self.put(b"](");
    }

    fn close_objects(&mut self) {
        self.put(b"etb.");
    }
}
