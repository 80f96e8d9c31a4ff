//! One pass over a journal: what the report needs of it, frame by frame and event by event.
//!
//! The baseline's x is not in the journal. It is recomputed here by an engine that takes the recorded inputs, and is
//! kept only where that engine found the same calibration as the session did.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::csv::{intends_reward, latency_us};
use super::notes::Notes;
use crate::decode::Ensembles;
use crate::engine::{Command, CommandOutcome, Engine};
use crate::journal::{
    JournalError, JournalRecord, SessionFiles, Summary, calibration_record, engine_of, input_of, is_decided, is_frame,
};
use crate::proto::v1::{self, EventKind};
use crate::report::{
    Calibration, FrameRow, Outcome, Phase, RewardFate, Role, Trace, TrialRow, TriggerFate, TriggerRow,
};

/// Everything that one pass found.
pub(super) struct Gathered {
    /// P+ and P- at the end.
    pub ensembles: Ensembles,
    pub summary: Summary,
    pub frames: Vec<FrameRow>,
    pub traces: Vec<Trace>,
    pub calibration: Option<Calibration>,
    pub trials: Vec<TrialRow>,
    pub triggers: Vec<TriggerRow>,
    pub notes: Notes,
    /// Head of the last segment, and the last state of the engine in it.
    pub snapshot: Option<(v1::SessionHead, Bytes)>,
    /// Where each plane's template lies, as the last frame of it said.
    pub offsets: BTreeMap<u32, Offset>,
    pub detector_offset_counts: Option<f64>,
}

/// Where the template lies on the ROIs' reference image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offset {
    pub dy_px: f64,
    pub dx_px: f64,
    pub score: f64,
    pub trusted: bool,
}

/// Reads the journal, with the traces of `rois`. What breaks the journal off ends up in the notes.
pub(super) fn gather(
    files: &SessionFiles,
    head: &v1::SessionHead,
    ensembles: &Ensembles,
    rois: &[(u32, Role)],
) -> Gathered {
    let mut pass = Pass::new(head, ensembles, rois);
    let read = files.read(|record| pass.take(record));
    pass.found.notes.unfinished(files.unfinished().len());
    pass.finish(read)
}

/// The pass, and what it must know of the records before.
struct Pass {
    found: Gathered,
    rate_hz: f64,
    segment: u32,
    head: v1::SessionHead,
    replay: Option<Engine>,
    input: Option<v1::InputRecord>,
    /// What caused the events that follow.
    cause: v1::InputRecord,
    /// Index and time of the segment's first frame.
    first: Option<(u64, u64)>,
    /// When that was in the session, in seconds since its first frame.
    began_s: f64,
    /// Wall time at which the session began, in nanoseconds since 1970.
    started_unix_ns: u64,
    /// Which trigger stands where in the list, and whose trial it rewards.
    places: HashMap<(u32, u64), (usize, Option<usize>)>,
    /// Whether the present frame has a row that waits for its time stamps.
    waits: Option<u64>,
}

impl Pass {
    fn new(head: &v1::SessionHead, ensembles: &Ensembles, rois: &[(u32, Role)]) -> Self {
        let found = Gathered {
            ensembles: ensembles.clone(),
            summary: Summary::default(),
            frames: Vec::new(),
            traces: rois.iter().map(|&(roi_id, role)| Trace { roi_id, role, dff: Vec::new() }).collect(),
            calibration: None,
            trials: Vec::new(),
            triggers: Vec::new(),
            notes: Notes::default(),
            snapshot: None,
            offsets: BTreeMap::new(),
            detector_offset_counts: None,
        };
        Self {
            found,
            rate_hz: frame_rate_hz(head),
            segment: head.segment,
            head: head.clone(),
            replay: engine_of(head).ok(),
            input: None,
            cause: v1::InputRecord::default(),
            first: None,
            began_s: 0.0,
            started_unix_ns: head.started_unix_ns,
            places: HashMap::new(),
            waits: None,
        }
    }

    fn take(&mut self, record: JournalRecord) {
        match record {
            JournalRecord::Head(head) => {
                if let (Some(last), true) = (self.found.frames.last(), head.segment > 0) {
                    // Frames and their clock may begin anew; wall time says how long nothing was recorded.
                    let since_ns = head.started_unix_ns.saturating_sub(self.started_unix_ns);
                    self.began_s = (since_ns as f64 / 1e9).max(last.time_s);
                    self.first = None;
                } else {
                    self.started_unix_ns = head.started_unix_ns;
                }
                self.segment = head.segment;
                self.head = *head;
            }
            JournalRecord::Input(input) => self.input = Some(input),
            JournalRecord::Decision(decision) => {
                if let Some(input) = self.input.take().filter(|i| i.input_seq == decision.input_seq) {
                    self.decision(&input, &decision);
                    self.cause = input;
                }
            }
            JournalRecord::Timing(timing) => self.timing(&timing),
            JournalRecord::Event(event) => self.event(&event),
            JournalRecord::Snapshot(snapshot) => self.found.snapshot = Some((self.head.clone(), snapshot.state)),
            JournalRecord::Loss(loss) => self.found.notes.loss(&loss),
            JournalRecord::Command(_) | JournalRecord::Latency(_) | JournalRecord::Health(_) => {}
        }
    }

    /// Seconds since the session's first frame; by the rate where the microscope gives no time.
    fn time_s(&self, index: u64, device_ns: u64) -> f64 {
        let Some((first_index, first_ns)) = self.first else { return self.began_s };
        if device_ns == 0 && self.rate_hz > 0.0 {
            return self.began_s + index.saturating_sub(first_index) as f64 / self.rate_hz;
        }
        self.began_s + device_ns.saturating_sub(first_ns) as f64 / 1e9
    }

    fn decision(&mut self, input: &v1::InputRecord, d: &v1::DecisionRecord) {
        self.found.summary.count(input, d);
        self.replayed(input, d);
        if is_frame(input) && d.offset_score >= 0.0 {
            let (dy_px, dx_px) = (d.offset_dy_px, d.offset_dx_px);
            let offset = Offset { dy_px, dx_px, score: d.offset_score, trusted: d.offset_trusted };
            self.found.offsets.insert(input.plane, offset);
        }
        self.found.detector_offset_counts = Some(d.detector_offset_counts);
        let reward = intends_reward(d);
        if !is_decided(input, d) {
            // A command or a skip orders its reward at the frame that was current.
            if let Some(row) = self.found.frames.last_mut() {
                row.reward |= reward;
            }
            return;
        }
        self.first.get_or_insert((d.frame_index, d.device_ns));
        let pixels = |value: f64| if d.has_pixels { value as f32 } else { f32::NAN };
        let phase = phase(d.state());
        self.waits = Some(d.input_seq);
        self.found.frames.push(FrameRow {
            index: d.frame_index,
            time_s: self.time_s(d.frame_index, d.device_ns),
            dy_px: pixels(d.dy_px),
            dx_px: pixels(d.dx_px),
            score: pixels(d.score),
            cursor: d.cursor as f32,
            rotation_deg: d.rotation_deg as f32,
            shown_deg: d.displayed_deg.is_finite().then_some(d.displayed_deg as f32),
            phase,
            reward,
            latency_us: None,
            doubted: d.verdict() == v1::FrameVerdict::Doubted,
        });
        for trace in &mut self.found.traces {
            // A cell whose F0 lies under the floor has a number, but none worth drawing.
            let roi = trace.roi_id as usize;
            let valid = d.roi_valid.get(roi) == Some(&true);
            trace.dff.push(d.dff.get(roi).filter(|_| valid).map_or(f32::NAN, |&v| v as f32));
        }
        if phase != Phase::Baseline {
            let rois = self.found.ensembles.plus.iter().chain(&self.found.ensembles.minus);
            let invalid = rois.copied().filter(|&roi| d.roi_valid.get(roi as usize) == Some(&false));
            self.found.notes.frame(d.frame_index, invalid);
            for &roi in self.found.ensembles.plus.iter().chain(&self.found.ensembles.minus) {
                let k = roi as usize;
                if let (Some(true), Some(&f), Some(&f0)) = (d.roi_valid.get(k), d.f_counts.get(k), d.f0_counts.get(k)) {
                    self.found.notes.f0(d.frame_index, roi, f, f0);
                }
            }
        }
    }

    /// Takes the input into the engine that recomputes the baseline's x, and whatever the decision says that stays.
    fn replayed(&mut self, input: &v1::InputRecord, d: &v1::DecisionRecord) {
        let mut command = None;
        let taken = input_of(input, d, &mut command);
        if let (Some(engine), Some(taken)) = (&mut self.replay, &taken) {
            engine.step(taken);
        }
        if let Some(Command::SetEnsembles { plus, minus }) = &command
            && d.command_outcome == CommandOutcome::TookEffect as u32
        {
            self.found.ensembles = Ensembles { plus: plus.iter().collect(), minus: minus.iter().collect() };
            // A threshold belongs to the cells that it was found for.
            self.found.calibration = None;
        }
        if let Some(c) = &d.calibration {
            let engine = self.replay.as_ref().filter(|e| e.calibration().map(calibration_record).as_ref() == Some(c));
            self.found.calibration = Some(Calibration {
                threshold: c.threshold,
                range_low: c.range_low,
                mu_half: c.mu_half,
                sigma_half: c.sigma_half,
                z_half: c.z_half.unwrap_or(f64::NAN),
                chance_fraction: c.chance_fraction,
                baseline_x: engine.map_or_else(Vec::new, |e| e.baseline_x().iter().map(|&x| x as f32).collect()),
            });
        }
    }

    fn timing(&mut self, timing: &v1::TimingRecord) {
        self.found.summary.time(timing);
        if self.waits.take() == Some(timing.input_seq)
            && let Some(row) = self.found.frames.last_mut()
        {
            row.latency_us = latency_us(timing).map(|us| us as f32);
        }
    }

    fn event(&mut self, event: &v1::SubscribeEventsResponse) {
        self.found.notes.event(event, &self.cause);
        let kind = event.kind();
        let at_s = self.time_s(event.frame_index, event.device_ns);
        match kind {
            EventKind::TrialStarted => self.found.trials.push(TrialRow {
                number: u32::try_from(event.id).unwrap_or(u32::MAX),
                start_frame: event.frame_index,
                end_frame: event.frame_index,
                start_s: at_s,
                end_s: at_s,
                ..TrialRow::default()
            }),
            EventKind::Hit => self.trial_ends(event, at_s, Outcome::Hit),
            EventKind::Aversive => self.trial_ends(event, at_s, Outcome::Aversive),
            EventKind::Miss => self.trial_ends(event, at_s, Outcome::Miss),
            EventKind::RewardIntended => self.reward_intended(event, at_s),
            EventKind::RewardSent => self.reward(event, TriggerFate::Sent, String::new()),
            EventKind::RewardAcknowledged => self.reward(event, TriggerFate::Acknowledged, String::new()),
            EventKind::RewardUnknown => self.reward(event, TriggerFate::Unknown, event.detail.clone()),
            EventKind::RewardLimited => self.reward(event, TriggerFate::Refused, event.detail.clone()),
            EventKind::DeviceFault => match self.cause.kind() {
                v1::InputKind::Limit => self.reward(event, TriggerFate::Failed, "the write failed".to_owned()),
                v1::InputKind::Device if self.cause.code == super::notes::DEVICE_REFUSED => {
                    let note = format!("the device refused it: {}", super::notes::refusal(self.cause.amount));
                    self.reward(event, TriggerFate::Failed, note);
                }
                _ => {}
            },
            EventKind::PulseDone => {
                if let Some(row) = self.trigger(event) {
                    row.note = format!("measured {} ms", event.value);
                }
            }
            _ => {}
        }
    }

    fn trial_ends(&mut self, event: &v1::SubscribeEventsResponse, at_s: f64, outcome: Outcome) {
        let number = u32::try_from(event.id).unwrap_or(u32::MAX);
        if let Some(trial) = self.found.trials.iter_mut().rev().find(|t| t.number == number) {
            trial.end_frame = event.frame_index;
            trial.end_s = at_s;
            trial.outcome = outcome;
        }
    }

    fn reward_intended(&mut self, event: &v1::SubscribeEventsResponse, time_s: f64) {
        // What an operator orders is no trial's reward.
        let ordered = self.cause.kind() == v1::InputKind::Command;
        let trial = if ordered { None } else { self.found.trials.len().checked_sub(1) };
        self.places.insert((self.segment, event.id), (self.found.triggers.len(), trial));
        self.found.triggers.push(TriggerRow {
            id: format!("{}-{}", self.segment, event.id),
            frame: event.frame_index,
            time_s,
            output: "reward".to_owned(),
            pulse_width_ms: event.value,
            // An intent whose fate the journal does not tell may have been delivered.
            fate: TriggerFate::Unknown,
            note: if ordered { "ordered by an operator".to_owned() } else { String::new() },
        });
        if let Some(trial) = trial {
            self.found.trials[trial].reward = RewardFate::Unknown;
        }
    }

    fn trigger(&mut self, event: &v1::SubscribeEventsResponse) -> Option<&mut TriggerRow> {
        let (place, _) = self.places.get(&(self.cause.trigger_segment, event.id))?;
        self.found.triggers.get_mut(*place)
    }

    fn reward(&mut self, event: &v1::SubscribeEventsResponse, fate: TriggerFate, note: String) {
        let Some(&(place, trial)) = self.places.get(&(self.cause.trigger_segment, event.id)) else { return };
        if let Some(row) = self.found.triggers.get_mut(place) {
            row.fate = fate;
            if !note.is_empty() {
                row.note = note;
            }
        }
        if let Some(trial) = trial.and_then(|k| self.found.trials.get_mut(k)) {
            trial.reward = match fate {
                TriggerFate::Sent => RewardFate::Sent,
                TriggerFate::Acknowledged => RewardFate::Acknowledged,
                TriggerFate::Unknown => RewardFate::Unknown,
                TriggerFate::Refused => RewardFate::Refused,
                TriggerFate::Failed => RewardFate::Failed,
            };
        }
    }

    fn finish(mut self, read: Result<(), JournalError>) -> Gathered {
        if let Err(e) = read {
            self.found.notes.broken_off(&e);
        }
        if let (Some(trial), Some(last)) = (self.found.trials.last_mut(), self.found.frames.last())
            && trial.outcome == Outcome::Open
        {
            (trial.end_frame, trial.end_s) = (last.index, last.time_s);
        }
        self.found
    }
}

/// Frames a second, as the stream's header says; 0 where it does not.
pub(super) fn frame_rate_hz(head: &v1::SessionHead) -> f64 {
    match &head.stream {
        Some(v1::session_head::Stream::Pixels(header)) => header.frame_rate_hz,
        Some(v1::session_head::Stream::RoiValues(header)) => header.frame_rate_hz,
        None => 0.0,
    }
}

const fn phase(state: v1::TrialState) -> Phase {
    match state {
        v1::TrialState::Unspecified | v1::TrialState::Idle => Phase::Idle,
        v1::TrialState::Baseline => Phase::Baseline,
        v1::TrialState::Start => Phase::Start,
        v1::TrialState::Control => Phase::Control,
        v1::TrialState::Hit => Phase::HitHold,
        v1::TrialState::Aversive => Phase::AversiveHold,
        v1::TrialState::Iti => Phase::Iti,
        v1::TrialState::Paused => Phase::Paused,
    }
}
