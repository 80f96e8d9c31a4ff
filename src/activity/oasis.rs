//! Deconvolution, online: how much calcium came in at each frame.
//!
//! In: for each ROI and frame one value `y` (dF/F above its resting level). Out: the rate `s`, in the units of `y` a
//! frame, of the frame that lies `lag` frames back: the non-negative `s` whose calcium `c` fits all of `y` so far best
//! in the sum of squares, where `c(t) = g1 c(t-1) + g2 c(t-2) + s(t)`. With the poles d (decay) and r (rise) of the
//! response, `g1 = d + r` and `g2 = -d r`; AR(1) is r = 0.
//!
//! Method: OASIS (Friedrich, Zhou, Paninski, PLOS Computational Biology 2017), greedily for AR(2) as there. The trace
//! is a row of pools; in each the calcium only decays. A new frame is a pool of its own; where it lies below what the
//! pool before it predicts, so that s would be negative, the two are merged and fitted anew, and so on backwards. Both
//! poles being kept apart, every sum over a pool's frames follows from those of its two parts: a merge costs the same
//! for pools of any length, and no `y` is kept. A missing frame makes the last pool longer and enters no sum.
//!
//! A larger lag has seen more of what came after the frame, and misses less: 0 answers at once. Pools whose last frame
//! lies more than the history back (3,000 frames) are frozen: no later frame can merge them any more. Nothing of that
//! is seen in a rate while the history is many time constants long (no difference at 1 s and 30 Hz, below 1e-4 at 2 s
//! and 100 Hz); with 2 s at 1 kHz it was 0.007 of events of size 1 (`tests/oasis_reference.rs` prints all of these).
//!
//! Cost: 0.05 to 0.1 us for each ROI and frame, whatever the history; a frame that merges all that there was, 50 us,
//! once. Memory: 88 bytes a pool, of which a noisy trace has one every few frames of its history; as many as it has
//! frames are reserved.

use serde::{Deserialize, Serialize};

use super::pages::Rings;
use crate::frame::Room;

/// Frames for which pools can still be merged.
pub const HISTORY_FRAMES: usize = 3_000;

/// The response of the indicator to one event: how much of its slow and of its fast part is left after a frame.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Poles {
    /// d: `exp(-1 / frames)` of the decay; above 0, below 1.
    pub decay: f64,
    /// r: the same of the rise; 0 or more, below `decay`; 0 for AR(1).
    pub rise: f64,
}

impl Poles {
    /// Poles of time constants in frames; `rise_frames` of 0 is AR(1).
    pub fn of_frames(decay_frames: f64, rise_frames: f64) -> Self {
        let pole = |frames: f64| if frames > 0.0 { libm::exp(-1.0 / frames) } else { 0.0 };
        Self { decay: pole(decay_frames), rise: pole(rise_frames) }
    }

    /// Whether they are in their ranges.
    pub fn are_sound(self) -> bool {
        self.decay > 0.0 && self.decay < 1.0 && self.rise >= 0.0 && self.rise < self.decay
    }
}

/// A stretch of frames in which the calcium only decays. Sums run over its frames k = 0, 1, .. that are not missing.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Pool {
    /// Its first frame.
    start: u64,
    /// Calcium in its first frame and in its last.
    first: f64,
    last: f64,
    /// Calcium in the last frame before it.
    before: f64,
    /// d and r to the power of its frames less 1.
    d_last: f64,
    r_last: f64,
    /// Sums of y d^k and of y r^k.
    yd: f64,
    yr: f64,
    /// Sums of d^2k, (d r)^k and r^2k.
    dd: f64,
    dr: f64,
    rr: f64,
}

/// Where one ROI's pools stand in their ring.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Trace {
    bottom: u32,
    count: u32,
    /// Whether there were pools below the lowest.
    frozen: bool,
    /// Frames so far.
    frames: u64,
}

/// The deconvolution of several ROIs.
#[derive(Debug, Clone)]
pub struct Deconvolver {
    second_order: bool,
    lag_frames: u64,
    poles: Vec<Poles>,
    traces: Vec<Trace>,
    /// A ring for each ROI, as long as the history.
    pools: Rings<Pool>,
}

impl Deconvolver {
    /// For so many ROIs, over `history` frames (2 or more, above `lag_frames`); all memory is taken here.
    pub fn new(second_order: bool, lag_frames: u32, rois: usize, history: usize) -> Self {
        let history = history.max(lag_frames as usize + 2);
        Self {
            second_order,
            lag_frames: u64::from(lag_frames),
            poles: vec![Poles { decay: 0.5, rise: 0.0 }; rois],
            traces: vec![Trace::default(); rois],
            pools: Rings::new(rois, history),
        }
    }

    /// Forgets an ROI's trace, and goes on with these poles (sound ones: [`Poles::are_sound`]).
    pub fn begin(&mut self, roi: usize, poles: Poles) {
        self.poles[roi] = poles;
        self.traces[roi] = Trace::default();
        self.pools.clear(roi);
    }

    /// Forgets an ROI's trace, and shows it this dF/F above rest, to go on with these poles.
    pub(crate) fn show(&mut self, roi: usize, poles: Poles, dff: &[f64], rest: f64) {
        self.begin(roi, poles);
        dff.iter().for_each(|dff| _ = self.step(roi, dff - rest));
    }

    /// The poles of an ROI.
    pub fn poles(&self, roi: usize) -> Poles {
        self.poles[roi]
    }

    /// One frame of an ROI; a `y` that is not finite is missing. Gives the rate of the frame `lag_frames` back, 0
    /// before there was one.
    pub fn step(&mut self, roi: usize, y: f64) -> f64 {
        let back = 1 + self.lag_frames;
        let mut stack = self.stack(roi);
        if y.is_finite() {
            stack.push(y);
        } else {
            stack.skip(1);
        }
        stack.rate(stack.trace.frames.checked_sub(back))
    }

    /// So many frames of every ROI are missing.
    pub fn skip(&mut self, frames: u64) {
        for roi in 0..self.traces.len() {
            self.stack(roi).skip(frames);
        }
    }

    fn stack(&mut self, roi: usize) -> Stack<'_> {
        Stack {
            model: Model { poles: self.poles[roi], second_order: self.second_order },
            trace: &mut self.traces[roi],
            roi,
            pools: &mut self.pools,
        }
    }

    /// Bytes that a saved state takes.
    pub(crate) fn state_bytes(&self) -> Room {
        let (traces, pools) = (64 * self.traces.len(), self.pools.room());
        // The pages where a trace begins and ends are half full.
        Room { usual: traces + size_of::<Pool>() * pools.usual * 4 / 5, most: traces + 100 * pools.most }
    }

    /// Appends the state: traces, poles, and the pools in use.
    pub(crate) fn save(&self, out: &mut Vec<u8>) -> Result<(), postcard::Error> {
        for (roi, (trace, poles)) in self.traces.iter().zip(&self.poles).enumerate() {
            postcard::to_io(&(trace, poles), &mut *out)?;
            for index in 0..trace.count as usize {
                let place = (trace.bottom as usize + index) % self.pools.length();
                postcard::to_io(self.pools.get(roi, place), &mut *out)?;
            }
        }
        Ok(())
    }

    /// Takes a saved state of as many ROIs and returns the bytes behind it.
    pub(crate) fn load<'b>(&mut self, mut bytes: &'b [u8]) -> Result<&'b [u8], postcard::Error> {
        for roi in 0..self.traces.len() {
            let ((trace, poles), rest): ((Trace, Poles), &[u8]) = postcard::take_from_bytes(bytes)?;
            bytes = rest;
            let history = self.pools.length();
            if trace.count as usize > history || trace.bottom as usize >= history {
                return Err(postcard::Error::DeserializeBadEncoding);
            }
            self.pools.clear(roi);
            for index in 0..trace.count as usize {
                let (pool, rest): (Pool, &[u8]) = postcard::take_from_bytes(bytes)?;
                self.pools.set(roi, (trace.bottom as usize + index) % history, pool);
                bytes = rest;
            }
            (self.traces[roi], self.poles[roi]) = (trace, poles);
        }
        Ok(bytes)
    }
}

/// The equations of one ROI.
#[derive(Clone, Copy)]
struct Model {
    poles: Poles,
    second_order: bool,
}

impl Model {
    /// `a` and then `b`, which follows it, as one pool, not yet fitted.
    fn join(self, a: &Pool, b: &Pool) -> Pool {
        let (d, r) = (a.d_last * self.poles.decay, a.r_last * self.poles.rise);
        Pool {
            d_last: d * b.d_last,
            r_last: r * b.r_last,
            yd: a.yd + d * b.yd,
            yr: a.yr + r * b.yr,
            dd: a.dd + d * d * b.dd,
            dr: a.dr + d * r * b.dr,
            rr: a.rr + r * r * b.rr,
            ..*a
        }
    }

    /// Fits the calcium of a pool to its frames. The first pool of a trace has nothing before it: it only decays. In
    /// the others the calcium in frame k is `h(k) first + g2 h(k - 1) before`, `h(k) = (d^(k+1) - r^(k+1)) / (d - r)`.
    fn fit(self, pool: &mut Pool, is_first: bool) {
        let Poles { decay: d, rise: r } = self.poles;
        if is_first {
            pool.first = pool.yd / pool.dd;
            if self.second_order && pool.first < 0.0 {
                pool.first = 0.0;
            }
        } else {
            // Sums of y h(k), h(k)^2 and h(k) h(k - 1), each times (d - r)^2.
            let with_y = (d - r) * (d * pool.yd - r * pool.yr);
            let with_itself = d * d * pool.dd - 2.0 * d * r * pool.dr + r * r * pool.rr;
            let with_previous = d * pool.dd - (d + r) * pool.dr + r * pool.rr;
            pool.first = (with_y + d * r * with_previous * pool.before) / with_itself;
        }
        self.decay_to_the_end(pool, is_first);
    }

    fn decay_to_the_end(self, pool: &mut Pool, is_first: bool) {
        let Poles { decay: d, rise: r } = self.poles;
        pool.last = if is_first {
            pool.d_last * pool.first
        } else {
            let falling = d * r * (pool.d_last - pool.r_last) * pool.before;
            ((d * pool.d_last - r * pool.r_last) * pool.first - falling) / (d - r)
        };
    }

    /// The calcium that is left in the frame behind a pool when nothing comes in.
    fn predicted(self, pool: &Pool, is_first: bool) -> f64 {
        let Poles { decay: d, rise: r } = self.poles;
        if is_first {
            return d * pool.last;
        }
        let (d_next, r_next) = (pool.d_last * d, pool.r_last * r);
        ((d * d_next - r * r_next) * pool.first - d * r * (d_next - r_next) * pool.before) / (d - r)
    }
}

/// The pools of one ROI, the newest on top.
struct Stack<'a> {
    model: Model,
    trace: &'a mut Trace,
    roi: usize,
    pools: &'a mut Rings<Pool>,
}

impl Stack<'_> {
    fn place(&self, index: usize) -> usize {
        let place = self.trace.bottom as usize + index;
        if place >= self.pools.length() { place - self.pools.length() } else { place }
    }

    fn pool(&self, index: usize) -> &Pool {
        self.pools.get(self.roi, self.place(index))
    }

    /// Whether a pool is the first of the whole trace.
    fn is_first(&self, index: usize) -> bool {
        index == 0 && !self.trace.frozen
    }

    fn push(&mut self, y: f64) {
        self.freeze();
        let count = self.trace.count as usize;
        let mut index = count;
        let before = if index > 0 { self.pool(index - 1).last } else { 0.0 };
        let one = Pool { d_last: 1.0, r_last: 1.0, yd: y, yr: y, dd: 1.0, dr: 1.0, rr: 1.0, ..Pool::default() };
        let mut top = Pool { start: self.trace.frames, first: y, last: y, before, ..one };
        if self.is_first(index) {
            self.model.fit(&mut top, true);
        }
        while index > 0 {
            let below = self.pool(index - 1);
            let is_first = self.is_first(index - 1);
            if self.model.predicted(below, is_first) <= top.first {
                break;
            }
            top = self.model.join(below, &top);
            self.model.fit(&mut top, is_first);
            index -= 1;
        }
        self.pools.set(self.roi, self.place(index), top);
        self.trace.count = index as u32 + 1;
        (index + 1..count).for_each(|merged| self.leave(self.place(merged)));
        self.trace.frames += 1;
    }

    /// Makes the last pool longer by frames that say nothing.
    fn skip(&mut self, frames: u64) {
        self.trace.frames = self.trace.frames.saturating_add(frames);
        if let Some(top) = (self.trace.count as usize).checked_sub(1) {
            let (place, is_first) = (self.place(top), self.is_first(top));
            let pool = self.pools.get_mut(self.roi, place);
            pool.d_last *= power(self.model.poles.decay, frames);
            pool.r_last *= power(self.model.poles.rise, frames);
            self.model.decay_to_the_end(pool, is_first);
        }
        self.freeze();
    }

    /// Gives up the pools that end before the history that the next frame has.
    fn freeze(&mut self) {
        let history = self.pools.length() as u64;
        while self.trace.count > 1 && self.pool(1).start + history <= self.trace.frames + 1 {
            let frozen = self.trace.bottom as usize;
            self.trace.bottom = self.place(1) as u32;
            self.trace.count -= 1;
            self.trace.frozen = true;
            self.leave(frozen);
        }
    }

    /// No pool is at this place any more.
    fn leave(&mut self, place: usize) {
        let top = self.place((self.trace.count as usize).saturating_sub(1));
        self.pools.leave(self.roi, place, [self.trace.bottom as usize, top]);
    }

    /// What came in at a frame: something only where a pool begins.
    fn rate(&self, frame: Option<u64>) -> f64 {
        let Some(frame) = frame else { return 0.0 };
        let Some(index) = (1..self.trace.count as usize).rev().find(|&i| self.pool(i).start <= frame) else {
            return 0.0;
        };
        let (pool, below) = (self.pool(index), self.pool(index - 1));
        if pool.start != frame || self.model.second_order && frame < 2 {
            return 0.0;
        }
        let left = self.model.predicted(below, self.is_first(index - 1));
        let rate = if self.model.second_order { pool.first - left } else { pool.first.max(0.0) - left.max(0.0) };
        rate.max(0.0)
    }
}

/// `base` to the power of `exponent`, by squaring: the same bits everywhere.
fn power(base: f64, mut exponent: u64) -> f64 {
    let (mut square, mut result) = (base, 1.0);
    while exponent > 0 {
        if exponent % 2 == 1 {
            result *= square;
        }
        square *= square;
        exponent /= 2;
    }
    result
}
