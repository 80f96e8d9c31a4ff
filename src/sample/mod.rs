//! Sampling: one fluorescence value for each ROI, and one for its neuropil, from every frame.
//!
//! In: a set of ROIs ([`RoiSet`], read once by [`read_rois`] from suite2p, CaImAn, Cellpose, ImageJ, NWB, Neurofinder
//! or our own JSON), then for each frame its canonical samples and the shift (dy rows, dx columns, pixels) that
//! registration found. Out: F and F of the neuropil in detector counts of the source (inversion undone, detector offset
//! still in), the saturated pixels, and the pixels that the shift moved out of the frame, for each ROI.
//!
//! The masks are moved, not the frame: bilinear interpolation is linear, so a few integer sums for each ROI hold all
//! that any fraction of a pixel needs. Ten ROIs cost a few microseconds; resampling a frame of 512 x 512 pixels costs
//! forty-four whatever the ROIs are.
//! Everything that is added up over pixels is an integer, so strips, their cutting, and the order do not show.
//!
//! Neuropil annuli are suite2p's (Pachitariu et al., bioRxiv 061507; the keys `inner_neuropil_radius`,
//! `min_neuropil_pixels` and `lam_percentile` of its documentation), pixel for pixel.
//!
//! The stage itself ([`Sampler`]) reads no file and no clock; only the readers in [`formats`] touch the disk.

mod blend;
mod demix;
pub mod detect;
pub mod formats;
mod mask;
mod moved;
mod neuropil;
mod nnls;
mod overlap;
mod pieces;
mod rois;
mod sampler;

pub use formats::suite2p::read_ops_geometry;
pub use formats::{NoCell, RoiFile, RoiFileError, read_roi_file, read_rois, rois_of};
pub use mask::PixelBox;
pub use rois::{MAX_SIDE_PX, PlaneImage, ReferenceKind, Roi, RoiPixel, RoiSet, RoiSetError, render_reference};
pub use sampler::{SampleBuffer, SampleError, Sampler};
