//! What ScanImage writes into its TIFFs: the `SI.*` header, and each page's own frame number and time.
//!
//! In: texts. Out: channels, planes, rate, and [`Numbering`] that places page after page. On the disk channels are
//! fastest, then the frames of a slice (`framesPerSlice`), then the slices of a volume, then its flyback frames, which
//! ScanImage saves although it does not show them; these pages are left out. The header's numbers of slices stay from
//! earlier acquisitions, so they count only where a stack is enabled, and `numSlices` only where `actualNumSlices` is
//! absent. Where pages contradict the header (channels, flyback frames that are not there), they are believed.

use super::tiff_layout::{Texts, seconds_to_ns};

/// Frames of a volume at most: more is damage.
const VOLUME_FRAMES_MAX: u64 = 10_000;
/// Pages that are read at most to learn the layout.
const PROBE_PAGES_MAX: usize = 1_024;
/// Pages that are read where nothing is known: ScanImage has 4 channels at most.
const PROBE_PAGES: usize = 9;
/// A pause of so many frame periods between two saved frames is where frames were not saved.
const PAUSE_PERIODS: f64 = 1.5;

/// A volume as it lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Volume {
    /// Frames of a slice that follow one another.
    per_slice: u64,
    /// Frames of all slices.
    frames: u64,
    /// Frames from one volume's first to the next one's.
    period: u64,
}

/// Places pages by their own frame numbers.
#[derive(Debug)]
pub(super) struct OwnNumbers {
    volume: Volume,
    /// The last page; `None` before the first.
    last: Option<Last>,
    warned: bool,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    number: u64,
    channel: u32,
    /// The number counted on from the recording's first frame, whatever the pages' numbers do; whole volumes before the
    /// first are left out.
    counted: u64,
}

impl OwnNumbers {
    /// Pages with the same number are the channels of one frame; a larger number is a later frame, and the numbers
    /// between are missing frames. `None` for a flyback frame.
    ///
    /// `in_acquisition` is the number within the acquisition, which tells where in a volume a recording begins.
    pub fn place(
        &mut self,
        number: u64,
        in_acquisition: u64,
        channels: u32,
        page: usize,
        warnings: &mut Vec<String>,
    ) -> Option<(u64, u32, u32)> {
        let period = self.volume.period;
        let (counted, channel) = match self.last {
            // Numbers begin at 1; a recording may begin within a volume.
            None => (in_acquisition.saturating_sub(1) % period, 0),
            Some(last) if number == last.number => (last.counted, last.channel.saturating_add(1)),
            Some(last) => {
                if last.channel.saturating_add(1) != channels {
                    let (of, number) = (last.channel.saturating_add(1), last.number);
                    self.warn(warnings, format!("frame {number} has {of} pages, expected {channels}"));
                }
                let counted = match number.checked_sub(last.number) {
                    Some(more) => last.counted.saturating_add(more),
                    None => {
                        let before = last.number;
                        self.warn(warnings, format!("page {page}: frame number {number} follows {before}; counted on"));
                        // A new count begins with a new volume.
                        let volumes = (last.counted / period).saturating_add(1);
                        volumes.saturating_mul(period).saturating_add(in_acquisition.saturating_sub(1) % period)
                    }
                };
                (counted, 0)
            }
        };
        self.last = Some(Last { number, channel, counted });
        self.volume.place(counted).map(|(index, plane)| (index, plane, channel))
    }

    /// The first contradiction is enough: a damaged file would bring thousands.
    fn warn(&mut self, warnings: &mut Vec<String>, text: String) {
        if !self.warned {
            warnings.push(text + " (further contradictions are not listed)");
            self.warned = true;
        }
    }
}

impl Volume {
    /// One plane.
    pub const SINGLE: Volume = Volume::of_planes(1);

    /// Planes that follow one another, and nothing between the last and the first.
    pub const fn of_planes(planes: u32) -> Self {
        Self { per_slice: 1, frames: planes as u64, period: planes as u64 }
    }

    /// Index and plane of a frame, counted from a volume's first; `None` for a flyback frame.
    pub fn place(self, counted: u64) -> Option<(u64, u32)> {
        let (volume, within) = (counted / self.period, counted % self.period);
        let index = volume.saturating_mul(self.per_slice).saturating_add(within % self.per_slice);
        (within < self.frames).then(|| (index, (within / self.per_slice) as u32))
    }

    pub fn planes(self) -> u32 {
        (self.frames / self.per_slice) as u32
    }

    /// Pages of one channel from one volume to the next.
    pub fn period(self) -> u64 {
        self.period
    }

    pub fn per_slice(self) -> u64 {
        self.per_slice
    }
}

/// What the header and the first pages of a file say.
#[derive(Debug)]
pub(super) struct ScanImage {
    pub channels: u32,
    pub volume: Volume,
    pub frame_rate_hz: Option<f64>,
    pub description: String,
    /// `None` where pages have no frame numbers.
    pub numbers: Option<OwnNumbers>,
}

pub(super) fn is_scanimage(text: &str) -> bool {
    text.lines().any(|line| {
        line.starts_with("SI.")
            || line.starts_with("scanimage.SI")
            || line.starts_with("frameNumbers =")
            || line.starts_with("Frame Number =")
    })
}

/// The value of `key = value`; older versions write `scanimage.` before the key.
pub(super) fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("scanimage.").unwrap_or(line);
        line.strip_prefix(key)?.trim_start().strip_prefix('=').map(str::trim)
    })
}

pub(super) fn number_of(text: &str, key: &str) -> Option<f64> {
    value_of(text, key)?.parse().ok()
}

pub(super) fn page_number(text: &str) -> Option<u64> {
    value_of(text, "frameNumbers").or_else(|| value_of(text, "Frame Number"))?.parse().ok()
}

pub(super) fn number_in_acquisition(text: &str) -> Option<u64> {
    value_of(text, "frameNumberAcquisition").or_else(|| value_of(text, "Frame Number Acquisition"))?.parse().ok()
}

pub(super) fn page_time_ns(text: &str) -> Option<u64> {
    let seconds = number_of(text, "frameTimestamps_sec").or_else(|| number_of(text, "Frame Timestamp(s)"))?;
    seconds_to_ns(seconds)
}

/// Pages that tell the layout: a volume and a frame more, so that its end is seen.
pub(super) fn probe_pages(header: &str) -> usize {
    let volume = header_volume(header).map_or(1, |volume| volume.period);
    let channels = u64::from(saved_channels(header).unwrap_or(1));
    let pages = volume.saturating_add(1).saturating_mul(channels);
    usize::try_from(pages).unwrap_or(PROBE_PAGES_MAX).clamp(PROBE_PAGES, PROBE_PAGES_MAX)
}

fn saved_channels(header: &str) -> Option<u32> {
    value_of(header, "SI.hChannels.channelSave")
        .map(|list| list.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).count() as u32)
        .filter(|&n| n > 0)
}

/// The volume that the header states, if a stack was enabled.
fn header_volume(header: &str) -> Option<Volume> {
    let enabled = |key| value_of(header, key).is_some_and(|v| v == "true" || v == "1");
    let count = |key: &str| {
        let value = number_of(header, key).filter(|v| (0.0..=VOLUME_FRAMES_MAX as f64).contains(v))?;
        Some(value as u64)
    };
    if !enabled("SI.hStackManager.enable") && !enabled("SI.hFastZ.enable") {
        return None;
    }
    let flyback = count("SI.hFastZ.numDiscardFlybackFrames").unwrap_or(0);
    // Up to 2019 this number stands under hFastZ and includes the flyback frames.
    let old_period = count("SI.hFastZ.numFramesPerVolume").filter(|&n| n > 0);
    let slices = count("SI.hStackManager.actualNumSlices").or_else(|| count("SI.hStackManager.numSlices"));
    let frames = count("SI.hStackManager.numFramesPerVolume")
        .or_else(|| old_period.map(|period| period.saturating_sub(flyback)))
        .or(slices)
        .filter(|&n| n > 0)?;
    let period = count("SI.hStackManager.numFramesPerVolumeWithFlyback").or(old_period);
    let period = period.unwrap_or(frames + flyback).max(frames);
    let per_slice = count("SI.hStackManager.framesPerSlice").filter(|&n| n > 1).unwrap_or(1);
    // A number of frames a slice that does not fit is left over from another acquisition.
    let fits = frames.is_multiple_of(per_slice) && slices.is_none_or(|slices| slices * per_slice == frames);
    Some(Volume { per_slice: if fits { per_slice } else { 1 }, frames, period })
}

/// Reads what the texts say, and what of it could not be used.
pub(super) fn read(texts: &Texts<'_>, warnings: &mut Vec<String>) -> ScanImage {
    let first = texts.descriptions.first().map_or("", String::as_str);
    let header = if is_scanimage(texts.software) { texts.software } else { first };
    let numbers: Vec<u64> = texts.descriptions.iter().map_while(|text| page_number(text)).collect();
    let channels = channels(header, &numbers, texts.page_count, warnings);
    let mut volume = header_volume(header).unwrap_or(Volume::SINGLE);
    if volume.period > volume.frames {
        let flyback = volume.period - volume.frames;
        if flyback_is_absent(volume, texts.descriptions) {
            warnings.push(format!(
                "the header says {flyback} flyback frame(s) after each volume of {}, but the pages' times pause there: \
                 they are not in the file",
                volume.frames
            ));
            volume.period = volume.frames;
        } else {
            warnings.push(format!(
                "{flyback} flyback frame(s) after each volume of {} frames are left out where they are in the file",
                volume.frames
            ));
        }
    }
    if value_of(header, "SI.hRoiManager.mroiEnable").is_some_and(|v| v == "true" || v == "1") {
        warnings.push("several scan fields (mROI) share a page: each page is read as one image".to_string());
    }
    let frame_rate = number_of(header, "SI.hRoiManager.scanFrameRate");
    let volume_rate = number_of(header, "SI.hRoiManager.scanVolumeRate");
    let rate = if volume == Volume::SINGLE {
        frame_rate
    } else {
        let by_frames = frame_rate.map(|rate| rate / volume.period as f64);
        volume_rate.or(by_frames).map(|rate| rate * volume.per_slice as f64)
    };
    let version = value_of(header, "SI.VERSION_MAJOR").unwrap_or("of unknown version").trim_matches('\'');
    if numbers.is_empty() {
        warnings.push("pages have no frame numbers: frames are counted by position".to_string());
    }
    ScanImage {
        channels,
        volume,
        frame_rate_hz: rate.filter(|rate| *rate > 0.0),
        description: format!("TIFF, ScanImage {version}"),
        numbers: (!numbers.is_empty()).then_some(OwnNumbers { volume, last: None, warned: false }),
    }
}

fn channels(header: &str, numbers: &[u64], page_count: Option<usize>, warnings: &mut Vec<String>) -> u32 {
    let said = saved_channels(header);
    // The first number that changes ends the first frame; without a change the file is too short to tell.
    let run = numbers.iter().take_while(|&n| Some(n) == numbers.first()).count();
    let seen = (run > 0 && (run < numbers.len() || Some(numbers.len()) == page_count)).then_some(run as u32);
    match (said, seen) {
        (Some(said), Some(seen)) if said != seen => {
            warnings.push(format!(
                "the header says {said} channel(s) saved (SI.hChannels.channelSave), but {seen} pages carry the same \
                 frame number: {seen} channels are read"
            ));
            seen
        }
        (said, seen) => seen.or(said).unwrap_or(1),
    }
}

/// Numbers that run on while the times pause once a volume: the flyback frames were neither saved nor counted.
fn flyback_is_absent(volume: Volume, descriptions: &[String]) -> bool {
    let mut frames: Vec<(u64, u64)> =
        descriptions.iter().map_while(|text| Some((page_number(text)?, page_time_ns(text)?))).collect();
    frames.dedup_by_key(|frame| frame.0);
    let steps: Vec<(u64, u64)> = frames
        .windows(2)
        .filter_map(|pair| Some((pair[1].0.checked_sub(pair[0].0)?, pair[1].1.checked_sub(pair[0].1)?)))
        .collect();
    let mut sorted: Vec<u64> = steps.iter().map(|step| step.1).collect();
    sorted.sort_unstable();
    let Some(&median) = sorted.get(sorted.len() / 2) else { return false };
    frames.len() as u64 > volume.frames
        && steps.iter().all(|step| step.0 == 1)
        && steps.iter().any(|step| step.1 as f64 > PAUSE_PERIODS * median as f64)
}
