//! What is fed: a ring of rendered frames, and ROIs in rows and columns over them.

use bytes::Bytes;

use crate::config::RigConfig;
use crate::engine::{Clock, HostClock};
use crate::frame::Geometry;
use crate::proto::v1;
use crate::sample::{ReferenceKind, Roi, RoiPixel, RoiSet};
use crate::source::SyntheticSource;

use super::super::play::stream_header;

/// Frames that circulate: more than any cache holds at 512 x 512.
pub(super) const RING_FRAMES: usize = 64;
/// Radius of an ROI's disc, in pixels.
const ROI_RADIUS_PX: i64 = 4;

/// The synthetic feed.
pub(super) struct Feed {
    /// How its stream introduces itself.
    pub header: v1::StreamHeader,
    /// The ROIs, with the reference image.
    pub rois: RoiSet,
    /// Frames as an adapter has them.
    pub ring: Vec<Bytes>,
    /// Strips that every frame is sent in.
    pub strips: u32,
    /// What it takes to read one of them from memory, in nanoseconds.
    pub floor_ns: u64,
}

impl Feed {
    /// Renders it. Of frames that are sent in strips the ROIs lie in the upper half.
    pub fn new(config: &RigConfig, geometry: Geometry, rois: u32, rate_hz: f64, strips: u32) -> anyhow::Result<Self> {
        let mut source = SyntheticSource::new(&config.synthetic)?;
        let header = stream_header(source.header(), rate_hz, "apical latency".to_owned());
        let Geometry { height_px, width_px } = geometry;
        let under = Geometry::new(if strips > 1 { height_px / 2 } else { height_px }, width_px);
        let rois = RoiSet { geometry, reference: Some(source.reference()), ..grid(under, rois) };
        let mut next = || {
            let mut bytes = Vec::new();
            source.next(&mut bytes);
            Bytes::from(bytes)
        };
        let ring: Vec<Bytes> = (0..RING_FRAMES).map(|_| next()).collect();
        let floor_ns = read_from_memory_ns(ring.iter().map(|frame| &frame[..]));
        Ok(Self { header, rois, ring, strips, floor_ns })
    }
}

/// What it takes to read one frame from memory: the median over several, which no cache holds together.
pub(in super::super) fn read_from_memory_ns<'a>(frames: impl Iterator<Item = &'a [u8]>) -> u64 {
    let clock = HostClock;
    let mut times: Vec<u64> = frames
        .map(|frame| {
            let start_ns = clock.now_ns();
            // The narrowest sum there is: only memory takes time.
            std::hint::black_box(frame.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)));
            clock.now_ns() - start_ns
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Discs in rows and columns over all of it.
fn grid(geometry: Geometry, count: u32) -> RoiSet {
    let Geometry { height_px, width_px } = geometry;
    let cols = (f64::from(count) * width_px as f64 / height_px as f64).sqrt().ceil().max(1.0) as u32;
    let rows = count.div_ceil(cols);
    let place = |k: u32, of: u32, side: usize| ((2 * k + 1) as usize * side / (2 * of as usize)) as i64;
    let disc = |id: u32| {
        let (row, col) = (place(id / cols, rows, height_px), place(id % cols, cols, width_px));
        let within = |r: i64, c: i64| (0..height_px as i64).contains(&r) && (0..width_px as i64).contains(&c);
        let offsets =
            (-ROI_RADIUS_PX..=ROI_RADIUS_PX).flat_map(|dr| (-ROI_RADIUS_PX..=ROI_RADIUS_PX).map(move |dc| (dr, dc)));
        let pixels = offsets
            .filter(|(dr, dc)| dr * dr + dc * dc <= ROI_RADIUS_PX * ROI_RADIUS_PX && within(row + dr, col + dc))
            .map(|(dr, dc)| RoiPixel { row: (row + dr) as u32, col: (col + dc) as u32, weight: 1.0 });
        Roi { id, name: String::new(), plane: 0, radius_told_px: None, pixels: pixels.collect() }
    };
    RoiSet {
        geometry,
        rois: (0..count).map(disc).collect(),
        reference: None,
        reference_kind: ReferenceKind::Given,
        templates: Vec::new(),
        z_stack: Vec::new(),
        source: "a grid of discs".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_as_many_discs_as_asked_for_within_the_frame() {
        for (count, geometry) in
            [(10, Geometry::new(512, 512)), (200, Geometry::new(96, 200)), (7, Geometry::new(64, 512))]
        {
            let set = grid(geometry, count);
            assert_eq!(set.rois.len(), count as usize);
            assert_eq!(set.check(), Ok(()), "{count} in {geometry:?}");
        }
    }
}
