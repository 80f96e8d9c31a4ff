//! Frames of the synthetic animal: activity and optics tied into a source like any other.
//!
//! In: a configuration; rewards as they are delivered. Out: frames in the configured pixel type, without an end, frame
//! n at `n / frame_rate_hz` on the device's clock; the truth behind each; the ROIs and the reference image that an
//! experimenter would have prepared. It does not wait: pacing is the caller's.

use super::{RecordedFrame, RecordingHeader};
use crate::config::synthetic::SyntheticConfig;
use crate::frame::Image;
use crate::mouse::{Animal, Optics, OpticsError, RoiMask, Truth};

/// The synthetic animal as a source of frames.
#[derive(Debug, Clone)]
pub struct SyntheticSource {
    header: RecordingHeader,
    frame_rate_hz: f64,
    animal: Animal,
    optics: Optics,
    next_index: u64,
}

impl SyntheticSource {
    /// An animal drawn from `config.seed`.
    pub fn new(config: &SyntheticConfig) -> Result<Self, OpticsError> {
        let optics = Optics::new(config, config.seed)?;
        let header = RecordingHeader {
            geometry: config.geometry(),
            pixel_type: config.pixel_type,
            frame_count: None,
            frame_rate_hz: Some(config.frame_rate_hz),
            planes: 1,
            channels: 1,
            inverted: config.inverted,
            description: format!("synthetic animal, seed {}", config.seed),
        };
        let animal = Animal::new(config, config.seed);
        Ok(Self { header, frame_rate_hz: config.frame_rate_hz, animal, optics, next_index: 0 })
    }

    /// What the frames are.
    pub fn header(&self) -> &RecordingHeader {
        &self.header
    }

    /// Fills `buffer` with the next frame's raw little-endian bytes.
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> RecordedFrame {
        self.optics.render(self.animal.next_rates());
        self.optics.store(buffer);
        let index = self.next_index;
        self.next_index += 1;
        let device_ns = (index as f64 * 1e9 / self.frame_rate_hz).round() as u64;
        RecordedFrame { index, plane: 0, channel: 0, device_ns: Some(device_ns) }
    }

    /// The valve has opened: call it once for each delivered reward.
    pub fn reward(&mut self) {
        self.animal.reward();
    }

    /// What is behind the last frame.
    pub fn truth(&self) -> Truth<'_> {
        self.optics.truth()
    }

    /// The animal.
    pub fn animal(&self) -> &Animal {
        &self.animal
    }

    /// The optics.
    pub fn optics(&self) -> &Optics {
        &self.optics
    }

    /// The cells' pixels in the reference image; indices are those of `animal.p_plus` and `animal.p_minus`.
    pub fn rois(&self) -> &[RoiMask] {
        self.optics.masks()
    }

    /// The expected frame at rest, in counts.
    pub fn reference(&self) -> Image {
        self.optics.reference()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_numbered_and_stamped_by_the_frame_rate() {
        let mut config = SyntheticConfig { height_px: 64, width_px: 64, ..SyntheticConfig::default() };
        config.anatomy.cells = 2;
        config.anatomy.margin_px = 0.0;
        (config.animal.p_plus, config.animal.p_minus) = (vec![0], vec![1]);
        let mut source = SyntheticSource::new(&config).unwrap();
        let mut buffer = Vec::new();
        let stamps: Vec<_> = (0..4).map(|_| source.next(&mut buffer)).map(|f| (f.index, f.device_ns)).collect();
        assert_eq!(stamps[1..], [(1, Some(33_333_333)), (2, Some(66_666_667)), (3, Some(100_000_000))]);
        assert_eq!(buffer.len(), source.header().page_bytes());
    }
}
