//! A window of one ROI, and the percentile of it.
//!
//! In: values in counts, each with its place (`slot`) in the window. Out: the percentile in counts. One frame writes
//! its value over the oldest one, in that one's slot.
//!
//! The window is two heaps, back to back in one row of memory: the values up to the percentile, the largest on top,
//! and those above it, the smallest on top. The two tops are the order statistics between which the percentile lies. A
//! value is exchanged where it stands and sinks or rises from there, at most the height of a heap, so a frame costs
//! O(log n); as most values stand near the bottom and stay there, it touches some five lines of memory of a window of
//! 3,000, where a sorted row moves a thousand entries. Each value has four children, which lie side by side.
//!
//! The percentile interpolates linearly between order statistics that stand at `(k - 0.5) / m`, k = 1..m (Hazen's
//! plotting position; `prctile` of MATLAB, `method="hazen"` of numpy). It depends on the values alone, not on how they
//! lie in the heaps.

/// A slot without a value.
const NOWHERE: u32 = u32::MAX;
/// Children of an entry of a heap.
const CHILDREN: usize = 4;

/// Windows of several ROIs, of the same number of slots each.
#[derive(Debug, Clone)]
pub struct Windows {
    percent: f64,
    rois: usize,
    slots: usize,
    /// Values, ROI after ROI: the low heap from the row's front, the high heap from its end down.
    values: Vec<f64>,
    /// Which slot each of these values has.
    slot_of: Vec<u32>,
    /// Where the value of a slot stands in its ROI's row, slot after slot: one frame reads one run of memory.
    at: Vec<u32>,
    /// For each ROI, how many values its low and its high heap have.
    counts: Vec<[u32; 2]>,
}

impl Windows {
    /// Empty windows of `slots` slots (below 2^32) for each ROI, and the percentile `percent` (0 to 100).
    pub fn new(percent: f64, rois: usize, slots: usize) -> Self {
        Self {
            percent,
            rois,
            slots,
            values: vec![0.0; rois * slots],
            slot_of: vec![0; rois * slots],
            at: vec![NOWHERE; rois * slots],
            counts: vec![[0; 2]; rois],
        }
    }

    /// Slots of each window.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Empties the windows, from now on for the percentile `percent`.
    pub(crate) fn begin(&mut self, percent: f64) {
        self.percent = percent;
        self.at.fill(NOWHERE);
        self.counts.fill([0; 2]);
    }

    /// Adds `delta` to every value of every window: their order stays.
    pub(crate) fn shift(&mut self, delta: f64) {
        for value in &mut self.values {
            *value += delta;
        }
    }

    /// Puts `value` into a slot, in place of what it holds, and gives the percentile. A value that is not finite
    /// leaves the slot empty. NaN without any value.
    pub fn set(&mut self, roi: usize, slot: usize, value: f64) -> f64 {
        let percent = self.percent;
        let mut window = self.window(roi);
        let held = window.at[slot * window.stride];
        match (held == NOWHERE, value.is_finite()) {
            (true, false) => {}
            (true, true) => window.insert(slot as u32, value, percent),
            (false, false) => window.remove(held as usize, percent),
            (false, true) => window.exchange(held as usize, value),
        }
        window.percentile(percent)
    }

    /// Fills an ROI's empty window, slots 0 on with the values in order, and gives the percentile. In place, without
    /// allocation.
    pub(crate) fn fill(&mut self, roi: usize, values: impl Iterator<Item = f64>) -> f64 {
        let percent = self.percent;
        let mut window = self.window(roi);
        let mut count = 0;
        for (slot, value) in values.enumerate().take(window.values.len()) {
            if value.is_finite() {
                let place = window.values.len() - 1 - count;
                window.put(place, value, slot as u32);
                count += 1;
            }
        }
        *window.counts = [0, count as u32];
        let heap = window.heap(HIGH);
        for entry in (0..count.div_ceil(CHILDREN)).rev() {
            let place = heap.place(entry);
            window.sink(heap, entry, window.values[place], window.slot_of[place]);
        }
        window.balance(percent);
        window.percentile(percent)
    }

    /// Takes over the window of the one ROI of `from`, which has no more slots in use than there are here, into the
    /// empty window of `roi`.
    pub(crate) fn copy(&mut self, roi: usize, from: &Windows) {
        let [low, high] = from.counts.first().copied().unwrap_or_default();
        let (low, high) = (low as usize, high as usize);
        let mut window = self.window(roi);
        *window.counts = [low as u32, high as u32];
        for place in 0..low {
            window.put(place, from.values[place], from.slot_of[place]);
        }
        let (own_end, its_end) = (window.values.len(), from.values.len());
        for back in 1..=high {
            window.put(own_end - back, from.values[its_end - back], from.slot_of[its_end - back]);
        }
    }

    /// The percentile of an ROI's window; NaN without any value.
    pub(crate) fn percentile(&mut self, roi: usize) -> f64 {
        let percent = self.percent;
        self.window(roi).percentile(percent)
    }

    fn window(&mut self, roi: usize) -> Window<'_> {
        let row = roi * self.slots..(roi + 1) * self.slots;
        Window {
            values: &mut self.values[row.clone()],
            slot_of: &mut self.slot_of[row],
            at: self.at.get_mut(roi..).unwrap_or_default(),
            stride: self.rois,
            counts: &mut self.counts[roi],
        }
    }

    /// The values of one ROI's window in ascending order.
    #[cfg(test)]
    pub(crate) fn sorted(&self, roi: usize) -> Vec<f64> {
        let row = &self.values[roi * self.slots..][..self.slots];
        let [low, high] = self.counts[roi].map(|count| count as usize);
        let mut values = [&row[..low], &row[self.slots - high..]].concat();
        values.sort_by(f64::total_cmp);
        values
    }
}

const LOW: usize = 0;
const HIGH: usize = 1;

/// One ROI's window, borrowed.
struct Window<'a> {
    values: &'a mut [f64],
    slot_of: &'a mut [u32],
    at: &'a mut [u32],
    stride: usize,
    counts: &'a mut [u32; 2],
}

/// One of the two heaps: its entry k stands at place k of the row (low) or at `last - k` (high).
#[derive(Clone, Copy)]
struct Heap {
    is_low: bool,
    last: usize,
    count: usize,
}

impl Heap {
    fn place(self, entry: usize) -> usize {
        if self.is_low { entry } else { self.last - entry }
    }

    /// Whether `a` belongs nearer to the top than `b`.
    fn before(self, a: f64, b: f64) -> bool {
        if self.is_low { a > b } else { a < b }
    }
}

impl Window<'_> {
    fn heap(&self, which: usize) -> Heap {
        Heap { is_low: which == LOW, last: self.values.len().saturating_sub(1), count: self.counts[which] as usize }
    }

    fn put(&mut self, place: usize, value: f64, slot: u32) {
        self.values[place] = value;
        self.slot_of[place] = slot;
        self.at[slot as usize * self.stride] = place as u32;
    }

    /// Puts a value at `entry`, or where it belongs above or below that.
    fn settle(&mut self, heap: Heap, mut entry: usize, value: f64, slot: u32) {
        let from = entry;
        while entry > 0 {
            let above = (entry - 1) / CHILDREN;
            let place = heap.place(above);
            if !heap.before(value, self.values[place]) {
                break;
            }
            self.put(heap.place(entry), self.values[place], self.slot_of[place]);
            entry = above;
        }
        if entry == from { self.sink(heap, entry, value, slot) } else { self.put(heap.place(entry), value, slot) }
    }

    /// Puts a value at `entry`, or where it belongs below that.
    fn sink(&mut self, heap: Heap, mut entry: usize, value: f64, slot: u32) {
        loop {
            let first = CHILDREN * entry + 1;
            let (mut best, mut best_value) = (entry, value);
            for child in first..(first + CHILDREN).min(heap.count) {
                let its_value = self.values[heap.place(child)];
                if heap.before(its_value, best_value) {
                    (best, best_value) = (child, its_value);
                }
            }
            if best == entry {
                break;
            }
            let its_slot = self.slot_of[heap.place(best)];
            self.put(heap.place(entry), best_value, its_slot);
            entry = best;
        }
        self.put(heap.place(entry), value, slot);
    }

    /// The heap and the entry of it at a place of the row.
    fn entry_at(&self, place: usize) -> (usize, usize) {
        if place < self.counts[LOW] as usize { (LOW, place) } else { (HIGH, self.values.len() - 1 - place) }
    }

    /// Writes `value` over the one at `place`; the heaps keep their sizes.
    fn exchange(&mut self, place: usize, value: f64) {
        let (which, entry) = self.entry_at(place);
        let (heap, other) = (self.heap(which), self.heap(1 - which));
        let slot = self.slot_of[place];
        let border = other.place(0);
        // A value from beyond the other heap's top goes there, and that top comes here.
        if other.count > 0 && heap.before(value, self.values[border]) {
            let (top, its_slot) = (self.values[border], self.slot_of[border]);
            self.settle(heap, entry, top, its_slot);
            self.sink(other, 0, value, slot);
        } else {
            self.settle(heap, entry, value, slot);
        }
    }

    fn insert(&mut self, slot: u32, value: f64, percent: f64) {
        let which = if self.counts[LOW] > 0 && value < self.values[0] { LOW } else { HIGH };
        self.add(which, value, slot);
        self.balance(percent);
    }

    fn remove(&mut self, place: usize, percent: f64) {
        let (which, entry) = self.entry_at(place);
        self.at[self.slot_of[place] as usize * self.stride] = NOWHERE;
        self.take(which, entry);
        self.balance(percent);
    }

    fn add(&mut self, which: usize, value: f64, slot: u32) {
        self.counts[which] += 1;
        let heap = self.heap(which);
        self.settle(heap, heap.count - 1, value, slot);
    }

    /// Takes an entry out of its heap; the heap's last one fills the gap.
    fn take(&mut self, which: usize, entry: usize) {
        let heap = self.heap(which);
        let last = heap.count - 1;
        let place = heap.place(last);
        self.counts[which] -= 1;
        if entry < last {
            self.settle(Heap { count: last, ..heap }, entry, self.values[place], self.slot_of[place]);
        }
    }

    /// Moves tops from one heap to the other until the percentile lies between the two.
    fn balance(&mut self, percent: f64) {
        let wanted = low_count((self.counts[LOW] + self.counts[HIGH]) as usize, percent);
        while self.counts[LOW] as usize != wanted {
            let from = if (self.counts[LOW] as usize) < wanted { HIGH } else { LOW };
            let place = self.heap(from).place(0);
            let (value, slot) = (self.values[place], self.slot_of[place]);
            self.take(from, 0);
            self.add(1 - from, value, slot);
        }
    }

    fn percentile(&self, percent: f64) -> f64 {
        let [low, high] = *self.counts;
        if low == 0 {
            return f64::NAN;
        }
        let place = place_of(percent, (low + high) as usize);
        let below = self.values[0];
        if place <= 0.0 || high == 0 {
            return below;
        }
        below + (place - place.trunc()) * (self.values[self.values.len() - 1] - below)
    }
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
        prop_oneof![8 => (-20i32..20).prop_map(f64::from), 1 => Just(f64::NAN), 1 => -1e3f64..1e3]
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
                ring[slot] = value;
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
    }
}
