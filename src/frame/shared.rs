//! A frame in shared memory: what its producer says of it, and its samples where the producer wrote them.
//!
//! The layout is a contract with producers in other programs: [`SharedFrameHeader`] stands before the samples as the
//! sample's user header (iceoryx2), the samples are canonical (see [`crate::frame`]): `uint8` and `uint16` as they are,
//! `int16` with 32,768 added, inversion undone.
//!
//! Nothing keeps another process from writing into memory that it has published. A producer that does so, and counts it
//! as [`SharedFrameHeader::writes`] asks, is always found out; one that does not is found out where it changes a good
//! part of the frame, as one does that fills its buffers anew too early: samples all over it are looked at twice.
//!
//! The one module of this folder with unsafe code: the samples' address is kept beside what keeps them mapped.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use iceoryx2::prelude::ZeroCopySend;

use super::FrameMeta;

/// The variant of iceoryx2 whose samples may go from thread to thread.
pub type SharedService = iceoryx2::service::ipc_threadsafe::Service;
/// A sample as iceoryx2 gives it.
pub type SharedSample = iceoryx2::sample::Sample<SharedService, [u16], SharedFrameHeader>;

/// Samples that are looked at twice, spread over the frame.
const SPOTS: usize = 256;

/// What stands before a frame's samples. Little-endian, 8-byte aligned, 56 bytes.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SharedFrameHeader {
    /// Number of the frame within its plane, counted by the microscope from 0.
    pub index: u64,
    /// When it was scanned, in nanoseconds of the microscope's clock.
    pub device_ns: u64,
    /// When it was published, in nanoseconds of `CLOCK_MONOTONIC`; 0 where the producer does not say.
    pub published_host_ns: u64,
    /// Axial position of the focal plane in micrometres; NaN where it is not known.
    pub z_um: f64,
    /// Plane, from 0.
    pub plane: u32,
    /// Channel, from 0.
    pub channel: u32,
    /// Grows by one before its producer begins to write the frame, and by one when it is done: odd while it writes.
    pub writes: AtomicU64,
}

// SAFETY: plain numbers, `repr(C)`, no pointers.
unsafe impl ZeroCopySend for SharedFrameHeader {
    unsafe fn type_name() -> &'static str {
        "apical.v1.SharedFrameHeader"
    }
}

/// A frame that its producer has published; as long as it lives, the producer must not write into it.
#[derive(Debug)]
pub struct SharedFrame {
    /// Keeps the memory mapped, and the producer from using it again.
    sample: SharedSample,
    first: NonNull<u16>,
    count: usize,
    writes: u64,
    spots: u64,
}

// SAFETY: the address points into memory that `sample`, which may itself be sent, keeps mapped; it is only read through
// a borrow of the whole.
unsafe impl Send for SharedFrame {}

impl SharedFrame {
    /// A frame as it was received.
    pub fn new(sample: SharedSample) -> Self {
        // Asked for once: iceoryx2 takes a lock to answer.
        let samples = sample.payload();
        let (first, count) = (NonNull::from(samples).cast::<u16>(), samples.len());
        let writes = sample.user_header().writes.load(Ordering::Acquire);
        let spots = spots(samples);
        Self { sample, first, count, writes, spots }
    }

    /// Its samples.
    pub fn samples(&self) -> &[u16] {
        // SAFETY: `first` and `count` are those of `sample`'s payload, which lives as long as `self`. What another
        // process does to it meanwhile is asked afterwards, by `is_changed`; any bits are a `u16`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }

    /// What it says of itself. `received_host_ns` is when it was published, where it says that.
    pub fn meta(&self) -> FrameMeta {
        let header = self.sample.user_header();
        FrameMeta {
            index: header.index,
            plane: header.plane,
            channel: header.channel,
            device_ns: header.device_ns,
            z_um: (!header.z_um.is_nan()).then_some(header.z_um),
            received_host_ns: header.published_host_ns,
        }
    }

    /// Whether its producer was writing when it was taken, or has written since.
    pub fn is_changed(&self) -> bool {
        let writes = self.sample.user_header().writes.load(Ordering::Acquire);
        writes != self.writes || !writes.is_multiple_of(2) || spots(self.samples()) != self.spots
    }
}

/// A hash of samples all over the frame.
fn spots(samples: &[u16]) -> u64 {
    let stride = (samples.len() / SPOTS).max(1);
    let spot = |k: usize| samples[k * stride + (k * 97) % stride];
    let count = SPOTS.min(samples.len());
    (0..count).fold(0u64, |hash, k| (hash.rotate_left(5) ^ u64::from(spot(k))).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
