//! A set of ROIs drawn over an image, as a PNG or as a page of HTML.
//!
//! In: outlines to draw and the image, if there is one. Out: the bytes of a picture in which each ROI has the outline
//! of its pixels and its id at its centre. Colours only tell neighbours apart; what is no cell is grey.

use std::fmt::Write;

use maud::{DOCTYPE, PreEscaped, html};

use super::image;
use crate::frame::{Geometry, Image};

/// One ROI to draw.
#[derive(Debug, Clone)]
pub struct DrawnRoi {
    /// Number that is written beside it.
    pub id: u32,
    /// Name, or empty.
    pub name: String,
    /// Plane, from 0.
    pub plane: u32,
    /// Its pixels, `[row, column]`.
    pub pixels: Vec<[u32; 2]>,
    /// Its centre, `[row, column]`, in pixels; the centre of the first pixel is 0.
    pub centre_px: [f64; 2],
    /// Drawn in grey: whoever made the file took it for no cell.
    pub faint: bool,
}

/// ROIs over an image.
#[derive(Debug, Clone)]
pub struct RoiPicture {
    /// Heading of the page.
    pub title: String,
    /// Size of the frame.
    pub geometry: Geometry,
    /// The image; black where there is none, or one of another size.
    pub image: Option<Image>,
    /// The ROIs, drawn in this order.
    pub rois: Vec<DrawnRoi>,
}

/// Colours after Okabe and Ito that stand out on grey.
const COLOURS: [[u8; 3]; 6] =
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [213, 94, 0], [204, 121, 167]];
const GREY: [u8; 3] = [150, 150, 150];
/// The larger side of a PNG is at least about this long: small frames are enlarged by whole steps.
const SIDE: usize = 1024;

/// Digits of 3 x 5 points, one row a nibble, the top row first.
const DIGITS: [u32; 10] = [0x75557, 0x26227, 0x71747, 0x71717, 0x55711, 0x74717, 0x74757, 0x71111, 0x75757, 0x75717];

impl RoiPicture {
    fn image(&self) -> Option<&Image> {
        self.image.as_ref().filter(|image| image.geometry == self.geometry)
    }
}

fn colour(roi: &DrawnRoi) -> [u8; 3] {
    if roi.faint { GREY } else { COLOURS[roi.id as usize % COLOURS.len()] }
}

/// The picture as a PNG; `None` for a frame without pixels.
pub fn rois_png(picture: &RoiPicture) -> Option<Vec<u8>> {
    let Geometry { height_px, width_px } = picture.geometry;
    if height_px == 0 || width_px == 0 {
        return None;
    }
    let bin = image::binning(picture.geometry);
    let (rows, cols) = (height_px.div_ceil(bin), width_px.div_ceil(bin));
    let grey = picture.image().and_then(image::grey).map_or_else(|| vec![0; rows * cols], |(grey, _, _)| grey);
    let scale = (SIDE / rows.max(cols)).clamp(1, 16);
    let mut canvas = Canvas { height: rows * scale, width: cols * scale, samples: Vec::new() };
    for row in 0..canvas.height {
        let line = &grey[row / scale * cols..(row / scale + 1) * cols];
        canvas.samples.extend((0..canvas.width).flat_map(|col| [line[col / scale]; 3]));
    }
    let place = |at: i64| (at.max(0) as usize * scale) / bin;
    for roi in &picture.rois {
        for corners in image::loops(&roi.pixels) {
            for (k, &a) in corners.iter().enumerate() {
                let b = corners[(k + 1) % corners.len()];
                canvas.line([place(a.1), place(a.0)], [place(b.1), place(b.0)], colour(roi));
            }
        }
    }
    let dot = if canvas.height.max(canvas.width) >= 512 { 2 } else { 1 };
    for roi in &picture.rois {
        let at = roi.centre_px.map(|at| ((at.max(0.0) + 0.5) * scale as f64 / bin as f64) as usize);
        canvas.number(roi.id, at, dot);
    }
    image::encoded(&canvas.samples, canvas.height, canvas.width, png::ColorType::Rgb)
}

/// Pixels of three bytes.
struct Canvas {
    height: usize,
    width: usize,
    samples: Vec<u8>,
}

impl Canvas {
    fn set(&mut self, row: usize, col: usize, colour: [u8; 3]) {
        let at = (row.min(self.height - 1) * self.width + col.min(self.width - 1)) * 3;
        self.samples[at..at + 3].copy_from_slice(&colour);
    }

    /// An upright or level line, both ends included.
    fn line(&mut self, a: [usize; 2], b: [usize; 2], colour: [u8; 3]) {
        for row in a[0].min(b[0])..=a[0].max(b[0]) {
            for col in a[1].min(b[1])..=a[1].max(b[1]) {
                self.set(row, col, colour);
            }
        }
    }

    /// A number around a place, white with a dark edge, its points `dot` pixels wide.
    fn number(&mut self, number: u32, centre: [usize; 2], dot: usize) {
        let text = number.to_string();
        let top = centre[0].saturating_sub(5 * dot / 2);
        let left = centre[1].saturating_sub(2 * dot * text.len());
        for (edge, colour) in [(1, [0; 3]), (0, [255; 3])] {
            for (k, digit) in text.bytes().enumerate() {
                let shape = DIGITS[usize::from(digit - b'0')];
                for (row, col) in (0..5).flat_map(|row| (0..3).map(move |col| (row, col))) {
                    if shape >> (4 * (4 - row) + 2 - col) & 1 == 1 {
                        self.square([top + row * dot, left + (4 * k + col) * dot], dot, edge, colour);
                    }
                }
            }
        }
    }

    /// A square of `side` pixels, widened by `edge` all around and cut at the border.
    fn square(&mut self, [top, left]: [usize; 2], side: usize, edge: usize, colour: [u8; 3]) {
        for row in top.saturating_sub(edge)..(top + side + edge).min(self.height) {
            for col in left.saturating_sub(edge)..(left + side + edge).min(self.width) {
                self.set(row, col, colour);
            }
        }
    }
}

/// The picture as a page that needs nothing else, with a table of the ROIs.
pub fn rois_html(picture: &RoiPicture) -> String {
    let Geometry { height_px, width_px } = picture.geometry;
    let mut svg = format!(r#"<svg viewBox="0 0 {width_px} {height_px}" role="img" aria-label="ROIs over the image">"#);
    let _ = write!(svg, r##"<rect width="{width_px}" height="{height_px}" fill="#000"/>"##);
    if let Some(uri) = picture.image().and_then(image::data_uri) {
        let _ = write!(svg, r#"<image href="{uri}" width="{width_px}" height="{height_px}"/>"#);
    }
    let side = height_px.max(width_px) as f64;
    for roi in &picture.rois {
        let [r, g, b] = colour(roi);
        let title = html! { title { "ROI " (roi.id) ", " (roi.name) } }.into_string();
        let d = image::path_of_pixels(&roi.pixels);
        let stroke = format!(r#"stroke="rgb({r},{g},{b})" stroke-width="{:.3}""#, side / 500.0);
        let _ = write!(svg, r##"<path d="{d}" fill="#fff" fill-opacity="0" {stroke}>{title}</path>"##);
    }
    for roi in &picture.rois {
        let [row, col] = roi.centre_px.map(|at| at + 0.5);
        let (id, size) = (roi.id, side / 60.0);
        let _ = write!(svg, r#"<text x="{col:.2}" y="{row:.2}" font-size="{size:.2}">{id}</text>"#);
    }
    svg.push_str("</svg>");
    let style = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
        svg{width:100%}text{fill:#fff;stroke:#000;stroke-width:.15em;paint-order:stroke;text-anchor:middle;\
        dominant-baseline:central;pointer-events:none}table{border-collapse:collapse}td,th{text-align:right;\
        padding:.1rem .8rem}";
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (picture.title) }
                style { (PreEscaped(style)) }
            }
            body {
                h1 { (picture.title) }
                p { (picture.rois.len()) " ROIs on frames of " (height_px) " x " (width_px) " pixels; grey: no cell." }
                (PreEscaped(svg))
                table {
                    tr { th { "id" } th { "name" } th { "plane" } th { "pixels" } th { "row" } th { "column" } }
                    @for roi in &picture.rois {
                        tr {
                            td { (roi.id) }
                            td { (roi.name) }
                            td { (roi.plane) }
                            td { (roi.pixels.len()) }
                            td { (format!("{:.1}", roi.centre_px[0])) }
                            td { (format!("{:.1}", roi.centre_px[1])) }
                        }
                    }
                }
            }
        }
    }
    .into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(geometry: Geometry, image: Option<Image>) -> RoiPicture {
        let pixels = (2..6).flat_map(|row| (3..9).map(move |col| [row, col])).collect();
        let roi = |id, faint| DrawnRoi {
            id,
            name: "<b>".into(),
            plane: 0,
            pixels: Clone::clone(&pixels),
            centre_px: [3.5, 5.5],
            faint,
        };
        let rois = vec![roi(1_234_567_890, false), roi(3, true)];
        RoiPicture { title: "set".into(), geometry, image, rois }
    }

    fn decoded(png: &[u8]) -> (usize, usize, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut samples = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut samples).unwrap();
        (info.height as usize, info.width as usize, samples)
    }

    #[test]
    fn a_png_has_outlines_in_the_places_of_the_pixels() {
        let geometry = Geometry::new(100, 128);
        let mut image = Image::zeros(geometry);
        image.values.iter_mut().enumerate().for_each(|(k, value)| *value = (k % 7) as f32);
        let (height, width, samples) = decoded(&rois_png(&picture(geometry, Some(image))).unwrap());
        assert_eq!((height, width), (800, 1024));
        let at = |row: usize, col: usize| &samples[(row * width + col) * 3..][..3];
        // the corner of the box, 8 times enlarged; the second ROI was drawn over the first
        assert_eq!(at(2 * 8, 3 * 8), GREY);
        assert_eq!(at(6 * 8, 9 * 8), GREY);
        assert!(samples.chunks_exact(3).any(|p| p == [255; 3]), "no label");
    }

    #[test]
    fn any_size_is_drawn_with_or_without_an_image() {
        for (height, width) in [(1, 1), (7, 10), (3000, 10), (10, 2500)] {
            let geometry = Geometry::new(height, width);
            let blank = picture(geometry, None);
            assert!(rois_png(&blank).is_some(), "{height} x {width}");
            let other = picture(geometry, Some(Image::zeros(Geometry::new(2, 2))));
            assert_eq!(rois_png(&other), rois_png(&blank));
            assert!(rois_html(&blank).contains("2 ROIs on frames of"));
        }
        assert_eq!(rois_png(&picture(Geometry::new(0, 4), None)), None);
    }

    #[test]
    fn names_are_escaped() {
        let page = rois_html(&picture(Geometry::new(20, 20), None));
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"));
    }
}
