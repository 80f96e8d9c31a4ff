//! Traces that somebody has extracted already: a numeric `.npy` of ROIs x frames (suite2p's `F.npy`, `spks.npy`).
//!
//! In: a 2-D array of floats or integers, C or Fortran order, either byte order. Out: [`RoiRecording`], values as f64
//! (integers beyond 2^53 lose their last digits), kept frame after frame so that one frame is one slice.
//!
//! Object arrays (`stat.npy`, `ops.npy`) are pickles and are refused here with a word on what they are. Parsing of the
//! header and of the numbers: crate `npyz`.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use npyz::{DType, NpyFile, Order, TypeChar};

use super::RecordingError;

/// Bytes of a header that are read at most; numpy writes some 118.
const LONGEST_HEADER: usize = 1 << 16;
const EXPECTED: &str = "a 2-D array (ROIs x frames) of float32, float64 or integers";

/// Values of ROIs over frames.
#[derive(Debug, Clone, PartialEq)]
pub struct RoiRecording {
    rois: usize,
    frames: usize,
    /// Frame-major: `values[frame * rois + roi]`.
    values: Vec<f64>,
}

impl RoiRecording {
    /// Reads the whole array.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let io = |e| RecordingError::io(path, e);
        let malformed = |detail: String| RecordingError::Malformed { path: path.to_path_buf(), format: "npy", detail };
        let unsupported =
            |found: String| RecordingError::Unsupported { path: path.to_path_buf(), found, expected: EXPECTED };
        let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
        let bytes = reader.get_ref().metadata().map_err(io)?.len();
        // The header by itself first, so that its size is known and its claims can be held against the file's.
        let text = header_bytes(&mut reader).map_err(malformed)?;
        let header = npyz::NpyHeader::from_reader(&text[..]).map_err(|e| malformed(e.to_string()))?;
        let data_bytes = bytes.saturating_sub(reader.stream_position().map_err(io)?);
        if header.dtype().descr().contains('O') {
            return Err(unsupported("an object array (pickled Python, as suite2p's stat.npy and ops.npy)".into()));
        }
        let (kind, size) = match header.dtype() {
            DType::Plain(plain) => (plain.type_char(), plain.num_bytes().unwrap_or(0)),
            other => return Err(unsupported(format!("an array of {}", other.descr()))),
        };
        let &[rois, frames] = header.shape() else {
            return Err(unsupported(format!("an array of shape {:?}", header.shape())));
        };
        let needed = rois.checked_mul(frames).and_then(|n| n.checked_mul(size as u64));
        if needed.is_none_or(|n| n > data_bytes) {
            return Err(malformed(format!(
                "its header promises {rois} x {frames} values of {size} bytes, but only {data_bytes} bytes follow"
            )));
        }
        let (rois, frames) = (rois as usize, frames as usize);
        let order = header.order();
        let descr = header.dtype().descr();
        let file = NpyFile::with_header(header, reader);
        let stored = match (kind, size) {
            (TypeChar::Float, 4) => collect::<f32>(file, f64::from),
            (TypeChar::Float, 8) => collect::<f64>(file, |v| v),
            (TypeChar::Int, 1) => collect::<i8>(file, f64::from),
            (TypeChar::Int, 2) => collect::<i16>(file, f64::from),
            (TypeChar::Int, 4) => collect::<i32>(file, f64::from),
            (TypeChar::Int, 8) => collect::<i64>(file, |v| v as f64),
            (TypeChar::Uint, 1) => collect::<u8>(file, f64::from),
            (TypeChar::Uint, 2) => collect::<u16>(file, f64::from),
            (TypeChar::Uint, 4) => collect::<u32>(file, f64::from),
            (TypeChar::Uint, 8) => collect::<u64>(file, |v| v as f64),
            _ => return Err(unsupported(format!("an array of type {descr}"))),
        }
        .map_err(malformed)?;
        let values = match order {
            // Fortran order of ROIs x frames is frame-major already.
            Order::Fortran => stored,
            Order::C => transpose(&stored, rois, frames),
        };
        Ok(Self { rois, frames, values })
    }

    /// Number of ROIs.
    pub fn rois(&self) -> usize {
        self.rois
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// One value; `None` outside the array.
    pub fn value(&self, roi: usize, frame: usize) -> Option<f64> {
        if roi < self.rois { self.column(frame)?.get(roi).copied() } else { None }
    }

    /// The values of all ROIs in one frame, by ROI; `None` beyond the last frame.
    pub fn column(&self, frame: usize) -> Option<&[f64]> {
        if frame >= self.frames {
            return None;
        }
        self.values.get(frame * self.rois..(frame + 1) * self.rois)
    }
}

/// The magic, the version, the length and the dictionary. Refuses a shape whose product overflows, since `npyz`
/// multiplies without looking.
fn header_bytes(reader: &mut impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = |reader: &mut dyn Read, bytes: &mut Vec<u8>, more: usize| {
        let start = bytes.len();
        bytes.resize(start + more, 0);
        reader.read_exact(&mut bytes[start..]).map_err(|_| "it ends inside its header".to_string())
    };
    read(reader, &mut bytes, 8)?;
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err("it does not begin with \\x93NUMPY".to_string());
    }
    let wide = bytes.get(6).is_some_and(|&version| version >= 2);
    read(reader, &mut bytes, if wide { 4 } else { 2 })?;
    let length = bytes[8..].iter().rev().fold(0usize, |value, &byte| (value << 8) | usize::from(byte));
    if length > LONGEST_HEADER {
        return Err(format!("its header is {length} bytes long, expected at most {LONGEST_HEADER}"));
    }
    read(reader, &mut bytes, length)?;
    let text = String::from_utf8_lossy(&bytes);
    let shape =
        text.split_once("shape").and_then(|(_, rest)| rest.split_once('(')).and_then(|(_, s)| s.split_once(')'));
    let sizes = shape.map_or("", |(sizes, _)| sizes).split(',').map(str::trim).filter(|size| !size.is_empty());
    let count = sizes.map(|size| size.parse::<u64>().unwrap_or(0).max(1)).try_fold(8u64, u64::checked_mul);
    if count.is_none() {
        return Err(format!("its header promises ({}) values", shape.map_or("", |(sizes, _)| sizes)));
    }
    Ok(bytes)
}

fn collect<T: npyz::Deserialize>(
    file: NpyFile<BufReader<File>>,
    to_f64: impl Fn(T) -> f64,
) -> Result<Vec<f64>, String> {
    let reader = file.data::<T>().map_err(|e| e.to_string())?;
    let mut values = Vec::with_capacity(reader.len() as usize);
    for value in reader {
        values.push(to_f64(value.map_err(|e| e.to_string())?));
    }
    Ok(values)
}

fn transpose(stored: &[f64], rois: usize, frames: usize) -> Vec<f64> {
    let mut values = vec![0.0; stored.len()];
    for (roi, row) in stored.chunks_exact(frames.max(1)).enumerate() {
        for (frame, &value) in row.iter().enumerate() {
            values[frame * rois + roi] = value;
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of an npy, version 1.0.
    fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let order = if fortran { "True" } else { "False" };
        let mut dict = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
        while (10 + dict.len() + 1) % 64 != 0 {
            dict.push(' ');
        }
        dict.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((dict.len() as u16).to_le_bytes());
        bytes.extend(dict.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn open(bytes: &[u8]) -> Result<RoiRecording, RecordingError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("F.npy");
        std::fs::write(&path, bytes).unwrap();
        RoiRecording::open(&path)
    }

    #[test]
    fn c_and_fortran_order_give_the_same_values() {
        let c: Vec<u8> = [1f32, 2.0, 3.0, 10.0, 20.0, 30.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let f: Vec<u8> = [1i16, 10, 2, 20, 3, 30].iter().flat_map(|v| v.to_be_bytes()).collect();
        let a = open(&npy("<f4", false, "(2, 3)", &c)).unwrap();
        let b = open(&npy(">i2", true, "(2, 3)", &f)).unwrap();
        assert_eq!(a, b);
        assert_eq!((a.rois(), a.frames()), (2, 3));
        assert_eq!(a.column(1).unwrap(), [2.0, 20.0]);
        assert_eq!(a.value(1, 2), Some(30.0));
        assert_eq!((a.value(2, 0), a.value(0, 3)), (None, None));
    }

    #[test]
    fn object_arrays_other_ranks_and_other_types_are_refused_by_name() {
        let object = open(&npy("|O", false, "(3,)", b"\x80\x03")).unwrap_err().to_string();
        assert!(object.contains("object array"), "{object}");
        let rank = open(&npy("<f4", false, "(3,)", &[0; 12])).unwrap_err().to_string();
        assert!(rank.contains("shape [3]") && rank.contains("2-D"), "{rank}");
        let complex = open(&npy("<c8", false, "(1, 1)", &[0; 8])).unwrap_err().to_string();
        assert!(complex.contains("c8"), "{complex}");
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let whole = npy("<f4", false, "(2, 3)", &[1; 24]);
        for cut in 0..whole.len() {
            assert!(open(&whole[..cut]).is_err());
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = open(&bytes);
        }
    }

    #[test]
    fn a_header_that_promises_more_than_the_file_holds_allocates_nothing() {
        let huge = open(&npy("<f8", false, "(1099511627776, 1099511627776)", &[0; 16])).unwrap_err().to_string();
        assert!(huge.contains("promises (1099511627776, 1099511627776)"), "{huge}");
        let large = open(&npy("<f8", false, "(1048576, 1048576)", &[0; 16])).unwrap_err().to_string();
        assert!(large.contains("16 bytes follow"), "{large}");
        let cut = open(&npy("<f8", false, "(2, 2)", &[0; 31])).unwrap_err().to_string();
        assert!(cut.contains("31 bytes follow"), "{cut}");
    }
}
