//! The rows of a frame that a decision needs, where it does not wait for the rest.
//!
//! With `stream.decide = "last_needed_line"` the session's frames end below row L: the last one on which a mask or an
//! annulus can lie when the content is moved by the largest shift that registration looks for in so many rows. L hangs
//! on the configuration and the ROIs alone. Registration, template, samples, record and replay see frames of L rows; so
//! how a frame was cut into strips, and what stood below, cannot matter to a single bit.

use super::EngineError;
use crate::config::{Decide, RigConfig};
use crate::frame::Geometry;
use crate::register::{BlockGrid, Rigid};
use crate::sample::{RoiSet, Sampler};

/// Rows that a frame of this geometry is decided on, from the top.
pub(super) fn needed_rows(config: &RigConfig, rois: &RoiSet, geometry: Geometry) -> Result<usize, EngineError> {
    let height_px = geometry.height_px;
    if config.stream.decide == Decide::Frame || rois.rois.is_empty() {
        return Ok(height_px);
    }
    let mut bottom = 0;
    for plane in config.stream.plane.as_slice() {
        let all = [*plane];
        // Masks of one plane belong to the one that is read, whatever their file calls it.
        let set = if config.stream.plane.as_slice() == all { rois.clone() } else { rois.of_plane(*plane) };
        let boxes = Sampler::new(&config.sample, &set)?.boxes();
        bottom = boxes.iter().map(|of_roi| of_roi.rows.end).fold(bottom, i32::max);
    }
    let aside_px = if config.register.piecewise { BlockGrid::largest_shift_px(&config.register).ceil() } else { 0.0 };
    let bottom = bottom.max(0) as usize + aside_px as usize;
    let (enabled, register) = (config.register.enabled, &config.register);
    let largest = |rows: usize| Rigid::largest_shift_px(register, Geometry::new(rows, geometry.width_px)).0;
    // A sample between two rows needs the lower one as well.
    let suffices = |rows: &usize| *rows > bottom + if enabled { largest(*rows) } else { 0 };
    Ok((bottom + 1..height_px).find(suffices).unwrap_or(height_px))
}
