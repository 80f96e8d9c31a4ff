//! What is played into a session: pixels or ROI values, one frame at a time, from a file or from the synthetic animal.

use std::path::Path;

use anyhow::Context;

use crate::frame::{FrameMeta, PixelType};
use crate::proto::v1;
use crate::source::{
    FrameRecording, OpenOptions, Poll, RecordedFrame, Recording, RecordingHeader, RoiRecording, open_growing,
    open_recording,
};

/// Frames a second where nothing says how many.
const DEFAULT_RATE_HZ: f64 = 30.0;

/// A recording as an adapter sees it.
pub(super) enum Playable {
    /// Pixels.
    Pixels(Box<FrameRecording>),
    /// ROI values, and the next frame.
    Values(RoiRecording, usize),
}

/// What a look for the next frame gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is there.
    Frame,
    /// It is not whole yet.
    Waiting {
        /// The file has grown since the last look.
        grown: bool,
    },
    /// There is no more.
    End,
}

/// One frame to send.
#[derive(Debug, Default)]
pub(super) struct PlayedFrame {
    /// What it says of itself.
    pub meta: FrameMeta,
    /// Pixels as stored.
    pub pixels: Vec<u8>,
    /// ROI values.
    pub values: Vec<f64>,
}

/// How a stream of these frames introduces itself.
#[derive(Debug, Clone)]
pub(super) enum PlayedHeader {
    /// Pixels.
    Pixels(v1::StreamHeader),
    /// ROI values.
    Values(v1::RoiValuesHeader),
}

impl Playable {
    /// Opens a recording.
    pub fn open(path: &Path, options: &OpenOptions) -> anyhow::Result<Self> {
        Ok(match open_recording(path, &beside(path, options))? {
            Recording::Frames(frames) => Playable::Pixels(Box::new(frames)),
            Recording::RoiValues(values) => Playable::Values(values, 0),
        })
    }

    /// Opens a recording that is still being written; why not yet, where it is too short.
    pub fn follow(path: &Path, options: &OpenOptions, last_call: bool) -> anyhow::Result<Result<Self, String>> {
        let opened = open_growing(path, &beside(path, options), last_call)?;
        Ok(opened.map(|frames| Playable::Pixels(Box::new(frames))))
    }

    /// Nothing is going to be added to it.
    pub fn finish(&mut self) {
        if let Playable::Pixels(frames) = self {
            frames.finish();
        }
    }

    /// What it could not use.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Playable::Pixels(frames) => frames.warnings().to_vec(),
            Playable::Values(..) => Vec::new(),
        }
    }

    /// Frames in it, where that is known.
    pub fn frames(&self) -> Option<usize> {
        match self {
            Playable::Pixels(frames) => frames.header().frame_count,
            Playable::Values(values, _) => Some(values.frames()),
        }
    }

    /// Frames a second: as asked, or as the recording says, or 30.
    pub fn rate_hz(&self, asked: Option<f64>) -> f64 {
        let own = match self {
            Playable::Pixels(frames) => frames.header().frame_rate_hz,
            Playable::Values(..) => None,
        };
        asked.or(own).unwrap_or(DEFAULT_RATE_HZ)
    }

    /// How a stream of it introduces itself.
    pub fn header(&self, rate_hz: f64) -> PlayedHeader {
        let adapter = format!("apical replay {}", env!("CARGO_PKG_VERSION"));
        match self {
            Playable::Pixels(frames) => PlayedHeader::Pixels(stream_header(frames.header(), rate_hz, adapter)),
            Playable::Values(values, _) => PlayedHeader::Values(v1::RoiValuesHeader {
                rig: String::new(),
                stream_id: "recording".to_owned(),
                roi_count: values.rois() as u32,
                frame_rate_hz: rate_hz,
                adapter,
            }),
        }
    }

    /// The next frame of a finished recording into `frame`; false at the end.
    pub fn next(&mut self, frame: &mut PlayedFrame, rate_hz: f64) -> anyhow::Result<bool> {
        loop {
            match self.poll(frame, rate_hz)? {
                Next::Frame => return Ok(true),
                Next::End => return Ok(false),
                Next::Waiting { .. } => self.finish(),
            }
        }
    }

    /// The next frame into `frame`, if it is there.
    pub fn poll(&mut self, frame: &mut PlayedFrame, rate_hz: f64) -> anyhow::Result<Next> {
        let device_ns = |index: u64| (index as f64 * 1e9 / rate_hz).round() as u64;
        match self {
            Playable::Pixels(frames) => {
                let recorded: RecordedFrame = match frames.poll(&mut frame.pixels)? {
                    Poll::Page(recorded) => recorded,
                    Poll::Waiting { grown } => return Ok(Next::Waiting { grown }),
                    Poll::End => return Ok(Next::End),
                };
                frame.meta = FrameMeta {
                    index: recorded.index,
                    plane: recorded.plane,
                    channel: recorded.channel,
                    device_ns: recorded.device_ns.unwrap_or_else(|| device_ns(recorded.index)),
                    ..FrameMeta::default()
                };
                Ok(Next::Frame)
            }
            Playable::Values(values, next) => {
                let Some(column) = values.column(*next) else { return Ok(Next::End) };
                frame.values.clear();
                frame.values.extend_from_slice(column);
                let index = *next as u64;
                *next += 1;
                frame.meta = FrameMeta { index, device_ns: device_ns(index), ..FrameMeta::default() };
                Ok(Next::Frame)
            }
        }
    }
}

/// A header of pixels.
pub(super) fn stream_header(header: &RecordingHeader, rate_hz: f64, adapter: String) -> v1::StreamHeader {
    let pixel_type = match header.pixel_type {
        PixelType::U8 => v1::PixelType::Uint8,
        PixelType::U16 => v1::PixelType::Uint16,
        PixelType::I16 => v1::PixelType::Int16,
    };
    v1::StreamHeader {
        rig: String::new(),
        stream_id: "frames".to_owned(),
        planes: header.planes,
        channels: header.channels,
        height_px: header.geometry.height_px as u32,
        width_px: header.geometry.width_px as u32,
        pixel_type: pixel_type as i32,
        frame_rate_hz: rate_hz,
        scan: None,
        detector_offset_counts: None,
        inverted: header.inverted,
        adapter,
        shared_memory: false,
    }
}

/// A raw binary's size from the `ops.npy` that suite2p puts beside it, where there is one and nothing else says it.
pub(super) fn beside(path: &Path, options: &OpenOptions) -> OpenOptions {
    let raw = matches!(path.extension().and_then(|e| e.to_str()), Some("bin" | "raw"));
    if !raw || options.geometry.is_some() {
        return options.clone();
    }
    let ops = path.with_file_name("ops.npy");
    let geometry = crate::sample::read_ops_geometry(&ops).ok();
    OpenOptions { geometry, ..options.clone() }
}

/// The rate that `--fps` asks for; `None` for `max`.
pub(super) fn parse_fps(text: &str) -> anyhow::Result<Option<f64>> {
    if text == "max" {
        return Ok(None);
    }
    let rate: f64 = text.parse().with_context(|| format!("--fps {text}: expected frames a second, or max"))?;
    anyhow::ensure!(rate > 0.0 && rate <= 1e5, "--fps {text}: expected above 0, to 100000, or max");
    Ok(Some(rate))
}
