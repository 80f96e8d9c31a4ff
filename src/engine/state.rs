//! Save and load: the whole state of the engine, stage by stage, in the order of the way of a frame.

use super::planes::Volume;
use super::{Engine, Phase, State, StreamShape};
use crate::frame::{Geometry, Room};
use crate::task::{Screen, TaskState};

/// Why a saved state cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum EngineStateError {
    /// The engine's own part.
    #[error("the engine's state cannot be read: {0}")]
    Engine(#[from] postcard::Error),
    /// It belongs to another session.
    #[error("the state has {got} ROIs, expected {expected}")]
    Rois {
        /// ROIs in the state.
        got: usize,
        /// ROIs of this engine.
        expected: usize,
    },
    /// A part is longer or shorter than it says.
    #[error("the state's parts do not fit: {0}")]
    Parts(&'static str),
    /// Registration.
    #[error(transparent)]
    Register(#[from] crate::register::RegisterError),
    /// Activity.
    #[error(transparent)]
    Activity(#[from] crate::activity::StateError),
    /// Decoder.
    #[error(transparent)]
    Decode(#[from] crate::decode::StateError),
    /// Task.
    #[error(transparent)]
    Task(#[from] crate::task::StateError),
}

impl State {
    pub(super) fn new(segment: u32, roi_count: usize, segments: usize, volume: Volume) -> Self {
        Self {
            next_seq: 0,
            segment,
            phase: Phase::Idle,
            paused_by_operator: false,
            silent: false,
            last_index: None,
            frame_index: 0,
            device_ns: 0,
            baseline_frames: 0,
            baselines_done: 0,
            baseline_complete: false,
            template_frozen: false,
            next_trigger: 0,
            sync_sequence: 0,
            trial: 0,
            range: None,
            calibration: crate::task::Calibration::with_capacity(segments),
            volume,
            roi_valid: vec![false; roi_count],
            cursor: f64::NAN,
            rotation_deg: f64::NAN,
            step: 0,
            screen: Screen::Grey,
            shown_deg: None,
            task_state: TaskState::Idle,
            phase_frame: 0,
        }
    }
}

impl StreamShape {
    /// Rows and columns of its frames; none for integrated values.
    pub fn geometry(&self) -> Option<Geometry> {
        match self {
            StreamShape::Pixels { geometry, .. } => Some(*geometry),
            StreamShape::RoiValues { .. } => None,
        }
    }

    pub(super) fn bias(&self) -> i32 {
        match self {
            StreamShape::Pixels { pixel_type, .. } => pixel_type.bias(),
            StreamShape::RoiValues { .. } => 0,
        }
    }
}

impl Engine {
    /// Does what the last inputs left to be done before the next one; true if there was something. Whoever drives the
    /// engine may call it when there is time: nothing that comes out depends on it. To be called before
    /// [`Engine::save`], whose bytes it makes those of everybody who took the same inputs.
    pub fn settle(&mut self) -> bool {
        let planes = self.pixels.iter_mut().flat_map(|path| &mut path.planes);
        planes.map(|plane| plane.rigid.settle()).fold(false, |any, one| any | one)
    }

    /// Appends the whole state to `out`; does not allocate when `out` has room ([`Engine::state_bytes`]).
    pub fn save(&self, out: &mut Vec<u8>) {
        // Writing to memory does not fail, and a state that could not be written would not load: nothing is hidden.
        let _ = postcard::to_io(&self.state, &mut *out);
        if let Some(path) = &self.pixels {
            path.planes.iter().for_each(|plane| plane.rigid.save(out));
            path.planes.iter().flat_map(|plane| &plane.axial).for_each(|axial| axial.save(out));
            let _ = postcard::to_io(&path.histogram, &mut *out);
        }
        let _ = self.activity.save(out);
        let _ = self.decoder.save(out);
        let _ = self.task.save(out);
        if let Some(light) = &self.light {
            let _ = postcard::to_io(&light.state, &mut *out);
        }
    }

    /// Takes a saved state; the next step goes on as if nothing had been. On an error the engine is unfit for use.
    ///
    /// # Errors
    /// The bytes are not a state of an engine with this configuration.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), EngineStateError> {
        let (state, mut rest): (State, &[u8]) = postcard::take_from_bytes(bytes)?;
        let (got, expected) = (state.roi_valid.len(), self.state.roi_valid.len());
        if got != expected {
            return Err(EngineStateError::Rois { got, expected });
        }
        if let Some(path) = &mut self.pixels {
            for plane in &mut path.planes {
                let used = plane.rigid.load(rest)?;
                rest = rest.get(used..).ok_or(EngineStateError::Parts("registration"))?;
            }
            path.settle_depth();
            for axial in path.planes.iter_mut().flat_map(|plane| &mut plane.axial) {
                rest = axial.load(rest)?;
            }
            let (histogram, after): (Vec<u64>, &[u8]) = postcard::take_from_bytes(rest)?;
            if histogram.len() != path.histogram.len() {
                return Err(EngineStateError::Parts("histogram"));
            }
            path.histogram = histogram;
            rest = after;
        }
        let mut skip = |used: usize| {
            rest = rest.get(used..).ok_or(EngineStateError::Parts("a stage's length"))?;
            Ok::<&[u8], EngineStateError>(rest)
        };
        let at = skip(0)?;
        let at = skip(self.activity.load(at)?)?;
        let at = skip(self.decoder.load(at)?)?;
        let mut at = skip(self.task.load(at)?)?;
        if let Some(light) = &mut self.light {
            (light.state, at) = postcard::take_from_bytes(at)?;
        }
        if !at.is_empty() {
            return Err(EngineStateError::Parts("bytes are left over"));
        }
        if !state.volume.fits(&self.state.volume) {
            return Err(EngineStateError::Parts("planes"));
        }
        self.state = state;
        self.find_needed_planes();
        if let Some((threshold, range_low)) = self.state.range {
            self.feedback.set_range(threshold, range_low);
        }
        Ok(())
    }

    /// Bytes that a saved state takes.
    pub fn state_bytes(&self) -> Room {
        let mut bytes = Vec::new();
        self.save(&mut bytes);
        let pixels = self.planes.len() * StreamShape::geometry(&self.stream).map_or(0, Geometry::count);
        let activity = self.activity.state_bytes();
        // On top of an empty engine's state come the history of each ROI, a template and, while that is learnt, its
        // accumulators: 4 and 4 + 8 + 4 bytes a pixel.
        Room {
            usual: bytes.len() + 4 * pixels + activity.usual,
            most: 2 * bytes.len() + 24 * pixels + activity.most + (1 << 20),
        }
    }
}
