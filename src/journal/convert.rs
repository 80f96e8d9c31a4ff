//! Between the engine's types and the journal's messages. What goes out comes back the same, bit for bit.

use std::sync::Arc;

use prost::Message;

use crate::engine::{
    Command, Decision, DeviceReport, Event, EventKind, FrameVerdict, Input, InputSummary, Record, Sampled, SkipReason,
    StreamShape,
};
use crate::frame::{FrameMeta, Geometry, Image, PixelType};
use crate::proto::v1;
use crate::register::{FitVerdict, Registration, TemplateOffset};
use crate::sample::{PlaneImage, ReferenceKind, Roi, RoiPixel, RoiSet};
use crate::task::{Calibration, Screen, TaskState};
use crate::trigger::{LimitVerdict, Output, TriggerId};

/// One input with everything that came of it, as messages: shared by the journal and by every subscriber.
#[derive(Debug, Clone)]
pub struct Published {
    /// The input.
    pub input: v1::InputRecord,
    /// The decision.
    pub decision: v1::DecisionRecord,
    /// When.
    pub timing: v1::TimingRecord,
    /// What happened, numbered.
    pub events: Vec<v1::SubscribeEventsResponse>,
    /// The ticket of the command that this was; 0 otherwise.
    pub ticket: u64,
    /// What became of the command.
    pub outcome: crate::engine::CommandOutcome,
    /// From the arrival of the frame's last byte to its decision, in nanoseconds; 0 where the input was no frame.
    pub delay_ns: u64,
}

impl Published {
    /// A record as messages. Events are numbered from `next_event_seq`; `detail` says what a refusal was.
    pub fn new(record: &Record, next_event_seq: u64, detail: Option<&str>) -> Arc<Self> {
        let decision = decision_record(&record.decision);
        let mut input = input_record(record.decision.input_seq, &record.input, &record.decision);
        input.detail = detail.unwrap_or_default().to_owned();
        let timing = v1::TimingRecord {
            input_seq: record.decision.input_seq,
            received_host_ns: record.timing.received_host_ns,
            taken_host_ns: record.timing.taken_host_ns,
            stage_ns: record.timing.stage_ns.to_vec(),
            decided_host_ns: record.timing.decided_host_ns,
            triggered_host_ns: record.timing.triggered_host_ns,
        };
        let events = record
            .decision
            .events
            .iter()
            .zip(next_event_seq..)
            .map(|(event, event_seq)| v1::SubscribeEventsResponse {
                event_seq,
                input_seq: record.decision.input_seq,
                frame_index: record.decision.frame_index,
                device_ns: record.decision.device_ns,
                kind: event.kind as i32,
                id: event.id,
                value: event.value,
                detail: event_detail(event, &record.input, &record.decision, detail),
            })
            .collect();
        let received = record.timing.received_host_ns;
        let delay_ns = if received == 0 { 0 } else { record.timing.decided_host_ns.saturating_sub(received) };
        let outcome = record.decision.command;
        Arc::new(Self { input, decision, timing, events, ticket: record.ticket, outcome, delay_ns })
    }

    /// From the arrival of the frame's last byte to its decision, or to its trigger where there was one, in
    /// nanoseconds; 0 where the input was no frame.
    pub fn answered_after_ns(&self) -> u64 {
        let v1::TimingRecord { received_host_ns, decided_host_ns, triggered_host_ns, .. } = self.timing;
        let answered = decided_host_ns.max(triggered_host_ns);
        if received_host_ns == 0 { 0 } else { answered.saturating_sub(received_host_ns) }
    }
}

fn event_detail(event: &Event, input: &InputSummary, decision: &Decision, detail: Option<&str>) -> String {
    match (event.kind, input) {
        (EventKind::FrameRefused, _) => detail.unwrap_or_default().to_owned(),
        (EventKind::RewardLimited, InputSummary::Limit { verdict: LimitVerdict::Refused(reason), .. }) => {
            reason.to_string()
        }
        (EventKind::CommandRefused, InputSummary::Command(command)) => {
            format!("{}: {}", command.name(), decision.command)
        }
        (EventKind::Warning, _) => warning_text(event.id).to_owned(),
        (EventKind::FramesSkipped, InputSummary::Skipped { reason: SkipReason::Overload, .. }) => {
            "a newer frame was there already".to_owned()
        }
        (EventKind::FramesSkipped, _) => "they did not come".to_owned(),
        _ => String::new(),
    }
}

/// What the numbers of the engine's warnings say.
fn warning_text(id: u64) -> &'static str {
    match id {
        crate::engine::WARNING_TEMPLATE => {
            "no template: too few good frames in the baseline; look at the image, then take another baseline"
        }
        crate::engine::WARNING_OFFSET => {
            "today's template fits the ROIs' reference image badly; the task starts only on the operator's word"
        }
        crate::engine::WARNING_TEMPLATE_LOST => {
            "the template was not yet on the disk when the service ended: take another baseline"
        }
        crate::engine::WARNING_Z_DRIFT => {
            "the brain has drifted in depth by more than register.z_warning_um (value: by how many um, towards later \
             slices): refocus, or stop"
        }
        crate::engine::WARNING_NO_REFERENCE => {
            "the ROIs have no reference image: their place on today's image is unchecked"
        }
        _ => "unknown",
    }
}

fn decision_record(d: &Decision) -> v1::DecisionRecord {
    v1::DecisionRecord {
        input_seq: d.input_seq,
        frame_index: d.frame_index,
        device_ns: d.device_ns,
        verdict: d.verdict as i32,
        has_pixels: d.has_pixels,
        dy_px: d.registration.dy_px,
        dx_px: d.registration.dx_px,
        score: d.registration.score,
        fit: fit_code(d.registration.verdict),
        template_frozen: d.template_frozen,
        offset_dy_px: d.offset.map_or(0.0, |o| o.dy_px),
        offset_dx_px: d.offset.map_or(0.0, |o| o.dx_px),
        offset_score: d.offset.map_or(-1.0, |o| o.score),
        offset_trusted: d.offset.is_some_and(|o| o.trusted),
        odd_lines_px: d.odd_lines_px,
        z_drift_um: d.z_drift_um,
        block_dy_px: d.block_dy_px.clone(),
        block_dx_px: d.block_dx_px.clone(),
        detector_offset_counts: d.detector_offset_counts,
        f_counts: d.f.clone(),
        f_neuropil_counts: d.f_neuropil.clone(),
        f0_counts: d.f0.clone(),
        dff: d.dff.clone(),
        z: d.z.clone(),
        rate: d.rate.clone(),
        roi_valid: d.roi_valid.clone(),
        x: d.x,
        cursor: d.cursor,
        rotation_deg: d.rotation_deg,
        displayed_deg: d.shown_deg.unwrap_or(f64::NAN),
        screen: screen(d.screen) as i32,
        state: trial_state(d.state) as i32,
        trial: d.trial,
        phase_frame: d.phase_frame,
        sound_duration_s: d.sound_duration_s,
        intent_sequence: d.intents.iter().map(|i| i.id.sequence).collect(),
        intent_output: d.intents.iter().map(|i| output_code(i.output)).collect(),
        intent_width_us: d.intents.iter().map(|i| i.width_us).collect(),
        event_kind: d.events.iter().map(|e| e.kind as i32).collect(),
        event_id: d.events.iter().map(|e| e.id).collect(),
        event_value: d.events.iter().map(|e| e.value).collect(),
        command_outcome: d.command as u32,
        calibration: d.calibrated.then(|| calibration_record(&d.calibration)),
    }
}

fn input_record(input_seq: u64, input: &InputSummary, decision: &Decision) -> v1::InputRecord {
    let mut r = v1::InputRecord { input_seq, kind: decision.kind as i32, ..v1::InputRecord::default() };
    let frame = |r: &mut v1::InputRecord, meta: &FrameMeta| {
        r.frame_index = meta.index;
        r.plane = meta.plane;
        r.channel = meta.channel;
        r.device_ns = meta.device_ns;
        r.z_um = meta.z_um;
    };
    let trigger = |r: &mut v1::InputRecord, id: &TriggerId| {
        r.trigger_segment = id.segment;
        r.trigger_sequence = id.sequence;
    };
    match input {
        InputSummary::Frame(meta) => frame(&mut r, meta),
        InputSummary::RoiValues(meta) => {
            frame(&mut r, meta);
            r.f_counts.clone_from(&decision.f);
        }
        InputSummary::Refused { meta, code } => {
            frame(&mut r, meta);
            r.code = *code;
        }
        InputSummary::Skipped { first_index, count, reason } => {
            r.frame_index = *first_index;
            r.amount = *count;
            r.code = reason.code();
        }
        InputSummary::Gap { silent_ns } => r.amount = *silent_ns,
        InputSummary::Continued { segment, template_lost } => {
            r.trigger_segment = *segment;
            r.code = u32::from(*template_lost);
        }
        InputSummary::Command(command) => r.payload = postcard::to_stdvec(command).unwrap_or_default(),
        InputSummary::Limit { id, verdict, sent } => {
            trigger(&mut r, id);
            r.payload = postcard::to_stdvec(verdict).unwrap_or_default();
            r.code = u32::from(*sent);
        }
        InputSummary::Device(report) => {
            r.code = report.code();
            match report {
                DeviceReport::Acknowledged { id, board_us } => {
                    trigger(&mut r, id);
                    r.board_us = *board_us;
                }
                DeviceReport::Refused { id, status } => {
                    trigger(&mut r, id);
                    r.amount = u64::from(*status);
                }
                DeviceReport::Done { id, width_us } => {
                    trigger(&mut r, id);
                    r.width_us = *width_us;
                }
                DeviceReport::NoAnswer { id } => trigger(&mut r, id),
                DeviceReport::Fault => {}
            }
        }
    }
    r
}

/// The input that a record tells of. A frame of pixels comes back as its samples, which stand in its decision.
/// `command` keeps what the input borrows. `None` for a record that makes no sense.
pub fn input_of<'a>(
    r: &'a v1::InputRecord,
    decision: &'a v1::DecisionRecord,
    command: &'a mut Option<Command>,
) -> Option<Input<'a>> {
    let meta = FrameMeta {
        index: r.frame_index,
        plane: r.plane,
        channel: r.channel,
        device_ns: r.device_ns,
        z_um: r.z_um,
        received_host_ns: 0,
    };
    let id = TriggerId { segment: r.trigger_segment, sequence: r.trigger_sequence };
    Some(match r.kind() {
        v1::InputKind::Frame => Input::Sampled(Sampled {
            meta,
            registration: Registration {
                dy_px: decision.dy_px,
                dx_px: decision.dx_px,
                score: decision.score,
                verdict: fit_verdict(decision.fit)?,
                reacquired: false,
            },
            template_frozen: decision.template_frozen,
            offset: (decision.offset_score >= 0.0).then_some(TemplateOffset {
                dy_px: decision.offset_dy_px,
                dx_px: decision.offset_dx_px,
                score: decision.offset_score,
                trusted: decision.offset_trusted,
            }),
            odd_lines_px: decision.odd_lines_px,
            z_drift_um: decision.z_drift_um,
            block_dy_px: &decision.block_dy_px,
            block_dx_px: &decision.block_dx_px,
            detector_offset_counts: decision.detector_offset_counts,
            f: &decision.f_counts,
            f_neuropil: &decision.f_neuropil_counts,
        }),
        v1::InputKind::RoiValues => Input::RoiValues { meta, f: &r.f_counts },
        v1::InputKind::Refused => Input::Refused { meta, code: r.code },
        v1::InputKind::Skipped => {
            Input::Skipped { first_index: r.frame_index, count: r.amount, reason: SkipReason::from_code(r.code) }
        }
        v1::InputKind::Gap => Input::Gap { silent_ns: r.amount },
        v1::InputKind::Continued => Input::Continued { segment: r.trigger_segment, template_lost: r.code != 0 },
        v1::InputKind::Command => Input::Command(command.insert(postcard::from_bytes(&r.payload).ok()?)),
        v1::InputKind::Limit => Input::Limit { id, verdict: postcard::from_bytes(&r.payload).ok()?, sent: r.code == 1 },
        v1::InputKind::Device => Input::Device(match r.code {
            1 => DeviceReport::Acknowledged { id, board_us: r.board_us },
            2 => DeviceReport::Refused { id, status: u8::try_from(r.amount).ok()? },
            3 => DeviceReport::Done { id, width_us: r.width_us },
            4 => DeviceReport::NoAnswer { id },
            5 => DeviceReport::Fault,
            _ => return None,
        }),
        v1::InputKind::Unspecified => return None,
    })
}

/// A decision as [`Published`] writes it, for a comparison bit for bit.
pub(super) fn encode_decision(decision: &Decision) -> v1::DecisionRecord {
    decision_record(decision)
}

/// A calibration as a message.
pub fn calibration_record(c: &Calibration) -> v1::Calibration {
    v1::Calibration {
        threshold: c.threshold,
        range_low: c.range_low,
        mu_half: c.mu_half,
        sigma_half: c.sigma_half,
        z_half: c.z_half,
        chance_fraction: c.chance_fraction,
        segment_starts: c.segment_starts.clone(),
        threshold_today: c.threshold_today,
        carried_over: c.carried_over,
        baseline_frames: c.baseline_frames,
    }
}

/// A calibration from a message.
pub fn calibration_of(c: &v1::Calibration) -> Calibration {
    Calibration {
        threshold: c.threshold,
        range_low: c.range_low,
        mu_half: c.mu_half,
        sigma_half: c.sigma_half,
        z_half: c.z_half,
        chance_fraction: c.chance_fraction,
        segment_starts: c.segment_starts.clone(),
        threshold_today: c.threshold_today,
        carried_over: c.carried_over,
        baseline_frames: c.baseline_frames,
    }
}

fn fit_code(verdict: FitVerdict) -> u32 {
    match verdict {
        FitVerdict::Good => 0,
        FitVerdict::LowScore => 1,
        FitVerdict::Jump => 2,
        FitVerdict::Saturated => 3,
        FitVerdict::Blank => 4,
        FitVerdict::Torn => 5,
        FitVerdict::NotReady => 6,
        FitVerdict::Off => 7,
        FitVerdict::Changed => 8,
    }
}

/// What registration said, from its code in a journal.
pub fn fit_verdict(code: u32) -> Option<FitVerdict> {
    Some(match code {
        0 => FitVerdict::Good,
        1 => FitVerdict::LowScore,
        2 => FitVerdict::Jump,
        3 => FitVerdict::Saturated,
        4 => FitVerdict::Blank,
        5 => FitVerdict::Torn,
        6 => FitVerdict::NotReady,
        7 => FitVerdict::Off,
        8 => FitVerdict::Changed,
        _ => return None,
    })
}

/// Whether this input brought a frame, or the values of one.
pub fn is_frame(input: &v1::InputRecord) -> bool {
    matches!(input.kind(), v1::InputKind::Frame | v1::InputKind::RoiValues)
}

/// Whether this input was a frame on which there is a decision.
pub fn is_decided(input: &v1::InputRecord, decision: &v1::DecisionRecord) -> bool {
    is_frame(input) && matches!(decision.verdict(), v1::FrameVerdict::Decided | v1::FrameVerdict::Doubted)
}

/// Whether two decisions are the same: NaN equals NaN, and 0 does not equal -0.
pub(super) fn same_bits(a: &v1::DecisionRecord, b: &v1::DecisionRecord) -> bool {
    a.encode_to_vec() == b.encode_to_vec()
}

/// The number of the rewards' output in `intent_output`.
pub const REWARD_OUTPUT: u32 = output_code(Output::Reward);
/// The number of the sync line.
pub const SYNC_OUTPUT: u32 = output_code(Output::Sync);

const fn output_code(output: Output) -> u32 {
    match output {
        Output::Reward => 0,
        Output::Sync => 1,
        Output::Light => 2,
    }
}

const fn screen(screen: Screen) -> v1::Screen {
    match screen {
        Screen::Grey => v1::Screen::Grey,
        Screen::Grating => v1::Screen::Grating,
        Screen::Black => v1::Screen::Black,
    }
}

const fn trial_state(state: TaskState) -> v1::TrialState {
    match state {
        TaskState::Idle => v1::TrialState::Idle,
        TaskState::Baseline => v1::TrialState::Baseline,
        TaskState::Start => v1::TrialState::Start,
        TaskState::Control => v1::TrialState::Control,
        TaskState::Hit => v1::TrialState::Hit,
        TaskState::Aversive => v1::TrialState::Aversive,
        TaskState::Iti => v1::TrialState::Iti,
        TaskState::Paused => v1::TrialState::Paused,
    }
}

/// The state of the trial as tables and messages write it.
pub const fn state_name(state: v1::TrialState) -> &'static str {
    match state {
        v1::TrialState::Unspecified | v1::TrialState::Idle => "idle",
        v1::TrialState::Baseline => "baseline",
        v1::TrialState::Start => "start",
        v1::TrialState::Control => "control",
        v1::TrialState::Hit => "hit",
        v1::TrialState::Aversive => "aversive",
        v1::TrialState::Iti => "iti",
        v1::TrialState::Paused => "paused",
    }
}

const _: () = assert!(FrameVerdict::NotUsed as i32 == v1::FrameVerdict::NotUsed as i32);
const _: () = assert!(EventKind::SegmentStarted as i32 == v1::EventKind::SegmentStarted as i32);
const _: () = assert!(crate::engine::InputKind::Continued as i32 == v1::InputKind::Continued as i32);

/// What the stream in the head of a journal is like; no values of no ROIs where the head has no stream.
pub fn shape_of_head(head: &v1::SessionHead) -> StreamShape {
    match &head.stream {
        Some(v1::session_head::Stream::Pixels(header)) => shape_of_header(header),
        Some(v1::session_head::Stream::RoiValues(header)) => {
            StreamShape::RoiValues { count: header.roi_count as usize }
        }
        None => StreamShape::RoiValues { count: 0 },
    }
}

/// What a stream of pixels is like.
pub fn shape_of_header(header: &v1::StreamHeader) -> StreamShape {
    let pixel_type = match header.pixel_type() {
        v1::PixelType::Uint8 => PixelType::U8,
        v1::PixelType::Int16 => PixelType::I16,
        v1::PixelType::Uint16 | v1::PixelType::Unspecified => PixelType::U16,
    };
    StreamShape::Pixels {
        geometry: Geometry::new(header.height_px as usize, header.width_px as usize),
        pixel_type,
        detector_offset_counts: header.detector_offset_counts,
    }
}

/// A set of ROIs as a message.
pub fn roi_set_record(set: &RoiSet) -> v1::RoiSetRecord {
    v1::RoiSetRecord {
        height_px: set.geometry.height_px as u32,
        width_px: set.geometry.width_px as u32,
        rois: set
            .rois
            .iter()
            .map(|roi| v1::Roi {
                name: roi.name.clone(),
                plane: roi.plane,
                rows_px: roi.pixels.iter().map(|p| p.row).collect(),
                cols_px: roi.pixels.iter().map(|p| p.col).collect(),
                weights: roi.pixels.iter().map(|p| p.weight).collect(),
                radius_px: roi.radius_told_px.unwrap_or(0.0),
            })
            .collect(),
        reference: set.reference.as_ref().map(image_record),
        reference_rendered: set.reference_kind == ReferenceKind::RenderedFromMasks,
        source: set.source.clone(),
        templates: set
            .templates
            .iter()
            .map(|of_plane| v1::PlaneTemplate { plane: of_plane.plane, image: Some(image_record(&of_plane.image)) })
            .collect(),
        z_stack: set.z_stack.iter().map(image_record).collect(),
    }
}

fn image_record(image: &Image) -> v1::ReferenceImage {
    v1::ReferenceImage {
        height_px: image.geometry.height_px as u32,
        width_px: image.geometry.width_px as u32,
        values_counts: image.values.clone(),
    }
}

fn image_of(r: &v1::ReferenceImage) -> Image {
    let geometry = Geometry::new(r.height_px as usize, r.width_px as usize);
    Image { geometry, values: r.values_counts.clone() }
}

/// A set of ROIs from a message. Lists of unequal length are cut to the shortest; [`RoiSet::check`] judges the rest.
pub fn roi_set_of(r: &v1::RoiSetRecord) -> RoiSet {
    let rois = r.rois.iter().zip(0..).map(|(roi, id)| {
        let places = roi.rows_px.iter().zip(&roi.cols_px).enumerate();
        let weight = |k: usize| if roi.weights.is_empty() { 1.0 } else { roi.weights.get(k).copied().unwrap_or(0.0) };
        let pixels = places.map(|(k, (&row, &col))| RoiPixel { row, col, weight: weight(k) }).collect();
        let radius_told_px = Some(roi.radius_px).filter(|&px| px != 0.0);
        Roi { id, name: roi.name.clone(), plane: roi.plane, pixels, radius_told_px }
    });
    let reference = r.reference.as_ref().map(image_of);
    let template = |t: &v1::PlaneTemplate| Some(PlaneImage { plane: t.plane, image: image_of(t.image.as_ref()?) });
    let reference_kind = match (&reference, r.reference_rendered) {
        (None, _) => ReferenceKind::None,
        (Some(_), true) => ReferenceKind::RenderedFromMasks,
        (Some(_), false) => ReferenceKind::Given,
    };
    RoiSet {
        geometry: Geometry::new(r.height_px as usize, r.width_px as usize),
        rois: rois.collect(),
        reference,
        reference_kind,
        templates: r.templates.iter().filter_map(template).collect(),
        z_stack: r.z_stack.iter().map(image_of).collect(),
        source: r.source.clone(),
    }
}
