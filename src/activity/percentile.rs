//! A window of one ROI, and the percentile of it.
//!
//! In: values in counts, each with its place (`slot`) in the window. Out: the percentile in counts. One frame writes
//! its value over the oldest one, in that one's slot.
//!
//! Beside the values as they came, each window keeps a stretch of its order statistics, those around the percentile,
//! in ascending order, and how many values lie below the stretch. A value that comes or goes beyond the stretch moves
//! at most that count, so most frames of most ROIs change nothing and touch two lines of memory, where a search tree
//! or a heap walks through the whole window (one of 3,000 frames has 24 kB, of 200 ROIs more than a core's cache). The
//! percentile wanders along the stretch by one statistic a frame at most; where it comes near to an end, the stretch
//! is cut anew around it, by a selection over the window. Which ROIs are looked at for that goes round, so that a step
//! in the brightness of them all does not make all of them select on one frame.
//!
//! The percentile interpolates linearly between order statistics that stand at `(k - 0.5) / m`, k = 1..m (Hazen's
//! plotting position; `prctile` of MATLAB, `method="hazen"` of numpy). It depends on the values alone, not on where the
//! stretch lies.

/// Order statistics in a stretch, at most.
const STRETCH: usize = 128;
/// Frames between two looks at whether an ROI's stretch should be cut anew. It is where fewer statistics than that lie
/// between the percentile and an end, so that it holds until the next look.
const LOOK_FRAMES: u32 = 32;

/// Windows of several ROIs, of the same number of slots each.
#[derive(Debug, Clone)]
pub struct Windows {
    percent: f64,
    slots: usize,
    /// Values, ROI after ROI, slot after slot; NaN in an empty slot.
    values: Vec<f64>,
    /// Memory for each ROI's stretch, `width` values apart.
    stretches: Vec<f64>,
    width: usize,
    ranks: Vec<Ranks>,
    /// Memory for a selection.
    selection: Vec<f64>,
}

/// Where an ROI's stretch stands among the order statistics of its window.
#[derive(Debug, Clone, Copy)]
struct Ranks {
    /// Values in the window.
    count: usize,
    /// Values that are no larger than the stretch's first, without those in it.
    below: usize,
    /// Values in the stretch; none only in an empty window.
    length: usize,
    /// The stretch's first and last value.
    ends: [f64; 2],
    percentile: f64,
    /// Frames until the next look.
    look_in: u32,
}

impl Ranks {
    /// Of an empty window; the windows of neighbours are looked at on different frames.
    fn empty(roi: usize) -> Self {
        let look_in = 1 + roi as u32 % LOOK_FRAMES;
        Self { count: 0, below: 0, length: 0, ends: [f64::NAN; 2], percentile: f64::NAN, look_in }
    }

    /// Values that are no smaller than the stretch's last, without those in it.
    fn above(&self) -> usize {
        self.count - self.below - self.length
    }

    /// Whether what stands in a slot makes no difference: it is above the stretch.
    fn is_above(&self, value: f64) -> bool {
        value > self.ends[1]
    }
}

impl Windows {
    /// Empty windows of `slots` slots for each ROI, and the percentile `percent` (0 to 100).
    pub fn new(percent: f64, rois: usize, slots: usize) -> Self {
        // One more than a window has: a value comes before the one that it replaces goes.
        let width = (slots + 1).min(STRETCH);
        Self {
            percent,
            slots,
            values: vec![f64::NAN; rois * slots],
            stretches: vec![0.0; rois * width],
            width,
            ranks: (0..rois).map(Ranks::empty).collect(),
            selection: vec![0.0; slots],
        }
    }

    /// Slots of each window.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Empties the windows, from now on for the percentile `percent`.
    pub(crate) fn begin(&mut self, percent: f64) {
        self.percent = percent;
        self.values.fill(f64::NAN);
        for (roi, ranks) in self.ranks.iter_mut().enumerate() {
            *ranks = Ranks::empty(roi);
        }
    }

    /// Adds `delta` to every value of every window: their order stays.
    pub(crate) fn shift(&mut self, delta: f64) {
        self.values.iter_mut().chain(&mut self.stretches).for_each(|value| *value += delta);
        for roi in 0..self.ranks.len() {
            self.window(roi).note();
        }
    }

    /// Puts `value` into a slot, in place of what it holds, and gives the percentile. A value that is not finite
    /// leaves the slot empty. NaN without any value.
    pub fn set(&mut self, roi: usize, slot: usize, value: f64) -> f64 {
        let came = held(value);
        let went = std::mem::replace(&mut self.values[roi * self.slots + slot], came);
        let ranks = &mut self.ranks[roi];
        ranks.look_in -= 1;
        if ranks.look_in == 0 || !(ranks.is_above(went) && ranks.is_above(came)) {
            self.window(roi).exchange(went, came);
        }
        self.ranks[roi].percentile
    }

    /// Fills an ROI's empty window, slots 0 on with the values in order, and gives the percentile. In place, without
    /// allocation.
    pub(crate) fn fill(&mut self, roi: usize, values: impl Iterator<Item = f64>) -> f64 {
        let row = &mut self.values[roi * self.slots..][..self.slots];
        for (place, value) in row.iter_mut().zip(values) {
            *place = held(value);
        }
        self.ranks[roi].count = row.iter().filter(|value| value.is_finite()).count();
        let mut window = self.window(roi);
        window.cut();
        window.note();
        self.ranks[roi].percentile
    }

    /// Takes over the window of the one ROI of `from`, which has no more slots in use than there are here, into the
    /// empty window of `roi`.
    pub(crate) fn copy(&mut self, roi: usize, from: &Windows) {
        let slots = self.slots.min(from.slots);
        self.fill(roi, from.values[..slots].iter().copied());
    }

    /// The percentile of an ROI's window; NaN without any value.
    pub(crate) fn percentile(&self, roi: usize) -> f64 {
        self.ranks[roi].percentile
    }

    fn window(&mut self, roi: usize) -> Window<'_> {
        Window {
            percent: self.percent,
            values: &self.values[roi * self.slots..][..self.slots],
            stretch: &mut self.stretches[roi * self.width..][..self.width],
            ranks: &mut self.ranks[roi],
            selection: &mut self.selection,
        }
    }

    /// The values of one ROI's window in ascending order.
    #[cfg(test)]
    pub(crate) fn sorted(&self, roi: usize) -> Vec<f64> {
        let row = &self.values[roi * self.slots..][..self.slots];
        let mut values: Vec<f64> = row.iter().copied().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// One ROI's stretch, and how many values lie below it.
    #[cfg(test)]
    fn stretch(&self, roi: usize) -> (usize, &[f64]) {
        let Ranks { below, length, .. } = self.ranks[roi];
        (below, &self.stretches[roi * self.width..][..length])
    }
}

/// One ROI's window, borrowed.
struct Window<'a> {
    percent: f64,
    values: &'a [f64],
    stretch: &'a mut [f64],
    ranks: &'a mut Ranks,
    selection: &'a mut [f64],
}

impl Window<'_> {
    /// Tells the order statistics of a value that came and of one that went; NaN for none.
    fn exchange(&mut self, went: f64, came: f64) {
        // In this order: the stretch of a window that has values is never empty.
        if !came.is_nan() {
            self.enter(came);
        }
        if !went.is_nan() {
            self.leave(went);
        }
        let leeway = if self.ranks.count > 0 { self.leeway() } else { i64::MAX };
        if self.ranks.look_in == 0 {
            self.ranks.look_in = LOOK_FRAMES;
            if leeway < i64::from(LOOK_FRAMES) {
                self.cut();
            }
        } else if leeway < 0 {
            self.cut();
        }
        self.note();
    }

    fn enter(&mut self, value: f64) {
        let above = self.ranks.above();
        let Ranks { below, length, ends: [first, last], .. } = *self.ranks;
        let is_full = length == self.stretch.len();
        self.ranks.count += 1;
        // Beyond an end behind which nothing lies the stretch grows, as long as there is room.
        if value < first && (below > 0 || is_full) {
            self.ranks.below += 1;
        } else if !(value > last && (above > 0 || is_full)) {
            if is_full {
                self.drop_far_end();
            }
            let length = self.ranks.length;
            let at = self.stretch[..length].partition_point(|&within| within < value);
            self.stretch.copy_within(at..length, at + 1);
            self.stretch[at] = value;
            self.ranks.length += 1;
            self.note_ends();
        }
    }

    fn leave(&mut self, value: f64) {
        let Ranks { length, ends: [first, last], .. } = *self.ranks;
        self.ranks.count -= 1;
        if value < first {
            self.ranks.below -= 1;
        } else if value <= last {
            let at = self.stretch[..length].partition_point(|&within| within < value);
            self.stretch.copy_within(at + 1..length, at);
            self.ranks.length -= 1;
        }
    }

    /// Leaves the end of the stretch out from which the percentile is farther away.
    fn drop_far_end(&mut self) {
        let (first, _) = self.wanted();
        self.ranks.length -= 1;
        if first.saturating_sub(self.ranks.below) > self.ranks.length / 2 {
            self.stretch.copy_within(1.., 0);
            self.ranks.below += 1;
        }
    }

    fn note_ends(&mut self) {
        let within = &self.stretch[..self.ranks.length];
        self.ranks.ends = [within.first(), within.last()].map(|end| end.copied().unwrap_or(f64::NAN));
    }

    /// The order statistics between which the percentile lies, counted from 0.
    fn wanted(&self) -> (usize, usize) {
        let low = low_count(self.ranks.count, self.percent);
        (low.saturating_sub(1), low.min(self.ranks.count.saturating_sub(1)))
    }

    /// How many statistics of the stretch lie between the percentile and the nearer end behind which there are others;
    /// negative where the percentile is not in the stretch.
    fn leeway(&self) -> i64 {
        let (first, second) = self.wanted();
        let Ranks { below, length, .. } = *self.ranks;
        let under = if below > 0 { first as i64 - below as i64 } else { i64::MAX };
        let over = if self.ranks.above() > 0 { (below + length) as i64 - 1 - second as i64 } else { i64::MAX };
        under.min(over)
    }

    /// Cuts the stretch anew, around the percentile.
    fn cut(&mut self) {
        let count = self.ranks.count;
        let finite = self.values.iter().filter(|value| value.is_finite());
        self.selection.iter_mut().zip(finite).for_each(|(place, &value)| *place = value);
        // Room for a value that comes before the one that it replaces goes.
        let length = count.min(self.stretch.len() - 1);
        let below = (self.wanted().0 + 1).saturating_sub(length / 2).min(count - length);
        let mut from_first = &mut self.selection[..count];
        if below > 0 {
            from_first.select_nth_unstable_by(below, f64::total_cmp);
            from_first = &mut from_first[below..];
        }
        if length < from_first.len() {
            from_first.select_nth_unstable_by(length, f64::total_cmp);
        }
        let within = &mut self.stretch[..length];
        within.copy_from_slice(&from_first[..length]);
        within.sort_unstable_by(f64::total_cmp);
        (self.ranks.below, self.ranks.length) = (below, length);
    }

    /// Notes the ends and the percentile of the stretch.
    fn note(&mut self) {
        self.note_ends();
        let (first, second) = self.wanted();
        let Ranks { count, below, .. } = *self.ranks;
        self.ranks.percentile = if count == 0 {
            f64::NAN
        } else {
            let place = place_of(self.percent, count);
            let (under, over) = (self.stretch[first - below], self.stretch[second - below]);
            if place <= 0.0 || first == second { under } else { under + (place - place.trunc()) * (over - under) }
        };
    }
}

/// What a slot holds for a value: NaN, as in an empty one, where it is not finite. Zero has no sign: the order of
/// zeros of either sign would be that in which they came.
fn held(value: f64) -> f64 {
    if value.is_finite() { value + 0.0 } else { f64::NAN }
}

/// The percentile's place among the order statistics of `m` values, counted from 0: percent/100 * m + 0.5, less 1.
fn place_of(percent: f64, m: usize) -> f64 {
    percent * m as f64 / 100.0 - 0.5
}

/// How many of `m` values are at or below the percentile's place; at least the first.
fn low_count(m: usize, percent: f64) -> usize {
    // A negative place counts as 0 in the conversion.
    (place_of(percent, m) as usize + 1).min(m)
}

/// The percentile (`percent` 0 to 100) of ascending values; NaN of none.
#[cfg(test)]
pub(crate) fn hazen(sorted: &[f64], percent: f64) -> f64 {
    let (Some(&first), Some(&last)) = (sorted.first(), sorted.last()) else { return f64::NAN };
    let place = place_of(percent, sorted.len());
    if place <= 0.0 {
        return first;
    }
    let below = place.floor();
    match (sorted.get(below as usize), sorted.get(below as usize + 1)) {
        (Some(&a), Some(&b)) => a + (place - below) * (b - a),
        _ => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_statistics_stand_at_k_minus_half_over_m() {
        let sorted = [1.0, 2.0, 4.0, 8.0, 16.0];
        // The statistics stand at 10, 30, 50, 70 and 90 percent.
        assert_eq!(hazen(&sorted, 10.0), 1.0);
        assert_eq!(hazen(&sorted, 50.0), 4.0);
        assert_eq!(hazen(&sorted, 60.0), 6.0);
        assert_eq!(hazen(&sorted, 5.0), 1.0, "below the first: the first");
        assert_eq!(hazen(&sorted, 100.0), 16.0, "above the last: the last");
        assert!(hazen(&[], 10.0).is_nan());
        assert_eq!(hazen(&[7.0], 10.0), 7.0);
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![8 => (-20i32..20).prop_map(f64::from), 1 => Just(-0.0), 1 => Just(f64::NAN), 1 => -1e3f64..1e3]
    }

    proptest! {
        #[test]
        fn the_percentile_is_that_of_the_last_values(
            values in prop::collection::vec(value(), 1..300),
            slots in 1usize..40,
            percent in prop_oneof![Just(0.0), Just(100.0), 0.0f64..100.0],
        ) {
            // The second ROI sees the same values a step later.
            let mut windows = Windows::new(percent, 2, slots);
            let mut ring = vec![f64::NAN; slots];
            for (index, &value) in values.iter().enumerate() {
                let slot = index % slots;
                let (before, f0) = (windows.percentile(0), windows.set(0, slot, value));
                let late = if index == 0 { f64::NAN } else { windows.set(1, (index - 1) % slots, values[index - 1]) };
                prop_assert_eq!(before.to_bits(), late.to_bits());
                ring[slot] = held(value);
                let mut expected: Vec<f64> = ring.iter().copied().filter(|v| v.is_finite()).collect();
                expected.sort_by(f64::total_cmp);
                prop_assert_eq!(f0.to_bits(), hazen(&expected, percent).to_bits());
                prop_assert_eq!(windows.sorted(0), expected);
            }
            let mut filled = Windows::new(percent, 1, slots + 3);
            prop_assert_eq!(filled.fill(0, ring.iter().copied()).to_bits(), windows.percentile(0).to_bits());
            let mut copied = Windows::new(percent, 1, slots + 9);
            copied.copy(0, &filled);
            for slot in 0..slots {
                prop_assert_eq!(copied.set(0, slot, 0.5).to_bits(), filled.set(0, slot, 0.5).to_bits());
            }
        }

        #[test]
        fn a_long_window_keeps_the_statistics_around_the_percentile(
            slots in 150usize..700,
            percent in prop_oneof![Just(0.0), Just(8.0), Just(100.0), 0.0f64..100.0],
            // What the brightness does meanwhile: rises, falls, steps, stands still, or comes in few values.
            course in prop::collection::vec((-0.5f64..0.5, -60f64..60.0, 1u32..5_000, 1usize..400), 1..6),
            seed in any::<u64>(),
        ) {
            let mut windows = Windows::new(percent, 1, slots);
            let (mut ring, mut state, mut level, mut index) = (vec![f64::NAN; slots], seed, 100.0, 0);
            for (drift, step, values, frames) in course {
                level += step;
                for _ in 0..frames {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let noise = f64::from((state >> 40) as u32 % values);
                    level += drift;
                    let value = if (state >> 33) % 50 == 0 { f64::NAN } else { (level + noise).trunc() };
                    let slot = index % slots;
                    index += 1;
                    ring[slot] = held(value);
                    let f0 = windows.set(0, slot, value);
                    let mut expected: Vec<f64> = ring.iter().copied().filter(|v| v.is_finite()).collect();
                    expected.sort_by(f64::total_cmp);
                    prop_assert_eq!(f0.to_bits(), hazen(&expected, percent).to_bits());
                    let (below, stretch) = windows.stretch(0);
                    prop_assert_eq!(stretch, &expected[below..below + stretch.len()]);
                }
            }
        }
    }

    #[test]
    fn neighbours_cut_their_stretches_on_different_frames() {
        let (rois, slots) = (64, 1_000);
        let mut windows = Windows::new(10.0, rois, slots);
        let mut most = 0;
        for frame in 0..3 * slots {
            // All of them get brighter at once, as when the light does.
            let level = if frame > slots + 50 { 500.0 } else { 100.0 };
            let mut cuts = 0;
            for roi in 0..rois {
                let before = windows.stretch(roi).0;
                windows.set(roi, frame % slots, level + (frame * 7 % 31) as f64);
                cuts += usize::from(windows.stretch(roi).0.abs_diff(before) > 1);
            }
            if frame > slots {
                most = most.max(cuts);
            }
        }
        assert!((1..=rois / LOOK_FRAMES as usize).contains(&most), "{most} of {rois} on one frame");
    }
}
