//! The way of a frame through the stages.

use super::{Engine, EventKind, FrameVerdict, HISTOGRAM_BINS, Phase, Probe, Sampled, Stage, StreamShape};
use super::{WARNING_NO_REFERENCE, WARNING_OFFSET, WARNING_TEMPLATE};
use crate::activity::estimate_detector_offset;
use crate::frame::{FrameMeta, FrameSlot};
use crate::register::{BLOCKS_MAX, Registration};
use crate::task::{TaskEvent, TaskInput, TaskOutput, TaskState};
use crate::trigger::{Cause, Intent, Output, TriggerId};

/// So many frames of a baseline may wait for a sure place on the reference image; their values stay out of statistics.
const OFFSET_PATIENCE_FRAMES: u32 = 16;

impl Engine {
    /// A frame of pixels: registered, sampled, decided.
    pub(super) fn pixel_frame(&mut self, slot: &FrameSlot, probe: &mut impl Probe) {
        if !self.admit(&slot.meta) {
            return;
        }
        let Some(path) = &mut self.pixels else {
            return self.not_used();
        };
        if StreamShape::geometry(&self.stream) != Some(slot.geometry) {
            return self.not_used();
        }
        let view = slot.view();
        let registration = path.rigid.step(&view);
        probe.mark(Stage::Register);
        if self.state.phase == Phase::Baseline && self.estimate_offset {
            path.observe(view.samples);
        }
        let offset = path.rigid.offset();
        self.odd_lines_px = path.rigid.odd_lines_px();
        let (block_dy_px, block_dx_px) = path.rigid.block_shifts();
        self.decision.block_dy_px.extend_from_slice(block_dy_px);
        self.decision.block_dx_px.extend_from_slice(block_dx_px);
        let blocks = (&self.decision.block_dy_px[..], &self.decision.block_dx_px[..]);
        path.sample(&view, (&registration, offset), self.odd_lines_px, blocks);
        self.decision.f.extend_from_slice(&path.samples.f);
        if path.has_neuropil {
            self.decision.f_neuropil.extend_from_slice(&path.samples.f_neuropil);
        }
        self.state.offset = offset;
        probe.mark(Stage::Sample);
        self.decision.has_pixels = true;
        self.decide(&registration, None, probe);
    }

    /// The same frame on replay, from what an earlier run registered and sampled.
    pub(super) fn sampled_frame(&mut self, sampled: &Sampled<'_>, probe: &mut impl Probe) {
        if !self.admit(&sampled.meta) {
            return;
        }
        if sampled.f.len() != self.roi_count() {
            return self.not_used();
        }
        self.decision.f.extend_from_slice(sampled.f);
        self.decision.f_neuropil.extend_from_slice(sampled.f_neuropil);
        self.decision.block_dy_px.extend(sampled.block_dy_px.iter().take(BLOCKS_MAX));
        self.decision.block_dx_px.extend(sampled.block_dx_px.iter().take(BLOCKS_MAX));
        self.state.offset = sampled.offset;
        self.odd_lines_px = sampled.odd_lines_px;
        self.decision.has_pixels = true;
        self.decide(&sampled.registration, Some(sampled), probe);
    }

    /// ROI values that the microscope has integrated.
    pub(super) fn values_frame(&mut self, meta: &FrameMeta, f: &[f64], probe: &mut impl Probe) {
        if !self.admit(meta) {
            return;
        }
        if f.len() != self.roi_count() {
            return self.not_used();
        }
        self.decision.f.extend_from_slice(f);
        self.decide(&Registration::none(), None, probe);
    }

    /// Frames that an overload skipped.
    pub(super) fn skipped_frames(&mut self, first_index: u64, count: u64) {
        self.resume_after_silence();
        self.decision.verdict = FrameVerdict::Skipped;
        if self.state.phase == Phase::Ended {
            return;
        }
        if let Some(last) = self.state.last_index
            && first_index > last.saturating_add(1)
        {
            self.missing(last + 1, first_index - last - 1);
        }
        self.missing(first_index, count);
        self.state.last_index = Some(first_index.saturating_add(count.saturating_sub(1)));
    }

    /// A frame that could not be used.
    pub(super) fn refused_frame(&mut self, meta: &FrameMeta) {
        self.resume_after_silence();
        self.decision.verdict = FrameVerdict::Refused;
        self.event(EventKind::FrameRefused, meta.index, 0.0);
    }

    /// Whether the frame is one that this session decides on; counts what is missing before it.
    fn admit(&mut self, meta: &FrameMeta) -> bool {
        self.resume_after_silence();
        let wanted = meta.plane == self.plane && meta.channel == self.channel;
        if !wanted || self.state.phase == Phase::Ended {
            self.not_used();
            return false;
        }
        if let Some(last) = self.state.last_index {
            if meta.index <= last {
                self.decision.verdict = FrameVerdict::Refused;
                self.event(EventKind::FrameRefused, meta.index, 0.0);
                return false;
            }
            if meta.index > last + 1 {
                self.missing(last + 1, meta.index - last - 1);
            }
        }
        self.state.last_index = Some(meta.index);
        self.state.frame_index = meta.index;
        self.state.device_ns = meta.device_ns;
        true
    }

    fn not_used(&mut self) {
        self.decision.verdict = FrameVerdict::NotUsed;
        self.decision.f.clear();
        self.decision.f_neuropil.clear();
        self.decision.block_dy_px.clear();
        self.decision.block_dx_px.clear();
    }

    /// Frames that never came: they count towards the trial's length, and decide nothing.
    fn missing(&mut self, first_index: u64, count: u64) {
        self.event(EventKind::FramesSkipped, first_index, count as f64);
        self.activity.skip(count);
        if self.state.phase == Phase::Task {
            let output = self.task.missed(u32::try_from(count).unwrap_or(u32::MAX).min(1_000_000));
            self.take_task(&output);
        }
    }

    /// From samples to the decision.
    fn decide(&mut self, registration: &Registration, replayed: Option<&Sampled<'_>>, probe: &mut impl Probe) {
        self.decision.registration = *registration;
        let doubted = self.decision.doubted();
        self.decision.verdict = if doubted { FrameVerdict::Doubted } else { FrameVerdict::Decided };
        let waits_for_offset = self.state.phase == Phase::Baseline
            && self.state.baseline_frames < OFFSET_PATIENCE_FRAMES
            && self.state.offset.is_some_and(|o| !o.trusted);
        let valid = !doubted && !waits_for_offset;
        let activity = self.activity.step(&self.decision.f, &self.decision.f_neuropil, valid);
        self.decision.f0.extend_from_slice(activity.f0);
        self.decision.dff.extend_from_slice(activity.dff);
        self.decision.z.extend_from_slice(activity.z);
        self.decision.rate.extend_from_slice(activity.rate);
        self.decision.roi_valid.extend_from_slice(activity.valid);
        probe.mark(Stage::Activity);
        let after_baseline = self.state.baseline_complete && self.state.phase != Phase::Baseline;
        let mut held = doubted;
        if after_baseline {
            let d = &self.decision;
            let decoded = self.decoder.step(&d.dff, &d.z, &d.rate, &d.roi_valid, !doubted);
            held |= !decoded.valid;
            self.decision.x = if self.decoder.ensembles().plus.is_empty() { f64::NAN } else { decoded.x };
            if self.state.range.is_some() {
                self.state.cursor = decoded.cursor;
                self.state.rotation_deg = self.feedback.rotation_deg(decoded.cursor);
                self.state.step = self.feedback.step(decoded.cursor);
            }
        }
        probe.mark(Stage::Decode);
        self.report_validity();
        let output =
            self.task.step(TaskInput { valid: !held, rotation_deg: self.state.rotation_deg, step: self.state.step });
        self.take_task(&output);
        if self.sync {
            let id = TriggerId { segment: self.state.segment, sequence: self.state.sync_sequence };
            self.state.sync_sequence = self.state.sync_sequence.wrapping_add(1);
            self.decision.intents.push(Intent { id, output: Output::Sync, width_us: 0, cause: Cause::FrameSync });
        }
        if self.state.phase == Phase::Baseline {
            self.state.baseline_frames += 1;
            if self.state.baseline_frames >= self.baseline_target {
                self.end_baseline(replayed);
            }
        }
        probe.mark(Stage::Task);
    }

    /// What the trial says of a frame, or of frames that are missing.
    fn take_task(&mut self, output: &TaskOutput) {
        self.state.task_state = output.state;
        self.state.phase_frame = output.phase_frame;
        self.state.screen = output.screen;
        self.state.shown_deg = output.shown_deg;
        self.state.trial = u64::from(output.trial_number);
        // A run of missing frames may pass through several trials; their starts are numbered up to the present one.
        let starts = output.events.as_slice().iter().filter(|e| **e == TaskEvent::TrialStart).count() as u64;
        let mut trial = self.state.trial.saturating_sub(starts);
        for event in output.events.as_slice() {
            match event {
                TaskEvent::TrialStart => {
                    trial += 1;
                    self.event(EventKind::TrialStarted, trial, 0.0);
                }
                TaskEvent::Hit => self.event(EventKind::Hit, trial, 0.0),
                TaskEvent::Aversive => self.event(EventKind::Aversive, trial, 0.0),
                TaskEvent::Miss => self.event(EventKind::Miss, trial, 0.0),
                TaskEvent::RewardDue => {
                    self.intend_reward(Cause::Hit);
                }
                TaskEvent::NoiseCue { duration } => {
                    let duration_s = duration.as_secs_f64();
                    self.decision.sound_duration_s = duration_s;
                    self.event(EventKind::Noise, trial, duration_s);
                }
            }
        }
    }

    /// Cells of the ensembles that became invalid, or valid again.
    fn report_validity(&mut self) {
        let in_ensembles = |roi: usize, engine: &Engine| engine.decoder.ensembles().rois().any(|r| r as usize == roi);
        for roi in 0..self.state.roi_valid.len() {
            let valid = self.decision.roi_valid.get(roi).copied().unwrap_or(false);
            if valid != self.state.roi_valid[roi] {
                self.state.roi_valid[roi] = valid;
                if in_ensembles(roi, self) {
                    self.event(EventKind::RoiValidity, roi as u64, f64::from(u8::from(valid)));
                }
            }
        }
    }

    /// The baseline is complete: template, offsets, statistics.
    fn end_baseline(&mut self, replayed: Option<&Sampled<'_>>) {
        self.state.phase = Phase::Idle;
        self.state.baselines_done += 1;
        let mut template = true;
        match (replayed, &mut self.pixels) {
            (Some(sampled), _) => {
                template = sampled.template_frozen;
                self.activity.rebase_detector_offset(sampled.detector_offset_counts);
            }
            (None, Some(path)) => {
                template = path.rigid.freeze_template().is_ok() || !path.rigid.is_enabled();
                self.state.offset = path.rigid.offset();
                self.odd_lines_px = path.rigid.odd_lines_px();
                if self.estimate_offset {
                    let offset = estimate_detector_offset(&path.histogram[..HISTOGRAM_BINS]);
                    let bias = StreamShape::bias(&self.stream);
                    self.activity.rebase_detector_offset(offset - f64::from(bias));
                }
            }
            (None, None) => {}
        }
        self.state.template_frozen = template;
        let good_frames = self.activity.end_baseline();
        self.decoder.begin(0.0);
        self.state.baseline_complete = template && good_frames > 0;
        self.task.stop();
        if self.pixels.is_some() {
            self.event(EventKind::TemplateFrozen, 0, self.state.offset.map_or(-1.0, |o| o.score));
        }
        self.event(EventKind::BaselineDone, 0, good_frames as f64);
        if !template {
            self.event(EventKind::Warning, WARNING_TEMPLATE, 0.0);
        } else if self.pixels.as_ref().is_some_and(|p| p.rigid.is_enabled() && !p.has_reference && !p.is_empty()) {
            self.event(EventKind::Warning, WARNING_NO_REFERENCE, 0.0);
        } else if self.state.offset.is_some_and(|o| !o.trusted) {
            self.event(EventKind::Warning, WARNING_OFFSET, 0.0);
        }
    }

    /// Starts a baseline with the next frame.
    pub(super) fn begin_baseline(&mut self) {
        if let Some(path) = &mut self.pixels {
            path.rigid.begin_baseline();
            path.histogram.fill(0);
            self.odd_lines_px = path.rigid.odd_lines_px();
        }
        self.activity.begin_baseline();
        self.task.begin_baseline();
        self.forget_baseline();
        self.state.phase = Phase::Baseline;
        self.state.task_state = TaskState::Baseline;
    }

    /// Nothing of a baseline is in force any more.
    pub(super) fn forget_baseline(&mut self) {
        let s = &mut self.state;
        s.baseline_frames = 0;
        s.baseline_complete = false;
        s.template_frozen = false;
        s.range = None;
        s.calibration.segment_starts.clear();
        s.offset = None;
        s.cursor = f64::NAN;
        s.rotation_deg = f64::NAN;
        s.step = 0;
        s.phase_frame = 0;
        s.roi_valid.fill(false);
    }
}
