//! P+ and P-: which ROIs make the cursor, and what they make of one frame.
//!
//! In: for each cell of the two populations its value (dF/F or z), NaN where it is invalid. Out: `x`, the mean over
//! P+ minus the mean over P-; with P- empty the mean over P+, and 0 where that is negative. An invalid cell leaves its
//! mean; a population without a valid cell leaves no x. Sums run in the order in which the ROIs are listed.

use crate::config::decode::ENSEMBLE_MAX;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The two populations, as indices of ROIs in the order of the session's ROIs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ensembles {
    /// P+: their activity turns the grating towards the target.
    pub plus: Vec<u32>,
    /// P-: their activity turns it away. Empty: one population.
    pub minus: Vec<u32>,
}

/// Why ensembles cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnsembleError {
    /// P+ has no ROI.
    #[error("ensembles: plus has 0 ROIs, expected 1 to {ENSEMBLE_MAX}")]
    Empty,
    /// More ROIs than there is room for.
    #[error("ensembles: {population} has {got} ROIs, expected at most {ENSEMBLE_MAX}")]
    TooMany {
        /// `plus` or `minus`.
        population: &'static str,
        /// ROIs in it.
        got: usize,
    },
    /// An index beyond the ROIs that there are.
    #[error("ensembles: ROI {roi}, expected 0 to below {roi_count}")]
    NoSuchRoi {
        /// The index.
        roi: u32,
        /// ROIs that there are.
        roi_count: usize,
    },
    /// An ROI that stands twice, in one population or in both.
    #[error("ensembles: ROI {roi} stands twice, expected each ROI once in both")]
    Twice {
        /// The index.
        roi: u32,
    },
}

impl Ensembles {
    /// Whether these can be used with `roi_count` ROIs. Does not allocate.
    pub fn check(&self, roi_count: usize) -> Result<(), EnsembleError> {
        if self.plus.is_empty() {
            return Err(EnsembleError::Empty);
        }
        for (population, rois) in [("plus", &self.plus), ("minus", &self.minus)] {
            if rois.len() > ENSEMBLE_MAX {
                return Err(EnsembleError::TooMany { population, got: rois.len() });
            }
        }
        for (index, roi) in self.rois().enumerate() {
            if roi as usize >= roi_count {
                return Err(EnsembleError::NoSuchRoi { roi, roi_count });
            }
            if self.rois().take(index).any(|other| other == roi) {
                return Err(EnsembleError::Twice { roi });
            }
        }
        Ok(())
    }

    /// The cells: those of P+, then those of P-.
    pub fn rois(&self) -> impl Iterator<Item = u32> + '_ {
        self.plus.iter().chain(&self.minus).copied()
    }

    /// x of one frame, where `value` gives the value of the cell at a position of [`Ensembles::rois`], NaN where it is
    /// invalid. NaN where a population has no valid cell.
    pub fn difference(&self, value: impl Fn(usize) -> f64) -> f64 {
        let split = self.plus.len();
        let plus = mean(0..split, &value);
        if self.minus.is_empty() {
            // Written so that NaN stays NaN.
            return if plus < 0.0 { 0.0 } else { plus };
        }
        let x = plus - mean(split..split + self.minus.len(), &value);
        if x.is_finite() { x } else { f64::NAN }
    }
}

/// The mean of the finite ones among the values of `cells`; NaN where there is none.
fn mean(cells: std::ops::Range<usize>, value: impl Fn(usize) -> f64) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for cell in cells {
        let value = value(cell);
        if value.is_finite() {
            sum += value;
            count += 1.0;
        }
    }
    let mean = if count > 0.0 { sum / count } else { f64::NAN };
    if mean.is_finite() { mean } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ensembles(plus: &[u32], minus: &[u32]) -> Ensembles {
        Ensembles { plus: plus.to_vec(), minus: minus.to_vec() }
    }

    fn x(e: &Ensembles, values: &[f64]) -> f64 {
        e.difference(|cell| values[cell])
    }

    #[test]
    fn x_is_the_mean_over_p_plus_minus_the_mean_over_p_minus() {
        assert_eq!(x(&ensembles(&[0, 1], &[2, 3, 4]), &[1.0, 2.0, 3.0, 3.0, 6.0]), -2.5);
    }

    #[test]
    fn with_one_population_a_negative_mean_is_0() {
        let e = ensembles(&[0, 1], &[]);
        assert_eq!(x(&e, &[1.0, -3.0]), 0.0);
        assert_eq!(x(&e, &[1.0, 2.0]), 1.5);
        assert!(x(&e, &[f64::NAN; 2]).is_nan());
    }

    #[test]
    fn an_invalid_cell_leaves_its_mean() {
        let e = ensembles(&[0, 1], &[2, 3]);
        assert_eq!(x(&e, &[f64::NAN, 2.0, 1.0, f64::INFINITY]), 1.0);
        assert!(x(&e, &[f64::NAN, f64::NAN, 1.0, 1.0]).is_nan(), "P+ without a valid cell");
        assert!(x(&e, &[1.0, 1.0, f64::NAN, f64::NAN]).is_nan(), "P- without a valid cell");
    }

    #[test]
    fn ensembles_that_cannot_be_used_are_refused() {
        assert_eq!(ensembles(&[0, 3], &[1]).check(4), Ok(()));
        assert_eq!(ensembles(&[], &[]).check(4), Err(EnsembleError::Empty));
        assert_eq!(ensembles(&[], &[1]).check(4), Err(EnsembleError::Empty));
        assert_eq!(ensembles(&[4], &[]).check(4), Err(EnsembleError::NoSuchRoi { roi: 4, roi_count: 4 }));
        assert_eq!(ensembles(&[1], &[1]).check(4), Err(EnsembleError::Twice { roi: 1 }));
        assert_eq!(ensembles(&[1, 1], &[]).check(4), Err(EnsembleError::Twice { roi: 1 }));
        let many: Vec<u32> = (0..65).collect();
        assert_eq!(ensembles(&many, &[]).check(99), Err(EnsembleError::TooMany { population: "plus", got: 65 }));
    }
}
