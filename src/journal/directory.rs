//! Makes a session's directory: the configuration as it ran, and the files of its segments.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{CONFIG_FILE, FORMAT, JournalWriter, Kept, PixelsSettings, PixelsWriter, ResumePoint, roi_set_record};
use crate::config::{FramesKept, RigConfig, hash, to_toml};
use crate::engine::FrameItem;
use crate::proto::v1;
use crate::sample::{PixelBox, RoiSet};

/// Why a session's directory cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Its name would lead elsewhere.
    #[error("session name {name:?}: expected 1 to 128 letters, digits, '-', '_' or '.', not beginning with '.'")]
    Name {
        /// What was given.
        name: String,
    },
    /// It is there already, and not empty.
    #[error("{}: there is something here already; a session makes its own directory", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be made or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A session's directory with the journal of a segment open.
pub struct SessionDirectory {
    /// The session's name: the directory's own.
    pub session_id: String,
    /// The directory.
    pub path: PathBuf,
    /// The head that was written.
    pub head: v1::SessionHead,
    /// The open journal.
    pub writer: JournalWriter,
}

impl SessionDirectory {
    /// Makes `record.directory/name`, writes the configuration into it and opens the journal.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn create(
        config: &RigConfig,
        name: &str,
        rois: &RoiSet,
        stream: v1::session_head::Stream,
    ) -> Result<Self, DirectoryError> {
        check_name(name)?;
        let path = config.record.directory.join(name);
        std::fs::create_dir_all(&path).map_err(at(&path))?;
        if std::fs::read_dir(&path).map_err(at(&path))?.next().is_some() {
            return Err(DirectoryError::Occupied { path });
        }
        let config_path = path.join(CONFIG_FILE);
        std::fs::write(&config_path, to_toml(config)).map_err(at(&config_path))?;
        let head = v1::SessionHead {
            format: FORMAT,
            session_id: name.to_owned(),
            config_toml: to_toml(config),
            config_sha256: hash(config),
            rois: Some(roi_set_record(rois)),
            stream: Some(stream),
            ..v1::SessionHead::default()
        };
        Self::open_segment(config, path, head)
    }

    /// Opens the journal of the next segment of a session that goes on.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn go_on(config: &RigConfig, point: &ResumePoint) -> Result<Self, DirectoryError> {
        Self::open_segment(config, point.directory.clone(), point.head.clone())
    }

    /// The segment's number is on the disk before anything happens in it.
    fn open_segment(config: &RigConfig, path: PathBuf, head: v1::SessionHead) -> Result<Self, DirectoryError> {
        let head = v1::SessionHead {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("APICAL_COMMIT").to_owned(),
            started_unix_ns: wall_ns(),
            ..head
        };
        let record = &config.record;
        let interval = Duration::from_millis(u64::from(record.sync_interval_ms));
        let writer = JournalWriter::create(&path, &head, interval, record.sync).map_err(at(&path))?;
        Ok(Self { session_id: head.session_id.clone(), path, head, writer })
    }

    /// Opens the file of the segment's pixels, where the configuration keeps any and the stream has them; the boxes
    /// are those of the engine's ROIs. Slots go to `give_back`. A `patient` file waits for the disk rather than drop a
    /// frame.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn open_pixels(
        &self,
        config: &RigConfig,
        boxes: Vec<(u32, PixelBox)>,
        patient: bool,
        give_back: impl Fn(FrameItem) + Send + 'static,
    ) -> Result<Option<PixelsWriter>, DirectoryError> {
        let kept = match config.record.frames {
            FramesKept::None => return Ok(None),
            FramesKept::Rois => Kept::Boxes(boxes),
            FramesKept::All => Kept::All,
        };
        if !matches!(self.head.stream, Some(v1::session_head::Stream::Pixels(_))) {
            return Ok(None);
        }
        let settings = PixelsSettings {
            kept,
            queue_frames: config.record.frames_queue,
            sync_interval: Duration::from_millis(u64::from(config.record.sync_interval_ms)),
            policy: config.record.sync,
        };
        let status = self.writer.status();
        let writer = PixelsWriter::create(&self.path, &self.head, settings, status, patient, give_back);
        writer.map(Some).map_err(at(&self.path))
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { path, source }
}

/// Whether a session may bear this name.
///
/// # Errors
/// [`DirectoryError::Name`].
pub fn check_name(name: &str) -> Result<(), DirectoryError> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.chars().all(sound) {
        return Err(DirectoryError::Name { name: name.to_owned() });
    }
    Ok(())
}

/// A name made of the rig's and of wall time, `rig-20260430-142501`; with a number behind it where that is taken.
pub fn session_name(config: &RigConfig) -> String {
    let base = format!("{}-{}", config.rig.name, stamp(wall_ns() / 1_000_000_000));
    let free = |name: &String| !config.record.directory.join(name).exists();
    if free(&base) {
        return base;
    }
    (2u32..).map(|k| format!("{base}-{k}")).find(free).unwrap_or(base)
}

/// Wall time as nanoseconds since 1970: metadata, and nothing else.
#[allow(clippy::disallowed_methods, reason = "this is the one home of wall time")]
pub fn wall_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// `20260430-142501` of seconds since 1970, in UTC.
fn stamp(unix_s: u64) -> String {
    let (y, m, d) = civil(unix_s / 86_400);
    let s = unix_s % 86_400;
    format!("{y:04}{m:02}{d:02}-{:02}{:02}{:02}", s / 3_600, s / 60 % 60, s % 60)
}

/// `2026-04-30 14:25 UTC` of nanoseconds since 1970, for people.
pub fn wall_text(unix_ns: u64) -> String {
    let unix_s = unix_ns / 1_000_000_000;
    let (y, m, d) = civil(unix_s / 86_400);
    let s = unix_s % 86_400;
    format!("{y:04}-{m:02}-{d:02} {:02}:{:02} UTC", s / 3_600, s / 60 % 60)
}

/// Year, month and day of a day counted from 1 January 1970, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    for (month, length) in (1..).zip([31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]) {
        if left < length {
            return (year, month, left + 1);
        }
        left -= length;
    }
    (year, 12, 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_written_as_people_read_it() {
        assert_eq!(stamp(0), "19700101-000000");
        assert_eq!(stamp(951_782_399), "20000228-235959");
        assert_eq!(stamp(951_782_400), "20000229-000000");
        assert_eq!(wall_text(1_777_559_101_000_000_000), "2026-04-30 14:25 UTC");
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_directory() {
        for name in ["", "..", ".hidden", "a/b", "a\\b", "a b", &"x".repeat(129)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("rig-20260430-142501").is_ok());
    }
}
