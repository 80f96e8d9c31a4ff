//! Sampling: one fluorescence value for each ROI, and one for its neuropil, from every frame.
//!
//! In: a set of ROIs ([`RoiSet`], read once by [`read_rois`] from suite2p, Neurofinder or our own JSON), then for each
//! frame its canonical samples and the shift (dy rows, dx columns, pixels) that registration found. Out: F and F of
//! the neuropil in detector counts of the source (inversion undone, detector offset still in), the saturated pixels,
//! and the pixels that the shift moved out of the frame, for each ROI.
//!
//! The masks are moved, not the frame: bilinear interpolation is linear, so four integer sums for each ROI (the mask
//! on the frame at the shift's whole part, one row below, one column right, and both) hold all that any fraction
//! needs. Ten ROIs cost a few microseconds; resampling the frame costs forty-four whatever the ROIs are.
//! Everything that is added up over pixels is an integer, so strips, their cutting, and the order do not show.
//!
//! Neuropil annuli follow suite2p's published definition (Pachitariu et al., bioRxiv 061507; the keys
//! `inner_neuropil_radius` and `min_neuropil_pixels` of its documentation) and agree with its `neuropil_mask` pixel by
//! pixel on recorded sessions.
//!
//! The stage itself ([`Sampler`]) reads no file and no clock; only the readers in [`formats`] touch the disk.

pub mod formats;
mod mask;
mod neuropil;
mod rois;
mod sampler;

pub use formats::{RoiFileError, read_rois};
pub use rois::{MAX_SIDE_PX, ReferenceKind, Roi, RoiPixel, RoiSet, RoiSetError, render_reference};
pub use sampler::{SampleBuffer, SampleError, Sampler};
