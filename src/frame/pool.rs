//! Slots: whole frames in canonical form, allocated once, handed from source to engine, to the record, and back.
//!
//! A slot moves by ownership (`Box`), so that nobody can write into a frame that somebody else reads, and nothing is
//! allocated or freed once the pool is filled.

use super::{FrameView, Geometry, PixelType};

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FrameMeta {
    /// Number of the frame within its plane, from 0.
    pub index: u64,
    /// Plane, from 0.
    pub plane: u32,
    /// Channel, from 0.
    pub channel: u32,
    /// When it was scanned, in nanoseconds of the microscope's clock.
    pub device_ns: u64,
    /// Axial position of the focal plane in micrometres, where it is known.
    pub z_um: Option<f64>,
    /// When its last byte had arrived, in nanoseconds of the host's monotonic clock. Never read by the engine.
    pub received_host_ns: u64,
}

/// One frame's storage.
#[derive(Debug)]
pub struct FrameSlot {
    /// What the frame says of itself.
    pub meta: FrameMeta,
    /// Height and width, in pixels.
    pub geometry: Geometry,
    /// How the source stores a pixel.
    pub pixel_type: PixelType,
    /// Canonical samples, row-major, `geometry.count()` of them.
    pub samples: Box<[u16]>,
}

impl FrameSlot {
    /// An empty (all zero) slot.
    pub fn new(geometry: Geometry, pixel_type: PixelType) -> Self {
        Self { meta: FrameMeta::default(), geometry, pixel_type, samples: vec![0; geometry.count()].into_boxed_slice() }
    }

    /// The frame as the stages read it.
    pub fn view(&self) -> FrameView<'_> {
        FrameView {
            geometry: self.geometry,
            samples: &self.samples,
            bias: self.pixel_type.bias(),
            saturation: self.pixel_type.saturation(),
        }
    }
}
