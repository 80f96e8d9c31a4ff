//! Frames: what a source delivers and what the stages read.
//!
//! In: pixels as the microscope stores them (u8, u16 or i16, perhaps inverted). Out: [`FrameView`], rows of
//! *canonical samples*: `u16 = value + bias`, where `bias` is 0 for u8 and u16 and 32,768 for i16, and where
//! inversion has been undone. One form means that every kernel is written once, on integers, and that sums over
//! pixels are exact in any order. The detector's offset is *not* removed here; the activity stage does that on the
//! mean of an ROI, where it is one subtraction.
//!
//! Units: rows and columns in pixels, row 0 at the top, samples in detector counts.

mod pool;
mod room;
#[cfg(feature = "shm")]
mod shared;
mod strips;

pub use pool::{Arrival, FrameMeta, FrameSlot};
pub use room::Room;
#[cfg(feature = "shm")]
pub use shared::{SharedFrame, SharedFrameHeader, SharedSample, SharedService};
#[cfg(feature = "shm")]
pub(crate) use strips::canonical;
pub use strips::{FrameAssembly, FrameRefusal, StripMeta};

use serde::{Deserialize, Serialize};

/// How a pixel is stored by the source; little-endian where it has two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelType {
    /// Unsigned, one byte.
    U8,
    /// Unsigned, two bytes.
    U16,
    /// Signed, two bytes.
    I16,
}

impl PixelType {
    /// Bytes that one pixel takes.
    pub const fn size_bytes(self) -> usize {
        match self {
            PixelType::U8 => 1,
            PixelType::U16 | PixelType::I16 => 2,
        }
    }

    /// What canonical samples of this type stand above the value that the source stored, in counts.
    pub const fn bias(self) -> i32 {
        match self {
            PixelType::U8 | PixelType::U16 => 0,
            PixelType::I16 => 32_768,
        }
    }

    /// The canonical sample at which the detector or the converter saturates.
    pub const fn saturation(self) -> u16 {
        match self {
            PixelType::U8 => 255,
            PixelType::U16 | PixelType::I16 => 65_535,
        }
    }

    /// The name as configuration files and messages write it.
    pub const fn name(self) -> &'static str {
        match self {
            PixelType::U8 => "uint8",
            PixelType::U16 => "uint16",
            PixelType::I16 => "int16",
        }
    }
}

/// Height and width of a frame, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Rows (scan lines).
    pub height_px: usize,
    /// Columns (pixels in a line).
    pub width_px: usize,
}

impl Geometry {
    /// A geometry of `height_px` rows and `width_px` columns.
    pub const fn new(height_px: usize, width_px: usize) -> Self {
        Self { height_px, width_px }
    }

    /// Pixels in a frame.
    pub const fn count(self) -> usize {
        self.height_px * self.width_px
    }
}

/// A whole frame of canonical samples, borrowed from its slot. Row-major, `samples.len() == geometry.count()`.
#[derive(Debug, Clone, Copy)]
pub struct FrameView<'a> {
    /// Height and width.
    pub geometry: Geometry,
    /// Canonical samples, `value + bias`.
    pub samples: &'a [u16],
    /// Counts to subtract from a sample to have the value that the source stored.
    pub bias: i32,
    /// The sample at which the detector saturates.
    pub saturation: u16,
}

/// An image for people and for registration: a mean, a reference, a template. Row-major.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Height and width.
    pub geometry: Geometry,
    /// Values in detector counts (or any linear unit; registration fits the gain).
    pub values: Vec<f32>,
}

impl Image {
    /// An image of zeros.
    pub fn zeros(geometry: Geometry) -> Self {
        Self { geometry, values: vec![0.0; geometry.count()] }
    }
}
