//! A session as three tables.
//!
//! In: the journal. Out, in a directory of the caller's:
//! - `frames.csv`: one row for every frame from the first on, in order. Frames that were skipped or never came have a
//!   row without numbers, so that no index is missing. A skipped frame's state is that of the decision on the skip;
//!   where numbers jumped it is the state before the jump: what the trial did between is in `events.csv`. The shift is
//!   the frame's own; those of blocks are in the journal alone.
//! - `activity.csv`: the same rows, with F, neuropil, F0 (detector counts), dF/F (a ratio) and z (standard deviations)
//!   of every ROI, and its rate (a ratio a frame, or spikes a second) where the session's configuration has one.
//! - `events.csv`: what happened, in order.
//!
//! Where a session went on after a crash, a last column says the segment, since frames may be numbered anew in each.
//!
//! An empty field is a value that there is not. A reward that an operator ordered belongs to no frame and stands in
//! `events.csv` alone. Cost: one pass; memory: one row.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ExportError;
use crate::journal::{JournalRecord, REWARD_OUTPUT, SessionFiles, is_decided, state_name, texts};
use crate::proto::v1;

/// Rows that one event of skipped frames may make: a wrong number in a journal must not fill the disk.
const SKIPPED_ROWS_MAX: u64 = 1_000_000;

const FRAMES_HEADER: &str = "frame,device_ns,dy_px,dx_px,score,cursor,rotation_deg,shown_deg,state,reward,latency_us";
const EVENTS_HEADER: &str = "frame,device_ns,kind,id,value";

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Rows in `frames.csv`, those of skipped frames included.
    pub frames: u64,
    /// Rows in `events.csv`.
    pub events: u64,
    /// The directory with the tables.
    pub out: PathBuf,
    /// Segments that their service left without closing them, one sentence each.
    pub unfinished: Vec<String>,
}

/// Writes `frames.csv`, `activity.csv` and `events.csv` of the session in `directory` into `out`, which is created.
///
/// # Errors
/// There is no session, a table cannot be written, or the journal is damaged; then the tables hold everything before
/// the damage.
pub fn write_tables(directory: &Path, out: &Path) -> Result<Written, ExportError> {
    let files = SessionFiles::open(directory)?;
    let head = files.head()?;
    let mut tables = Tables::create(out, roi_count(&head), has_rate(&head), files.segments.len() > 1)?;
    // The reader goes to the end whatever becomes of the tables; the first failure to write is the one that is told.
    let mut failure = None;
    let read = files.read(|record| {
        if failure.is_none() {
            failure = tables.take(record).err();
        }
    });
    if failure.is_none() {
        failure = tables.finish().err();
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let (frames, events, out) = (tables.frames.rows, tables.events.rows, out.to_owned());
    match read {
        Ok(()) => Ok(Written { frames, events, out, unfinished: texts(&files.unfinished()) }),
        Err(source) => Err(ExportError::BrokenOff { frames, events, out, source }),
    }
}

/// ROIs of a session.
pub(super) fn roi_count(head: &v1::SessionHead) -> usize {
    match &head.stream {
        Some(v1::session_head::Stream::RoiValues(header)) => header.roi_count as usize,
        _ => head.rois.as_ref().map_or(0, |set| set.rois.len()),
    }
}

/// Whether the ROIs of a session have a rate.
fn has_rate(head: &v1::SessionHead) -> bool {
    // A configuration that this version cannot read asked for none that it could write.
    crate::config::load_text(&head.config_toml, &[]).is_ok_and(|config| config.activity.has_rate())
}

/// Whether a reward was intended on this input.
pub(super) fn intends_reward(decision: &v1::DecisionRecord) -> bool {
    decision.intent_output.contains(&REWARD_OUTPUT)
}

/// From a frame's arrival to its decision; `None` where the input did not arrive by itself.
pub(super) fn latency_us(timing: &v1::TimingRecord) -> Option<f64> {
    let waited_ns = timing.decided_host_ns.saturating_sub(timing.received_host_ns);
    (timing.received_host_ns != 0).then_some(waited_ns as f64 / 1e3)
}

/// Columns of each ROI in `activity.csv`.
fn columns(has_rate: bool) -> usize {
    if has_rate { 6 } else { 5 }
}

/// One file with its rows.
struct Table {
    path: PathBuf,
    file: BufWriter<File>,
    rows: u64,
}

impl Table {
    fn create(path: PathBuf, header: &str) -> Result<Self, ExportError> {
        let file = File::create(&path).map_err(ExportError::io(&path))?;
        let mut table = Self { path, file: BufWriter::with_capacity(1 << 16, file), rows: 0 };
        table.write(header)?;
        Ok(table)
    }

    fn row(&mut self, line: &str) -> Result<(), ExportError> {
        self.rows += 1;
        self.write(line)
    }

    fn write(&mut self, line: &str) -> Result<(), ExportError> {
        writeln!(self.file, "{line}").map_err(ExportError::io(&self.path))
    }
}

/// The three tables, with what must be known of the records before.
struct Tables {
    frames: Table,
    activity: Table,
    events: Table,
    roi_count: usize,
    has_rate: bool,
    input: Option<v1::InputRecord>,
    /// A decided frame that waits for its time stamps.
    decided: Option<Box<v1::DecisionRecord>>,
    /// State of the trial before the present input.
    state: v1::TrialState,
    line: String,
    /// The segment at hand, where there are several.
    segment: Option<u32>,
}

impl Tables {
    fn create(out: &Path, roi_count: usize, has_rate: bool, several: bool) -> Result<Self, ExportError> {
        std::fs::create_dir_all(out).map_err(ExportError::io(out))?;
        let mut activity = "frame".to_owned();
        for id in 0..roi_count {
            for column in ["F", "Fneu", "f0", "dff", "z", "rate"].iter().take(columns(has_rate)) {
                activity += &format!(",{column}_{id}");
            }
        }
        let segment = if several { ",segment" } else { "" };
        Ok(Self {
            frames: Table::create(out.join("frames.csv"), &format!("{FRAMES_HEADER}{segment}"))?,
            activity: Table::create(out.join("activity.csv"), &format!("{activity}{segment}"))?,
            events: Table::create(out.join("events.csv"), &format!("{EVENTS_HEADER}{segment}"))?,
            segment: several.then_some(0),
            roi_count,
            has_rate,
            input: None,
            decided: None,
            state: v1::TrialState::Idle,
            line: String::new(),
        })
    }

    fn take(&mut self, record: JournalRecord) -> Result<(), ExportError> {
        match record {
            JournalRecord::Input(input) => {
                self.frame(None)?;
                self.input = Some(input);
                Ok(())
            }
            JournalRecord::Decision(decision) => self.decision(decision),
            JournalRecord::Timing(timing) => self.frame(Some(&timing)),
            JournalRecord::Event(event) => self.event(&event),
            JournalRecord::Head(head) => {
                // The last frame of the segment before it waits no longer for its time stamps.
                self.frame(None)?;
                self.segment = self.segment.map(|_| head.segment);
                Ok(())
            }
            JournalRecord::Command(_)
            | JournalRecord::Snapshot(_)
            | JournalRecord::Health(_)
            | JournalRecord::Loss(_)
            | JournalRecord::Latency(_) => Ok(()),
        }
    }

    fn decision(&mut self, decision: Box<v1::DecisionRecord>) -> Result<(), ExportError> {
        self.frame(None)?;
        let Some(input) = self.input.take().filter(|input| input.input_seq == decision.input_seq) else {
            return Ok(());
        };
        let skipped = input.kind() == v1::InputKind::Skipped;
        let state = if skipped { decision.state() } else { self.state };
        for (kind, (&first, &count)) in
            decision.event_kind.iter().zip(decision.event_id.iter().zip(&decision.event_value))
        {
            if *kind == v1::EventKind::FramesSkipped as i32 {
                // A float that is no count becomes 0 or the limit.
                self.skipped(first, (count as u64).min(SKIPPED_ROWS_MAX), state)?;
            }
        }
        self.state = decision.state();
        self.decided = is_decided(&input, &decision).then_some(decision);
        Ok(())
    }

    fn skipped(&mut self, first: u64, count: u64, state: v1::TrialState) -> Result<(), ExportError> {
        for frame in (0..count).map_while(|k| first.checked_add(k)) {
            self.line.clear();
            integer(&mut self.line, frame);
            self.line.push_str(",,,,,,,,");
            self.line.push_str(state_name(state));
            self.line.push_str(",0,");
            end(&mut self.line, self.segment);
            self.frames.row(&self.line)?;
            self.line.clear();
            integer(&mut self.line, frame);
            self.line.extend(std::iter::repeat_n(',', columns(self.has_rate) * self.roi_count));
            end(&mut self.line, self.segment);
            self.activity.row(&self.line)?;
        }
        Ok(())
    }

    /// Writes the frame that waits, if any, with its time stamps, if there are any.
    fn frame(&mut self, timing: Option<&v1::TimingRecord>) -> Result<(), ExportError> {
        let Some(d) = self.decided.take() else { return Ok(()) };
        let latency = timing.filter(|t| t.input_seq == d.input_seq).and_then(latency_us);
        let pixels = |value: f64| if d.has_pixels { value } else { f64::NAN };
        let line = &mut self.line;
        line.clear();
        integer(line, d.frame_index);
        line.push(',');
        integer(line, d.device_ns);
        for value in [pixels(d.dy_px), pixels(d.dx_px), pixels(d.score), d.cursor, d.rotation_deg, d.displayed_deg] {
            field(line, value);
        }
        line.push(',');
        line.push_str(state_name(d.state()));
        line.push(',');
        line.push(if intends_reward(&d) { '1' } else { '0' });
        field(line, latency.unwrap_or(f64::NAN));
        end(line, self.segment);
        self.frames.row(line)?;
        line.clear();
        integer(line, d.frame_index);
        let lists = [&d.f_counts, &d.f_neuropil_counts, &d.f0_counts, &d.dff, &d.z, &d.rate];
        for roi in 0..self.roi_count {
            for values in lists.into_iter().take(columns(self.has_rate)) {
                field(line, values.get(roi).copied().unwrap_or(f64::NAN));
            }
        }
        end(line, self.segment);
        self.activity.row(line)
    }

    fn event(&mut self, event: &v1::SubscribeEventsResponse) -> Result<(), ExportError> {
        let line = &mut self.line;
        line.clear();
        integer(line, event.frame_index);
        line.push(',');
        integer(line, event.device_ns);
        line.push(',');
        let kind = event.kind().as_str_name();
        line.push_str(&kind.strip_prefix("EVENT_KIND_").unwrap_or(kind).to_ascii_lowercase());
        line.push(',');
        integer(line, event.id);
        field(line, event.value);
        end(line, self.segment);
        self.events.row(line)
    }

    fn finish(&mut self) -> Result<(), ExportError> {
        self.frame(None)?;
        for table in [&mut self.frames, &mut self.activity, &mut self.events] {
            table.file.flush().map_err(ExportError::io(&table.path))?;
        }
        Ok(())
    }
}

/// The segment, where there are several.
fn end(line: &mut String, segment: Option<u32>) {
    if let Some(segment) = segment {
        line.push(',');
        integer(line, u64::from(segment));
    }
}

fn integer(line: &mut String, value: u64) {
    use std::fmt::Write;
    // Writing to a string does not fail.
    let _ = write!(line, "{value}");
}

/// A comma, and the value with the fewest digits that read back to the same bits; nothing for what is no number.
fn field(line: &mut String, value: f64) {
    use std::fmt::Write;
    line.push(',');
    if value.is_finite() {
        // Writing to a string does not fail.
        let _ = write!(line, "{value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_float_reads_back_to_the_same_bits(bits: u64) {
            let value = f64::from_bits(bits);
            let mut line = String::new();
            field(&mut line, value);
            if value.is_finite() {
                prop_assert_eq!(line[1..].parse::<f64>().map(f64::to_bits), Ok(bits));
            } else {
                prop_assert_eq!(line, ",");
            }
        }
    }

    fn step(seq: u64, kind: v1::InputKind, decision: v1::DecisionRecord, received_host_ns: u64) -> [JournalRecord; 3] {
        let decision = v1::DecisionRecord { input_seq: seq, ..decision };
        [
            JournalRecord::Input(v1::InputRecord { input_seq: seq, kind: kind as i32, ..Default::default() }),
            JournalRecord::Decision(Box::new(decision)),
            JournalRecord::Timing(v1::TimingRecord {
                input_seq: seq,
                received_host_ns,
                decided_host_ns: received_host_ns + 1_500,
                ..Default::default()
            }),
        ]
    }

    fn frame(index: u64) -> v1::DecisionRecord {
        v1::DecisionRecord {
            frame_index: index,
            device_ns: index * 10,
            verdict: v1::FrameVerdict::Decided as i32,
            has_pixels: true,
            dy_px: -0.1,
            score: 1.0,
            cursor: f64::NAN,
            rotation_deg: f64::NAN,
            displayed_deg: f64::NAN,
            state: v1::TrialState::Control as i32,
            f_counts: vec![200.0, 0.5],
            f0_counts: vec![100.0, f64::NAN],
            dff: vec![1.0, f64::NAN],
            z: vec![f64::NAN; 2],
            ..Default::default()
        }
    }

    fn written(records: impl IntoIterator<Item = JournalRecord>) -> (String, String) {
        let out = tempfile::tempdir().unwrap();
        let mut tables = Tables::create(out.path(), 2, false, false).unwrap();
        records.into_iter().for_each(|record| tables.take(record).unwrap());
        tables.finish().unwrap();
        let text = |name: &str| std::fs::read_to_string(out.path().join(name)).unwrap();
        (text("frames.csv"), text("activity.csv"))
    }

    #[test]
    fn what_is_no_number_is_empty_and_the_rest_is_in_its_column() {
        let rewarded = v1::DecisionRecord { intent_output: vec![1, 0], displayed_deg: 90.0, ..frame(7) };
        let values = v1::DecisionRecord { has_pixels: false, ..frame(8) };
        let first = step(0, v1::InputKind::Frame, rewarded, 5);
        let second = step(1, v1::InputKind::RoiValues, values, 0);
        let (frames, activity) = written(first.into_iter().chain(second));
        let rows: Vec<&str> = frames.lines().skip(1).collect();
        assert_eq!(rows, ["7,70,-0.1,0,1,,,90,control,1,1.5", "8,80,,,,,,,control,0,"]);
        let mut lines = activity.lines();
        assert_eq!(lines.next(), Some("frame,F_0,Fneu_0,f0_0,dff_0,z_0,F_1,Fneu_1,f0_1,dff_1,z_1"));
        assert_eq!(lines.next(), Some("7,200,,100,1,,0.5,,,,"));
    }

    #[test]
    fn the_rate_has_its_column_where_the_session_has_one() {
        let out = tempfile::tempdir().unwrap();
        let mut tables = Tables::create(out.path(), 2, true, false).unwrap();
        let rated = v1::DecisionRecord { rate: vec![0.25, f64::NAN], ..frame(7) };
        step(0, v1::InputKind::Frame, rated, 5).into_iter().for_each(|record| tables.take(record).unwrap());
        tables.finish().unwrap();
        let activity = std::fs::read_to_string(out.path().join("activity.csv")).unwrap();
        let mut lines = activity.lines();
        let head = "frame,F_0,Fneu_0,f0_0,dff_0,z_0,rate_0,F_1,Fneu_1,f0_1,dff_1,z_1,rate_1";
        assert_eq!((lines.next(), lines.next()), (Some(head), Some("7,200,,100,1,,0.25,0.5,,,,,")));
    }

    #[test]
    fn a_frame_that_was_skipped_or_never_came_has_its_row_in_its_place() {
        let skip = |d: v1::DecisionRecord, first: u64, count: f64| v1::DecisionRecord {
            event_kind: vec![v1::EventKind::FramesSkipped as i32],
            event_id: vec![first],
            event_value: vec![count],
            ..d
        };
        let iti = v1::DecisionRecord { state: v1::TrialState::Iti as i32, ..frame(6) };
        let overload = v1::DecisionRecord { verdict: v1::FrameVerdict::Skipped as i32, ..iti.clone() };
        let records = step(0, v1::InputKind::Frame, frame(3), 0)
            .into_iter()
            .chain(step(1, v1::InputKind::Frame, skip(iti, 4, 2.0), 0))
            .chain(step(2, v1::InputKind::Skipped, skip(overload, 7, 1.0), 0));
        let (frames, activity) = written(records);
        let rows: Vec<&str> = frames.lines().skip(1).collect();
        let [a, b, c, d, e] = rows[..] else { panic!("{rows:?}") };
        assert!(a.starts_with("3,30,"), "{a}");
        assert_eq!((b, c), ("4,,,,,,,,control,0,", "5,,,,,,,,control,0,"));
        assert!(d.starts_with("6,60,"), "{d}");
        assert_eq!(e, "7,,,,,,,,iti,0,");
        assert_eq!(activity.lines().nth(2), Some("4,,,,,,,,,,"));
        assert_eq!(activity.lines().count(), frames.lines().count());
    }

    #[test]
    fn a_wrong_count_of_skipped_frames_does_not_fill_the_disk() {
        let huge = v1::DecisionRecord {
            verdict: v1::FrameVerdict::Skipped as i32,
            event_kind: vec![v1::EventKind::FramesSkipped as i32; 2],
            event_id: vec![u64::MAX - 1, 0],
            event_value: vec![1e300, f64::NAN],
            ..frame(1)
        };
        let (frames, _) = written(step(0, v1::InputKind::Skipped, huge, 0));
        assert_eq!(frames.lines().count(), 3, "two indices are left below 2^64, and NaN is none");
    }
}
