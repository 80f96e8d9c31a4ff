//! Images that a session begins with: templates of another day, from a session's last snapshot or from a TIFF, and a
//! z-stack.
//!
//! In: `register.template`, `register.z_stack`. Out: the same set of ROIs with these images; the head of the new
//! session's journal holds them, so that nothing but the journal is needed to recompute it.

use std::path::{Path, PathBuf};

use super::reader::{JournalError, JournalRecord, SessionFiles};
use super::verify::{VerifyError, engine_of};
use crate::config::RigConfig;
use crate::engine::{EngineStateError, StreamShape};
use crate::frame::{FrameAssembly, FrameMeta, FrameRefusal, FrameSlot, Image, StripMeta};
use crate::sample::{PlaneImage, RoiSet};
use crate::source::{OpenOptions, Recording, RecordingError, open_recording};

/// Images that are read of a file at most.
const IMAGES_MAX: usize = 64;

/// Why an image that the session should begin with cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The session's journal cannot be read.
    #[error("register.template: {0}")]
    Session(#[from] JournalError),
    /// Its head makes no sense.
    #[error("register.template: {}: {source}", path.display())]
    Head {
        /// The session.
        path: PathBuf,
        /// What is wrong.
        source: Box<VerifyError>,
    },
    /// Its last snapshot cannot be taken.
    #[error("register.template: {}: {source}", path.display())]
    State {
        /// The session.
        path: PathBuf,
        /// What is wrong.
        source: Box<EngineStateError>,
    },
    /// There is no template in it.
    #[error(
        "register.template: {}: no template of plane {plane}; expected a session that completed a baseline of it",
        path.display()
    )]
    None {
        /// The session.
        path: PathBuf,
        /// The plane.
        plane: u32,
    },
    /// The TIFF cannot be read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// A page of it cannot be read.
    #[error("{}: {source}", path.display())]
    Page {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FrameRefusal,
    },
    /// Values of ROIs.
    #[error("{}: holds values of ROIs, expected a TIFF of images", path.display())]
    NoImages {
        /// The file.
        path: PathBuf,
    },
    /// A movie.
    #[error("{}: more than {IMAGES_MAX} images, expected a mean image for each plane or slice", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
    },
    /// Another number of images.
    #[error("register.template: {}: {got} images, expected {expected}: one for each plane read", path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// Images in it.
        got: usize,
        /// Planes that are read.
        expected: usize,
    },
}

/// The set with the templates and the z-stack that the configuration names, if any and the stream (`shape`) has pixels.
///
/// # Errors
/// They cannot be had; see [`ImageError`].
pub fn with_images(mut set: RoiSet, config: &RigConfig, shape: &StreamShape) -> Result<RoiSet, ImageError> {
    let register = &config.register;
    if shape.geometry().is_none() {
        return Ok(set);
    }
    let (path, planes) = (&register.template, config.stream.plane.as_slice());
    if !path.as_os_str().is_empty() {
        set.templates = if path.is_dir() { of_session(path, planes)? } else { of_tiff(path, planes)? };
    }
    if !register.z_stack.as_os_str().is_empty() {
        set.z_stack = images(&register.z_stack)?;
    }
    Ok(set)
}

/// From the last state in a session's journal.
fn of_session(path: &Path, planes: &[u32]) -> Result<Vec<PlaneImage>, ImageError> {
    let files = SessionFiles::open(path)?;
    let (mut head, mut last) = (files.head()?, None);
    let read = files.read(|record| match record {
        JournalRecord::Head(of_segment) => head = *of_segment,
        JournalRecord::Snapshot(snapshot) => last = Some((head.clone(), snapshot.state)),
        _ => {}
    });
    match read {
        // What stands before the damage counts.
        Ok(()) | Err(JournalError::Damaged { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let none = |plane: u32| ImageError::None { path: path.to_owned(), plane };
    let Some((head, state)) = last else { return Err(none(planes.first().copied().unwrap_or(0))) };
    let mut engine =
        engine_of(&head).map_err(|source| ImageError::Head { path: path.to_owned(), source: Box::new(source) })?;
    engine.load(&state).map_err(|source| ImageError::State { path: path.to_owned(), source: Box::new(source) })?;
    let of_plane = |&plane: &u32| {
        let image = engine.template(plane).ok_or_else(|| none(plane))?;
        Ok(PlaneImage { plane, image })
    };
    planes.iter().map(of_plane).collect()
}

/// From mean images.
fn of_tiff(path: &Path, planes: &[u32]) -> Result<Vec<PlaneImage>, ImageError> {
    let images = images(path)?;
    if images.len() != planes.len() {
        return Err(ImageError::Count { path: path.to_owned(), got: images.len(), expected: planes.len() });
    }
    Ok(planes.iter().zip(images).map(|(&plane, image)| PlaneImage { plane, image }).collect())
}

/// Every page of a TIFF, in counts as they are stored.
fn images(path: &Path) -> Result<Vec<Image>, ImageError> {
    let Recording::Frames(mut recording) = open_recording(path, &OpenOptions::default())? else {
        return Err(ImageError::NoImages { path: path.to_owned() });
    };
    let (geometry, pixel_type) = (recording.header().geometry, recording.header().pixel_type);
    let mut assembly = FrameAssembly::new(geometry, pixel_type, recording.header().inverted);
    let (mut slot, mut bytes, mut images) = (FrameSlot::new(geometry, pixel_type), Vec::new(), Vec::new());
    while recording.next(&mut bytes)?.is_some() {
        assembly
            .add(&StripMeta::whole(FrameMeta::default()), &bytes, &mut slot)
            .map_err(|source| ImageError::Page { path: path.to_owned(), source })?;
        let bias = pixel_type.bias() as f32;
        let values = slot.samples().iter().map(|&sample| f32::from(sample) - bias).collect();
        images.push(Image { geometry, values });
        if images.len() > IMAGES_MAX {
            return Err(ImageError::TooMany { path: path.to_owned() });
        }
    }
    Ok(images)
}
