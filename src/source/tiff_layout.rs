//! What the pages of a TIFF are: which frame, plane, channel and time each one holds.
//!
//! In: the texts that microscopes' programs leave in the Software and ImageDescription tags. Out: [`Layout`], which
//! places page after page. Understood: ScanImage (see [`tiff_scanimage`]), OME-XML as Bruker's PrairieView writes it
//! (also its names of companion files), ImageJ's hyperstack lines. Without any of these each page is a frame. Where a
//! page's own frame number contradicts the header, the page is believed.
//!
//! These texts are read line by line or attribute by attribute: a full XML or MATLAB parser would refuse files that
//! are readable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::tiff_scanimage::{
    self, OwnNumbers, Volume, is_scanimage, number_in_acquisition, number_of, page_number, page_time_ns, value_of,
};
use super::{OpenOptions, RecordedFrame};

/// Pages of an OME file that is still being written, at most.
const GROWING_PAGES_MAX: u64 = 1 << 20;

/// Where each page belongs.
#[derive(Debug)]
pub(super) struct Layout {
    pub channels: u32,
    pub frame_rate_hz: Option<f64>,
    pub description: String,
    /// Pages have ScanImage's own numbers and times in their descriptions.
    pub page_texts: bool,
    /// Planes; and with ScanImage flyback frames and repeated slices.
    volume: Volume,
    numbering: Numbering,
}

#[derive(Debug)]
enum Numbering {
    /// By position: channel fastest, then plane, then time.
    Position,
    /// By the page's own frame number.
    Own(OwnNumbers),
    /// By the OME header: page by page.
    Listed(Vec<Option<RecordedFrame>>),
}

/// The texts of a file that [`Layout::read`] looks at.
pub(super) struct Texts<'a> {
    pub software: &'a str,
    /// Descriptions of the first pages.
    pub descriptions: &'a [String],
    /// Pages of the file; `None` while it grows.
    pub page_count: Option<usize>,
    pub path: &'a Path,
}

impl Layout {
    /// Reads the layout from the file's texts, and what of them could not be used.
    pub fn read(texts: &Texts<'_>, options: &OpenOptions, warnings: &mut Vec<String>) -> Self {
        let first = texts.descriptions.first().map_or("", String::as_str);
        let mut layout = if is_scanimage(texts.software) || is_scanimage(first) {
            let read = tiff_scanimage::read(texts, warnings);
            Layout {
                channels: read.channels,
                frame_rate_hz: read.frame_rate_hz,
                description: read.description,
                page_texts: true,
                volume: read.volume,
                numbering: read.numbers.map_or(Numbering::Position, Numbering::Own),
            }
        } else if first.contains("<OME") {
            ome(texts, first, warnings)
        } else if first.starts_with("ImageJ=") {
            imagej(first, warnings)
        } else {
            let program = texts.software.lines().next().unwrap_or("").trim();
            let description = if program.is_empty() { "TIFF".to_string() } else { format!("TIFF, {program}") };
            Layout::by_position(1, 1, None, description)
        };
        let (channels, planes) =
            (options.channels.unwrap_or(layout.channels), options.planes.unwrap_or(layout.planes()));
        if (channels, planes) != (layout.channels, layout.planes()) && channels > 0 && planes > 0 {
            if (layout.channels, layout.planes()) != (1, 1) {
                warnings.push(format!(
                    "the file says {} channels x {} planes; {channels} x {planes} were asked for and are used",
                    layout.channels,
                    layout.planes()
                ));
            }
            (layout.channels, layout.volume) = (channels, Volume::of_planes(planes));
            layout.numbering = Numbering::Position;
        }
        layout.frame_rate_hz = options.frame_rate_hz.or(layout.frame_rate_hz).filter(|rate| rate.is_finite());
        layout
    }

    fn by_position(channels: u32, planes: u32, frame_rate_hz: Option<f64>, description: String) -> Self {
        Self {
            channels,
            frame_rate_hz,
            description,
            page_texts: false,
            volume: Volume::of_planes(planes),
            numbering: Numbering::Position,
        }
    }

    /// Imaging planes.
    pub fn planes(&self) -> u32 {
        self.volume.planes()
    }

    /// Points in time that `pages` pages make.
    pub fn frame_count(&self, pages: usize) -> usize {
        let channels = (self.channels as usize).max(1);
        let volumes = pages.div_ceil(channels.saturating_mul(self.volume.period() as usize).max(1));
        volumes.saturating_mul(self.volume.per_slice() as usize)
    }

    /// Places page number `page`; pages must come in order. `None` for a page that is no image: a flyback frame.
    pub fn locate(&mut self, page: usize, text: &str, warnings: &mut Vec<String>) -> Option<RecordedFrame> {
        let device_ns = if self.page_texts { page_time_ns(text) } else { None };
        match &mut self.numbering {
            Numbering::Position => self.by_its_position(page, device_ns),
            Numbering::Listed(listed) => match listed.get(page).copied().flatten() {
                Some(frame) => Some(frame),
                None => self.by_its_position(page, device_ns),
            },
            Numbering::Own(own) => match page_number(text) {
                Some(number) => own
                    .place(number, number_in_acquisition(text).unwrap_or(number), self.channels, page, warnings)
                    .map(|(index, plane, channel)| RecordedFrame { index, plane, channel, device_ns }),
                None => {
                    warnings.push(format!("page {page} has no frame number: from here frames are counted by position"));
                    self.numbering = Numbering::Position;
                    self.by_its_position(page, device_ns)
                }
            },
        }
    }

    fn by_its_position(&self, page: usize, device_ns: Option<u64>) -> Option<RecordedFrame> {
        let (page, channels) = (page as u64, u64::from(self.channels));
        let (index, plane) = self.volume.place(page / channels)?;
        Some(RecordedFrame { index, plane, channel: (page % channels) as u32, device_ns })
    }
}

pub(super) fn seconds_to_ns(seconds: f64) -> Option<u64> {
    let ns = (seconds * 1e9).round();
    (ns >= 0.0 && ns < u64::MAX as f64).then_some(ns as u64)
}

/// Pages whose descriptions are needed to see how pages follow one another.
pub(super) fn probe_pages(software: &str, first_description: &str) -> usize {
    match [software, first_description].into_iter().find(|text| is_scanimage(text)) {
        Some(header) => tiff_scanimage::probe_pages(header),
        None => 1,
    }
}

// ---- ImageJ ----------------------------------------------------------------------------------------------------

/// Pages that an ImageJ file says it holds; more than its directories where it is written as one block.
pub(super) fn imagej_images(description: &str) -> Option<usize> {
    if description.starts_with("ImageJ=") { value_of(description, "images")?.parse().ok() } else { None }
}

fn imagej(description: &str, warnings: &mut Vec<String>) -> Layout {
    let count = |key| value_of(description, key).and_then(|v| v.parse::<u32>().ok()).unwrap_or(1).max(1);
    let (channels, mut planes, frames) = (count("channels"), count("slices"), count("frames"));
    if planes > 1 && frames == 1 {
        warnings.push(format!("ImageJ calls the {planes} pages slices and knows no frames: they are read as frames"));
        planes = 1;
    }
    let rate = number_of(description, "fps").or_else(|| number_of(description, "finterval").map(|s| 1.0 / s));
    Layout::by_position(channels, planes, rate.filter(|r| *r > 0.0), "TIFF, ImageJ".to_string())
}

// ---- OME-XML ---------------------------------------------------------------------------------------------------

/// Attribute texts and inner texts of every `<name ...>`.
fn elements<'a>(xml: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    xml.match_indices('<').filter_map(move |(at, _)| {
        let rest = xml.get(at + 1..)?.strip_prefix(name)?;
        if !rest.starts_with([' ', '\n', '\r', '\t', '>', '/']) {
            return None;
        }
        let (attributes, after) = rest.split_once('>')?;
        let inner = if attributes.ends_with('/') { "" } else { after.split("</").next().unwrap_or("") };
        // Inner text that itself holds one element, such as <UUID ..>..</UUID>, is kept with its start tag.
        Some((attributes, inner))
    })
}

fn attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    attributes.match_indices(name).find_map(|(at, _)| {
        let before = attributes.get(..at)?.chars().next_back();
        let rest = attributes.get(at + name.len()..)?.strip_prefix("=\"")?;
        if before.is_none_or(char::is_whitespace) { rest.split('"').next() } else { None }
    })
}

fn count_attribute(attributes: &str, name: &str) -> Option<u64> {
    attribute(attributes, name)?.parse().ok()
}

fn ome(texts: &Texts<'_>, xml: &str, warnings: &mut Vec<String>) -> Layout {
    let program = texts.software.lines().next().unwrap_or("").trim();
    let description = if program.is_empty() { "OME-TIFF".to_string() } else { format!("OME-TIFF, {program}") };
    let Some((pixels, _)) = elements(xml, "Pixels").next() else {
        warnings.push("the OME header has no Pixels element: each page is read as a frame".to_string());
        return Layout::by_position(1, 1, None, description);
    };
    if elements(xml, "Pixels").count() > 1 {
        warnings.push("the OME header describes several images: the first is read".to_string());
    }
    let size = |name| count_attribute(pixels, name).unwrap_or(1).max(1);
    let sizes = [size("SizeC"), size("SizeZ"), size("SizeT")];
    let (pages, companions) = own_pages(texts, xml, attribute(pixels, "DimensionOrder").unwrap_or("XYCZT"), sizes);
    let dir = texts.path.parent().unwrap_or(Path::new(""));
    let (beside, missing): (Vec<&str>, Vec<&str>) = companions
        .into_iter()
        .partition(|name| Path::new(name).file_name().is_some_and(|name| dir.join(name).is_file()));
    if let Some(first) = missing.first() {
        warnings.push(format!("{} companion file(s) named in the OME header are missing: {first}", missing.len()));
    }
    if let Some(first) = beside.first() {
        warnings.push(format!("{} companion file(s) are not read with this one, such as {first}", beside.len()));
    }
    if let Some(pages) = texts.page_count
        && sizes.iter().fold(1u64, |n, s| n.saturating_mul(*s)) > pages as u64
    {
        let [c, z, t] = sizes;
        warnings
            .push(format!("the OME header describes {c} channels x {z} planes x {t} times; {pages} page(s) are here"));
    }
    let times = delta_times_ns(xml);
    listed_layout(&pages, &times, description)
}

/// Channel, plane and time of each page of this file, as far as the header says; and the names of other files.
fn own_pages<'a>(
    texts: &Texts<'_>,
    xml: &'a str,
    order: &str,
    sizes: [u64; 3],
) -> (Vec<Option<[u64; 3]>>, BTreeSet<&'a str>) {
    let own_uuid = elements(xml, "OME").next().and_then(|(attributes, _)| attribute(attributes, "UUID"));
    let own_name = texts.path.file_name().and_then(|name| name.to_str());
    let described = sizes.iter().fold(1u64, |n, s| n.saturating_mul(*s)).min(GROWING_PAGES_MAX);
    let mut pages = vec![None; texts.page_count.unwrap_or(described as usize)];
    let mut companions = BTreeSet::new();
    let mut listed = false;
    for (attributes, inner) in elements(xml, "TiffData") {
        let uuid = elements(inner, "UUID").next();
        let name = uuid.and_then(|(attributes, _)| attribute(attributes, "FileName"));
        let id = inner.rsplit('>').next().unwrap_or("").trim();
        let is_own = uuid.is_none() || (own_uuid.is_some() && own_uuid == Some(id)) || name == own_name;
        if !is_own {
            companions.extend(name);
            continue;
        }
        listed = true;
        let ifd = count_attribute(attributes, "IFD");
        let first = ["FirstC", "FirstZ", "FirstT"].map(|name| count_attribute(attributes, name).unwrap_or(0));
        let count = count_attribute(attributes, "PlaneCount").unwrap_or(if ifd.is_some() { 1 } else { u64::MAX });
        fill(&mut pages, ifd.unwrap_or(0), count, first, order, sizes);
    }
    if !listed {
        fill(&mut pages, 0, u64::MAX, [0; 3], order, sizes);
    }
    (pages, companions)
}

/// Places `count` pages from page `ifd` on, beginning at `at` (C, Z, T), the first axis of `order` fastest.
fn fill(pages: &mut [Option<[u64; 3]>], ifd: u64, count: u64, mut at: [u64; 3], order: &str, sizes: [u64; 3]) {
    let axes: Vec<usize> = order.chars().filter_map(|c| ['C', 'Z', 'T'].iter().position(|&axis| axis == c)).collect();
    let skip = usize::try_from(ifd).unwrap_or(usize::MAX);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    for page in pages.iter_mut().skip(skip).take(count) {
        *page = Some(at);
        for &axis in &axes {
            at[axis] = at[axis].saturating_add(1);
            if at[axis] < sizes[axis] || axes.last() == Some(&axis) {
                break;
            }
            at[axis] = 0;
        }
    }
}

fn delta_times_ns(xml: &str) -> BTreeMap<[u64; 3], u64> {
    elements(xml, "Plane")
        .filter_map(|(attributes, _)| {
            let key = ["TheC", "TheZ", "TheT"].map(|name| count_attribute(attributes, name).unwrap_or(0));
            let delta: f64 = attribute(attributes, "DeltaT")?.parse().ok()?;
            let unit_s = if attribute(attributes, "DeltaTUnit") == Some("ms") { 1e-3 } else { 1.0 };
            Some((key, seconds_to_ns(delta * unit_s)?))
        })
        .collect()
}

fn listed_layout(pages: &[Option<[u64; 3]>], times: &BTreeMap<[u64; 3], u64>, description: String) -> Layout {
    let distinct = |axis: usize| -> Vec<u64> {
        pages.iter().flatten().map(|at| at[axis]).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let (channels, planes, first_time) = (distinct(0), distinct(1), distinct(2).first().copied().unwrap_or(0));
    let rank = |values: &[u64], value: u64| values.binary_search(&value).unwrap_or(0) as u32;
    let listed: Vec<Option<RecordedFrame>> = pages
        .iter()
        .map(|page| {
            page.map(|at| RecordedFrame {
                index: at[2] - first_time,
                plane: rank(&planes, at[1]),
                channel: rank(&channels, at[0]),
                device_ns: times.get(&at).copied(),
            })
        })
        .collect();
    let stamped = |frame: &&RecordedFrame| frame.plane == 0 && frame.channel == 0 && frame.device_ns.is_some();
    let first = listed.iter().flatten().find(stamped);
    let last = listed.iter().flatten().rfind(stamped);
    let frame_rate_hz = first.zip(last).and_then(|(a, b)| {
        let (frames, ns) = (b.index.checked_sub(a.index)?, b.device_ns?.checked_sub(a.device_ns?)?);
        (frames > 0 && ns > 0).then(|| frames as f64 * 1e9 / ns as f64)
    });
    Layout {
        channels: channels.len().max(1) as u32,
        frame_rate_hz,
        description,
        page_texts: false,
        volume: Volume::of_planes(planes.len().max(1) as u32),
        numbering: Numbering::Listed(listed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(software: &str, descriptions: &[&str], page_count: usize) -> (Layout, Vec<String>) {
        let descriptions: Vec<String> = descriptions.iter().map(|s| s.to_string()).collect();
        let texts = Texts {
            software,
            descriptions: &descriptions,
            page_count: Some(page_count),
            path: Path::new("/nowhere/own.tif"),
        };
        let mut warnings = Vec::new();
        (Layout::read(&texts, &OpenOptions::default(), &mut warnings), warnings)
    }

    fn page(number: u64, seconds: &str) -> String {
        format!("frameNumbers = {number}\nframeTimestamps_sec = {seconds}\n")
    }

    #[test]
    fn scanimage_pages_are_believed_against_the_header() {
        let texts = [page(7, "0.5"), page(7, "0.5"), page(9, "0.6"), page(9, "0.6")];
        let descriptions: Vec<&str> = texts.iter().map(String::as_str).collect();
        let software = "SI.hChannels.channelSave = 1\nSI.hRoiManager.scanFrameRate = 29.98\n";
        let (mut layout, mut warnings) = read(software, &descriptions, 4);
        assert_eq!((layout.channels, layout.planes(), layout.frame_rate_hz), (2, 1, Some(29.98)));
        assert!(warnings[0].contains("channelSave") && warnings[0].contains("2 channels are read"), "{warnings:?}");
        let placed: Vec<_> = texts.iter().enumerate().filter_map(|(i, t)| layout.locate(i, t, &mut warnings)).collect();
        assert_eq!(placed.iter().map(|f| (f.index, f.channel)).collect::<Vec<_>>(), [(0, 0), (0, 1), (2, 0), (2, 1)]);
        assert_eq!(placed[2].device_ns, Some(600_000_000));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn a_lost_page_is_a_warning_and_later_frames_stay_in_place() {
        let (mut layout, mut warnings) = read("SI.hChannels.channelSave = [1;2]", &[&page(1, "0"), &page(1, "0")], 9);
        let numbers = [1, 1, 2, 3, 3];
        let placed: Vec<_> = numbers
            .iter()
            .enumerate()
            .map(|(i, n)| layout.locate(i, &page(*n, "0"), &mut warnings).unwrap().index)
            .collect();
        assert_eq!(placed, [0, 0, 1, 2, 2]);
        assert!(warnings[0].contains("frame 2 has 1 pages, expected 2"), "{warnings:?}");
    }

    #[test]
    fn ome_names_companions_and_places_pages() {
        let xml = r#"<OME UUID="urn:uuid:a"><Image><Pixels DimensionOrder="XYCZT" SizeC="2" SizeZ="1" SizeT="2">
            <TiffData FirstC="1" FirstT="0" FirstZ="0" PlaneCount="1" IFD="0">
              <UUID FileName="x.tif">urn:uuid:a</UUID></TiffData>
            <TiffData FirstC="1" FirstT="1" FirstZ="0" PlaneCount="1" IFD="1">
              <UUID FileName="x.tif">urn:uuid:a</UUID></TiffData>
            <TiffData FirstC="0" FirstT="0" IFD="0"><UUID FileName="other.tif">urn:uuid:b</UUID></TiffData>
            <Plane DeltaT="0" TheC="1" TheT="0" TheZ="0" /><Plane DeltaT="0.05" TheC="1" TheT="1" TheZ="0" />
            </Pixels></Image></OME>"#;
        let (mut layout, mut warnings) = read("Prairie View 5.4", &[xml], 2);
        assert_eq!((layout.channels, layout.planes(), layout.frame_rate_hz), (1, 1, Some(20.0)));
        assert!(warnings.iter().any(|w| w.contains("missing: other.tif")), "{warnings:?}");
        let placed = layout.locate(1, "", &mut warnings).unwrap();
        assert_eq!(placed, RecordedFrame { index: 1, plane: 0, channel: 0, device_ns: Some(50_000_000) });
    }

    #[test]
    fn damaged_texts_never_panic() {
        let scanimage = format!("SI.hChannels.channelSave = [1;2]\nSI.hFastZ.enable = true\n{}", page(18, "1.25"));
        let ome = r#"<OME UUID="a"><Pixels DimensionOrder="XYCZT" SizeC="2" SizeT="2"><TiffData FirstC="1" IFD="0">
            <UUID FileName="x">a</UUID></TiffData><Plane DeltaT="0.05" TheC="1"/></Pixels></OME>"#;
        let imagej = "ImageJ=1.5\nimages=4\nchannels=2\nslices=2\n";
        for text in [scanimage.as_str(), ome, imagej] {
            for at in (0..text.len()).filter(|&at| text.is_char_boundary(at)) {
                for instead in
                    ["", "<", ">", "\"", "\n", "=", "-", "99999999999999999999", "18446744073709551615", "\u{b5}"]
                {
                    let damaged = format!("{}{instead}{}", &text[..at], &text[at + 1..]);
                    let (mut layout, mut warnings) = read("", &[&damaged, text], 3);
                    for (page, text) in [text, &damaged, text].into_iter().enumerate() {
                        layout.locate(page, text, &mut warnings);
                    }
                }
            }
        }
    }

    #[test]
    fn imagej_slices_without_frames_are_frames() {
        let (layout, warnings) = read("", &["ImageJ=1.53\nimages=500\nslices=500\nfinterval=0.1\n"], 500);
        assert_eq!((layout.channels, layout.planes(), layout.frame_rate_hz), (1, 1, Some(10.0)));
        assert_eq!(warnings.len(), 1);
        let (mut layout, mut none) = read("", &["ImageJ=1.53\nimages=12\nchannels=2\nslices=3\nframes=2\n"], 12);
        let at = layout.locate(9, "", &mut none).unwrap();
        assert_eq!((at.index, at.plane, at.channel), (1, 1, 1));
    }
}
