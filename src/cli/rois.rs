//! `apical rois`: what is in a file of ROIs, drawn over an image or listed; and the same set in another format.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::rois_detect::{DetectArgs, run as detect};
use super::{Outcome, print_json, print_text};
use crate::export::session_image;
use crate::frame::{FrameAssembly, FrameMeta, FrameSlot, Geometry, Image, StripMeta};
use crate::report::{DrawnRoi, RoiPicture, rois_html, rois_png};
use crate::sample::formats::{json, suite2p_write};
use crate::sample::{NoCell, Roi, RoiFile, RoiFileError, RoiSet, read_roi_file};
use crate::source::{OpenOptions, Recording, open_recording};

/// Arguments of `apical rois`.
#[derive(Debug, Args)]
pub(super) struct RoisArgs {
    #[command(subcommand)]
    command: RoisCommand,
}

#[derive(Debug, Subcommand)]
enum RoisCommand {
    /// Draw the ROIs over an image, or list them.
    Show(ShowArgs),
    /// Write the ROIs as our JSON, or as suite2p's stat.npy.
    Convert(ConvertArgs),
    /// Find cells in a recording.
    Detect(DetectArgs),
}

/// A file of ROIs.
#[derive(Debug, Args)]
struct RoiSource {
    /// The ROIs: suite2p's stat.npy, CaImAn's or NWB's HDF5, Cellpose's _seg.npy, ImageJ's .roi or .zip, regions.json,
    /// or JSON of our own.
    file: PathBuf,
    /// Rows of the frame, in pixels, where neither the file nor an image says it.
    #[arg(long, value_name = "PX", requires = "width")]
    height: Option<usize>,
    /// Columns of the frame, in pixels.
    #[arg(long, value_name = "PX", requires = "height")]
    width: Option<usize>,
    /// Exchange rows and columns, where a file has them the other way round (some NWB files do).
    #[arg(long)]
    transpose: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    source: RoiSource,
    /// A TIFF; of several frames, their mean. Without it the set's own reference, or black.
    #[arg(long, value_name = "TIFF", conflicts_with = "session")]
    image: Option<PathBuf>,
    /// A session: its mean image, and the ROIs where they lay on it.
    #[arg(long, value_name = "DIR")]
    session: Option<PathBuf>,
    /// Only this plane's ROIs, from 0.
    #[arg(long, value_name = "N")]
    plane: Option<u32>,
    /// The picture: a name ending in .png or .html.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ConvertArgs {
    #[command(flatten)]
    source: RoiSource,
    /// A name ending in .json, or a path to stat.npy, beside which ops.npy and iscell.npy are written.
    out: PathBuf,
    /// Overwrite what is there.
    #[arg(long)]
    force: bool,
}

/// What `--json` prints of a set.
#[derive(Serialize)]
struct Listing {
    file: PathBuf,
    height_px: usize,
    width_px: usize,
    rois: Vec<Listed>,
    /// What the file holds beside them and has no area.
    no_cells: Vec<NoCell>,
    /// Where the picture went.
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Listed {
    id: u32,
    name: String,
    plane: u32,
    /// Pixels that it has a part in.
    pixels: usize,
    /// Sum of its weights over the largest of them: its pixels, where all weigh alike.
    area_px: f64,
    /// Row and column of its centre, by weight; the centre of the first pixel is 0.
    centre_px: [f64; 2],
    /// Whether whoever made the file took it for a cell, where the file says so.
    accepted: Option<bool>,
}

#[derive(Serialize)]
struct Converted {
    rois: usize,
    written: Vec<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &RoisArgs, json: bool) -> anyhow::Result<Outcome> {
    match &args.command {
        RoisCommand::Show(args) => show(args, json),
        RoisCommand::Convert(args) => convert(args, json),
        RoisCommand::Detect(args) => detect(args, json),
    }
}

fn read(source: &RoiSource, seen: Option<Geometry>) -> anyhow::Result<RoiFile> {
    let said = source.height.zip(source.width).map(|(height, width)| Geometry::new(height, width));
    let turn = |g: Geometry| if source.transpose { Geometry::new(g.width_px, g.height_px) } else { g };
    let mut file = read_roi_file(&source.file, said.or(seen).map(turn)).map_err(|error| match error {
        RoiFileError::GeometryUnknown { .. } => anyhow::Error::from(error).context("say --height and --width"),
        error => error.into(),
    })?;
    if source.transpose {
        file.set = file.set.transposed();
    }
    Ok(file)
}

fn show(args: &ShowArgs, json: bool) -> anyhow::Result<Outcome> {
    let (image, moved) = match (&args.image, &args.session) {
        (Some(path), _) => (Some(mean_image(path, args.plane.unwrap_or(0))?), [0.0; 2]),
        (None, Some(directory)) => {
            let found = session_image(directory, args.plane)?;
            let (image, moved) = found.with_context(|| format!("{}: has no image", directory.display()))?;
            (Some(image), moved)
        }
        (None, None) => (None, [0.0; 2]),
    };
    let mut file = read(&args.source, image.as_ref().map(|image| image.geometry))?;
    let geometry = file.set.geometry;
    let accepted = file.accepted.take();
    let shown = |roi: &&Roi| args.plane.is_none_or(|plane| plane == roi.plane);
    let at = |k: usize| accepted.as_ref().and_then(|accepted| accepted.get(k)).copied();
    let rois: Vec<(&Roi, Listed)> = file
        .set
        .rois
        .iter()
        .enumerate()
        .filter(|(_, roi)| shown(roi))
        .map(|(k, roi)| (roi, listed(roi, at(k))))
        .collect();
    if let Some(out) = &args.out {
        let title = args.source.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let drawn = rois.iter().map(|(roi, listed)| drawn(roi, listed, moved, geometry)).collect();
        let image = image.or_else(|| file.set.reference.clone());
        if let Some(image) = image.as_ref().filter(|image| image.geometry != geometry) {
            let Geometry { height_px, width_px } = image.geometry;
            let frame = format!("{} x {}", geometry.height_px, geometry.width_px);
            bail!("the image is {height_px} x {width_px} pixels, expected {frame} as the ROIs' frame");
        }
        draw(&RoiPicture { title, geometry, image, rois: drawn }, out)?;
    }
    let listing = Listing {
        file: args.source.file.clone(),
        height_px: geometry.height_px,
        width_px: geometry.width_px,
        rois: rois.into_iter().map(|(_, listed)| listed).collect(),
        no_cells: file.no_cells,
        out: args.out.clone(),
    };
    if json {
        print_json(&listing)?
    } else {
        print_text(&text_of(&listing))?
    }
    Ok(Outcome::Good)
}

fn listed(roi: &Roi, accepted: Option<bool>) -> Listed {
    let (mut sum, mut row, mut col, mut largest) = (0.0, 0.0, 0.0, 0.0_f64);
    for p in &roi.pixels {
        let weight = f64::from(p.weight);
        sum += weight;
        row += weight * f64::from(p.row);
        col += weight * f64::from(p.col);
        largest = largest.max(weight);
    }
    Listed {
        id: roi.id,
        name: roi.name.clone(),
        plane: roi.plane,
        pixels: roi.pixels.len(),
        area_px: sum / largest,
        centre_px: [row / sum, col / sum],
        accepted,
    }
}

/// A ROI where it lay on the image, to the whole pixel; what was moved out of the frame is not drawn.
fn drawn(roi: &Roi, listed: &Listed, moved: [f64; 2], frame: Geometry) -> DrawnRoi {
    let by = moved.map(|by| by.round() as i64);
    let on = |at: u32, by: i64, side: usize| u32::try_from(i64::from(at) + by).ok().filter(|&at| (at as usize) < side);
    let pixels = roi
        .pixels
        .iter()
        .filter_map(|p| Some([on(p.row, by[0], frame.height_px)?, on(p.col, by[1], frame.width_px)?]))
        .collect();
    let [row, col] = listed.centre_px;
    DrawnRoi {
        id: roi.id,
        name: roi.name.clone(),
        plane: roi.plane,
        pixels,
        centre_px: [row + by[0] as f64, col + by[1] as f64],
        faint: listed.accepted == Some(false),
    }
}

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

fn draw(picture: &RoiPicture, out: &Path) -> anyhow::Result<()> {
    let bytes = match ending(out).as_str() {
        "png" => rois_png(picture).context("a frame without pixels")?,
        "html" | "htm" => rois_html(picture).into_bytes(),
        _ => bail!("--out {}: expected a name ending in .png or .html", out.display()),
    };
    std::fs::write(out, bytes).with_context(|| out.display().to_string())
}

fn text_of(listing: &Listing) -> String {
    let Listing { file, height_px, width_px, rois, .. } = listing;
    let mut text = format!("{}: {} ROIs on frames of {height_px} x {width_px} pixels\n", file.display(), rois.len());
    if !rois.is_empty() {
        text += "    id  plane  pixels     area      row   column  name\n";
    }
    for r in rois {
        let [row, col] = r.centre_px;
        let no = if r.accepted == Some(false) { "   (no cell)" } else { "" };
        text += &format!(
            "{:>6} {:>6} {:>7} {:>8.1} {row:>8.1} {col:>8.1}  {}{no}\n",
            r.id, r.plane, r.pixels, r.area_px, r.name
        );
    }
    for c in &listing.no_cells {
        text += &format!("{:>6}  no cell: `{}` is a {} and has no area\n", c.id, c.name, c.kind);
    }
    if let Some(out) = &listing.out {
        text += &format!("drawn in {}\n", out.display());
    }
    text
}

/// The mean of a recording's frames of one plane, first channel, in counts as they are stored.
fn mean_image(path: &Path, plane: u32) -> anyhow::Result<Image> {
    let Recording::Frames(mut frames) = open_recording(path, &OpenOptions::default())? else {
        bail!("{}: holds traces, expected a TIFF", path.display());
    };
    let (geometry, pixel_type) = (frames.header().geometry, frames.header().pixel_type);
    let (mut assembly, mut slot) =
        (FrameAssembly::new(geometry, pixel_type, false), FrameSlot::new(geometry, pixel_type));
    let (mut sums, mut count) = (vec![0_i64; geometry.count()], 0_i64);
    let mut buffer = Vec::new();
    while let Some(frame) = frames.next(&mut buffer)? {
        if frame.plane != plane || frame.channel != 0 {
            continue;
        }
        count += 1;
        let meta = FrameMeta { index: frame.index, ..FrameMeta::default() };
        assembly.add(&StripMeta::whole(meta), &buffer, &mut slot)?;
        let bias = i64::from(pixel_type.bias());
        sums.iter_mut().zip(slot.samples()).for_each(|(sum, &sample)| *sum += i64::from(sample) - bias);
    }
    if count == 0 {
        bail!("{}: has no frame of plane {plane}", path.display());
    }
    Ok(Image { geometry, values: sums.into_iter().map(|sum| (sum as f64 / count as f64) as f32).collect() })
}

fn convert(args: &ConvertArgs, as_json: bool) -> anyhow::Result<Outcome> {
    let RoiFile { set, accepted, no_cells } = read(&args.source, None)?;
    if !no_cells.is_empty() {
        return Err(RoiFileError::NoArea { path: args.source.file.clone(), no_cells }.into());
    }
    check_set_out(&args.out, args.force)?;
    let written = write_set(&set, accepted, &args.out)?;
    let converted = Converted { rois: set.rois.len(), written };
    if as_json {
        print_json(&converted)?;
    } else {
        let names: Vec<String> = converted.written.iter().map(|path| path.display().to_string()).collect();
        print_text(&format!("{} ROIs in {}\n", converted.rois, names.join(", ")))?;
    }
    Ok(Outcome::Good)
}

/// The files that a set is written to: one JSON, or the three of suite2p.
fn set_files(out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if out.file_name().is_some_and(|name| name == "stat.npy") {
        Ok(vec![out.to_owned(), out.with_file_name("ops.npy"), out.with_file_name("iscell.npy")])
    } else if ending(out) == "json" {
        Ok(vec![out.to_owned()])
    } else {
        bail!("{}: expected a name ending in .json, or a path to stat.npy", out.display());
    }
}

/// Whether a set can be written there. All files are looked at before the first is written: half of a folder of suite2p
/// would be worse than none.
pub(super) fn check_set_out(out: &Path, force: bool) -> anyhow::Result<()> {
    if let Some(path) = set_files(out)?.iter().find(|path| !force && path.exists()) {
        bail!("{} is there already: give another name, or --force", path.display());
    }
    Ok(())
}

/// Writes a set as its name asks for; the files that it made.
pub(super) fn write_set(set: &RoiSet, accepted: Option<Vec<bool>>, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let files = set_files(out)?;
    let contents = if files.len() == 1 {
        vec![json::write(set).into_bytes()]
    } else {
        let cells = accepted.unwrap_or_else(|| vec![true; set.rois.len()]);
        vec![suite2p_write::stat(set), suite2p_write::ops(set), suite2p_write::iscell(&cells)]
    };
    for (path, bytes) in files.iter().zip(contents) {
        std::fs::write(path, bytes).with_context(|| path.display().to_string())?;
    }
    Ok(files)
}

/// Draws a whole set on its own reference image.
pub(super) fn draw_set(set: &RoiSet, title: String, out: &Path) -> anyhow::Result<()> {
    let geometry = set.geometry;
    let rois = set.rois.iter().map(|roi| drawn(roi, &listed(roi, None), [0.0; 2], geometry)).collect();
    draw(&RoiPicture { title, geometry, image: set.reference.clone(), rois }, out)
}

/// Whether a picture can be drawn under this name.
pub(super) fn check_picture(out: &Path) -> anyhow::Result<()> {
    match ending(out).as_str() {
        "png" | "html" | "htm" => Ok(()),
        _ => bail!("{}: expected a name ending in .png or .html", out.display()),
    }
}
