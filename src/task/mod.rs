//! Task: the trial, frame by frame, and the calibration that sets its difficulty.
//!
//! In, for each frame of the control plane: whether the cursor is to be trusted, the rotation in degrees, the step of
//! the grating. Out: the state, what the screen shows, and events: the trial's start, its outcome, a reward that falls
//! due, a noise cue. Lengths are counted in frames; a doubted or a missing frame counts like any other.
//!
//! | state | frames | screen | ends by |
//! |---|---|---|---|
//! | start | 15 | grey | time |
//! | control | from frame 16 to 750 | grating at its step | hit: rotation >= 90; aversive: < 0; miss: the last frame |
//! | hit | 60, from the next frame | grating at the target | reward due at the 3rd frame; then 15 frames of grey |
//! | aversive | 60, from the next frame | grating at target - 90 | noise on that frame; then 15 frames of grey |
//! | interval after a miss | 90 | black | noise at the 30th frame |
//!
//! The frame that decides is still `control` and shows its step. A doubted frame holds the step that was shown, ends
//! no trial as hit or aversive, and resets the hold counter of a task that has one. While the session is paused the
//! trial's clock stands still, the screen is grey, and nothing falls due.
//!
//! Method: the trial of Francioni et al. (Nature 2026), as CLOOSE runs it; hold counter, pause and doubt are ours.
//! Cost: some comparisons a frame. It knows no device: a reward is an intent, whose limits are the trigger's.

pub mod calibration;
mod events;

pub use crate::config::task::Screen;
use crate::config::task::TaskConfig;
pub use calibration::{Calibration, CalibrationError, CalibrationInput, CalibrationWorkspace, calibrate};
pub use events::{TASK_EVENTS_MAX, TaskEvent, TaskEvents};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thiserror::Error;

/// Where the session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Nothing runs.
    Idle,
    /// The baseline is recorded.
    Baseline,
    /// A trial has begun; the mouse has no control yet.
    Start,
    /// The cursor turns the grating.
    Control,
    /// The grating is held at the target.
    Hit,
    /// The grating is held furthest from the target.
    Aversive,
    /// Between two trials.
    Iti,
    /// Paused by the operator, or because frames stayed away.
    Paused,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The rotation reached the target.
    Hit,
    /// The rotation fell below its bottom.
    Aversive,
    /// Neither, to the last frame.
    Miss,
}

/// One frame, as the decoder and registration saw it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TaskInput {
    /// False for a doubted frame and for a held cursor.
    pub valid: bool,
    /// Rotation of the grating, degrees. A rotation that is not finite makes the frame a doubted one.
    pub rotation_deg: f64,
    /// Step of the grating, 0 (furthest from the target) to the last (the target).
    pub step: usize,
}

/// What one frame means for the outside.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TaskOutput {
    /// The state of this frame.
    pub state: TaskState,
    /// Which frame of the state it is, from 1 on; 0 in `Idle`. Paused: that of the state that stands still.
    pub phase_frame: u32,
    /// Which trial it is, from 1 on; 0 before the first.
    pub trial_number: u32,
    /// What fills the screen.
    pub screen: Screen,
    /// Orientation of the grating, degrees; none without a grating.
    pub shown_deg: Option<f64>,
    /// What happened on this frame.
    pub events: TaskEvents,
}

/// Outcomes since the trials began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskCounts {
    /// Trials that ended as hit.
    pub hits: u32,
    /// Trials that ended as aversive.
    pub aversives: u32,
    /// Trials that ended without either.
    pub misses: u32,
}

/// Why a saved state cannot be taken.
#[derive(Debug, Error)]
pub enum StateError {
    /// The bytes are not such a state.
    #[error("task: the state cannot be read: {0}")]
    Unreadable(#[from] postcard::Error),
}

/// All that changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    /// Never `Paused`: what stands still while paused has to be known.
    phase: TaskState,
    phase_frame: u32,
    trial_number: u32,
    /// Of the trial that runs or has ended last.
    outcome: Option<Outcome>,
    /// Consecutive frames at or beyond the hit's rotation.
    held_frames: u32,
    /// The step of the last trusted frame.
    step: usize,
    paused: bool,
    counts: TaskCounts,
}

impl State {
    const IDLE: State = State {
        phase: TaskState::Idle,
        phase_frame: 0,
        trial_number: 0,
        outcome: None,
        held_frames: 0,
        step: 0,
        paused: false,
        counts: TaskCounts { hits: 0, aversives: 0, misses: 0 },
    };
}

/// The trial machine.
#[derive(Debug, Clone)]
pub struct Task {
    config: TaskConfig,
    noise_duration: Duration,
    state: State,
}

impl Task {
    /// A machine that is idle. The configuration is expected to be a validated one; others do not make it panic.
    pub fn new(config: &TaskConfig) -> Self {
        Self {
            config: config.clone(),
            noise_duration: Duration::try_from_secs_f64(config.noise_duration_s).unwrap_or_default(),
            state: State::IDLE,
        }
    }

    /// Begins a baseline: grey, until [`Task::begin_trials`].
    pub fn begin_baseline(&mut self) {
        self.enter(TaskState::Baseline);
    }

    /// Begins the trials: the next frame is the first of trial 1. Counts begin at 0.
    pub fn begin_trials(&mut self) {
        // An interval that is over: the next frame leaves it for a trial's start.
        self.enter(TaskState::Iti);
        self.state.phase_frame = self.config.iti_frames;
    }

    /// Ends baseline or trials; a trial that runs has no outcome.
    pub fn stop(&mut self) {
        let State { trial_number, counts, .. } = self.state;
        self.enter(TaskState::Idle);
        self.state.trial_number = trial_number;
        self.state.counts = counts;
    }

    /// Stands still from the next frame on. The hold counter begins anew.
    pub fn pause(&mut self) {
        self.state.paused = true;
        self.state.held_frames = 0;
    }

    /// Goes on from the next frame on, where the trial stood.
    pub fn resume(&mut self) {
        self.state.paused = false;
    }

    /// Whether the machine stands still.
    pub fn is_paused(&self) -> bool {
        self.state.paused
    }

    /// Outcomes since the trials began.
    pub fn counts(&self) -> TaskCounts {
        self.state.counts
    }

    /// One frame. Does not allocate.
    pub fn step(&mut self, input: TaskInput) -> TaskOutput {
        let mut events = TaskEvents::new();
        self.frame(Some(input), &mut events);
        self.output(events)
    }

    /// `frames` frames that never came. Lengths go on as with doubted frames, and what falls due meanwhile is in the
    /// events; the rest of the output is that of the last of them (of the last frame, for 0).
    pub fn missed(&mut self, frames: u32) -> TaskOutput {
        let mut events = TaskEvents::new();
        for _ in 0..frames {
            self.frame(None, &mut events);
        }
        self.output(events)
    }

    /// Appends the state. Does not allocate when `out` has room.
    pub fn save(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
        postcard::to_io(&self.state, &mut *out)?;
        Ok(())
    }

    /// Takes a saved state and returns how many bytes it had. Where it cannot be read, nothing changes.
    pub fn load(&mut self, bytes: &[u8]) -> Result<usize, StateError> {
        let (state, rest) = postcard::take_from_bytes(bytes)?;
        self.state = state;
        Ok(bytes.len() - rest.len())
    }

    /// Enters a phase that is not part of a trial, with everything at its beginning.
    fn enter(&mut self, phase: TaskState) {
        self.state = State { phase, ..State::IDLE };
    }

    /// Advances by one frame; `None` is a missing one.
    fn frame(&mut self, input: Option<TaskInput>, events: &mut TaskEvents) {
        let rotation_deg = input.filter(|i| i.valid && i.rotation_deg.is_finite()).map(|i| {
            self.state.step = i.step;
            i.rotation_deg
        });
        if self.state.paused || self.state.phase == TaskState::Idle {
            return;
        }
        self.advance(events);
        let frame = self.state.phase_frame;
        match self.state.phase {
            TaskState::Control => self.decide(rotation_deg, events),
            TaskState::Hit if frame == self.config.hit_reward_frame => events.push(TaskEvent::RewardDue),
            TaskState::Iti if self.after_miss() && frame == self.config.miss_noise_frame => {
                events.push(TaskEvent::NoiseCue { duration: self.noise_duration });
            }
            _ => {}
        }
    }

    /// Counts the frame, and enters the phase that it belongs to.
    fn advance(&mut self, events: &mut TaskEvents) {
        self.state.phase_frame = self.state.phase_frame.saturating_add(1);
        // A phase of no frames is passed through; control is never empty, so this ends.
        while self.state.phase_frame > self.phase_frames() {
            self.state.phase = match (self.state.phase, self.state.outcome) {
                (TaskState::Control, Some(Outcome::Hit)) => TaskState::Hit,
                (TaskState::Control, Some(Outcome::Aversive)) => TaskState::Aversive,
                (TaskState::Control, _) | (TaskState::Hit | TaskState::Aversive, _) => TaskState::Iti,
                (TaskState::Start, _) => TaskState::Control,
                _ => {
                    self.state.trial_number = self.state.trial_number.saturating_add(1);
                    self.state.outcome = None;
                    self.state.held_frames = 0;
                    events.push(TaskEvent::TrialStart);
                    TaskState::Start
                }
            };
            self.state.phase_frame = 1;
        }
    }

    /// Frames of the phase; those that end otherwise than by time never end here.
    fn phase_frames(&self) -> u32 {
        let config = &self.config;
        match self.state.phase {
            TaskState::Idle | TaskState::Baseline | TaskState::Paused => u32::MAX,
            TaskState::Start => config.start_frames,
            TaskState::Control if self.state.outcome.is_some() => 0,
            TaskState::Control => u32::MAX,
            TaskState::Hit => config.hit_hold_frames,
            TaskState::Aversive => config.aversive_hold_frames,
            TaskState::Iti if self.after_miss() => config.miss_iti_frames,
            TaskState::Iti => config.iti_frames,
        }
    }

    /// Whether this frame of control ends the trial, and how.
    fn decide(&mut self, rotation_deg: Option<f64>, events: &mut TaskEvents) {
        let config = &self.config;
        let state = &mut self.state;
        let reached = rotation_deg.is_some_and(|deg| deg >= config.hit_rotation_deg);
        state.held_frames = if reached { state.held_frames.saturating_add(1) } else { 0 };
        if reached && state.held_frames >= config.hold_frames {
            state.outcome = Some(Outcome::Hit);
            state.counts.hits = state.counts.hits.saturating_add(1);
            events.push(TaskEvent::Hit);
        } else if config.aversive && rotation_deg.is_some_and(|deg| deg < config.aversive_rotation_deg) {
            state.outcome = Some(Outcome::Aversive);
            state.counts.aversives = state.counts.aversives.saturating_add(1);
            events.push(TaskEvent::Aversive);
            events.push(TaskEvent::NoiseCue { duration: self.noise_duration });
        } else if config.start_frames.saturating_add(state.phase_frame) >= config.trial_frames {
            state.outcome = Some(Outcome::Miss);
            state.counts.misses = state.counts.misses.saturating_add(1);
            events.push(TaskEvent::Miss);
        }
    }

    /// Whether the last trial was a miss.
    fn after_miss(&self) -> bool {
        self.state.outcome == Some(Outcome::Miss)
    }

    /// The output of the frame at which the machine stands.
    fn output(&self, events: TaskEvents) -> TaskOutput {
        let config = &self.config;
        let state = &self.state;
        let grating = |step: usize| (Screen::Grating, Some(config.shown_deg(step)));
        let (screen, shown_deg) = match state.phase {
            _ if state.paused => (Screen::Grey, None),
            TaskState::Idle | TaskState::Baseline | TaskState::Paused => (Screen::Grey, None),
            TaskState::Start => (config.start_screen, None),
            TaskState::Control => grating(state.step),
            TaskState::Hit => grating(usize::MAX),
            TaskState::Aversive => grating(0),
            TaskState::Iti if self.after_miss() => (config.miss_iti_screen, None),
            TaskState::Iti => (config.iti_screen, None),
        };
        TaskOutput {
            state: if state.paused { TaskState::Paused } else { state.phase },
            phase_frame: state.phase_frame,
            trial_number: state.trial_number,
            screen,
            shown_deg,
            events,
        }
    }
}

#[cfg(test)]
mod tests;
