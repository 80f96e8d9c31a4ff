//! Strips of scan lines, put together to frames; bytes as stored, turned into canonical samples on the way.
//!
//! In: strips from the top to the bottom. Out: a filled [`FrameSlot`], or a [`FrameRefusal`] that says what was
//! expected. This is the only copy of a frame between the wire and the decision.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Arrival, FrameMeta, FrameSlot, Geometry, PixelType};

/// Beginnings of frames so far, of whichever stream.
static BEGINNINGS: AtomicU64 = AtomicU64::new(0);

/// Where a strip lies in its frame, and what its frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StripMeta {
    /// The frame; `device_ns` is that of the strip's first line.
    pub frame: FrameMeta,
    /// First row, in pixels.
    pub row_offset_px: u32,
    /// Rows; 0 stands for a whole frame.
    pub row_count_px: u32,
}

impl StripMeta {
    /// A frame in one piece.
    pub const fn whole(frame: FrameMeta) -> Self {
        Self { frame, row_offset_px: 0, row_count_px: 0 }
    }
}

/// Why a frame cannot be used. The message names both what came and what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameRefusal {
    /// The payload is not as long as its rows need.
    #[error("frame {index}: {got} bytes, expected {expected} for {rows} x {width} {}", pixel_type.name())]
    PayloadLength {
        /// The frame.
        index: u64,
        /// Bytes that came.
        got: usize,
        /// Bytes that the rows need.
        expected: usize,
        /// Rows in the strip.
        rows: usize,
        /// Columns.
        width: usize,
        /// How a pixel is stored.
        pixel_type: PixelType,
    },
    /// The index was there already, or goes back.
    #[error("frame {index}: expected an index above {last}; it repeats or goes back")]
    IndexNotRising {
        /// The index that came.
        index: u64,
        /// The last index taken.
        last: u64,
    },
    /// The plane or channel is not one of the header's.
    #[error(
        "frame {index}: plane {plane}, channel {channel}, expected planes below {planes} and channels below {channels}"
    )]
    UnknownPlane {
        /// The frame.
        index: u64,
        /// The plane that came.
        plane: u32,
        /// The channel that came.
        channel: u32,
        /// Planes in the header.
        planes: u32,
        /// Channels in the header.
        channels: u32,
    },
    /// A strip reaches below the frame, or is not the one that must come next.
    #[error(
        "frame {index}: strip of rows {row_offset} to {row_end}, expected it to start at row {expected} and to end by \
         {height}"
    )]
    StripOutOfPlace {
        /// The frame.
        index: u64,
        /// First row that came.
        row_offset: usize,
        /// One past the last row that came.
        row_end: usize,
        /// The row that had to come.
        expected: usize,
        /// Rows of a frame.
        height: usize,
    },
    /// A new frame began before the one before it was whole.
    #[error("frame {index}: only {rows} of {height} rows came before frame {next} began")]
    Incomplete {
        /// The frame that was not finished.
        index: u64,
        /// Rows that had come.
        rows: usize,
        /// Rows of a frame.
        height: usize,
        /// The frame that began.
        next: u64,
    },
    /// The number of ROI values is not the header's, or one of them is not a number.
    #[error("frame {index}: {got} finite ROI values, expected {expected}")]
    RoiValues {
        /// The frame.
        index: u64,
        /// Values that came and are finite.
        got: usize,
        /// Values that the header announced.
        expected: usize,
    },
}

impl FrameRefusal {
    /// A number for the journal; it never changes its meaning.
    pub const fn code(&self) -> u32 {
        match self {
            FrameRefusal::PayloadLength { .. } => 1,
            FrameRefusal::IndexNotRising { .. } => 2,
            FrameRefusal::UnknownPlane { .. } => 3,
            FrameRefusal::StripOutOfPlace { .. } => 4,
            FrameRefusal::Incomplete { .. } => 5,
            FrameRefusal::RoiValues { .. } => 6,
        }
    }
}

/// Puts strips of one plane and channel together.
#[derive(Debug)]
pub struct FrameAssembly {
    geometry: Geometry,
    pixel_type: PixelType,
    inverted: bool,
    /// Rows that are wanted, from the top.
    needed_px: usize,
    rows_px: usize,
    /// Of the frame that is being put together.
    begun: FrameMeta,
}

impl FrameAssembly {
    /// For frames of this geometry and type; `inverted` undoes storage as "largest value minus brightness".
    pub fn new(geometry: Geometry, pixel_type: PixelType, inverted: bool) -> Self {
        let needed_px = geometry.height_px;
        Self { geometry, pixel_type, inverted, needed_px, rows_px: 0, begun: FrameMeta::default() }
    }

    /// The same where only the upper `needed_px` rows are wanted: slots have so many, and what is below is checked and
    /// left.
    pub fn of_upper_rows(self, needed_px: usize) -> Self {
        Self { needed_px: needed_px.min(self.geometry.height_px), ..self }
    }

    /// Whether every wanted row of the frame at hand has been given, and others are still to come.
    fn has_given(&self) -> bool {
        self.rows_px >= self.needed_px
    }

    /// Whether this is the frame that is being put together.
    pub fn is_at(&self, frame: &FrameMeta) -> bool {
        let FrameMeta { index, plane, channel, .. } = self.begun;
        self.rows_px > 0 && (index, plane, channel) == (frame.index, frame.plane, frame.channel)
    }

    /// Rows of the frame that is being put together; 0 when none is.
    pub fn rows_px(&self) -> usize {
        self.rows_px
    }

    /// Forgets a half-assembled frame.
    pub fn reset(&mut self) {
        self.rows_px = 0;
    }

    /// The half-assembled frame when another one begins, if there is one, and its refusal.
    pub fn interrupted_by(&mut self, next: &FrameMeta) -> Option<(FrameMeta, FrameRefusal)> {
        if self.rows_px == 0 || self.is_at(next) {
            return None;
        }
        let (rows, height, next, index) = (self.rows_px, self.geometry.height_px, next.index, self.begun.index);
        let given = self.has_given();
        self.rows_px = 0;
        if given {
            return None;
        }
        Some((self.begun, FrameRefusal::Incomplete { index, rows, height, next }))
    }

    /// Writes a strip into `slot`. `Ok(true)` when the frame is whole, or every wanted row of it has come.
    ///
    /// # Errors
    /// A strip that is out of place or of the wrong length; the frame is then forgotten.
    pub fn add(&mut self, strip: &StripMeta, payload: &[u8], slot: &mut FrameSlot) -> Result<bool, FrameRefusal> {
        let (height, width) = (self.geometry.height_px, self.geometry.width_px);
        let index = strip.frame.index;
        let whole = strip.row_count_px == 0;
        let rows = if whole { height } else { strip.row_count_px as usize };
        let offset = strip.row_offset_px as usize;
        if offset != self.rows_px || offset + rows > height {
            let expected = self.rows_px;
            self.rows_px = 0;
            let row_end = offset + rows;
            return Err(FrameRefusal::StripOutOfPlace { index, row_offset: offset, row_end, expected, height });
        }
        let expected = rows * width * self.pixel_type.size_bytes();
        if payload.len() != expected {
            self.rows_px = 0;
            let (got, pixel_type) = (payload.len(), self.pixel_type);
            return Err(FrameRefusal::PayloadLength { index, got, expected, rows, width, pixel_type });
        }
        if offset == 0 {
            self.begun = strip.frame;
            slot.meta = strip.frame;
            slot.arrival = Arrival { number: 1 + BEGINNINGS.fetch_add(1, Ordering::Relaxed), rows_px: 0 };
        }
        let had_given = offset > 0 && self.has_given();
        let wanted = (offset + rows).min(self.needed_px).saturating_sub(offset) * width;
        if wanted > 0 {
            let place = &mut slot.samples_mut()[offset * width..offset * width + wanted];
            canonical(&payload[..wanted * self.pixel_type.size_bytes()], self.pixel_type, self.inverted, place);
            slot.arrival.rows_px = (offset + rows).min(self.needed_px);
        }
        self.rows_px = offset + rows;
        let gives = !had_given && self.has_given();
        if gives {
            slot.meta.received_host_ns = strip.frame.received_host_ns;
        }
        if self.rows_px == height {
            self.rows_px = 0;
        }
        Ok(gives)
    }
}

/// Bytes as stored to canonical samples; `payload` holds exactly `out.len()` pixels.
pub(crate) fn canonical(payload: &[u8], pixel_type: PixelType, inverted: bool, out: &mut [u16]) {
    match pixel_type {
        PixelType::U8 => {
            let flip: u8 = if inverted { 0xff } else { 0 };
            for (sample, &byte) in out.iter_mut().zip(payload) {
                *sample = u16::from(byte ^ flip);
            }
        }
        PixelType::U16 | PixelType::I16 => {
            // Adding 32,768 to a two's complement number flips its top bit; "largest minus value" flips every bit.
            let mut flip: u16 = if pixel_type == PixelType::I16 { 0x8000 } else { 0 };
            if inverted {
                flip ^= 0xffff;
            }
            for (sample, bytes) in out.iter_mut().zip(payload.chunks_exact(2)) {
                *sample = u16::from_le_bytes([bytes[0], bytes[1]]) ^ flip;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strip(index: u64, offset: u32, rows: u32) -> StripMeta {
        StripMeta { frame: FrameMeta { index, ..FrameMeta::default() }, row_offset_px: offset, row_count_px: rows }
    }

    #[test]
    fn a_signed_value_keeps_its_distance_to_every_other() {
        let mut out = [0u16; 3];
        let bytes: Vec<u8> = [-5i16, 0, 1200].iter().flat_map(|v| v.to_le_bytes()).collect();
        canonical(&bytes, PixelType::I16, false, &mut out);
        assert_eq!(out.map(|v| i32::from(v) - PixelType::I16.bias()), [-5, 0, 1200]);
    }

    #[test]
    fn inversion_is_largest_minus_value() {
        let mut out = [0u16; 1];
        canonical(&1000u16.to_le_bytes(), PixelType::U16, true, &mut out);
        assert_eq!(out[0], 65_535 - 1000);
        canonical(&[10], PixelType::U8, true, &mut out);
        assert_eq!(out[0], 245);
    }

    #[test]
    fn a_payload_of_the_wrong_length_names_both_numbers() {
        let geometry = Geometry::new(512, 512);
        let mut slot = FrameSlot::new(geometry, PixelType::U16);
        let mut assembly = FrameAssembly::new(geometry, PixelType::U16, false);
        let refusal = assembly.add(&strip(1841, 0, 0), &vec![0; 262_144], &mut slot).unwrap_err();
        assert_eq!(refusal.to_string(), "frame 1841: 262144 bytes, expected 524288 for 512 x 512 uint16");
    }

    #[test]
    fn a_frame_that_another_one_interrupts_is_refused() {
        let geometry = Geometry::new(8, 4);
        let mut slot = FrameSlot::new(geometry, PixelType::U8);
        let mut assembly = FrameAssembly::new(geometry, PixelType::U8, false);
        assert_eq!(assembly.add(&strip(3, 0, 5), &[1; 20], &mut slot), Ok(false));
        let same = FrameMeta { index: 3, ..FrameMeta::default() };
        assert_eq!(assembly.interrupted_by(&same), None);
        let next = FrameMeta { index: 4, ..FrameMeta::default() };
        let (begun, refusal) = assembly.interrupted_by(&next).expect("it was not whole");
        assert_eq!(begun.index, 3);
        assert_eq!(refusal.to_string(), "frame 3: only 5 of 8 rows came before frame 4 began");
        assert_eq!(assembly.add(&strip(4, 0, 0), &[2; 32], &mut slot), Ok(true));
    }

    proptest! {
        #[test]
        fn any_cutting_into_strips_gives_the_same_frame(
            pixels in proptest::collection::vec(any::<u8>(), 13 * 6 * 2),
            cuts in proptest::collection::btree_set(1u32..13, 0..6),
            inverted in any::<bool>(),
        ) {
            let geometry = Geometry::new(13, 6);
            let mut whole = FrameSlot::new(geometry, PixelType::I16);
            let mut cut = FrameSlot::new(geometry, PixelType::I16);
            let mut assembly = FrameAssembly::new(geometry, PixelType::I16, inverted);
            prop_assert_eq!(assembly.add(&strip(0, 0, 0), &pixels, &mut whole), Ok(true));
            let mut from = 0;
            for to in cuts.into_iter().chain([13]) {
                let bytes = &pixels[from as usize * 12..to as usize * 12];
                prop_assert_eq!(assembly.add(&strip(0, from, to - from), bytes, &mut cut), Ok(to == 13));
                from = to;
            }
            prop_assert_eq!(whole.samples(), cut.samples());
        }

        #[test]
        fn the_upper_rows_are_given_once_however_the_frame_is_cut(
            pixels in proptest::collection::vec(any::<u8>(), 13 * 6),
            cuts in proptest::collection::btree_set(1u32..13, 0..6),
            needed in 1usize..=13,
        ) {
            let geometry = Geometry::new(13, 6);
            let mut slot = FrameSlot::new(Geometry::new(needed, 6), PixelType::U8);
            let mut assembly = FrameAssembly::new(geometry, PixelType::U8, false).of_upper_rows(needed);
            for index in 0..2 {
                let (mut from, mut given) = (0, Vec::new());
                for to in cuts.iter().copied().chain([13]) {
                    let bytes = &pixels[from as usize * 6..to as usize * 6];
                    if assembly.add(&strip(index, from, to - from), bytes, &mut slot).unwrap() {
                        given.push((from, to));
                    }
                    from = to;
                }
                prop_assert!(given.len() == 1 && (given[0].0 as usize) < needed && given[0].1 as usize >= needed);
                let expected: Vec<u16> = pixels[..needed * 6].iter().map(|&v| u16::from(v)).collect();
                prop_assert_eq!(slot.samples(), &expected[..]);
            }
        }
    }
}
