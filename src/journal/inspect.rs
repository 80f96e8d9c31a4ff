//! Looks at a session's directory: what it holds, segment by segment, and where it is not whole.
//!
//! In: the journals. Out: an [`Inspection`], the documented form of what `apical inspect --json` prints. Units stand in
//! the names. Everything is counted anew from the inputs, decisions and time stamps; nothing is recomputed, so that
//! also a journal of other software versions is told about. A damaged file is read as far as it is whole, and the
//! segments behind it all the same. Cost: one pass; memory: one entry for each trial, command and listed gap.

mod damage;
mod pass;
mod rewards;
mod time;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use damage::DamageFound;
pub(super) use damage::read_one;
pub use rewards::{LimitReached, OnTime, Rewards};
pub use time::{Gap, GapKind, Gaps, Rate};

use self::pass::Pass;
use super::{Percentiles, SessionFiles};
use crate::proto::v1;

/// Gaps that are listed one by one; all are counted.
pub const GAPS_LISTED: usize = 32;

/// A session's directory.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The directory.
    pub directory: PathBuf,
    /// The session's name; empty where no head could be read.
    pub session_id: String,
    /// Whether every file is whole, or ends as a crash leaves it: in the middle of what was last written.
    pub whole: bool,
    /// Size of the journals, in bytes.
    pub bytes: u64,
    /// Counters over all segments; the same as a replay or a demo prints them.
    pub counters: Counters,
    /// The segments whose head could be read, in order.
    pub segments: Vec<Segment>,
    /// Where the record is not whole, in the order of the files.
    pub damage: Vec<DamageFound>,
}

/// One segment: one journal file.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Segment {
    /// Its number, from 0.
    pub segment: u32,
    /// Name of its file.
    pub file: String,
    /// Size of the file, in bytes.
    pub bytes: u64,
    /// Messages read, of every topic.
    pub messages: u64,
    /// When it began: nanoseconds of wall time since 1970.
    pub started_unix_ns: u64,
    /// Version of the software.
    pub version: String,
    /// Commit that it was built from.
    pub commit: String,
    /// Hash of the configuration (SHA-256, hexadecimal).
    pub config_sha256: String,
    /// Whether the session was stopped or aborted in it.
    pub ended: bool,
    /// What came in.
    pub stream: StreamSeen,
    /// The inputs.
    pub inputs: Inputs,
    /// Frames, trials and rewards; the same as a replay or a demo prints them.
    pub counters: Counters,
    /// First frame that was decided; absent where none was.
    pub first_frame: Option<u64>,
    /// Last frame that was decided.
    pub last_frame: Option<u64>,
    /// From the first decided frame to the last, in seconds of the microscope's clock; 0 where it gives no time.
    pub duration_device_s: f64,
    /// From the first input to the last decision, in seconds of the host's clock.
    pub duration_host_s: f64,
    /// Frames as they were scanned, on the microscope's clock; absent where it gives no time.
    pub rate_device: Option<Rate>,
    /// Frames as they arrived, on the host's clock; absent for frames that arrived nowhere (a replay in process).
    pub rate_host: Option<Rate>,
    /// Frames that are missing, and silence.
    pub gaps: Gaps,
    /// Every command, in order.
    pub commands: Vec<CommandSeen>,
    /// Every baseline.
    pub baselines: Vec<BaselineSeen>,
    /// Every threshold: calibrated, or set by an operator.
    pub thresholds: Vec<ThresholdSeen>,
    /// Every trial.
    pub trials: Vec<TrialSeen>,
    /// Rewards: their limits and their on-time.
    pub rewards: Rewards,
    /// What devices failed at.
    pub device_faults: Vec<FaultSeen>,
    /// The engine's states that are kept.
    pub snapshots: Snapshots,
    /// How the record and the process fared.
    pub health: HealthSeen,
    /// From a frame's last byte to its decision (`total`), the stages, and `reward`: from the last byte of a frame that
    /// earned one to the write to the device. Microseconds.
    pub latency_us: Vec<StageLatency>,
    /// How far the brain drifted in depth; absent where that was not followed.
    pub z_drift: Option<DriftSeen>,
    /// What happened: numbers of each kind, by the name that `events.csv` has for it.
    pub events: BTreeMap<String, u64>,
    /// What the engine warned of, each once.
    pub warnings: Vec<String>,
}

/// Counters, as a replay or a demo prints them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "documented once, in proto/apical/v1/session.proto (SessionCounters), by these names")]
pub struct Counters {
    pub frames_in: u64,
    pub frames_decided: u64,
    pub frames_doubted: u64,
    pub frames_gathered: u64,
    pub frames_skipped: u64,
    pub frames_refused: u64,
    pub trials: u64,
    pub hits: u64,
    pub aversive: u64,
    pub misses: u64,
    pub rewards_intended: u64,
    pub rewards_sent: u64,
    pub rewards_acknowledged: u64,
    pub rewards_unknown: u64,
    pub rewards_limited: u64,
}

impl Counters {
    /// Of the service's own counters.
    pub fn of(c: &v1::SessionCounters) -> Self {
        Self {
            frames_in: c.frames_in,
            frames_decided: c.frames_decided,
            frames_doubted: c.frames_doubted,
            frames_gathered: c.frames_gathered,
            frames_skipped: c.frames_skipped,
            frames_refused: c.frames_refused,
            trials: c.trials,
            hits: c.hits,
            aversive: c.aversive,
            misses: c.misses,
            rewards_intended: c.rewards_intended,
            rewards_sent: c.rewards_sent,
            rewards_acknowledged: c.rewards_acknowledged,
            rewards_unknown: c.rewards_unknown,
            rewards_limited: c.rewards_limited,
        }
    }

    /// Each with its name, in the order of their declaration.
    pub fn named(&self) -> [(&'static str, u64); 15] {
        [
            ("frames_in", self.frames_in),
            ("frames_decided", self.frames_decided),
            ("frames_doubted", self.frames_doubted),
            ("frames_gathered", self.frames_gathered),
            ("frames_skipped", self.frames_skipped),
            ("frames_refused", self.frames_refused),
            ("trials", self.trials),
            ("hits", self.hits),
            ("aversive", self.aversive),
            ("misses", self.misses),
            ("rewards_intended", self.rewards_intended),
            ("rewards_sent", self.rewards_sent),
            ("rewards_acknowledged", self.rewards_acknowledged),
            ("rewards_unknown", self.rewards_unknown),
            ("rewards_limited", self.rewards_limited),
        ]
    }

    /// Adds another segment's.
    pub fn add(&mut self, other: &Self) {
        self.frames_in += other.frames_in;
        self.frames_decided += other.frames_decided;
        self.frames_doubted += other.frames_doubted;
        self.frames_gathered += other.frames_gathered;
        self.frames_skipped += other.frames_skipped;
        self.frames_refused += other.frames_refused;
        self.trials += other.trials;
        self.hits += other.hits;
        self.aversive += other.aversive;
        self.misses += other.misses;
        self.rewards_intended += other.rewards_intended;
        self.rewards_sent += other.rewards_sent;
        self.rewards_acknowledged += other.rewards_acknowledged;
        self.rewards_unknown += other.rewards_unknown;
        self.rewards_limited += other.rewards_limited;
    }
}

/// What the stream said of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StreamSeen {
    /// `pixels`, `roi values`, or `none` where the head names no stream.
    pub kind: &'static str,
    /// Rows of a frame, in pixels; 0 without pixels, as are the next two.
    pub height_px: u32,
    /// Columns, in pixels.
    pub width_px: u32,
    /// Imaging planes.
    pub planes: u32,
    /// How a pixel is stored; empty without pixels.
    pub pixel_type: String,
    /// Frames a second, as the header says; 0 where it does not.
    pub frame_rate_hz: f64,
    /// ROIs.
    pub rois: u32,
    /// Name and version of the adapter.
    pub adapter: String,
}

/// The inputs of a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inputs {
    /// Number of the first; absent where there is none.
    pub first: Option<u64>,
    /// Number of the last.
    pub last: Option<u64>,
    /// How many are here.
    pub count: u64,
    /// Numbers between the first and the last that are not here: lost before they reached the disk.
    pub missing: u64,
    /// Records that the journal itself says are lost.
    pub lost_records: u64,
    /// How many of each kind.
    pub kinds: BTreeMap<String, u64>,
}

/// A command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CommandSeen {
    /// The input that carried it.
    pub input_seq: u64,
    /// The frame that was current.
    pub frame: u64,
    /// What it was, with its arguments.
    pub command: String,
    /// Who sent it; empty where that is not recorded.
    pub operator: String,
    /// The client's key.
    pub idempotency_key: String,
    /// What became of it.
    pub outcome: String,
    /// Whether it took effect.
    pub took_effect: bool,
}

/// A baseline.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BaselineSeen {
    /// The frame that was current when it began; its first frame is the next.
    pub started_frame: u64,
    /// Its last frame; absent where it was not completed.
    pub last_frame: Option<u64>,
    /// Good frames in it; 0 before it is complete.
    pub good_frames: u64,
    /// Score of the template's match with the reference image, 0 to 1; absent without one.
    pub template_score: Option<f64>,
    /// Whether that match is sure enough.
    pub template_trusted: bool,
    /// Place of the template against the reference image: down and right, in pixels.
    pub template_offset_px: [f64; 2],
    /// By how many columns odd lines lie to the right of even ones; absent while that is off.
    pub odd_lines_px: Option<f64>,
    /// The detector's offset that it left, in counts.
    pub detector_offset_counts: f64,
}

/// A drift in depth, towards later slices, in um.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct DriftSeen {
    /// At the end.
    pub last_um: f64,
    /// Furthest from 0.
    pub largest_um: f64,
    /// The frame of that.
    pub largest_frame: u64,
}

/// A threshold that came into force.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ThresholdSeen {
    /// The frame that was current.
    pub frame: u64,
    /// T, in units of x.
    pub threshold: f64,
    /// The range's low end, in units of x; absent where an operator's word left it alone.
    pub range_low: Option<f64>,
    /// Today's difficulty in standard deviations; absent where an operator set the threshold.
    pub z_half: Option<f64>,
    /// Fraction of the baseline's segments that exceed it, 0 to 1; absent where an operator set the threshold.
    pub chance_fraction: Option<f64>,
    /// Whether day 1's difficulty capped it.
    pub carried_over: bool,
}

/// A trial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TrialSeen {
    /// Its number, from 1.
    pub number: u64,
    /// Its first frame.
    pub first_frame: u64,
    /// The frame in which its outcome stood; absent while it is open.
    pub outcome_frame: Option<u64>,
    /// `hit`, `aversive`, `miss`, or `open` where the segment ended before it.
    pub outcome: &'static str,
}

/// A device's failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultSeen {
    /// The frame that was current.
    pub frame: u64,
    /// What failed.
    pub what: String,
}

/// The engine's states that are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Snapshots {
    /// How many.
    pub count: u64,
    /// After which inputs.
    pub inputs: Vec<u64>,
    /// Their size together, in bytes.
    pub bytes: u64,
}

/// How the record and the process fared, from a sample every second; all zero where there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HealthSeen {
    /// Samples.
    pub samples: u64,
    /// The longest that a record had been waiting for the disk, in nanoseconds.
    pub durable_lag_max_ns: u64,
    /// The most records that waited for the journal's thread.
    pub records_waiting_max: u32,
    /// Frames whose pixels were to be kept and were not.
    pub pixels_dropped: u64,
    /// Records lost.
    pub records_lost: u64,
    /// The most memory of the process that was resident, in bytes; 0 where the system does not say.
    pub resident_bytes_max: u64,
}

/// How long a stage took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageLatency {
    /// The stage; `total` and `reward` are explained at [`Segment::latency_us`].
    pub stage: &'static str,
    /// Its distribution, in microseconds.
    #[serde(flatten)]
    pub us: Percentiles,
}

/// Looks at every journal of a session, each as far as it is whole. Nothing here fails: what cannot be read is damage.
pub fn inspect(files: &SessionFiles) -> Inspection {
    let mut found = Inspection {
        directory: files.directory.clone(),
        session_id: String::new(),
        whole: true,
        bytes: 0,
        counters: Counters::default(),
        segments: Vec::new(),
        damage: Vec::new(),
    };
    for files in &files.segments {
        let path = &files.journal;
        let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
        let mut pass = Pass::default();
        found.damage.extend(read_one(files, |record| pass.take(record)));
        found.bytes += bytes;
        let (head, mut segment) = pass.finish();
        found.damage.extend(damage::lost_inputs(path, &segment));
        if let Some(name) = head {
            if found.session_id.is_empty() {
                found.session_id = name;
            }
            segment.file = file_name(path);
            segment.bytes = bytes;
            found.counters.add(&segment.counters);
            found.segments.push(segment);
        }
    }
    found.damage.extend(damage::beside(files));
    found.whole = found.damage.iter().all(|d| d.unfinished);
    found
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
