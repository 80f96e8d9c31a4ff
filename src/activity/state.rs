//! Saving and loading.

use super::{Activity, Deconvolver, Extras, Head, StateError};
use crate::frame::Room;

/// What is not saved follows from what is: the windows from block and history.
impl Activity {
    /// Appends the state. Does not allocate when `out` has room: about 8 bytes for each ROI and frame of the baseline
    /// and of the window.
    pub fn save(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
        postcard::to_io(&self.head, &mut *out)?;
        let Head { roi_count, capacity_frames, baseline_frames, running, .. } = self.head;
        for roi in 0..roi_count {
            append(out, &self.block[roi * capacity_frames..][..baseline_frames]);
        }
        if running {
            append(out, &self.history);
        }
        self.extras.save(out)?;
        if let Some(estimate) = &self.neuropil {
            postcard::to_io(&self.coefficients, &mut *out)?;
            let frames = if running { 0 } else { baseline_frames };
            (0..roi_count).for_each(|roi| append(out, estimate.row(roi, frames)));
        }
        Ok(())
    }

    /// Takes a saved state and returns how many bytes it had. Where it does not fit, nothing changes.
    pub fn load(&mut self, bytes: &[u8]) -> Result<usize, StateError> {
        let (head, rest): (Head, &[u8]) = postcard::take_from_bytes(bytes)?;
        let own = &self.head;
        let counts = [
            ("ROIs", head.roi_count, own.roi_count),
            ("F0 values", head.f0.len(), own.roi_count),
            ("floors", head.floors.len(), own.roi_count),
            ("sums of F", head.raw_sum.len(), own.roi_count),
            ("baseline means", head.z_mean.len(), own.roi_count),
            ("baseline SDs", head.z_sd.len(), own.roi_count),
            ("history frames", head.history_frames, own.history_frames),
            ("baseline capacity", head.capacity_frames, own.capacity_frames),
            ("baseline frames (at most)", head.baseline_frames, head.baseline_frames.min(own.capacity_frames)),
            ("history position (below)", head.history_at, head.history_at.min(own.history_frames.max(1) - 1)),
        ];
        for (what, got, expected) in counts {
            if got != expected {
                return Err(StateError::Shape { what, got, expected });
            }
        }
        let history_len = if head.running { self.history.len() } else { 0 };
        let needed = (head.roi_count * head.baseline_frames + history_len) * size_of::<f64>();
        let tables = rest.get(..needed).ok_or(StateError::Short { got: rest.len(), expected: needed })?;
        let (block, history) = tables.split_at(needed - history_len * size_of::<f64>());
        let row_bytes = head.baseline_frames * size_of::<f64>();
        for roi in 0..head.roi_count {
            let row = &mut self.block[roi * head.capacity_frames..][..head.baseline_frames];
            read(&block[roi * row_bytes..][..row_bytes], row);
        }
        if head.running {
            read(history, &mut self.history);
        } else {
            self.history.fill(f64::NAN);
        }
        self.head = head;
        self.fill_windows();
        let rest = self.extras.load(&rest[needed..])?;
        let rest = self.load_neuropil(rest)?;
        Ok(bytes.len() - rest.len())
    }

    /// Takes the coefficients, and Fneu of a baseline that goes on, where these are estimated; gives what is behind.
    fn load_neuropil<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], StateError> {
        let Some(estimate) = &mut self.neuropil else { return Ok(bytes) };
        let (coefficients, rest): (Vec<f64>, &[u8]) = postcard::take_from_bytes(bytes)?;
        let (got, expected) = (coefficients.len(), self.head.roi_count);
        if got != expected {
            return Err(StateError::Shape { what: "neuropil coefficients", got, expected });
        }
        let frames = if self.head.running { 0 } else { self.head.baseline_frames };
        let row_bytes = frames * size_of::<f64>();
        let expected = expected * row_bytes;
        let table = rest.get(..expected).ok_or(StateError::Short { got: rest.len(), expected })?;
        for roi in 0..self.head.roi_count {
            read(&table[roi * row_bytes..][..row_bytes], estimate.row_mut(roi, frames));
        }
        self.coefficients = coefficients;
        Ok(&rest[expected..])
    }

    /// Bytes that a saved state takes.
    pub fn state_bytes(&self) -> Room {
        // A vector's length and a count take at most ten bytes each.
        let per_roi = size_of::<f64>() * (self.head.capacity_frames + self.head.history_frames + 8);
        let pools = self.extras.deconvolver.as_ref().map_or(Room::default(), Deconvolver::state_bytes);
        let extras = 256 + 8 * self.settings.smoothing_frames;
        let estimate = if self.neuropil.is_some() { size_of::<f64>() * (self.head.capacity_frames + 1) } else { 0 };
        let others = self.head.roi_count * (per_roi + extras + estimate) + 1_024;
        Room { usual: others + pools.usual, most: others + pools.most }
    }
}

/// Appends values as little-endian bytes.
fn append(out: &mut Vec<u8>, values: &[f64]) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Reads little-endian bytes into values, as many as there are of both.
fn read(bytes: &[u8], values: &mut [f64]) {
    let (words, _) = bytes.as_chunks::<8>();
    for (value, word) in values.iter_mut().zip(words) {
        *value = f64::from_le_bytes(*word);
    }
}

impl Extras {
    /// Appends what runs in this configuration; nothing in one without any of it.
    fn save(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
        if !self.f0.is_empty() {
            postcard::to_io(&self.f0, &mut *out)?;
        }
        if self.smoother.is_on() {
            postcard::to_io(&self.smoother.state(), &mut *out)?;
        }
        if let Some(deconvolver) = &self.deconvolver {
            postcard::to_io(&self.rest, &mut *out)?;
            deconvolver.save(out)?;
        }
        if let Some(spikes) = &self.spikes {
            spikes.save(out)?;
        }
        if !self.fading.is_empty() {
            postcard::to_io(&(&self.fading, self.frames), &mut *out)?;
        }
        Ok(())
    }

    /// Takes what [`Extras::save`] wrote and returns the bytes behind it.
    fn load<'b>(&mut self, mut bytes: &'b [u8]) -> Result<&'b [u8], StateError> {
        let fits = |what: &'static str, got: usize, expected: usize| match got == expected {
            true => Ok(()),
            false => Err(StateError::Shape { what, got, expected }),
        };
        if !self.f0.is_empty() {
            let (f0, rest): (Vec<_>, &[u8]) = postcard::take_from_bytes(bytes)?;
            fits("exponential F0s", f0.len(), self.f0.len())?;
            (self.f0, bytes) = (f0, rest);
        }
        if self.smoother.is_on() {
            let (state, rest) = postcard::take_from_bytes(bytes)?;
            fits("smoothed ROIs (as configured)", usize::from(self.smoother.restore(state)), 1)?;
            bytes = rest;
        }
        if let Some(deconvolver) = &mut self.deconvolver {
            let (levels, rest): (Vec<f64>, &[u8]) = postcard::take_from_bytes(bytes)?;
            fits("levels of rest", levels.len(), self.rest.len())?;
            self.rest = levels;
            bytes = deconvolver.load(rest)?;
        }
        if let Some(spikes) = &mut self.spikes {
            bytes = spikes.load(bytes)?;
        }
        if !self.fading.is_empty() {
            let ((fading, frames), rest): ((Vec<f64>, u64), &[u8]) = postcard::take_from_bytes(bytes)?;
            fits("rates of fading", fading.len(), self.fading.len())?;
            (self.fading, self.frames, bytes) = (fading, frames, rest);
        }
        Ok(bytes)
    }
}
