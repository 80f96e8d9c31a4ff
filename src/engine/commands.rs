//! Commands, silence, and what comes back from the outputs.

use super::{Command, CommandOutcome, DeviceReport, Engine, EventKind, Phase, RoiIds, WARNING_TEMPLATE_LOST};
use crate::task::{CalibrationError, CalibrationInput, Screen, TaskState, calibrate};
use crate::trigger::{Cause, LimitVerdict, TriggerId};

impl Engine {
    /// Takes a command; a refusal changes nothing.
    pub(super) fn command(&mut self, command: &Command) {
        let outcome = match self.state.phase {
            Phase::Ended => CommandOutcome::Ended,
            _ => self.obey(command),
        };
        self.decision.command = outcome;
        if outcome != CommandOutcome::TookEffect {
            self.event(EventKind::CommandRefused, outcome as u64, 0.0);
        }
    }

    fn obey(&mut self, command: &Command) -> CommandOutcome {
        match command {
            Command::StartBaseline => self.start_baseline(),
            Command::Calibrate => self.calibrate(),
            Command::StartTask { accept_template } => self.start_task(*accept_template),
            Command::Pause => self.pause(),
            Command::Resume => self.resume(),
            Command::Stop => self.end(EventKind::Stopped),
            Command::Abort => self.end(EventKind::Aborted),
            Command::ManualReward => match self.intend_reward(Cause::Manual) {
                Some(_) => CommandOutcome::TookEffect,
                None => CommandOutcome::NoOutput,
            },
            Command::ChangeThreshold { threshold, range_low } => self.change_threshold(*threshold, *range_low),
            Command::SetEnsembles { plus, minus } => self.set_ensembles(plus, minus),
        }
    }

    fn start_baseline(&mut self) -> CommandOutcome {
        match self.state.phase {
            Phase::Baseline => CommandOutcome::BaselineRuns,
            Phase::Task => CommandOutcome::TaskRuns,
            Phase::Idle | Phase::Ended => {
                self.begin_baseline();
                self.event(EventKind::BaselineStarted, 0, 0.0);
                CommandOutcome::TookEffect
            }
        }
    }

    fn calibrate(&mut self) -> CommandOutcome {
        match self.state.phase {
            Phase::Baseline => return CommandOutcome::BaselineRuns,
            Phase::Task => return CommandOutcome::TaskRuns,
            Phase::Idle | Phase::Ended => {}
        }
        if !self.state.baseline_complete {
            return CommandOutcome::NoBaseline;
        }
        let input = CalibrationInput {
            block: self.activity.baseline(),
            settings: self.activity.settings(),
            floors: self.activity.floors(),
            ensembles: self.decoder.ensembles(),
            signal: self.decoder.signal(),
            smooth_frames: self.decoder.smooth_frames(),
            trial_frames: self.trial_frames,
        };
        let result = &mut self.decision.calibration;
        match calibrate(&input, &self.calibration_config, &mut self.workspace, result) {
            Ok(()) => {
                let (threshold, range_low) = (result.threshold, result.range_low);
                self.state.calibration.copy_from(result);
                self.decision.calibrated = true;
                self.set_range(threshold, range_low);
                self.event(EventKind::Calibrated, 0, threshold);
                CommandOutcome::TookEffect
            }
            Err(CalibrationError::Ensembles(_)) => CommandOutcome::NoEnsembles,
            Err(CalibrationError::TooFewFrames { .. }) => CommandOutcome::BaselineTooShort,
            Err(_) => CommandOutcome::CalibrationFailed,
        }
    }

    fn set_range(&mut self, threshold: f64, range_low: f64) {
        self.state.range = Some((threshold, range_low));
        self.feedback.set_range(threshold, range_low);
        self.decoder.set_range_low(range_low);
    }

    fn start_task(&mut self, accept_template: bool) -> CommandOutcome {
        match self.state.phase {
            Phase::Baseline => return CommandOutcome::BaselineRuns,
            Phase::Task => return CommandOutcome::TaskRuns,
            Phase::Idle | Phase::Ended => {}
        }
        if !self.has_task {
            return CommandOutcome::NoTask;
        }
        if self.decoder.ensembles().plus.is_empty() {
            return CommandOutcome::NoEnsembles;
        }
        if !self.state.baseline_complete {
            return CommandOutcome::NoBaseline;
        }
        if self.state.range.is_none() {
            return CommandOutcome::NoThreshold;
        }
        if self.state.volume.is_untrusted() && !accept_template {
            return CommandOutcome::TemplateUntrusted;
        }
        self.task.begin_trials();
        self.state.phase = Phase::Task;
        self.event(EventKind::TaskStarted, 0, 0.0);
        CommandOutcome::TookEffect
    }

    fn pause(&mut self) -> CommandOutcome {
        if self.state.phase != Phase::Task || self.state.paused_by_operator {
            return CommandOutcome::NotRunning;
        }
        self.state.paused_by_operator = true;
        self.stand_still();
        self.event(EventKind::Paused, 0, 0.0);
        CommandOutcome::TookEffect
    }

    fn resume(&mut self) -> CommandOutcome {
        if !self.state.paused_by_operator {
            return CommandOutcome::NotRunning;
        }
        self.state.paused_by_operator = false;
        if !self.state.silent {
            self.task.resume();
        }
        self.event(EventKind::Resumed, 0, 0.0);
        CommandOutcome::TookEffect
    }

    /// Grey at once, not only with the next frame.
    fn stand_still(&mut self) {
        self.task.pause();
        self.show_grey(TaskState::Paused);
    }

    fn show_grey(&mut self, task_state: TaskState) {
        let s = &mut self.state;
        s.task_state = task_state;
        s.screen = Screen::Grey;
        s.shown_deg = None;
    }

    fn end(&mut self, kind: EventKind) -> CommandOutcome {
        self.task.stop();
        self.show_grey(TaskState::Idle);
        self.state.phase = Phase::Ended;
        self.state.phase_frame = 0;
        self.event(kind, 0, 0.0);
        CommandOutcome::TookEffect
    }

    fn change_threshold(&mut self, threshold: f64, range_low: Option<f64>) -> CommandOutcome {
        let low = match (range_low, self.state.range) {
            (Some(low), _) | (None, Some((_, low))) => low,
            (None, None) => return CommandOutcome::BadThreshold,
        };
        if !(threshold.is_finite() && low.is_finite() && threshold > low) {
            return CommandOutcome::BadThreshold;
        }
        self.set_range(threshold, low);
        self.event(EventKind::ThresholdChanged, 0, threshold);
        CommandOutcome::TookEffect
    }

    fn set_ensembles(&mut self, plus: &RoiIds, minus: &RoiIds) -> CommandOutcome {
        if self.state.phase == Phase::Task {
            return CommandOutcome::TaskRuns;
        }
        let scratch = &mut self.ensemble_scratch;
        for (to, from) in [(&mut scratch.plus, plus), (&mut scratch.minus, minus)] {
            to.clear();
            to.extend(from.iter());
        }
        if scratch.plus.is_empty() && scratch.minus.is_empty() {
            return CommandOutcome::NoEnsembles;
        }
        if self.decoder.set_ensembles(&self.ensemble_scratch).is_err() {
            return CommandOutcome::BadEnsembles;
        }
        self.find_needed_planes();
        // A threshold belongs to the cells that it was found for.
        let s = &mut self.state;
        s.range = None;
        s.calibration.segment_starts.clear();
        s.cursor = f64::NAN;
        s.rotation_deg = f64::NAN;
        s.step = 0;
        self.event(EventKind::EnsemblesChanged, 0, 0.0);
        CommandOutcome::TookEffect
    }

    /// No frame for too long: the trial stands still.
    pub(super) fn gap(&mut self, silent_ns: u64) {
        self.state.silent = true;
        if self.state.phase == Phase::Task {
            self.stand_still();
        }
        self.event(EventKind::Gap, 0, silent_ns as f64 / 1e9);
    }

    /// The service was started again, and the session goes on.
    pub(super) fn continued(&mut self, segment: u32, template_lost: bool) {
        self.state.segment = segment;
        self.state.last_index = None;
        self.state.volume.begin();
        self.state.volume.close();
        self.state.silent = true;
        if template_lost && self.state.phase != Phase::Ended {
            self.task.stop();
            self.forget_baseline();
            self.state.phase = Phase::Idle;
            self.show_grey(TaskState::Idle);
            self.event(EventKind::Warning, WARNING_TEMPLATE_LOST, 0.0);
        } else if self.state.phase == Phase::Task {
            self.stand_still();
        }
        self.event(EventKind::SegmentStarted, u64::from(segment), 0.0);
    }

    /// Frames come again.
    pub(super) fn resume_after_silence(&mut self) {
        if !self.state.silent {
            return;
        }
        self.state.silent = false;
        if self.state.phase == Phase::Task && !self.state.paused_by_operator {
            self.task.resume();
        }
        self.event(EventKind::GapEnded, 0, 0.0);
    }

    /// What the limits said, and whether the trigger was written.
    pub(super) fn limit(&mut self, id: TriggerId, verdict: &LimitVerdict, sent: bool) {
        match (verdict, sent) {
            (LimitVerdict::Allowed, true) => self.event(EventKind::RewardSent, u64::from(id.sequence), 0.0),
            (LimitVerdict::Allowed, false) => self.event(EventKind::DeviceFault, u64::from(id.sequence), 0.0),
            (LimitVerdict::Refused(_), _) => self.event(EventKind::RewardLimited, u64::from(id.sequence), 0.0),
        }
    }

    /// What a device said.
    pub(super) fn device(&mut self, report: &DeviceReport) {
        match report {
            DeviceReport::Acknowledged { id, board_us } => {
                self.event(EventKind::RewardAcknowledged, u64::from(id.sequence), *board_us as f64);
            }
            DeviceReport::Refused { id, status } => {
                self.event(EventKind::DeviceFault, u64::from(id.sequence), f64::from(*status));
            }
            DeviceReport::Done { id, width_us } => {
                self.event(EventKind::PulseDone, u64::from(id.sequence), *width_us as f64 / 1e3);
            }
            DeviceReport::NoAnswer { id } => self.event(EventKind::RewardUnknown, u64::from(id.sequence), 0.0),
            DeviceReport::Fault => self.event(EventKind::DeviceFault, 0, 0.0),
        }
    }
}
