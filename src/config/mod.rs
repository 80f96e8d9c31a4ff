//! `rig.toml`: what a rig is and what a session does.
//!
//! In: TOML text and overrides (`task.trial_frames=150`). Out: a [`RigConfig`] in which every key has a value that was
//! checked, or one error that lists everything that is wrong, naming each key and what would be accepted. Nothing else
//! reads the environment. The resolved configuration and its hash head the journal.

pub mod activity;
pub mod calibration;
pub mod decode;
pub mod limits;
mod load;
pub mod outputs;
pub mod register;
pub mod sample;
pub mod source;
pub mod synthetic;
pub mod task;

pub use load::{ConfigError, hash, load_file, load_text, to_toml};

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::activity::ActivityConfig;
use self::calibration::CalibrationConfig;
use self::decode::DecodeConfig;
use self::limits::LimitsConfig;
use self::outputs::OutputsConfig;
use self::register::RegisterConfig;
use self::sample::SampleConfig;
use self::source::SourceConfig;
use self::synthetic::SyntheticConfig;
use self::task::TaskConfig;

/// Everything that a session is configured by.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RigConfig {
    /// The rig itself.
    pub rig: RigSection,
    /// How a recording is read.
    pub source: SourceConfig,
    /// What is read of the stream of frames.
    pub stream: StreamConfig,
    /// Where the ROIs come from.
    pub rois: RoisConfig,
    /// Motion correction.
    pub register: RegisterConfig,
    /// ROI masks and neuropil.
    pub sample: SampleConfig,
    /// F0, dF/F, z-score.
    pub activity: ActivityConfig,
    /// P+ and P-.
    pub ensembles: EnsemblesConfig,
    /// From activity to the cursor.
    pub decode: DecodeConfig,
    /// The baseline.
    pub baseline: BaselineConfig,
    /// Threshold and range from the baseline.
    pub calibration: CalibrationConfig,
    /// The trial; absent: the session tracks the ROIs and runs no trials.
    pub task: Option<TaskConfig>,
    /// The devices.
    pub outputs: OutputsConfig,
    /// What no command passes; must be there for a hardware output.
    pub limits: LimitsConfig,
    /// The real-time thread.
    pub engine: EngineConfig,
    /// The session's directory and journal.
    pub record: RecordConfig,
    /// The service.
    pub service: ServiceConfig,
    /// The synthetic microscope and its animal, for the demo.
    pub synthetic: SyntheticConfig,
}

/// The rig itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RigSection {
    /// Its name, 1 to 64 letters, digits, `-` or `_`; part of every session's name.
    pub name: String,
}

impl Default for RigSection {
    fn default() -> Self {
        Self { name: "rig".to_owned() }
    }
}

/// Planes that a session reads: a number, or several in rising order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a plane's number, or a list of them")]
pub enum Planes {
    /// One.
    One(u32),
    /// Several, at most [`PLANES_MAX`].
    Several(Vec<u32>),
}

/// Planes that a session reads at most.
pub const PLANES_MAX: usize = 16;

impl Default for Planes {
    fn default() -> Self {
        Planes::One(0)
    }
}

impl Planes {
    /// Their numbers.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            Planes::One(plane) => std::slice::from_ref(plane),
            Planes::Several(planes) => planes,
        }
    }

    /// Whether a plane is among them.
    pub fn contain(&self, plane: u32) -> bool {
        self.as_slice().contains(&plane)
    }
}

/// What is read of the stream of frames.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// The planes that are read, from 0: one, or a list in rising order, which is taken to be the order of the scan. A
    /// decision falls when the last plane that an ensemble needs has come; others never delay it.
    pub plane: Planes,
    /// The channel that is read, from 0.
    pub channel: u32,
    /// Whether the microscope stores the largest value minus the brightness; absent: as the stream's header says.
    pub inverted: Option<bool>,
    /// What a decision waits for: `frame`, or `last_needed_line`. Default `frame`.
    pub decide: Decide,
}

/// What a decision waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decide {
    /// The whole frame.
    #[default]
    Frame,
    /// The rows that masks and annuli may lie on at the largest shift, of a frame that comes in strips: it is decided
    /// on, and its brain motion is found from, these rows alone, and what is below them is neither read nor kept.
    LastNeededLine,
}

impl StreamConfig {
    /// Pushes one sentence for each value outside its range.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        let planes = self.plane.as_slice();
        if !(1..=PLANES_MAX).contains(&planes.len()) {
            violations.push(format!("{section}.plane: {} planes, expected 1 to {PLANES_MAX}", planes.len()));
        }
        if planes.windows(2).any(|pair| pair[0] >= pair[1]) {
            violations.push(format!("{section}.plane: {planes:?}, expected rising numbers, each once"));
        }
    }
}

/// Where the ROIs come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoisConfig {
    /// suite2p's `stat.npy`, CaImAn's or NWB's HDF5, Cellpose's `_seg.npy`, ImageJ's `.roi` or `.zip`, Neurofinder's
    /// `regions.json`, or JSON of our own; empty: uploaded, or none.
    pub file: PathBuf,
}

/// P+ and P-.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnsemblesConfig {
    /// ROI ids of P+ (E2 elsewhere), at most 64.
    pub plus: Vec<u32>,
    /// ROI ids of P- (E1 elsewhere), at most 64; empty: one population.
    pub minus: Vec<u32>,
}

/// The baseline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BaselineConfig {
    /// Frames in the baseline, 1 to 1,000,000.
    pub frames: u32,
}

impl Default for BaselineConfig {
    fn default() -> Self {
        Self { frames: 1_500 }
    }
}

/// What happens when frames come faster than they are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overload {
    /// Skip to the newest; every skip is an input of its own. For live sessions.
    #[default]
    Latest,
    /// Decide every frame; the source waits. For replay.
    Every,
}

/// The real-time thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// `latest` or `every`.
    pub overload: Overload,
    /// Frames that may wait, 2 to 1,024.
    pub queue_frames: u32,
    /// Silence, in frame periods, after which the trial stands still; 0: never. 0, or 1 to 1,000.
    pub gap_periods: f64,
    /// What this rig demands, 0.1 to 10,000 ms: a frame whose decision or trigger comes later than this after its last
    /// byte is late, which is told and counted, and `apical doctor` asks whether this computer keeps it; 0: nothing.
    pub deadline_ms: f64,
    /// How long the thread spins before the next frame is due, and for as long after it, before it parks, 0 to
    /// 100,000 us; at most a tenth of the time between two frames. A thread that is awake when its frame comes
    /// has it 50 to 200 us earlier than one that is woken. Absent: 300 with a `realtime_priority`, else 0, for spinning
    /// pays only for a thread that nobody takes off its processor.
    pub spin_us: Option<u32>,
    /// `SCHED_FIFO` priority of the thread, 1 to 98; 0: an ordinary thread. Refused without the right to it, which the
    /// session then says.
    pub realtime_priority: u32,
    /// The processors that the thread may run on, at most 1,024, each below 1,024; empty: any.
    pub cores: Vec<u32>,
    /// Whether the service's memory is kept from being paged out (`mlockall`), as it is when the session begins.
    pub lock_memory: bool,
    /// Seconds between snapshots of the state in the journal, 1 to 3,600.
    pub snapshot_interval_s: u32,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            overload: Overload::Latest,
            queue_frames: 16,
            gap_periods: 2.0,
            deadline_ms: 10.0,
            spin_us: None,
            realtime_priority: 0,
            cores: Vec::new(),
            lock_memory: false,
            snapshot_interval_s: 60,
        }
    }
}

impl EngineConfig {
    /// How long the thread spins, in nanoseconds.
    pub fn spin_ns(&self) -> u64 {
        let unsaid_us = if self.realtime_priority > 0 { 300 } else { 0 };
        u64::from(self.spin_us.unwrap_or(unsaid_us)) * 1_000
    }
}

/// What is kept of the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FramesKept {
    /// Nothing: F is in the journal.
    #[default]
    None,
    /// The boxes around the ROIs and their annuli, moved by the frame's shift.
    Rois,
    /// Every pixel: the session can be recomputed from its pixels, and played again with other ROIs.
    All,
}

/// When what was written counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncPolicy {
    /// When the disk has it (`fdatasync`): it survives a power cut.
    #[default]
    Disk,
    /// When the operating system has it: it survives the end of this process, not a power cut.
    System,
}

/// The session's directory and journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordConfig {
    /// Directory in which every session gets one of its own.
    pub directory: PathBuf,
    /// `none`, `rois` or `all`: what is kept of the pixels, losslessly, in a file of its own.
    pub frames: FramesKept,
    /// Frames whose pixels may wait for the disk before they are dropped, counted and announced; 1 to 1,024.
    pub frames_queue: u32,
    /// Records are sealed and brought to the disk this often, 1 to 1,000 ms, and sooner when 2 MiB wait; with the time
    /// that the disk takes, it is how far `durable_through` stays behind.
    pub sync_interval_ms: u32,
    /// `disk` or `system`: when what was written counts as durable.
    pub sync: SyncPolicy,
    /// `durable_through` this far behind is an event, 10 to 60,000 ms.
    pub stall_event_ms: u32,
    /// Whether a report is written when the session ends.
    pub report: bool,
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("sessions"),
            frames: FramesKept::None,
            frames_queue: 32,
            sync_interval_ms: 50,
            sync: SyncPolicy::Disk,
            stall_event_ms: 100,
            report: true,
        }
    }
}

/// The service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// Where it listens; a loopback address.
    pub listen: SocketAddr,
    /// A Unix socket on which it listens as well, for this user alone; empty: none.
    pub socket: PathBuf,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 50_051)), socket: PathBuf::new() }
    }
}

impl RigConfig {
    /// The length of a trial in frames: of the task, or, without one, the task's default. F0's window and the
    /// calibration's segments follow it.
    pub fn trial_frames(&self) -> u32 {
        self.task.as_ref().map_or_else(|| TaskConfig::default().trial_frames, |task| task.trial_frames)
    }

    /// Everything that is wrong, one sentence each.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let name = &self.rig.name;
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(sound) {
            found.push(format!("rig.name: {name:?}, expected 1 to 64 letters, digits, '-' or '_'"));
        }
        self.stream.validate("stream", &mut found);
        self.source.validate("source", &mut found);
        self.register.validate("register", &mut found);
        self.sample.validate("sample", &mut found);
        self.activity.validate("activity", &mut found);
        self.decode.validate("decode", &mut found);
        if self.decode.signal == decode::Signal::Rate && !self.activity.has_rate() {
            found.push(
                "decode.signal: \"rate\" while there is none, expected activity.deconvolution = \"ar1\" or \"ar2\", \
                 or activity.mode = \"voltage\""
                    .to_owned(),
            );
        }
        self.calibration.validate("calibration", &mut found);
        self.outputs.validate("outputs", &mut found);
        self.synthetic.validate("synthetic", &mut found);
        self.limits.validate("limits", &mut found);
        self.limits.required_for(&self.outputs, "limits", &mut found);
        if let Some(task) = &self.task {
            task.validate("task", &mut found);
        }
        self.ensembles.validate("ensembles", &mut found);
        self.validate_numbers(&mut found);
        let listen = self.service.listen;
        if !listen.ip().is_loopback() {
            found.push(format!(
                "service.listen: {listen}, expected a loopback address such as 127.0.0.1:50051, because there is no \
                 TLS and there are no roles yet, and whoever reaches the port can open the valve"
            ));
        }
        found
    }

    fn validate_numbers(&self, found: &mut Vec<String>) {
        let mut expect = |key: &str, value: f64, good: bool, expected: &str| {
            if !good {
                found.push(format!("{key}: {value}, expected {expected}"));
            }
        };
        let range = |value: u32, low: u32, high: u32| (low..=high).contains(&value);
        let frames = self.baseline.frames;
        expect("baseline.frames", f64::from(frames), range(frames, 1, 1_000_000), "1 to 1000000");
        let queue = self.engine.queue_frames;
        expect("engine.queue_frames", f64::from(queue), range(queue, 2, 1_024), "2 to 1024");
        let gap = self.engine.gap_periods;
        expect("engine.gap_periods", gap, gap == 0.0 || (1.0..=1_000.0).contains(&gap), "0, or 1 to 1000");
        let deadline = self.engine.deadline_ms;
        let possible = deadline == 0.0 || (0.1..=10_000.0).contains(&deadline);
        expect("engine.deadline_ms", deadline, possible, "0, or 0.1 to 10000");
        let spin = self.engine.spin_us.unwrap_or_default();
        expect("engine.spin_us", f64::from(spin), range(spin, 0, 100_000), "0 to 100000");
        let priority = self.engine.realtime_priority;
        expect("engine.realtime_priority", f64::from(priority), range(priority, 0, 98), "0 to 98");
        if let Some(core) = self.engine.cores.iter().max() {
            expect("engine.cores", f64::from(*core), *core < 1_024 && self.engine.cores.len() <= 1_024, "below 1024");
        }
        let snapshot = self.engine.snapshot_interval_s;
        expect("engine.snapshot_interval_s", f64::from(snapshot), range(snapshot, 1, 3_600), "1 to 3600");
        let sync = self.record.sync_interval_ms;
        expect("record.sync_interval_ms", f64::from(sync), range(sync, 1, 1_000), "1 to 1000");
        let queue = self.record.frames_queue;
        expect("record.frames_queue", f64::from(queue), range(queue, 1, 1_024), "1 to 1024");
        let stall = self.record.stall_event_ms;
        expect("record.stall_event_ms", f64::from(stall), range(stall, 10, 60_000), "10 to 60000");
        let r = &self.register;
        if r.z_step_um > 0.0 && r.z_stack.as_os_str().is_empty() && self.stream.plane.as_slice().len() < 2 {
            expect(
                "register.z_step_um",
                r.z_step_um,
                false,
                "0, or register.z_stack, or several planes in stream.plane",
            );
        }
        if self.task.is_some() && self.calibration.segments > frames {
            let segments = f64::from(self.calibration.segments);
            expect("calibration.segments", segments, false, &format!("at most baseline.frames ({frames})"));
        }
    }
}

impl EnsemblesConfig {
    /// Pushes one sentence for each value that cannot be used.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        let most = decode::ENSEMBLE_MAX;
        for (key, rois) in [("plus", &self.plus), ("minus", &self.minus)] {
            if rois.len() > most {
                violations.push(format!("{section}.{key}: {} ROIs, expected at most {most}", rois.len()));
            }
        }
        let both = || self.plus.iter().chain(&self.minus);
        for (index, roi) in both().enumerate() {
            if both().take(index).any(|earlier| earlier == roi) {
                violations.push(format!("{section}: ROI {roi} stands twice, expected each ROI once in both"));
            }
        }
        if self.plus.is_empty() && !self.minus.is_empty() {
            violations.push(format!("{section}.plus: no ROI while minus has {}, expected 1 or more", self.minus.len()));
        }
    }
}
