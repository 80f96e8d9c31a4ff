//! ImageJ's regions: one `.roi` file, and the `.zip` of them that the ROI Manager saves.
//!
//! In: the bytes, and the size of the frames, which the files do not hold. Out: what each file says ([`ImageJRoi`]),
//! and of those that enclose an area the pixels whose centre lies inside, weight 1. ImageJ counts from the corner of
//! the first pixel: its centre is (0.5, 0.5). Polygons, freehand and traced outlines, rectangles (rounded and rotated
//! too), ovals, ellipses and composites have an area. Lines, angles, points, texts and pictures have none and are no
//! cells: [`super::read_roi_file`] lists them, [`super::read_rois`] refuses the file and names them. A spline is taken
//! through its corners with straight sides.
//!
//! The name is the region's own, or that of its file. Its Z position, where it has one, becomes the plane (Z 1 is plane
//! 0). A region that only has a place in a plain stack was drawn on some frame of a movie: its plane is 0.
//!
//! The layout, read from ImageJ's public description and compared with recorded files: big-endian; `Iout`, version u16,
//! type u8, a spare byte, top, left, bottom, right i16, points u16, four f32 (ends of a line, or a rectangle with
//! fractions), stroke u16, floats of a composite i32, two colours, subtype u16 at 48, options u16 at 50, ratio f32 at
//! 52, arc u16 at 54, position i32 at 56, second header i32 at 60; from 64 all x, then all y, as i16 relative to left
//! and top, then the same as f32 where option 128 is set.

mod archive;
mod area;

pub(super) use archive::{MAGIC as ZIP_MAGIC, members};

use super::{NoCell, RoiFile, RoiFileError, agreed_geometry};
use crate::frame::Geometry;
use crate::sample::rois::{RawRoi, RoiSet};
use std::path::Path;

/// The first bytes of every `.roi` file.
pub(super) const MAGIC: &[u8] = b"Iout";

/// Where the points begin.
const POINTS: usize = 64;

/// Why a region of ImageJ could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageJError {
    /// It does not begin as they do.
    #[error("begins with `{found}`, expected `Iout`")]
    Magic {
        /// Its first bytes.
        found: String,
    },
    /// It ends before what its header announces.
    #[error("cut short: {got} bytes, expected at least {expected}")]
    CutShort {
        /// Bytes there are.
        got: usize,
        /// Bytes that are needed.
        expected: usize,
    },
    /// A type that ImageJ does not have.
    #[error("region of type {kind}, expected 0 to 10 (6 is none)")]
    Kind {
        /// The type.
        kind: u8,
    },
    /// A coordinate that is no number.
    #[error("{what} is {value}, expected a finite number")]
    NotFinite {
        /// Which coordinate.
        what: &'static str,
        /// Its value.
        value: String,
    },
    /// The drawing of a composite that makes no sense.
    #[error("composite: {value} at value {at} of its drawing, expected a step of kind 0 to 4")]
    Step {
        /// The value.
        value: String,
        /// Where.
        at: usize,
    },
}

/// What one `.roi` file says. Coordinates are `[x, y]` in pixels from the top left corner of the image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageJRoi {
    /// The region's own name, empty where it has none.
    pub name: String,
    /// Top, left, bottom and right of its box, whole pixels; bottom and right are the first outside.
    pub bounds: [i32; 4],
    /// What was drawn.
    pub shape: ImageJShape,
    /// Width of its line as drawn, in pixels; 0 for the default. It adds no area.
    pub stroke_px: u16,
    /// Place in a plain stack, from 1; 0 for none.
    pub position: u32,
    /// Channel in a hyperstack, from 1; 0 for none.
    pub channel: u32,
    /// Slice (Z) in a hyperstack, from 1; 0 for none.
    pub slice: u32,
    /// Frame (T) in a hyperstack, from 1; 0 for none.
    pub frame: u32,
}

/// What was drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageJShape {
    /// A polygon, or an outline drawn by hand or traced: its corners.
    Polygon(Vec<[f64; 2]>),
    /// An upright rectangle.
    Rectangle {
        /// Left, top, width, height.
        rect: [f64; 4],
        /// Diameter of its rounded corners, 0 for none.
        arc_px: f64,
    },
    /// An upright oval.
    Oval {
        /// Left, top, width, height of its box.
        rect: [f64; 4],
    },
    /// An ellipse at any angle.
    Ellipse {
        /// The ends of its long axis.
        ends: [[f64; 2]; 2],
        /// Its short axis over its long one.
        aspect_ratio: f64,
    },
    /// A rectangle at any angle.
    RotatedRectangle {
        /// The ends of the line through its middle.
        ends: [[f64; 2]; 2],
        /// Its extent across that line.
        across_px: f64,
    },
    /// Several outlines, by the even-odd rule: one within another is a hole. Curves are cut into straight pieces.
    Composite(Vec<Vec<[f64; 2]>>),
    /// Points along a line of any kind, or single points: no area.
    Open {
        /// `straight line`, `freehand line`, `polyline`, `angle` or `points`.
        kind: &'static str,
        /// The points.
        points: Vec<[f64; 2]>,
    },
    /// A text, a picture, or nothing: no area of its own.
    Other {
        /// What it is.
        kind: &'static str,
    },
}

impl ImageJShape {
    /// What it is, where it encloses no area and so is no cell.
    pub fn no_area(&self) -> Option<&'static str> {
        match self {
            ImageJShape::Open { kind, .. } | ImageJShape::Other { kind } => Some(kind),
            _ => None,
        }
    }
}

impl ImageJRoi {
    /// The plane that its Z position means, from 0.
    pub fn plane(&self) -> u32 {
        self.slice.saturating_sub(1)
    }

    /// Reads one `.roi` file.
    ///
    /// # Errors
    /// It is none, it is cut short, or it holds values that no region has.
    pub fn parse(bytes: &[u8]) -> Result<ImageJRoi, ImageJError> {
        let file = Bytes(bytes);
        if !bytes.starts_with(MAGIC) {
            return Err(ImageJError::Magic { found: super::text_excerpt(&bytes[..bytes.len().min(8)]) });
        }
        file.need(POINTS)?;
        let second = usize::try_from(file.i32(60)?).unwrap_or(0);
        let (mut name, mut place) = (String::new(), [0; 3]);
        if second > 0 {
            for (k, place) in place.iter_mut().enumerate() {
                *place = u32::try_from(file.i32(second.saturating_add(4 + 4 * k))?).unwrap_or(0);
            }
            name = file.text(second)?;
        }
        let [channel, slice, frame] = place;
        let mut bounds = [0; 4];
        for (k, side) in bounds.iter_mut().enumerate() {
            *side = i32::from(file.i16(8 + 2 * k)?);
        }
        let position = u32::try_from(file.i32(56)?).unwrap_or(0);
        let (shape, stroke_px) = (file.shape(bounds)?, file.u16(34)?);
        Ok(ImageJRoi { name, bounds, shape, stroke_px, position, channel, slice, frame })
    }
}

/// The bytes of a file, read with a check.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn need(&self, expected: usize) -> Result<(), ImageJError> {
        let got = self.0.len();
        if got < expected { Err(ImageJError::CutShort { got, expected }) } else { Ok(()) }
    }

    fn take<const N: usize>(&self, at: usize) -> Result<[u8; N], ImageJError> {
        let end = at.saturating_add(N);
        let cut = ImageJError::CutShort { got: self.0.len(), expected: end };
        self.0.get(at..end).and_then(|bytes| bytes.try_into().ok()).ok_or(cut)
    }

    fn u16(&self, at: usize) -> Result<u16, ImageJError> {
        Ok(u16::from_be_bytes(self.take(at)?))
    }

    fn i16(&self, at: usize) -> Result<i16, ImageJError> {
        Ok(i16::from_be_bytes(self.take(at)?))
    }

    fn i32(&self, at: usize) -> Result<i32, ImageJError> {
        Ok(i32::from_be_bytes(self.take(at)?))
    }

    fn f32(&self, at: usize, what: &'static str) -> Result<f64, ImageJError> {
        let value = f32::from_be_bytes(self.take(at)?);
        if value.is_finite() {
            return Ok(value.into());
        }
        Err(ImageJError::NotFinite { what, value: value.to_string() })
    }

    /// The name that the second header points to.
    fn text(&self, second: usize) -> Result<String, ImageJError> {
        let place = |at: usize| self.i32(second.saturating_add(at)).map(|v| usize::try_from(v).unwrap_or(0));
        let (start, length) = (place(16)?, place(20)?);
        let end = start.saturating_add(length.saturating_mul(2));
        self.need(end)?;
        let units = self.0[start.min(end)..end].chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        Ok(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
    }

    fn ends(&self) -> Result<[[f64; 2]; 2], ImageJError> {
        let end = |at: usize| Ok([self.f32(at, "x of an end")?, self.f32(at + 4, "y of an end")?]);
        Ok([end(18)?, end(26)?])
    }

    fn shape(&self, bounds: [i32; 4]) -> Result<ImageJShape, ImageJError> {
        let [kind] = self.take(6)?;
        let (version, subtype, options) = (self.u16(4)?, self.u16(48)?, self.u16(50)?);
        let fractions = options & 128 != 0 && version >= 222;
        let drawing = usize::try_from(self.i32(36)?).unwrap_or(0);
        let open = |kind, points| Ok(ImageJShape::Open { kind, points });
        match (kind, subtype) {
            (1, 1) => Ok(ImageJShape::Other { kind: "text" }),
            (1, 4) => Ok(ImageJShape::Other { kind: "picture" }),
            (1, _) if drawing > 0 => Ok(ImageJShape::Composite(self.outlines(drawing)?)),
            (1, _) => {
                let arc_px = f64::from(self.u16(54)?);
                Ok(ImageJShape::Rectangle { rect: self.rect(bounds, fractions && version >= 223)?, arc_px })
            }
            (2, _) => Ok(ImageJShape::Oval { rect: self.rect(bounds, fractions && version >= 223)? }),
            (7, 3) => Ok(ImageJShape::Ellipse { ends: self.ends()?, aspect_ratio: self.f32(52, "aspect ratio")? }),
            (7, 5) => Ok(ImageJShape::RotatedRectangle { ends: self.ends()?, across_px: self.f32(52, "width")? }),
            (0 | 7 | 8, _) => Ok(ImageJShape::Polygon(self.points(bounds, fractions)?)),
            (3, _) => open("straight line", self.ends()?.to_vec()),
            (4, _) => open("freehand line", self.points(bounds, fractions)?),
            (5, _) => open("polyline", self.points(bounds, fractions)?),
            (9, _) => open("angle", self.points(bounds, fractions)?),
            (10, _) => open("points", self.points(bounds, fractions)?),
            (6, _) => Ok(ImageJShape::Other { kind: "empty region" }),
            _ => Err(ImageJError::Kind { kind }),
        }
    }

    fn rect(&self, [top, left, bottom, right]: [i32; 4], fractions: bool) -> Result<[f64; 4], ImageJError> {
        if !fractions {
            return Ok([left, top, right - left, bottom - top].map(f64::from));
        }
        Ok([self.f32(18, "left")?, self.f32(22, "top")?, self.f32(26, "width")?, self.f32(30, "height")?])
    }

    fn points(&self, [top, left, ..]: [i32; 4], fractions: bool) -> Result<Vec<[f64; 2]>, ImageJError> {
        let count = match self.u16(16)? {
            0 => usize::try_from(self.i32(18)?).unwrap_or(0),
            count => usize::from(count),
        };
        let bytes_each = if fractions { 12 } else { 4 };
        self.need(POINTS.saturating_add(count.saturating_mul(bytes_each)))?;
        let point = |k: usize| {
            if fractions {
                let start = POINTS + 4 * count;
                return Ok([
                    self.f32(start + 4 * k, "x of a point")?,
                    self.f32(start + 4 * (count + k), "y of a point")?,
                ]);
            }
            let (x, y) = (self.i16(POINTS + 2 * k)?, self.i16(POINTS + 2 * (count + k))?);
            Ok([f64::from(left + i32::from(x)), f64::from(top + i32::from(y))])
        };
        (0..count).map(point).collect()
    }

    /// The outlines of a composite: steps of a kind (0 move, 1 line, 2 and 3 curves with one and two handles, 4 close)
    /// and their points.
    fn outlines(&self, values: usize) -> Result<Vec<Vec<[f64; 2]>>, ImageJError> {
        self.need(POINTS.saturating_add(values.saturating_mul(4)))?;
        let value = |k: usize| {
            let cut = ImageJError::CutShort { got: values * 4, expected: k.saturating_add(1) * 4 };
            if k < values { self.f32(POINTS + 4 * k, "a value of a composite") } else { Err(cut) }
        };
        let mut outlines: Vec<Vec<[f64; 2]>> = Vec::new();
        let mut at = 0;
        while at < values {
            let step = value(at)?;
            let point = |k: usize| Ok([value(at + 1 + 2 * k)?, value(at + 2 + 2 * k)?]);
            let wrong = || ImageJError::Step { value: step.to_string(), at };
            let taken = match (step as i64, outlines.last_mut()) {
                _ if step.fract() != 0.0 => return Err(wrong()),
                (0, _) => {
                    outlines.push(vec![point(0)?]);
                    1
                }
                (1, Some(outline)) => {
                    outline.push(point(0)?);
                    1
                }
                (2, Some(outline)) => {
                    area::curve(outline, &[point(0)?, point(1)?]);
                    2
                }
                (3, Some(outline)) => {
                    area::curve(outline, &[point(0)?, point(1)?, point(2)?]);
                    3
                }
                (4, _) => 0,
                _ => return Err(wrong()),
            };
            at += 1 + 2 * taken;
        }
        Ok(outlines)
    }
}

/// One `.roi` file with the name that it goes by.
pub(super) struct Member {
    /// Name of the file, without its ending.
    pub stem: String,
    pub bytes: Vec<u8>,
}

/// Reads the regions of one file or archive that came from `path`.
pub(super) fn read(path: &Path, members: &[Member], geometry: Option<Geometry>) -> Result<RoiFile, RoiFileError> {
    let how = "ImageJ's regions do not hold it: give the frame's height and width";
    let geometry = agreed_geometry(path, None, geometry, how)?;
    let (mut raw, mut ids, mut no_cells) = (Vec::new(), Vec::new(), Vec::new());
    let mut budget = super::raster::Budget::new();
    for (entry, member) in members.iter().enumerate() {
        let wrong = |what: String| {
            let what = format!("`{}`: {what}", super::text_excerpt(member.stem.as_bytes()));
            RoiFileError::Entry { path: path.into(), entry, what }
        };
        let roi = ImageJRoi::parse(&member.bytes).map_err(|error| wrong(error.to_string()))?;
        let name = if roi.name.is_empty() { member.stem.clone() } else { roi.name.clone() };
        if let Some(kind) = roi.shape.no_area() {
            no_cells.push(NoCell { id: entry as u32, name, kind: kind.into() });
            continue;
        }
        let pixels = area::pixels(&roi.shape, geometry, &mut budget).map_err(wrong)?;
        raw.push(RawRoi { name: Some(name), plane: roi.plane(), pixels, radius_px: None });
        ids.push(entry as u32);
    }
    let mut set = RoiSet::from_raw(geometry, raw, None, path.display().to_string())
        .map_err(|error| RoiFileError::Rois { path: path.into(), error })?;
    // What is no cell keeps its place in the file, so that ids are those of the ROI Manager's list.
    for (roi, id) in set.rois.iter_mut().zip(ids) {
        roi.id = id;
    }
    Ok(RoiFile { set, accepted: None, no_cells })
}
