//! The way of a frame through the stages.

use super::planes::{PixelPath, Standing};
use super::{Engine, Event, EventKind, FrameVerdict, HISTOGRAM_BINS, Phase, Probe, Sampled, Stage, StreamShape};
use super::{WARNING_NO_REFERENCE, WARNING_OFFSET, WARNING_TEMPLATE, WARNING_Z_DRIFT};
use crate::activity::estimate_detector_offset;
use crate::frame::{FrameMeta, FrameSlot};
use crate::register::{Axial, BLOCKS_MAX, FitVerdict, Registration};
use crate::task::{TaskEvent, TaskInput, TaskOutput, TaskState};
use crate::trigger::{Cause, Intent, Output, TriggerId};

/// So many frames of a baseline may wait for a sure place on the reference image; their values stay out of statistics.
const OFFSET_PATIENCE_FRAMES: u32 = 16;

impl Engine {
    /// A frame of pixels: registered, sampled, and decided on where it completes its volume.
    pub(super) fn pixel_frame(&mut self, slot: &FrameSlot, probe: &mut impl Probe) {
        let Some(place) = self.admit(&slot.meta) else { return };
        let Some(path) = &mut self.pixels else { return self.not_used() };
        if StreamShape::geometry(&self.stream) != Some(slot.geometry) {
            return self.not_used();
        }
        let view = slot.view();
        let mut registration = path.planes[place].rigid.step_arrived(&view, slot.arrival);
        probe.mark(Stage::Register);
        if self.state.phase == Phase::Baseline && self.estimate_offset {
            path.observe(view.samples);
        }
        let (block_dy_px, block_dx_px) = path.planes[place].rigid.block_shifts();
        self.decision.block_dy_px.extend_from_slice(block_dy_px);
        self.decision.block_dx_px.extend_from_slice(block_dx_px);
        let blocks = (&self.decision.block_dy_px[..], &self.decision.block_dx_px[..]);
        let plane = &mut path.planes[place];
        let (offset, odd_lines_px) = (plane.rigid.offset(), plane.rigid.odd_lines_px());
        plane.sample(&view, (&registration, offset), odd_lines_px, blocks);
        fill_own(&mut self.decision.f, self.state.roi_valid.len(), &plane.rois, |k| plane.samples.f[k]);
        if path.has_neuropil {
            let neuropil = &plane.samples.f_neuropil;
            fill_own(&mut self.decision.f_neuropil, self.state.roi_valid.len(), &plane.rois, |k| neuropil[k]);
        }
        if let Some(axial) = &mut plane.axial {
            axial.step(&view, &registration);
        }
        let z_drift_um = plane.axial.as_ref().and_then(Axial::drift_um);
        self.state.volume.set(place, Standing { offset, odd_lines_px, z_drift_um });
        if slot.is_changed() {
            registration.verdict = FitVerdict::Changed;
        }
        probe.mark(Stage::Sample);
        self.gather(place, &registration, None, probe);
    }

    /// Does what can be done of a frame of pixels while its lines arrive, a little at a time; whether there is more to
    /// do on those that are there. No decision, no record and no saved state is another for it.
    pub fn look_ahead(&mut self, slot: &FrameSlot) -> bool {
        let place = self.place_of(&slot.meta);
        let (Some(place), Some(path)) = (place, &mut self.pixels) else { return false };
        path.planes[place].rigid.look_ahead(&slot.view(), slot.arrival)
    }

    /// The same frame on replay, from what an earlier run registered and sampled.
    pub(super) fn sampled_frame(&mut self, sampled: &Sampled<'_>, probe: &mut impl Probe) {
        let Some(place) = self.admit(&sampled.meta) else { return };
        let Some(path) = &self.pixels else { return self.not_used() };
        let rois = self.state.roi_valid.len();
        if sampled.f.len() != rois || sampled.f_neuropil.len() != if path.has_neuropil { rois } else { 0 } {
            return self.not_used();
        }
        self.decision.block_dy_px.extend(sampled.block_dy_px.iter().take(BLOCKS_MAX));
        self.decision.block_dx_px.extend(sampled.block_dx_px.iter().take(BLOCKS_MAX));
        let own = &path.planes[place].rois;
        fill_own(&mut self.decision.f, rois, own, |k| sampled.f[own[k] as usize]);
        if path.has_neuropil {
            fill_own(&mut self.decision.f_neuropil, rois, own, |k| sampled.f_neuropil[own[k] as usize]);
        }
        let Sampled { offset, odd_lines_px, z_drift_um, .. } = *sampled;
        self.state.volume.set(place, Standing { offset, odd_lines_px, z_drift_um });
        self.gather(place, &sampled.registration, Some(sampled), probe);
    }

    /// ROI values that the microscope has integrated.
    pub(super) fn values_frame(&mut self, meta: &FrameMeta, f: &[f64], probe: &mut impl Probe) {
        let Some(place) = self.admit(meta) else { return };
        if f.len() != self.roi_count() {
            return self.not_used();
        }
        self.decision.f.extend_from_slice(f);
        self.state.volume.arrive(place, false);
        self.state.volume.close();
        self.decide(&Registration::none(), false, None, probe);
    }

    /// Takes a plane's frame into its volume. The decision falls with the last plane that is needed.
    fn gather(
        &mut self,
        place: usize,
        registration: &Registration,
        replayed: Option<&Sampled<'_>>,
        probe: &mut impl Probe,
    ) {
        self.decision.has_pixels = true;
        self.decision.registration = *registration;
        let (needed, doubted) = (self.needed, self.decision.doubted());
        let is_needed = needed & (1 << place) != 0;
        let volume = &mut self.state.volume;
        volume.arrive(place, doubted && is_needed);
        if let Some(drift_um) = volume.warns_of_depth(self.z_warning_um) {
            self.decision.events.push(Event { kind: EventKind::Warning, id: WARNING_Z_DRIFT, value: drift_um });
        }
        if let Some(path) = &self.pixels {
            // A frame that no decision waits for may be doubted alone.
            let believed = is_needed || !doubted;
            volume.put(&path.planes[place].rois, believed, &self.decision.f, &self.decision.f_neuropil);
        }
        if volume.is_closed() || !is_needed || !volume.is_complete(needed) {
            self.decision.verdict = FrameVerdict::Gathered;
            let was_last = needed >> place == 1;
            if !volume.is_closed() && was_last {
                volume.close();
                self.missing(self.state.frame_index, 1);
            }
            return;
        }
        volume.close();
        let doubted = volume.is_doubted();
        volume.give(&mut self.decision.f, &mut self.decision.f_neuropil);
        self.decide(registration, doubted, replayed, probe);
    }

    /// Frames that an overload skipped, of one plane.
    pub(super) fn skipped_frames(&mut self, first_index: u64, count: u64) {
        self.resume_after_silence();
        self.decision.verdict = FrameVerdict::Skipped;
        if self.state.phase == Phase::Ended || count == 0 {
            return;
        }
        let last = first_index.saturating_add(count - 1);
        let (at_hand, closed) = (self.state.last_index, self.state.volume.is_closed());
        // Of a volume that is given up already nothing more is missing.
        let given_up = at_hand.map_or(0, |at| if closed { at.saturating_add(1) } else { at });
        let first = first_index.max(given_up);
        if first > last {
            return;
        }
        self.begin_volume(first);
        self.missing(first, last - first + 1);
        self.state.last_index = Some(last);
        self.state.volume.skip(self.needed);
    }

    /// A frame that could not be used.
    pub(super) fn refused_frame(&mut self, meta: &FrameMeta) {
        self.resume_after_silence();
        self.decision.verdict = FrameVerdict::Refused;
        self.event(EventKind::FrameRefused, meta.index, 0.0);
    }

    /// Where a frame's plane stands among those that are read, while any are.
    fn place_of(&self, meta: &FrameMeta) -> Option<usize> {
        let place = self.planes.iter().position(|&plane| plane == meta.plane);
        place.filter(|_| meta.channel == self.channel && self.state.phase != Phase::Ended)
    }

    /// Where the frame's plane stands among those that are read; `None` for a frame that is not used. Counts what is
    /// missing before it.
    fn admit(&mut self, meta: &FrameMeta) -> Option<usize> {
        self.resume_after_silence();
        let Some(place) = self.place_of(meta) else {
            self.not_used();
            return None;
        };
        match self.state.last_index {
            Some(last) if meta.index < last || (meta.index == last && self.state.volume.has(place)) => {
                self.decision.verdict = FrameVerdict::Refused;
                self.event(EventKind::FrameRefused, meta.index, 0.0);
                return None;
            }
            Some(last) if meta.index == last => {}
            _ => self.begin_volume(meta.index),
        }
        self.state.frame_index = meta.index;
        self.state.device_ns = meta.device_ns;
        Some(place)
    }

    /// Goes on to the volume of this index, and counts what is missing before it.
    fn begin_volume(&mut self, index: u64) {
        if let Some(last) = self.state.last_index {
            let first = if self.state.volume.is_closed() { last.saturating_add(1) } else { last };
            if index > first {
                self.missing(first, index - first);
            }
        }
        self.state.last_index = Some(index);
        self.state.volume.begin();
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
    fn decide(
        &mut self,
        registration: &Registration,
        doubted: bool,
        replayed: Option<&Sampled<'_>>,
        probe: &mut impl Probe,
    ) {
        self.decision.registration = *registration;
        self.decision.verdict = if doubted { FrameVerdict::Doubted } else { FrameVerdict::Decided };
        let waits_for_offset = self.state.phase == Phase::Baseline
            && self.state.baseline_frames < OFFSET_PATIENCE_FRAMES
            && self.state.volume.is_untrusted();
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
        let answers = self.light.as_mut().is_none_or(|light| light.step(&self.decision.f));
        if self.sync && answers {
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
                template = path.freeze_templates();
                let place = self.state.volume.place();
                self.state.volume.set(place, path.planes[place].standing());
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
            self.event(EventKind::TemplateFrozen, 0, self.state.volume.plane().offset.map_or(-1.0, |o| o.score));
        }
        self.event(EventKind::BaselineDone, 0, good_frames as f64);
        if !template {
            self.event(EventKind::Warning, WARNING_TEMPLATE, 0.0);
        } else if self.pixels.as_ref().is_some_and(PixelPath::lacks_reference) {
            self.event(EventKind::Warning, WARNING_NO_REFERENCE, 0.0);
        } else if self.state.volume.is_untrusted() {
            self.event(EventKind::Warning, WARNING_OFFSET, 0.0);
        }
    }

    /// Starts a baseline with the next frame.
    pub(super) fn begin_baseline(&mut self) {
        if let Some(path) = &mut self.pixels {
            path.begin_baseline();
        }
        self.take_odd_lines();
        self.activity.begin_baseline();
        self.task.begin_baseline();
        self.forget_baseline();
        self.state.phase = Phase::Baseline;
        self.state.task_state = TaskState::Baseline;
    }

    /// Odd lines are read where registration says before any frame did.
    pub(super) fn take_odd_lines(&mut self) {
        if let Some(path) = &self.pixels {
            for (place, plane) in path.planes.iter().enumerate() {
                self.state.volume.set(place, plane.standing());
            }
        }
    }

    /// Which planes a decision waits for: those of the ensembles' ROIs, or, without any, of all ROIs, or all.
    pub(super) fn find_needed_planes(&mut self) {
        let Some(path) = &self.pixels else { return };
        let ensembles = self.decoder.ensembles();
        let of = |wanted: &dyn Fn(u32) -> bool| {
            let bits = path.planes.iter().zip(0..).filter(|(plane, _)| plane.rois.iter().any(|&roi| wanted(roi)));
            bits.fold(0_u32, |needed, (_, place)| needed | 1 << place)
        };
        let all = (1_u64 << path.planes.len()) - 1;
        let candidates = [of(&|roi| ensembles.rois().any(|r| r == roi)), of(&|_| true), all as u32];
        self.needed = candidates.into_iter().find(|&needed| needed != 0).unwrap_or(1);
    }

    /// Nothing of a baseline is in force any more.
    pub(super) fn forget_baseline(&mut self) {
        let s = &mut self.state;
        s.baseline_frames = 0;
        s.baseline_complete = false;
        s.template_frozen = false;
        s.range = None;
        s.calibration.segment_starts.clear();
        s.volume.forget_offsets();
        s.cursor = f64::NAN;
        s.rotation_deg = f64::NAN;
        s.step = 0;
        s.phase_frame = 0;
        s.roi_valid.fill(false);
    }
}

/// Fills `out` with a value for each ROI of the session: those of one plane, whose places are `own`; NaN for others.
fn fill_own(out: &mut Vec<f64>, rois: usize, own: &[u32], value: impl Fn(usize) -> f64) {
    out.resize(rois, f64::NAN);
    own.iter().enumerate().for_each(|(k, &roi)| out[roi as usize] = value(k));
}
