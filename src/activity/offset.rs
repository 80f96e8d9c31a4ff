//! The detector's offset, estimated from pixels.
//!
//! In: a histogram of pixel values, bin i counting the pixels of value i. Out: the offset in counts, on the same
//! scale. Most pixels of a two-photon frame hold no photon at most times; they read the offset with the converter's
//! noise around it, and make the lowest peak. So: from the dark end, the first place where the smoothed histogram is
//! not surpassed within its neighbourhood; then the mean of the bins in that neighbourhood. All sums are integers,
//! and the one division comes last.
//!
//! It does not know a detector without an offset from one whose dark pixels are all equal: both give that value. An
//! image without dark pixels has one broad peak, of tissue, and gives too high an offset: such a rig states its own in
//! the configuration.

/// The offset in counts; 0 for an empty histogram. Cost: one pass over the bins, some 65,536.
pub fn estimate_detector_offset(histogram: &[u64]) -> f64 {
    let total: u128 = histogram.iter().map(|&count| u128::from(count)).sum();
    if total == 0 {
        return 0.0;
    }
    // The darkest thousandth may be dead pixels and the converter's outliers: the peak is not searched there. The
    // way from there to the darkest hundredth, a good part of the noise's SD, is the neighbourhood's half width.
    let first = quantile_bin(histogram, total, 1, 1000);
    let half_width = (quantile_bin(histogram, total, 1, 100) - first).max(1);
    let peak = first_peak(histogram, first, half_width);
    let low = peak.saturating_sub(half_width);
    let high = (peak + half_width).min(histogram.len() - 1);
    let (mut count, mut moment) = (0u128, 0u128);
    for (bin, &pixels) in histogram.iter().enumerate().take(high + 1).skip(low) {
        count += u128::from(pixels);
        moment += u128::from(pixels) * bin as u128;
    }
    if count == 0 { peak as f64 } else { moment as f64 / count as f64 }
}

/// The first bin up to which at least `numerator / denominator` of the pixels lie.
fn quantile_bin(histogram: &[u64], total: u128, numerator: u128, denominator: u128) -> usize {
    let mut below = 0u128;
    for (bin, &count) in histogram.iter().enumerate() {
        below += u128::from(count);
        if below * denominator >= total * numerator && below > 0 {
            return bin;
        }
    }
    histogram.len() - 1
}

/// The first bin from `start` on whose sum over `half_width` bins on either side is above 0 and not surpassed by that
/// of any of the next `2 * half_width` bins.
fn first_peak(histogram: &[u64], start: usize, half_width: usize) -> usize {
    let sum_around = |bin: usize| -> u128 {
        let high = (bin + half_width).min(histogram.len() - 1);
        histogram[bin.saturating_sub(half_width)..=high].iter().map(|&count| u128::from(count)).sum()
    };
    let mut peak = start;
    let mut peak_sum = sum_around(start);
    for bin in start + 1..histogram.len() {
        if bin - peak > 2 * half_width && peak_sum > 0 {
            break;
        }
        let sum = sum_around(bin);
        if sum > peak_sum {
            (peak, peak_sum) = (bin, sum);
        }
    }
    peak
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A triangular peak of pixels around `center`.
    fn add_peak(histogram: &mut [u64], center: usize, width: usize, height: u64) {
        for (bin, count) in histogram.iter_mut().enumerate() {
            let distance = bin.abs_diff(center);
            if distance < width {
                *count += height * (width - distance) as u64 / width as u64;
            }
        }
    }

    #[test]
    fn the_lowest_peak_is_the_offset_although_tissue_is_more_frequent() {
        let mut histogram = vec![0u64; 4096];
        add_peak(&mut histogram, 100, 20, 500);
        add_peak(&mut histogram, 400, 250, 2000);
        histogram[3] = 5; // dead pixels
        let offset = estimate_detector_offset(&histogram);
        assert!((offset - 100.0).abs() < 2.0, "{offset}");
    }

    #[test]
    fn a_detector_that_reads_one_value_in_the_dark_has_that_offset() {
        let mut histogram = vec![0u64; 256];
        histogram[0] = 1000;
        histogram[40] = 100;
        assert_eq!(estimate_detector_offset(&histogram), 0.0);
        assert_eq!(estimate_detector_offset(&[]), 0.0);
        assert_eq!(estimate_detector_offset(&[0; 10]), 0.0);
        assert_eq!(estimate_detector_offset(&[0, 0, 0, 9]), 3.0);
    }
}
