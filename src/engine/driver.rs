//! Drives the engine: numbers inputs, calls `step`, checks the limits, writes the trigger, takes what follows from it.
//!
//! The real-time thread and the in-process replay both use this; they differ in where inputs come from, which clock the
//! limits see, and where records go. Nothing here allocates.

use super::decision::{Decision, InputKind, Probe, Stage, Step, Timing};
use super::input::{DeviceReport, Input, SkipReason};
use super::{Clock, Engine};
use crate::frame::{FrameMeta, FrameSlot};
use crate::trigger::{
    AckStatus, AckWatch, BoardReply, DeviceEvent, Intent, LimitVerdict, Limits, Output, Trigger, TriggerId, Unrecorded,
};

/// Inputs that follow from one input at most: two for each trigger, and what a simulated board answers.
const FOLLOWING_MAX: usize = 16;

/// An input without what it borrows: what the journal writes of it.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::large_enum_variant, reason = "a box would be freed on the real-time thread")]
pub enum InputSummary {
    /// A frame of pixels.
    Frame(FrameMeta),
    /// Integrated ROI values; they stand in the decision's `f`.
    RoiValues(FrameMeta),
    /// A refused frame.
    Refused {
        /// What the frame says of itself.
        meta: FrameMeta,
        /// Why.
        code: u32,
    },
    /// Skipped frames.
    Skipped {
        /// The first.
        first_index: u64,
        /// How many.
        count: u64,
        /// Why.
        reason: SkipReason,
    },
    /// No frame for too long.
    Gap {
        /// How long, in nanoseconds.
        silent_ns: u64,
    },
    /// A new segment.
    Continued {
        /// Its number.
        segment: u32,
        /// Whether there is no baseline any more.
        template_lost: bool,
    },
    /// A command.
    Command(super::Command),
    /// A limit's verdict.
    Limit {
        /// Of which trigger.
        id: TriggerId,
        /// What it was.
        verdict: LimitVerdict,
        /// Whether the trigger was written.
        sent: bool,
    },
    /// A device's report.
    Device(DeviceReport),
}

impl InputSummary {
    /// The summary of an input.
    pub fn of(input: &Input<'_>) -> Self {
        match *input {
            Input::Frame(slot) => InputSummary::Frame(slot.meta),
            Input::Sampled(ref s) => InputSummary::Frame(s.meta),
            Input::RoiValues { meta, .. } => InputSummary::RoiValues(meta),
            Input::Refused { meta, code } => InputSummary::Refused { meta, code },
            Input::Skipped { first_index, count, reason } => InputSummary::Skipped { first_index, count, reason },
            Input::Gap { silent_ns } => InputSummary::Gap { silent_ns },
            Input::Continued { segment, template_lost } => InputSummary::Continued { segment, template_lost },
            Input::Command(command) => InputSummary::Command(*command),
            Input::Limit { id, verdict, sent } => InputSummary::Limit { id, verdict, sent },
            Input::Device(report) => InputSummary::Device(report),
        }
    }
}

/// Where records go.
pub trait RecordSink {
    /// One input, what was decided on it, and when.
    fn record(&mut self, input: &InputSummary, decision: &Decision, timing: &Timing);
}

/// Which clock the limits see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitTime {
    /// The host's monotonic clock: always, when a device hangs on it.
    Host,
    /// The recording's own time: replay.
    Recording,
}

/// Stamps the end of each stage.
struct Stamps<'a, C: Clock> {
    clock: &'a C,
    last_ns: u64,
    stage_ns: [u64; 6],
}

impl<C: Clock> Probe for Stamps<'_, C> {
    fn mark(&mut self, stage: Stage) {
        let now = self.clock.now_ns();
        self.stage_ns[stage as usize] = now - self.last_ns;
        self.last_ns = now;
    }
}

/// The engine with its clock, its limits and its output.
pub struct Driver<C: Clock> {
    engine: Engine,
    clock: C,
    limits: Option<Limits>,
    limit_time: LimitTime,
    recording_ns: u64,
    moved_px: (f64, f64),
    trigger: Box<dyn Trigger + Send>,
    waiting: AckWatch,
    unrecorded: Option<Unrecorded>,
    heartbeat: u32,
}

impl<C: Clock> Driver<C> {
    /// Ready to take inputs.
    pub fn new(
        engine: Engine,
        clock: C,
        limits: Option<Limits>,
        limit_time: LimitTime,
        trigger: Box<dyn Trigger + Send>,
        ack_timeout_ms: u32,
    ) -> Self {
        Self {
            engine,
            clock,
            limits,
            limit_time,
            recording_ns: 0,
            moved_px: (0.0, 0.0),
            trigger,
            waiting: AckWatch::new(ack_timeout_ms),
            unrecorded: None,
            heartbeat: 0,
        }
    }

    /// The same, with no more pulses than these that the durable record does not hold.
    pub fn held_to_record(self, unrecorded: Unrecorded) -> Self {
        Self { unrecorded: Some(unrecorded), ..self }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// See [`Engine::settle`].
    pub fn settle(&mut self) -> bool {
        self.engine.settle()
    }

    /// See [`Engine::look_ahead`].
    pub fn look_ahead(&mut self, slot: &FrameSlot) -> bool {
        self.engine.look_ahead(slot)
    }

    /// The clock.
    pub fn clock(&self) -> &C {
        &self.clock
    }

    /// The limits, for a snapshot.
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    /// How far the masks were moved on the last frame, down and right, in pixels.
    pub fn moved_px(&self) -> (f64, f64) {
        self.moved_px
    }

    /// What the output is called.
    pub fn output_name(&self) -> &str {
        self.trigger.name()
    }

    /// Takes one input, and every input that follows from it: limits' verdicts, and what a simulated board answers.
    pub fn take(&mut self, input: Input<'_>, sink: &mut impl RecordSink) {
        let mut following = Following::default();
        self.take_one(&input, &mut following, sink);
        while let Some(next) = following.pop() {
            let next = match next {
                Next::Limit { id, verdict, sent } => Input::Limit { id, verdict, sent },
                Next::Device(report) => Input::Device(report),
            };
            self.take_one(&next, &mut following, sink);
        }
    }

    /// Reports every trigger whose acknowledgement is overdue.
    pub fn expire(&mut self, sink: &mut impl RecordSink) {
        let now_ns = self.limit_now_ns();
        while let Some(id) = self.waiting.expired(now_ns) {
            self.take(Input::Device(DeviceReport::NoAnswer { id }), sink);
        }
    }

    /// Reports every trigger that still waits as unanswered: at the end of a session.
    pub fn close_waiting(&mut self, sink: &mut impl RecordSink) {
        while let Some(id) = self.waiting.expired(u64::MAX) {
            self.take(Input::Device(DeviceReport::NoAnswer { id }), sink);
        }
    }

    /// Whether a trigger waits for its acknowledgement.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// All outputs off; a failure to say so is an input.
    pub fn safe(&mut self, sink: &mut impl RecordSink) {
        if self.trigger.safe().is_err() {
            self.take(Input::Device(DeviceReport::Fault), sink);
        }
    }

    /// Tells the board that the host lives.
    pub fn heartbeat(&mut self, sink: &mut impl RecordSink) {
        self.heartbeat = self.heartbeat.wrapping_add(1);
        if self.trigger.heartbeat(self.heartbeat).is_err() {
            self.take(Input::Device(DeviceReport::Fault), sink);
        }
    }

    fn limit_now_ns(&self) -> u64 {
        match self.limit_time {
            LimitTime::Host => self.clock.now_ns(),
            LimitTime::Recording => self.recording_ns,
        }
    }

    fn take_one(&mut self, input: &Input<'_>, following: &mut Following, sink: &mut impl RecordSink) {
        let taken_host_ns = self.clock.now_ns();
        let received_host_ns = match input {
            Input::Frame(slot) => slot.meta.received_host_ns,
            Input::RoiValues { meta, .. } | Input::Sampled(super::Sampled { meta, .. }) => meta.received_host_ns,
            _ => 0,
        };
        if let Input::Device(report) = input {
            self.no_longer_waiting(report);
        }
        let summary = InputSummary::of(input);
        let mut stamps = Stamps { clock: &self.clock, last_ns: taken_host_ns, stage_ns: [0; 6] };
        let Step { decision, mut timing } = self.engine.step_probed(input, &mut stamps);
        if let (Input::Limit { id, .. }, Some(unrecorded)) = (input, &mut self.unrecorded) {
            unrecorded.recorded_as(*id, decision.input_seq);
        }
        let decided_host_ns = self.clock.now_ns();
        timing.received_host_ns = received_host_ns;
        timing.taken_host_ns = taken_host_ns;
        timing.stage_ns = stamps.stage_ns;
        timing.decided_host_ns = decided_host_ns;
        if matches!(decision.kind, InputKind::Frame | InputKind::RoiValues) {
            self.moved_px = decision.moved_px();
            self.recording_ns = self.recording_ns.max(decision.device_ns);
        }
        let intents = decision.intents;
        if !intents.is_empty() {
            for intent in intents.iter() {
                self.fire(intent, following);
            }
            timing.triggered_host_ns = self.clock.now_ns();
            timing.stage_ns[Stage::Trigger as usize] = timing.triggered_host_ns - decided_host_ns;
        }
        self.poll_board(following);
        sink.record(&summary, self.engine.decision(), &timing);
    }

    /// Limits, then the device; the verdict and the outcome of the write are the next input.
    fn fire(&mut self, intent: &Intent, following: &mut Following) {
        if intent.output == Output::Sync {
            if self.trigger.sync(intent.id.sequence).is_err() {
                following.push(Next::Device(DeviceReport::Fault));
            }
            return;
        }
        let now_ns = self.limit_now_ns();
        let forgettable = self.unrecorded.as_mut().and_then(Unrecorded::refuses);
        let verdict = match (forgettable, &mut self.limits) {
            (Some(reason), _) => LimitVerdict::Refused(reason),
            (None, Some(limits)) => limits.check(intent, now_ns),
            (None, None) => LimitVerdict::Allowed,
        };
        let mut sent = false;
        if verdict == LimitVerdict::Allowed {
            if let Some(unrecorded) = &mut self.unrecorded {
                unrecorded.sent(intent.id);
            }
            sent = self.trigger.fire(intent).is_ok();
            // Even a failed write may have reached the board: it counts, and waits for its answer.
            if let Some(id) = self.waiting.sent(intent.id, now_ns) {
                following.push(Next::Device(DeviceReport::NoAnswer { id }));
            }
        }
        following.push(Next::Limit { id: intent.id, verdict, sent });
        if verdict == LimitVerdict::Allowed && !sent {
            following.push(Next::Device(DeviceReport::Fault));
        }
    }

    /// What a simulated board has answered meanwhile.
    fn poll_board(&mut self, following: &mut Following) {
        self.trigger.advance(self.recording_ns);
        while let Some(reply) = self.trigger.poll() {
            if let Some(report) = report_of(&DeviceEvent::Reply(reply)) {
                following.push(Next::Device(report));
            }
        }
    }

    fn no_longer_waiting(&mut self, report: &DeviceReport) {
        let answered = match report {
            DeviceReport::Acknowledged { id, .. }
            | DeviceReport::Refused { id, .. }
            | DeviceReport::NoAnswer { id } => *id,
            DeviceReport::Done { .. } | DeviceReport::Fault => return,
        };
        self.waiting.answered(answered);
    }
}

/// What a board's answer is as an input; nothing for answers that change nothing.
pub fn report_of(event: &DeviceEvent) -> Option<DeviceReport> {
    let reply = match event {
        DeviceEvent::Reply(reply) => reply,
        DeviceEvent::Fault(_) => return Some(DeviceReport::Fault),
    };
    match *reply {
        BoardReply::Ack { id, status: AckStatus::Accepted, clock_us } => {
            Some(DeviceReport::Acknowledged { id, board_us: u64::from(clock_us) })
        }
        BoardReply::Ack { id, status, .. } => Some(DeviceReport::Refused { id, status: status as u8 }),
        BoardReply::Done { id, width_us, .. } => Some(DeviceReport::Done { id, width_us: u64::from(width_us) }),
        BoardReply::Nak { .. } => Some(DeviceReport::Fault),
        BoardReply::Hello { .. } | BoardReply::Heartbeat { .. } | BoardReply::Safe { .. } => None,
    }
}

/// An input that follows from another.
#[derive(Debug, Clone, Copy)]
enum Next {
    Limit { id: TriggerId, verdict: LimitVerdict, sent: bool },
    Device(DeviceReport),
}

/// First in, first out, of fixed capacity; a board that floods it loses its later words, which only say what is known.
#[derive(Default)]
struct Following {
    items: [Option<Next>; FOLLOWING_MAX],
    first: usize,
    count: usize,
}

impl Following {
    fn push(&mut self, next: Next) {
        if self.count < FOLLOWING_MAX {
            self.items[(self.first + self.count) % FOLLOWING_MAX] = Some(next);
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<Next> {
        let next = self.items[self.first].take()?;
        self.first = (self.first + 1) % FOLLOWING_MAX;
        self.count -= 1;
        Some(next)
    }
}
