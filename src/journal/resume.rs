//! Where a session stood when its service ended without ending it, so that it can go on as a new segment.
//!
//! In: the session's files. Out: a [`ResumePoint`]: the engine's state from the last snapshot and the inputs after it
//! (recomputed, and compared with what was decided then), what the limits had counted, the triggers that were on their
//! way, and the counters. The baseline, its template, the calibration, F0's history and the trial are in that state.
//!
//! Of a baseline that was being taken, or whose snapshot had not reached the disk, the pixels are lost: the session
//! goes on without a baseline then, and says so. Pulses that may have been delivered without a record count as
//! delivered: where the journal was not closed, `limits.max_unrecorded_pulses`, beyond which none was sent
//! (`trigger/unrecorded.rs`). An intent whose verdict is not in the record is among these.

use std::collections::BTreeSet;

use prost::Message;

use super::Summary;
use super::convert::{encode_decision, input_of, same_bits};
use super::reader::{JournalError, SessionFiles, damaged};
use super::verify::{VerifyError, engine_of};
use super::writer::Topic;
use crate::config::load_text;
use crate::config::outputs::RewardDevice;
use crate::engine::{Continuation, DeviceReport, Engine, EngineStateError, Input, StreamShape};
use crate::proto::v1;
use crate::trigger::{Cause, Intent, LimitVerdict, Limits, LimitsError, Output, TriggerId};

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// It cannot be read, or makes no engine.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// It was stopped or aborted.
    #[error("session {session_id} was ended by a command; create another session")]
    Ended {
        /// Its name.
        session_id: String,
    },
    /// What is recorded cannot be trusted.
    #[error("session {session_id} is damaged, so nothing is built on it: {}", damage.join("; "))]
    Damaged {
        /// Its name.
        session_id: String,
        /// What is damaged.
        damage: Vec<String>,
    },
    /// This software decides otherwise.
    #[error(
        "input {input_seq} is decided otherwise than it was recorded (by version {version}, commit {commit}); continue \
         the session with the software that recorded it"
    )]
    Differs {
        /// The input.
        input_seq: u64,
        /// Version that recorded it.
        version: String,
        /// Commit that recorded it.
        commit: String,
    },
    /// A snapshot cannot be loaded.
    #[error("the snapshot after input {input_seq}: {source}")]
    State {
        /// Its input.
        input_seq: u64,
        /// Why.
        source: EngineStateError,
    },
    /// The limits' counts cannot be loaded.
    #[error("the limits' counts: {0}")]
    Limits(#[from] LimitsError),
}

impl From<JournalError> for ResumeError {
    fn from(error: JournalError) -> Self {
        ResumeError::Verify(error.into())
    }
}

/// Where a session stood.
#[derive(Debug, Clone)]
pub struct ResumePoint {
    /// Its directory.
    pub directory: std::path::PathBuf,
    /// The head of the segment that is to be written: the next number, and the input that it begins with.
    pub head: v1::SessionHead,
    /// The engine's state.
    pub state: Vec<u8>,
    /// The limits' counts, pulses that may have been delivered included; empty where there is no output.
    pub limits: Vec<u8>,
    /// How the new segment begins.
    pub continuation: Continuation,
    /// Threshold and range_low in force, in units of x.
    pub range: Option<(f64, f64)>,
    /// Counters so far.
    pub counters: v1::SessionCounters,
    /// Number of the next event.
    pub next_event_seq: u64,
    /// The last input of the record; none where there is none.
    pub last_input_seq: Option<u64>,
    /// The snapshot that it was built on; none: on the first input.
    pub snapshot_seq: Option<u64>,
    /// Inputs that were recomputed since.
    pub recomputed: u64,
    /// Pulses that count as delivered although nothing says that they were.
    pub pulses_assumed: u64,
}

/// What is gathered in one pass over the messages; decisions are decoded only behind the last snapshot.
#[derive(Default)]
struct Pass {
    head: Option<v1::SessionHead>,
    snapshot: Option<v1::SnapshotRecord>,
    health: Option<v1::HealthRecord>,
    /// Inputs and decisions behind the snapshot, undecoded.
    steps: Vec<(v1::InputRecord, Vec<u8>)>,
    input: Option<v1::InputRecord>,
    last_event: Vec<u8>,
    waiting: BTreeSet<TriggerId>,
    /// What is missing behind the last snapshot.
    loss: Option<v1::LossRecord>,
}

impl Pass {
    fn take(&mut self, topic: Topic, bytes: &[u8]) -> Result<(), prost::DecodeError> {
        match topic {
            Topic::Head => self.head = Some(v1::SessionHead::decode(bytes)?),
            Topic::Inputs => {
                let input = v1::InputRecord::decode(bytes)?;
                self.follow_trigger(&input);
                self.input = Some(input);
            }
            Topic::Decisions => {
                if let Some(input) = self.input.take() {
                    self.steps.push((input, bytes.to_vec()));
                }
            }
            Topic::Snapshots => {
                let snapshot = v1::SnapshotRecord::decode(bytes)?;
                self.steps.retain(|(input, _)| input.input_seq > snapshot.input_seq);
                self.loss.take_if(|loss| loss.last_input_seq <= snapshot.input_seq);
                self.snapshot = Some(snapshot);
            }
            Topic::Health => self.health = Some(v1::HealthRecord::decode(bytes)?),
            Topic::Events => {
                self.last_event.clear();
                self.last_event.extend_from_slice(bytes);
            }
            Topic::Losses => self.loss = Some(v1::LossRecord::decode(bytes)?),
            Topic::Timing | Topic::Commands | Topic::Latency => {}
        }
        Ok(())
    }

    /// Which triggers were sent and never answered.
    fn follow_trigger(&mut self, input: &v1::InputRecord) {
        let decision = v1::DecisionRecord::default();
        let mut command = None;
        match input.kind() {
            v1::InputKind::Limit | v1::InputKind::Device => {}
            _ => return,
        }
        match input_of(input, &decision, &mut command) {
            Some(Input::Limit { id, verdict: LimitVerdict::Allowed, .. }) => {
                self.waiting.insert(id);
            }
            Some(Input::Device(
                DeviceReport::Acknowledged { id, .. }
                | DeviceReport::Refused { id, .. }
                | DeviceReport::Done { id, .. }
                | DeviceReport::NoAnswer { id },
            )) => {
                self.waiting.remove(&id);
            }
            _ => {}
        }
    }
}

/// Finds where a session stood.
///
/// # Errors
/// See [`ResumeError`].
pub fn resume(files: &SessionFiles) -> Result<ResumePoint, ResumeError> {
    let first = files.head()?;
    let session_id = first.session_id.clone();
    let damage = files.damage();
    if !damage.is_empty() {
        return Err(ResumeError::Damaged { session_id, damage: super::texts(&damage) });
    }
    let mut pass = Pass::default();
    files.each(|segment, topic, bytes| pass.take(topic, bytes).map_err(|e| damaged(&segment.journal, &e)))?;
    let Pass { head, snapshot, health, steps, last_event, waiting, loss, .. } = pass;
    if let Some(v1::LossRecord { records, first_input_seq, last_input_seq, reason }) = loss {
        let what = format!("{records} records of inputs {first_input_seq} to {last_input_seq} are lost: {reason}");
        return Err(ResumeError::Damaged { session_id, damage: vec![what] });
    }
    let head = head.unwrap_or(first);
    let config = load_text(&head.config_toml, &[]).map_err(VerifyError::from)?;
    let mut engine = engine_of(&head)?;
    if let Some(snapshot) = &snapshot {
        let at = |source| ResumeError::State { input_seq: snapshot.input_seq, source };
        engine.load(&snapshot.state).map_err(at)?;
    }
    let baselines = engine.baselines_done();
    let has_output = config.outputs.reward.device != RewardDevice::None;
    let mut limits = Limits::new(&config.limits);
    if let Some(snapshot) = snapshot.as_ref().filter(|s| has_output && !s.limits.is_empty()) {
        limits.load(&snapshot.limits, 0)?;
    }
    let counters = health.as_ref().and_then(|h| h.counters).unwrap_or_default();
    let mut replay = Replay { engine, limits, unsettled: Vec::new(), summary: Summary::going_on(counters) };
    let counted = health.as_ref().map(|h| h.input_seq);
    for (input, decision) in &steps {
        let differs = || ResumeError::Differs {
            input_seq: input.input_seq,
            version: head.version.clone(),
            commit: head.commit.clone(),
        };
        replay.step(input, decision, counted).map_err(|Differs| differs())?;
    }
    let Replay { mut engine, mut limits, unsettled, summary } = replay;
    if engine.has_ended() {
        return Err(ResumeError::Ended { session_id });
    }
    let finished = files.segments.last().is_some_and(|segment| segment.scan.is_finished);
    let may_be_forgotten = !finished && has_output;
    let forgotten = if may_be_forgotten { config.limits.resolved().max_unrecorded_pulses } else { 0 };
    let width_us = config.outputs.reward.width_us();
    for _ in 0..forgotten {
        let id = TriggerId { segment: head.segment, sequence: u32::MAX };
        limits.count_delivered(&Intent { id, output: Output::Reward, width_us, cause: Cause::Hit }, 0);
    }
    let mut counts = Vec::new();
    if has_output {
        limits.save(&mut counts)?;
    }
    let last_input_seq = files.last_input_seq();
    let pixels = matches!(super::shape_of_head(&head), StreamShape::Pixels { .. });
    let template_lost = pixels && (engine.baseline_runs() || engine.baselines_done() != baselines);
    let segment = files.segments.last().map_or(0, |s| s.segment) + 1;
    let waiting = waiting.into_iter().chain(unsettled.iter().map(|intent| intent.id)).collect();
    let mut state = Vec::new();
    engine.settle();
    engine.save(&mut state);
    let next_event_seq = match v1::SubscribeEventsResponse::decode(&last_event[..]) {
        Ok(event) if !last_event.is_empty() => event.event_seq + 1,
        _ => 0,
    };
    Ok(ResumePoint {
        directory: files.directory.clone(),
        head: v1::SessionHead { segment, first_input_seq: engine.next_seq(), ..head },
        state,
        limits: counts,
        continuation: Continuation { segment, template_lost, waiting },
        range: engine.range(),
        counters: summary.counters,
        next_event_seq: next_event_seq.max(health.map_or(0, |h| h.next_event_seq)),
        last_input_seq,
        snapshot_seq: snapshot.map(|s| s.input_seq),
        recomputed: steps.len() as u64,
        pulses_assumed: u64::from(forgotten),
    })
}

/// This software decided otherwise.
struct Differs;

/// Steps the inputs behind the snapshot.
struct Replay {
    engine: Engine,
    limits: Limits,
    /// Rewards that were intended and of which no verdict is recorded.
    unsettled: Vec<Intent>,
    summary: Summary,
}

impl Replay {
    fn step(&mut self, input: &v1::InputRecord, decision: &[u8], counted: Option<u64>) -> Result<(), Differs> {
        let recorded = v1::DecisionRecord::decode(decision).map_err(|_| Differs)?;
        let mut command = None;
        let taken = input_of(input, &recorded, &mut command).ok_or(Differs)?;
        if let Input::Limit { id, verdict, .. } = &taken {
            let intent = self.unsettled.iter().position(|intent| intent.id == *id);
            let intent = intent.map(|at| self.unsettled.remove(at));
            if let (Some(intent), LimitVerdict::Allowed) = (intent, verdict) {
                self.limits.count_delivered(&intent, 0);
            }
        }
        let step = self.engine.step(&taken);
        self.unsettled.extend(step.decision.intents.iter().filter(|intent| intent.output == Output::Reward));
        if !same_bits(&encode_decision(step.decision), &recorded) {
            return Err(Differs);
        }
        if counted.is_none_or(|seq| input.input_seq > seq) {
            self.summary.count(input, &recorded);
        }
        Ok(())
    }
}
