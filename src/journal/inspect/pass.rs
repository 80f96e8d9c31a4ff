//! One pass over the records of a segment.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::rewards::RewardWatch;
use super::time::{GapWatch, Periods};
use super::{
    BaselineSeen, CommandSeen, Counters, FaultSeen, Inputs, Segment, StageLatency, StreamSeen, ThresholdSeen, TrialSeen,
};
use crate::engine::{Command, CommandOutcome, DeviceReport, Input, SkipReason};
use crate::journal::latency_histogram;
use crate::journal::{JournalRecord, Percentiles, Summary, input_of, is_decided, is_frame};
use crate::proto::v1::{self, EventKind};

/// Warnings that are kept; a session has a few kinds of them.
const WARNINGS_MAX: usize = 32;

/// The pass. An input waits for its decision and its time stamps, and is then taken as a whole.
#[derive(Default)]
pub(super) struct Pass {
    session_id: Option<String>,
    segment: Segment,
    summary: Summary,
    waiting: Option<v1::InputRecord>,
    decided: Option<(v1::InputRecord, Box<v1::DecisionRecord>)>,
    commands: BTreeMap<u64, CommandSeen>,
    on_device: Periods,
    on_host: Periods,
    gaps: GapWatch,
    rewards: RewardWatch,
    to_reward: Option<Histogram<u64>>,
    device_ns: Option<(u64, u64)>,
    host_ns: Option<(u64, u64)>,
}

impl Pass {
    /// Takes one record.
    pub fn take(&mut self, record: JournalRecord) {
        self.segment.messages += 1;
        match record {
            JournalRecord::Head(head) => self.head(&head),
            JournalRecord::Input(input) => {
                self.settle(None);
                self.waiting = Some(input);
            }
            JournalRecord::Decision(decision) => {
                if let Some(input) = self.waiting.take().filter(|i| i.input_seq == decision.input_seq) {
                    self.decided = Some((input, decision));
                }
            }
            JournalRecord::Timing(timing) => self.settle(Some(&timing)),
            JournalRecord::Command(record) => {
                let seen = self.commands.entry(record.input_seq).or_default();
                (seen.operator, seen.idempotency_key) = (record.operator_name, record.idempotency_key);
                seen.outcome = record.outcome;
                if seen.command.is_empty() {
                    seen.command = record.command;
                }
            }
            JournalRecord::Event(event) if event.kind() == EventKind::Warning => self.warning(event.detail),
            JournalRecord::Snapshot(snapshot) => {
                let kept = &mut self.segment.snapshots;
                kept.count += 1;
                kept.inputs.push(snapshot.input_seq);
                kept.bytes += (snapshot.state.len() + snapshot.limits.len()) as u64;
            }
            JournalRecord::Loss(loss) => self.segment.inputs.lost_records += loss.records,
            JournalRecord::Health(sample) => {
                let seen = &mut self.segment.health;
                seen.samples += 1;
                seen.durable_lag_max_ns = seen.durable_lag_max_ns.max(sample.durable_lag_ns);
                seen.records_waiting_max = seen.records_waiting_max.max(sample.records_waiting);
                seen.pixels_dropped = seen.pixels_dropped.max(sample.pixels_dropped);
                seen.records_lost = seen.records_lost.max(sample.records_lost);
                seen.resident_bytes_max = seen.resident_bytes_max.max(sample.resident_bytes);
            }
            _ => {}
        }
    }

    /// Name of the session where there was a head, and what was found.
    pub fn finish(mut self) -> (Option<String>, Segment) {
        self.settle(None);
        let mut found = self.segment;
        found.ended = self.summary.ended();
        found.counters = Counters::of(&self.summary.counters);
        found.latency_us = self.summary.latencies().into_iter().map(|(stage, us)| StageLatency { stage, us }).collect();
        if let Some(histogram) = &self.to_reward {
            found.latency_us.push(StageLatency { stage: "reward", us: Percentiles::of(histogram) });
        }
        let seconds = |span: Option<(u64, u64)>| span.map_or(0.0, |(a, b)| b.saturating_sub(a) as f64 / 1e9);
        (found.duration_device_s, found.duration_host_s) = (seconds(self.device_ns), seconds(self.host_ns));
        (found.rate_device, found.rate_host) = (self.on_device.rate(), self.on_host.rate());
        found.gaps = self.gaps.finish();
        found.rewards = self.rewards.finish();
        found.commands = self.commands.into_iter().map(|(input_seq, c)| CommandSeen { input_seq, ..c }).collect();
        (self.session_id, found)
    }

    fn head(&mut self, head: &v1::SessionHead) {
        self.session_id = Some(head.session_id.clone());
        self.rewards.head(head);
        let found = &mut self.segment;
        found.segment = head.segment;
        found.started_unix_ns = head.started_unix_ns;
        found.version.clone_from(&head.version);
        found.commit.clone_from(&head.commit);
        found.config_sha256.clone_from(&head.config_sha256);
        found.stream = stream_of(head);
    }

    fn warning(&mut self, text: String) {
        let kept = &mut self.segment.warnings;
        if kept.len() < WARNINGS_MAX && !kept.contains(&text) {
            kept.push(text);
        }
    }

    /// Takes the input that waits, with its time stamps where they are known.
    fn settle(&mut self, timing: Option<&v1::TimingRecord>) {
        let Some((input, decision)) = self.decided.take() else { return };
        let nothing = v1::TimingRecord::default();
        let timing = timing.filter(|t| t.input_seq == input.input_seq).unwrap_or(&nothing);
        self.summary.count(&input, &decision);
        self.summary.time(timing);
        self.number(&input);
        if timing.taken_host_ns != 0 {
            let first = self.host_ns.map_or(timing.taken_host_ns, |(first, _)| first);
            self.host_ns = Some((first, timing.decided_host_ns.max(first)));
        }
        self.frame(&input, &decision, timing);
        // The limits' look at the clock lies just before this stamp.
        let host_ns = if timing.triggered_host_ns != 0 { timing.triggered_host_ns } else { timing.decided_host_ns };
        let rewards = self.rewards.intents(self.segment.segment, &input, &decision, host_ns);
        if rewards && timing.triggered_host_ns != 0 && timing.received_host_ns != 0 {
            let waited_ns = timing.triggered_host_ns.saturating_sub(timing.received_host_ns);
            self.to_reward.get_or_insert_with(latency_histogram).saturating_record(waited_ns.max(1));
        }
        self.input(&input, &decision, timing);
        for (event, &number) in events(&decision).zip(&decision.event_kind) {
            self.event(&decision, event, number);
        }
    }

    fn number(&mut self, input: &v1::InputRecord) {
        let Inputs { first, last, count, missing, kinds, .. } = &mut self.segment.inputs;
        if let Some(last) = *last {
            *missing = missing.saturating_add(input.input_seq.saturating_sub(last.saturating_add(1)));
        }
        first.get_or_insert(input.input_seq);
        *last = Some(input.input_seq);
        *count += 1;
        *kinds.entry(plain(input.kind().as_str_name(), "INPUT_KIND_")).or_default() += 1;
    }

    fn frame(&mut self, input: &v1::InputRecord, d: &v1::DecisionRecord, timing: &v1::TimingRecord) {
        if !is_frame(input) {
            return;
        }
        // What is missing before this very frame is among its events.
        for (kind, id, value) in events(d) {
            if kind == Some(EventKind::FramesSkipped) {
                self.gaps.missing(false, id, value as u64);
            }
        }
        if let Some(um) = d.z_drift_um {
            let seen = self.segment.z_drift.get_or_insert_default();
            seen.last_um = um;
            if um.abs() > seen.largest_um.abs() {
                (seen.largest_um, seen.largest_frame) = (um, d.frame_index);
            }
        }
        if !is_decided(input, d) {
            return;
        }
        self.segment.first_frame.get_or_insert(d.frame_index);
        self.segment.last_frame = Some(d.frame_index);
        self.on_device.frame(d.frame_index, d.device_ns);
        self.on_host.frame(d.frame_index, timing.received_host_ns);
        let first_ns = self.device_ns.map_or(d.device_ns, |(first, _)| first);
        self.device_ns = Some((first_ns, d.device_ns));
        self.gaps.frame(d.device_ns);
    }

    /// What only the input says.
    fn input(&mut self, input: &v1::InputRecord, d: &v1::DecisionRecord, timing: &v1::TimingRecord) {
        let mut command = None;
        match input_of(input, d, &mut command) {
            Some(Input::Gap { silent_ns }) => {
                self.gaps.silence(d.frame_index, silent_ns, d.device_ns, timing.decided_host_ns);
            }
            Some(Input::Skipped { reason, .. }) => {
                for (kind, id, value) in events(d) {
                    if kind == Some(EventKind::FramesSkipped) {
                        let overload = reason == SkipReason::Overload && id == input.frame_index;
                        self.gaps.missing(overload, id, value as u64);
                    }
                }
            }
            Some(Input::Limit { id, verdict, sent }) => {
                self.rewards.limit(id, &verdict, sent, d.frame_index);
                if verdict == crate::trigger::LimitVerdict::Allowed && !sent {
                    self.fault(d, format!("trigger {id} could not be written"));
                }
            }
            Some(Input::Device(DeviceReport::Refused { id, status })) => {
                self.rewards.refused();
                self.fault(d, format!("the device refused trigger {id}, status {status}"));
            }
            Some(Input::Device(DeviceReport::Done { width_us, .. })) => self.rewards.measured(width_us),
            Some(Input::Device(DeviceReport::Fault)) => {
                self.fault(d, "the device is gone, or does not take what is written".to_owned());
            }
            Some(Input::Command(command)) => self.command(command, d),
            _ => {}
        }
        if events(d).any(|(kind, ..)| kind == Some(EventKind::GapEnded)) {
            let arrived = if timing.received_host_ns != 0 { timing.received_host_ns } else { timing.decided_host_ns };
            self.gaps.silence_ends(d.device_ns, arrived);
        }
    }

    fn fault(&mut self, d: &v1::DecisionRecord, what: String) {
        self.segment.device_faults.push(FaultSeen { frame: d.frame_index, what });
    }

    fn command(&mut self, command: &Command, d: &v1::DecisionRecord) {
        let seen = self.commands.entry(d.input_seq).or_default();
        seen.frame = d.frame_index;
        seen.command = described(command);
        seen.took_effect = d.command_outcome == CommandOutcome::TookEffect as u32;
        if seen.outcome.is_empty() {
            seen.outcome = match seen.took_effect {
                true => CommandOutcome::TookEffect.to_string(),
                false => format!("refused, code {}", d.command_outcome),
            };
        }
        if let (Command::ChangeThreshold { threshold, range_low }, true) = (command, seen.took_effect) {
            let (threshold, range_low) = (*threshold, *range_low);
            let set = ThresholdSeen { frame: d.frame_index, threshold, range_low, ..ThresholdSeen::default() };
            self.segment.thresholds.push(set);
        }
        if let Some(c) = &d.calibration {
            self.segment.thresholds.push(ThresholdSeen {
                frame: d.frame_index,
                threshold: c.threshold,
                range_low: Some(c.range_low),
                z_half: c.z_half,
                chance_fraction: Some(c.chance_fraction),
                carried_over: c.carried_over,
            });
        }
    }

    /// An event, and the number that stands for its kind.
    fn event(&mut self, d: &v1::DecisionRecord, (kind, id, value): (Option<EventKind>, u64, f64), number: i32) {
        let name = kind.map_or_else(|| format!("unknown_{number}"), event_name);
        let found = &mut self.segment;
        *found.events.entry(name).or_default() += 1;
        let frame = d.frame_index;
        match kind {
            Some(EventKind::BaselineStarted) => {
                found.baselines.push(BaselineSeen { started_frame: frame, ..BaselineSeen::default() });
            }
            Some(EventKind::BaselineDone) => {
                if let Some(baseline) = found.baselines.last_mut() {
                    baseline.last_frame = Some(frame);
                    baseline.good_frames = value as u64;
                    baseline.template_score = (d.offset_score >= 0.0).then_some(d.offset_score);
                    baseline.template_trusted = d.offset_trusted;
                    baseline.template_offset_px = [d.offset_dy_px, d.offset_dx_px];
                    baseline.odd_lines_px = (d.odd_lines_px != 0.0).then_some(d.odd_lines_px);
                    baseline.detector_offset_counts = d.detector_offset_counts;
                }
            }
            Some(EventKind::TrialStarted) => {
                let (outcome_frame, outcome) = (None, "open");
                found.trials.push(TrialSeen { number: id, first_frame: frame, outcome_frame, outcome });
            }
            Some(EventKind::Hit) => outcome(found, id, frame, "hit"),
            Some(EventKind::Aversive) => outcome(found, id, frame, "aversive"),
            Some(EventKind::Miss) => outcome(found, id, frame, "miss"),
            _ => {}
        }
    }
}

fn outcome(found: &mut Segment, number: u64, frame: u64, outcome: &'static str) {
    // A trial that began in the segment before has no entry here.
    if let Some(trial) = found.trials.iter_mut().rev().find(|t| t.number == number) {
        (trial.outcome, trial.outcome_frame) = (outcome, Some(frame));
    }
}

/// Kind, id and value of every event; no kind for one that this version does not know.
fn events(d: &v1::DecisionRecord) -> impl Iterator<Item = (Option<EventKind>, u64, f64)> + '_ {
    let rest = d.event_id.iter().zip(&d.event_value);
    d.event_kind.iter().zip(rest).map(|(&kind, (&id, &value))| (EventKind::try_from(kind).ok(), id, value))
}

fn event_name(kind: EventKind) -> String {
    plain(kind.as_str_name(), "EVENT_KIND_")
}

fn plain(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

fn described(command: &Command) -> String {
    let name = command.name();
    match command {
        Command::ChangeThreshold { threshold, range_low: None } => format!("{name} to {threshold}"),
        Command::ChangeThreshold { threshold, range_low: Some(low) } => format!("{name} to {threshold}, low {low}"),
        Command::SetEnsembles { plus, minus } => {
            let list = |ids: &crate::engine::RoiIds| ids.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(",");
            format!("{name} P+ {}; P- {}", list(plus), list(minus))
        }
        Command::StartTask { accept_template: true } => format!("{name}, whatever the template's place"),
        _ => name.to_owned(),
    }
}

fn stream_of(head: &v1::SessionHead) -> StreamSeen {
    let rois = head.rois.as_ref().map_or(0, |set| set.rois.len() as u32);
    match &head.stream {
        Some(v1::session_head::Stream::Pixels(h)) => StreamSeen {
            kind: "pixels",
            height_px: h.height_px,
            width_px: h.width_px,
            planes: h.planes.max(1),
            pixel_type: plain(h.pixel_type().as_str_name(), "PIXEL_TYPE_"),
            frame_rate_hz: h.frame_rate_hz,
            rois,
            adapter: h.adapter.clone(),
        },
        Some(v1::session_head::Stream::RoiValues(h)) => StreamSeen {
            kind: "roi values",
            frame_rate_hz: h.frame_rate_hz,
            rois: h.roi_count,
            adapter: h.adapter.clone(),
            ..StreamSeen::default()
        },
        None => StreamSeen { kind: "none", rois, ..StreamSeen::default() },
    }
}
