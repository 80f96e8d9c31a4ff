//! The pixels of frames, kept without loss: [`pack`] into a message, [`unpack`] into a slot.
//!
//! The detector's noise fills the low bits of a pixel and leaves its high bits alone; so what is kept is the smallest
//! value and, for each pixel, the difference to it in as many bit planes as the largest difference needs. The high
//! planes are nearly constant, and the file's own LZ4 makes next to nothing of them: 55 to 60 % of the raw size on
//! recordings at 1 photon per pixel, in a third of a millisecond for 512 x 512. In Python:
//!
//! ```python
//! planes = np.frombuffer(m.planes, np.uint8).reshape(m.bits, -1)
//! bits = np.unpackbits(planes, axis=1)[:, : m.height_px * m.width_px].astype(np.int32)
//! image = (m.base_counts + (bits << np.arange(m.bits)[::-1, None]).sum(0)).reshape(m.height_px, m.width_px)
//! ```

use crate::frame::{FrameMeta, FrameSlot};
use crate::proto::v1;
use crate::sample::PixelBox;

/// What is kept of each frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Every pixel.
    All,
    /// Of each plane these boxes, moved by the frame's shift.
    Boxes(Vec<(u32, PixelBox)>),
}

/// Pixels around a moved box that bilinear interpolation reads as well.
const MARGIN_PX: i64 = 1;

/// A frame's pixels as a message. `moved_px` is how far the masks were moved on it.
pub fn pack(slot: &FrameSlot, input_seq: u64, moved_px: (f64, f64), kept: &Kept) -> v1::FrameRecord {
    let (height_px, width_px) = (slot.geometry.height_px as u32, slot.geometry.width_px as u32);
    let mut chosen = Vec::new();
    let (samples, patches) = match kept {
        Kept::All => (slot.samples(), Vec::new()),
        Kept::Boxes(boxes) => {
            let own = boxes.iter().filter(|(plane, _)| *plane == slot.meta.plane);
            let mut patches: Vec<_> = own.filter_map(|(_, b)| moved(b, moved_px, height_px, width_px)).collect();
            if patches.is_empty() {
                // A record without a box would be a whole frame.
                patches.push(v1::FramePatch::default());
            }
            for patch in &patches {
                for row in patch.row_px..patch.row_px + patch.height_px {
                    let start = row as usize * width_px as usize + patch.col_px as usize;
                    chosen.extend_from_slice(&slot.samples()[start..start + patch.width_px as usize]);
                }
            }
            (&chosen[..], patches)
        }
    };
    let base = samples.iter().copied().min().unwrap_or(0);
    let largest = samples.iter().copied().max().unwrap_or(0) - base;
    let bits = u16::BITS - largest.leading_zeros();
    let FrameMeta { index, plane, channel, device_ns, .. } = slot.meta;
    v1::FrameRecord {
        input_seq,
        frame_index: index,
        plane,
        channel,
        device_ns,
        height_px,
        width_px,
        patches,
        base_counts: i32::from(base) - slot.pixel_type.bias(),
        bits,
        planes: planes_of(samples, base, bits as usize),
    }
}

/// A box where the frame's shift has it, within the frame.
fn moved(rest: &PixelBox, moved_px: (f64, f64), height_px: u32, width_px: u32) -> Option<v1::FramePatch> {
    let along = |range: &std::ops::Range<i32>, by_px: f64, size: u32| {
        let by = if by_px.is_finite() { by_px.floor() as i64 } else { 0 };
        let start = (i64::from(range.start) + by - MARGIN_PX).clamp(0, i64::from(size)) as u32;
        let end = (i64::from(range.end) + by + 1 + MARGIN_PX).clamp(0, i64::from(size)) as u32;
        (end > start).then_some((start, end - start))
    };
    let (row_px, height_px) = along(&rest.rows, moved_px.0, height_px)?;
    let (col_px, width_px) = along(&rest.cols, moved_px.1, width_px)?;
    Some(v1::FramePatch { row_px, col_px, height_px, width_px })
}

/// Whole bytes that a bit plane of so many pixels takes.
const fn plane_bytes(pixels: usize) -> usize {
    pixels.div_ceil(8)
}

fn planes_of(samples: &[u16], base: u16, bits: usize) -> Vec<u8> {
    let stride = plane_bytes(samples.len());
    let mut planes = vec![0; bits * stride];
    for (place, eight) in samples.chunks(8).enumerate() {
        let (mut low, mut high) = ([0u8; 8], [0u8; 8]);
        for (k, &sample) in eight.iter().enumerate() {
            [low[k], high[k]] = (sample - base).to_le_bytes();
        }
        let low = transposed(u64::from_be_bytes(low)).to_be_bytes();
        let high = transposed(u64::from_be_bytes(high)).to_be_bytes();
        // The last `bits` of the sixteen planes, the most significant first.
        for (plane, &byte) in high.iter().chain(&low).skip(16 - bits).enumerate() {
            planes[plane * stride + place] = byte;
        }
    }
    planes
}

/// Rows and columns of 8 x 8 bits exchanged; the first row is the most significant byte.
const fn transposed(rows: u64) -> u64 {
    let mut x = rows;
    let t = (x ^ (x >> 7)) & 0x00aa_00aa_00aa_00aa;
    x ^= t ^ (t << 7);
    let t = (x ^ (x >> 14)) & 0x0000_cccc_0000_cccc;
    x ^= t ^ (t << 14);
    let t = (x ^ (x >> 28)) & 0x0000_0000_f0f0_f0f0;
    x ^ t ^ (t << 28)
}

/// Puts a whole frame into `slot`, as it was when it was kept.
///
/// # Errors
/// The message does not hold such a frame; the slot is unfit for use.
pub fn unpack(record: &v1::FrameRecord, slot: &mut FrameSlot) -> Result<(), PixelsError> {
    check_geometry(record, slot)?;
    if !record.patches.is_empty() {
        return Err(PixelsError::Boxes { input_seq: record.input_seq });
    }
    fill(record, slot.pixel_type.bias(), slot.samples_mut())?;
    slot.meta = meta_of(record);
    Ok(())
}

/// Puts the boxes that were kept of a frame into `slot`; everything else in it is zero.
///
/// # Errors
/// The message does not hold boxes of such a frame; the slot is unfit for use.
pub fn unpack_boxes(record: &v1::FrameRecord, slot: &mut FrameSlot) -> Result<(), PixelsError> {
    check_geometry(record, slot)?;
    let (input_seq, width_px) = (record.input_seq, slot.geometry.width_px);
    let within = |p: &v1::FramePatch| {
        p.row_px.checked_add(p.height_px).is_some_and(|end| end as usize <= slot.geometry.height_px)
            && p.col_px.checked_add(p.width_px).is_some_and(|end| end as usize <= width_px)
    };
    if !record.patches.iter().all(within) {
        return Err(PixelsError::Outside { input_seq });
    }
    let count = record.patches.iter().map(|p| p.height_px as usize * p.width_px as usize).sum();
    let mut values = vec![0; count];
    fill(record, slot.pixel_type.bias(), &mut values)?;
    slot.samples_mut().fill(0);
    let mut values = &values[..];
    for p in &record.patches {
        for row in p.row_px..p.row_px + p.height_px {
            let (line, rest) = values.split_at(p.width_px as usize);
            let start = row as usize * width_px + p.col_px as usize;
            slot.samples_mut()[start..start + line.len()].copy_from_slice(line);
            values = rest;
        }
    }
    slot.meta = meta_of(record);
    Ok(())
}

fn meta_of(record: &v1::FrameRecord) -> FrameMeta {
    let v1::FrameRecord { frame_index: index, plane, channel, device_ns, .. } = *record;
    FrameMeta { index, plane, channel, device_ns, ..FrameMeta::default() }
}

fn check_geometry(record: &v1::FrameRecord, slot: &FrameSlot) -> Result<(), PixelsError> {
    let got = (record.height_px as usize, record.width_px as usize);
    let expected = (slot.geometry.height_px, slot.geometry.width_px);
    if got != expected {
        return Err(PixelsError::Geometry { input_seq: record.input_seq, got, expected });
    }
    Ok(())
}

/// Bit planes back into canonical samples.
fn fill(record: &v1::FrameRecord, bias: i32, samples: &mut [u16]) -> Result<(), PixelsError> {
    let (input_seq, bits) = (record.input_seq, record.bits as usize);
    let stride = plane_bytes(samples.len());
    if bits > 16 || record.planes.len() != bits * stride {
        return Err(PixelsError::Length { input_seq, got: record.planes.len(), bits, expected: bits * stride });
    }
    let base = i64::from(record.base_counts) + i64::from(bias);
    let base = u16::try_from(base).map_err(|_| PixelsError::Base { input_seq, base_counts: record.base_counts })?;
    for (place, eight) in samples.chunks_mut(8).enumerate() {
        let mut rows = [0u8; 16];
        for (plane, row) in rows.iter_mut().skip(16 - bits).enumerate() {
            *row = record.planes[plane * stride + place];
        }
        let [high, low] = [0, 8].map(|at| {
            let half: [u8; 8] = std::array::from_fn(|k| rows[at + k]);
            transposed(u64::from_be_bytes(half)).to_be_bytes()
        });
        for (k, sample) in eight.iter_mut().enumerate() {
            *sample = u16::from_le_bytes([low[k], high[k]]).wrapping_add(base);
        }
    }
    Ok(())
}

/// Why a record of pixels is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PixelsError {
    /// Another size.
    #[error(
        "pixels of input {input_seq}: {} x {}, expected {} x {} as the stream says",
        got.0, got.1, expected.0, expected.1
    )]
    Geometry {
        /// The input.
        input_seq: u64,
        /// Rows and columns of the record.
        got: (usize, usize),
        /// Rows and columns of the stream.
        expected: (usize, usize),
    },
    /// Boxes only.
    #[error("pixels of input {input_seq}: only boxes around the ROIs were kept, expected the whole frame")]
    Boxes {
        /// The input.
        input_seq: u64,
    },
    /// A box that leaves the frame.
    #[error("pixels of input {input_seq}: a box that leaves the frame")]
    Outside {
        /// The input.
        input_seq: u64,
    },
    /// Another number of bytes.
    #[error("pixels of input {input_seq}: {got} bytes in {bits} bit planes, expected {expected} bytes")]
    Length {
        /// The input.
        input_seq: u64,
        /// Bytes.
        got: usize,
        /// Bit planes, as the record says.
        bits: usize,
        /// Bytes of so many planes.
        expected: usize,
    },
    /// A value that no pixel can have.
    #[error("pixels of input {input_seq}: a smallest value of {base_counts} counts, which no pixel of this type has")]
    Base {
        /// The input.
        input_seq: u64,
        /// As the record says.
        base_counts: i32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Geometry, PixelType};
    use proptest::prelude::*;

    fn slot(samples: &[u16], geometry: Geometry, pixel_type: PixelType) -> FrameSlot {
        let meta = FrameMeta { index: 7, device_ns: 99, ..FrameMeta::default() };
        let mut slot = FrameSlot::new(geometry, pixel_type);
        slot.meta = meta;
        slot.samples_mut().copy_from_slice(samples);
        slot
    }

    proptest! {
        #[test]
        fn what_is_kept_comes_back(
            low in any::<u16>(), spread in any::<u16>(), seed in any::<u64>(),
            height_px in 1usize..9, width_px in 1usize..23, signed in any::<bool>(),
        ) {
            let geometry = Geometry::new(height_px, width_px);
            let pixel_type = if signed { PixelType::I16 } else { PixelType::U16 };
            let mut x = seed | 1;
            let samples: Vec<u16> = (0..geometry.count()).map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                low.saturating_add((x >> 40) as u16 % spread.max(1))
            }).collect();
            let frame = slot(&samples, geometry, pixel_type);
            let record = pack(&frame, 3, (0.0, 0.0), &Kept::All);
            let mut back = FrameSlot::new(geometry, pixel_type);
            prop_assert_eq!(unpack(&record, &mut back), Ok(()));
            prop_assert_eq!(back.samples(), frame.samples());
            prop_assert_eq!(back.meta, frame.meta);
            let smallest = i32::from(*samples.iter().min().unwrap_or(&0)) - pixel_type.bias();
            prop_assert_eq!(record.base_counts, smallest);
        }
    }

    #[test]
    fn a_frame_whose_boxes_all_lie_outside_is_not_a_whole_frame() {
        let geometry = Geometry::new(4, 4);
        let frame = slot(&[7; 16], geometry, PixelType::U16);
        let record = pack(&frame, 3, (900.0, 0.0), &Kept::Boxes(vec![(0, PixelBox { rows: 0..2, cols: 0..2 })]));
        let mut back = FrameSlot::new(geometry, PixelType::U16);
        assert_eq!(unpack(&record, &mut back), Err(PixelsError::Boxes { input_seq: 3 }));
        assert_eq!(unpack_boxes(&record, &mut back), Ok(()));
        assert!(back.samples().iter().all(|&sample| sample == 0));
    }

    #[test]
    fn bit_planes_are_as_numpy_unpacks_them() {
        let geometry = Geometry::new(1, 9);
        let frame = slot(&[10, 11, 12, 13, 10, 10, 10, 10, 12], geometry, PixelType::U8);
        let record = pack(&frame, 0, (0.0, 0.0), &Kept::All);
        assert_eq!((record.base_counts, record.bits), (10, 2));
        // Differences 0 1 2 3 0 0 0 0 | 2: high bits 00110000 1, low bits 01010000 0.
        assert_eq!(record.planes.to_vec(), vec![0b0011_0000, 0b1000_0000, 0b0101_0000, 0]);
        let flat = slot(&[4; 9], geometry, PixelType::U8);
        let record = pack(&flat, 0, (0.0, 0.0), &Kept::All);
        assert_eq!((record.base_counts, record.bits, record.planes.len()), (4, 0, 0));
    }

    #[test]
    fn boxes_go_where_the_frame_has_moved_and_stay_within_it() {
        let geometry = Geometry::new(6, 8);
        let samples: Vec<u16> = (0..48).collect();
        let frame = slot(&samples, geometry, PixelType::U16);
        let rest = PixelBox { rows: 2..3, cols: 6..8 };
        let record =
            pack(&frame, 0, (1.5, -0.5), &Kept::Boxes(vec![(0, rest), (1, PixelBox { rows: 0..1, cols: 0..1 })]));
        // Rows 2 + 1 - 1 to 3 + 1 + 1 + 1, columns 6 - 1 - 1 to 8 - 1 + 1 + 1, cut at 6 and 8.
        assert_eq!(record.patches, [v1::FramePatch { row_px: 2, col_px: 4, height_px: 4, width_px: 4 }]);
        assert_eq!(record.base_counts, 20);
        let mut back = FrameSlot::new(geometry, PixelType::U16);
        assert_eq!(unpack(&record, &mut back), Err(PixelsError::Boxes { input_seq: 0 }));
        assert_eq!(unpack_boxes(&record, &mut back), Ok(()));
        let kept = |at: usize| at / 8 >= 2 && at % 8 >= 4;
        let expected: Vec<u16> = (0..48).map(|at| if kept(at) { at as u16 } else { 0 }).collect();
        assert_eq!(back.samples().to_vec(), expected);
        let outside = v1::FramePatch { row_px: 2, col_px: 5, height_px: 4, width_px: 4 };
        let outside = v1::FrameRecord { patches: vec![outside], ..record.clone() };
        assert_eq!(unpack_boxes(&outside, &mut back), Err(PixelsError::Outside { input_seq: 0 }));
        // with a margin a box begins before the frame, and moves into it
        let of = |rows, cols, by| pack(&frame, 0, by, &Kept::Boxes(vec![(0, PixelBox { rows, cols })])).patches;
        let patch = |row_px, col_px, height_px, width_px| v1::FramePatch { row_px, col_px, height_px, width_px };
        assert_eq!(of(-4..5, -2..3, (3.0, 0.0)), [patch(0, 0, 6, 5)]);
        assert_eq!(of(-4..0, -2..1, (6.0, 5.0)), [patch(1, 2, 5, 6)]);
    }

    #[test]
    fn a_record_that_holds_no_frame_is_named() {
        let geometry = Geometry::new(2, 8);
        let frame = slot(&[5; 16], geometry, PixelType::U16);
        let good = pack(&frame, 4, (0.0, 0.0), &Kept::All);
        let mut back = FrameSlot::new(geometry, PixelType::U16);
        let cases = [
            (v1::FrameRecord { width_px: 9, ..good.clone() }, "2 x 9, expected 2 x 8"),
            (v1::FrameRecord { bits: 3, ..good.clone() }, "0 bytes in 3 bit planes, expected 6"),
            (v1::FrameRecord { bits: 17, ..good.clone() }, "17 bit planes"),
            (v1::FrameRecord { base_counts: -1, ..good }, "-1 counts"),
        ];
        for (record, expected) in cases {
            let error = unpack(&record, &mut back).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
