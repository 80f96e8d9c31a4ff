//! A session as frames, for a comparison: each decided frame with what was in force and what was fired.

use std::sync::mpsc::SyncSender;

use super::Side;
use crate::engine::{Command, CommandOutcome};
use crate::journal::inspect::{Counters, read_one};
use crate::journal::{JournalRecord, SessionFiles, Summary, input_of, is_decided};
use crate::proto::v1::{self, EventKind};

/// Outputs that a trigger may be for: reward, sync, light.
const OUTPUTS: usize = 3;

/// A decided frame.
pub(super) struct Frame {
    /// How often frames were counted from the beginning again before it.
    pub count: u32,
    /// Its index.
    pub index: u64,
    /// What was decided.
    pub decision: Box<v1::DecisionRecord>,
    /// The threshold in force; NaN without one.
    pub threshold: f64,
    /// The range's low end in force.
    pub range_low: f64,
    /// Pulses of each output that were intended from this frame to the next, and their widths together, in us.
    pub pulses: [(u64, u64); OUTPUTS],
}

impl Frame {
    /// What frames are aligned by, in order.
    pub fn key(&self) -> (u32, u64) {
        (self.count, self.index)
    }
}

/// Gives every frame of a session to `frames`, in order; what it came to.
pub(super) fn read_side(files: &SessionFiles, frames: SyncSender<Frame>) -> Side {
    let mut reader = Reader {
        frames,
        side: Side { directory: files.directory.clone(), segments: files.segments.len() as u32, ..Side::default() },
        summary: Summary::default(),
        waiting: None,
        frame: None,
        early: [(0, 0); OUTPUTS],
        count: 0,
        last_index: None,
        at_head: false,
        range: (f64::NAN, f64::NAN),
    };
    for segment in &files.segments {
        let damage = read_one(segment, |record| reader.take(record));
        reader.side.damage.extend(damage);
    }
    reader.give();
    reader.side.counters = Counters::of(&reader.summary.counters);
    reader.side
}

struct Reader {
    frames: SyncSender<Frame>,
    side: Side,
    summary: Summary,
    waiting: Option<v1::InputRecord>,
    frame: Option<Frame>,
    /// Pulses before the first frame; they belong to it.
    early: [(u64, u64); OUTPUTS],
    count: u32,
    last_index: Option<u64>,
    at_head: bool,
    range: (f64, f64),
}

impl Reader {
    fn take(&mut self, record: JournalRecord) {
        match record {
            JournalRecord::Head(_) => {
                self.waiting = None;
                self.at_head = true;
            }
            JournalRecord::Input(input) => self.waiting = Some(input),
            JournalRecord::Decision(decision) => {
                if let Some(input) = self.waiting.take().filter(|i| i.input_seq == decision.input_seq) {
                    self.step(&input, decision);
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, input: &v1::InputRecord, decision: Box<v1::DecisionRecord>) {
        self.summary.count(input, &decision);
        if !is_decided(input, &decision) {
            self.range_after(input, &decision);
            fire(self.frame.as_mut().map_or(&mut self.early, |frame| &mut frame.pulses), &decision);
            return;
        }
        self.give();
        let index = decision.frame_index;
        if std::mem::take(&mut self.at_head) && self.last_index.is_some_and(|last| index <= last) {
            self.count += 1;
        }
        self.last_index = Some(index);
        self.side.frames += 1;
        let mut pulses = std::mem::take(&mut self.early);
        fire(&mut pulses, &decision);
        let (threshold, range_low) = self.range;
        self.frame = Some(Frame { count: self.count, index, decision, threshold, range_low, pulses });
    }

    /// The frame is complete. The receiver lives until the last one.
    fn give(&mut self) {
        if let Some(frame) = self.frame.take() {
            let _ = self.frames.send(frame);
        }
    }

    /// Threshold and range after an input that was no frame.
    fn range_after(&mut self, input: &v1::InputRecord, d: &v1::DecisionRecord) {
        if let Some(c) = &d.calibration {
            self.range = (c.threshold, c.range_low);
        }
        let happened = |kind: EventKind| d.event_kind.contains(&(kind as i32));
        if happened(EventKind::BaselineStarted) || happened(EventKind::EnsemblesChanged) {
            self.range = (f64::NAN, f64::NAN);
        }
        let mut command = None;
        let took_effect = d.command_outcome == CommandOutcome::TookEffect as u32;
        if took_effect
            && input_of(input, d, &mut command).is_some()
            && let Some(Command::ChangeThreshold { threshold, range_low }) = command
        {
            self.range = (threshold, range_low.unwrap_or(self.range.1));
        }
    }
}

fn fire(pulses: &mut [(u64, u64); OUTPUTS], d: &v1::DecisionRecord) {
    for (&output, &width_us) in d.intent_output.iter().zip(&d.intent_width_us) {
        if let Some((count, width)) = pulses.get_mut(output as usize) {
            *count += 1;
            *width += u64::from(width_us);
        }
    }
}
