//! Slots: whole frames in canonical form, allocated once, handed from source to engine, to the record, and back.
//!
//! A slot moves by ownership (`Box`), so that nobody can write into a frame that somebody else reads, and nothing is
//! allocated or freed once the pool is filled. Its samples are its own memory, or, with the Cargo feature `shm`, a
//! frame in shared memory that is read where its producer wrote it.

#[cfg(feature = "shm")]
use super::shared::SharedFrame;
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

/// How far a frame that is put together of strips has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arrival {
    /// Of this beginning; no other frame of the process has it. 0 where a frame did not come in strips.
    pub number: u64,
    /// Rows that are there, from the top.
    pub rows_px: usize,
}

/// Where a frame's samples are.
#[derive(Debug)]
enum Samples {
    /// In memory of the slot's own.
    Own(Box<[u16]>),
    /// Where their producer wrote them.
    #[cfg(feature = "shm")]
    Shared(SharedFrame),
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
    /// How far the frame has come.
    pub arrival: Arrival,
    samples: Samples,
}

impl Clone for FrameSlot {
    /// A copy whose samples are its own.
    fn clone(&self) -> Self {
        let samples = Samples::Own(self.samples().into());
        let Self { meta, geometry, pixel_type, arrival, .. } = *self;
        Self { meta, geometry, pixel_type, arrival, samples }
    }
}

impl FrameSlot {
    /// An empty (all zero) slot.
    pub fn new(geometry: Geometry, pixel_type: PixelType) -> Self {
        Self::holding(vec![0; geometry.count()].into_boxed_slice(), geometry, pixel_type)
    }

    /// A slot for frames that stay where their producer writes them; it holds none yet, and no sample.
    #[cfg(feature = "shm")]
    pub fn for_shared(geometry: Geometry, pixel_type: PixelType) -> Self {
        Self::holding(Box::default(), geometry, pixel_type)
    }

    fn holding(samples: Box<[u16]>, geometry: Geometry, pixel_type: PixelType) -> Self {
        let samples = Samples::Own(samples);
        Self { meta: FrameMeta::default(), geometry, pixel_type, arrival: Arrival::default(), samples }
    }

    /// Canonical samples, row-major; `geometry.count()` of them, except in a slot for shared frames that holds none.
    pub fn samples(&self) -> &[u16] {
        match &self.samples {
            Samples::Own(samples) => samples,
            #[cfg(feature = "shm")]
            Samples::Shared(frame) => frame.samples().get(..self.geometry.count()).unwrap_or_default(),
        }
    }

    /// Canonical samples, to be filled; none of a slot for shared frames.
    pub fn samples_mut(&mut self) -> &mut [u16] {
        match &mut self.samples {
            Samples::Own(samples) => samples,
            #[cfg(feature = "shm")]
            Samples::Shared(_) => &mut [],
        }
    }

    /// Takes a frame of `geometry.count()` samples or more in, where it stays.
    #[cfg(feature = "shm")]
    pub fn take_shared(&mut self, frame: SharedFrame) {
        self.meta = frame.meta();
        self.arrival = Arrival::default();
        self.samples = Samples::Shared(frame);
    }

    /// Gives the frame in it back to its producer.
    #[cfg(feature = "shm")]
    pub fn give_up_shared(&mut self) {
        self.samples = Samples::Own(Box::default());
    }

    /// Whether the frame's producer has changed it since it was taken: what was read of it may be half of each.
    pub fn is_changed(&self) -> bool {
        match &self.samples {
            Samples::Own(_) => false,
            #[cfg(feature = "shm")]
            Samples::Shared(frame) => frame.is_changed(),
        }
    }

    /// The frame as the stages read it.
    pub fn view(&self) -> FrameView<'_> {
        FrameView {
            geometry: self.geometry,
            samples: self.samples(),
            bias: self.pixel_type.bias(),
            saturation: self.pixel_type.saturation(),
        }
    }
}
