//! A sorted window of one ROI, and the percentile of it.
//!
//! In: finite values in counts. Out: the percentile in counts. A window is a slice whose first `len` entries are in
//! ascending order. One frame takes the oldest value out and puts the newest in: two binary searches, and one move of
//! the entries that lie between the two places, so the cost goes with their distance and not with the window.
//!
//! The percentile interpolates linearly between order statistics that stand at `(k - 0.5) / m`, k = 1..m (Hazen's
//! plotting position; `prctile` of MATLAB, `method="hazen"` of numpy).

/// Puts the finite `value` in; the window's slice must have room for it, otherwise nothing happens.
pub(crate) fn insert(window: &mut [f64], len: &mut usize, value: f64) {
    if *len >= window.len() {
        return;
    }
    let to = window[..*len].partition_point(|&v| v < value);
    window.copy_within(to..*len, to + 1);
    window[to] = value;
    *len += 1;
}

/// Takes one entry equal to `value` out, if there is one.
fn remove(window: &mut [f64], len: &mut usize, value: f64) {
    let from = window[..*len].partition_point(|&v| v < value);
    if from < *len && window[from] == value {
        window.copy_within(from + 1..*len, from);
        *len -= 1;
    }
}

/// Takes `old` out and puts `new` in. A value that is not finite was never in, and does not go in.
pub(crate) fn replace(window: &mut [f64], len: &mut usize, old: f64, new: f64) {
    match (old.is_finite(), new.is_finite()) {
        (false, false) => {}
        (false, true) => insert(window, len, new),
        (true, false) => remove(window, len, old),
        (true, true) => exchange(&mut window[..*len], old, new),
    }
}

/// Takes `old`, which is in `sorted`, out, and puts `new` in, moving only what lies between.
fn exchange(sorted: &mut [f64], old: f64, new: f64) {
    move_between(sorted, places(sorted, old, new), new);
}

/// Where `old` stands among the ascending values, and how many of them are below `new`.
pub(crate) fn places(sorted: &[f64], old: f64, new: f64) -> (usize, usize) {
    (sorted.partition_point(|&v| v < old), sorted.partition_point(|&v| v < new))
}

/// Takes the value at `from` out and puts `new`, which `below` values are below, in.
pub(crate) fn move_between(sorted: &mut [f64], (from, below): (usize, usize), new: f64) {
    if from >= sorted.len() {
        return;
    }
    if below > from {
        // The value that leaves is among those below.
        sorted.copy_within(from + 1..below, from);
        sorted[below - 1] = new;
    } else {
        sorted.copy_within(below..from, below + 1);
        sorted[below] = new;
    }
}

/// Sorts values that are all finite. In place, without allocation.
pub(crate) fn sort(values: &mut [f64]) {
    values.sort_unstable_by(f64::total_cmp);
}

/// The percentile (`percent` 0 to 100) of ascending values; NaN of none.
pub(crate) fn hazen(sorted: &[f64], percent: f64) -> f64 {
    let (Some(&first), Some(&last)) = (sorted.first(), sorted.last()) else { return f64::NAN };
    // The place among order statistics, counted from 0: percent/100 * m + 0.5, less 1.
    let place = percent * sorted.len() as f64 / 100.0 - 0.5;
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

    proptest! {
        #[test]
        fn the_window_stays_the_sorted_last_values(
            values in prop::collection::vec(
                prop_oneof![8 => (-20i32..20).prop_map(f64::from), 1 => Just(f64::NAN)],
                1..120,
            ),
            size in 1usize..12,
        ) {
            let mut ring = vec![f64::NAN; size];
            let mut window = vec![0.0; size];
            let mut len = 0;
            for (index, &value) in values.iter().enumerate() {
                let old = std::mem::replace(&mut ring[index % size], value);
                replace(&mut window, &mut len, old, value);
                let mut expected: Vec<f64> = ring.iter().copied().filter(|v| v.is_finite()).collect();
                expected.sort_by(f64::total_cmp);
                prop_assert_eq!(&window[..len], &expected[..]);
            }
        }
    }
}
