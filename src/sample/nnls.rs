//! Non-negative least squares of a few unknowns, from their normal equations.
//!
//! In: the matrix `A'A` and, for each frame, `A'y`, in f64. Out: the `x >= 0` with the least `|A x - y|`.
//!
//! Block principal pivoting (Kim and Park, SIAM J. Sci. Comput. 2011): a guess which unknowns are above 0, a Cholesky
//! solution for these alone, and an exchange of those whose sign is wrong, all at once, or, where that does not help
//! three times, only the last of them, which ends for certain (Murty 1974). The first guess is that all are above 0;
//! its factor is made at construction. Every sum has the order of the unknowns, and no function but the square root is
//! called: the same bits everywhere.
//!
//! **Warm start.** The set of the last frame, with its factor, is tried first. It is believed only where every sign is
//! right by a margin far above all rounding: then it is the one set that solves the problem, and the long way would
//! have ended there too, with the same factor and the same bits. Otherwise the long way is gone. So the warm start
//! saves time and is no state: an answer depends on its frame alone, and there is nothing to save.
//!
//! Unknowns are counted in units that give each a 1 on the diagonal; [`RIDGE`] is added there, so that columns that are
//! all but the same share what they explain instead of blowing up noise without limit. Cost: `n^2` products for the
//! usual frame, in which all are above 0; `n^3 / 6` more for each exchange. No allocation after construction.

/// Unknowns of one problem, at most: a set of them is kept in 32 bits.
pub(crate) const UNKNOWNS_MAX: usize = 32;

/// What is added to a diagonal of 1.
pub(crate) const RIDGE: f64 = 1e-6;

/// Share of the largest number by which a sign must be right for the warm start to be believed.
const MARGIN: f64 = 1e-5;

/// Exchanges, at most. Ten are rare.
const EXCHANGES_MAX: usize = 256;

/// Share of a column's own square below which nothing is left of it beside what was taken out.
const NOTHING_LEFT: f64 = 1e-9;

/// A Cholesky factor of the rows and columns of some unknowns.
#[derive(Debug)]
struct Factor {
    /// Whose.
    set: u32,
    members: [usize; UNKNOWNS_MAX],
    count: usize,
    /// Row after row, `count` apart.
    lower: Vec<f64>,
}

impl Factor {
    fn with_capacity(unknowns: usize) -> Factor {
        Factor { set: 0, members: [0; UNKNOWNS_MAX], count: 0, lower: vec![0.0; unknowns * unknowns] }
    }

    fn make(&mut self, matrix: &[f64], size: usize, set: u32) {
        self.set = set;
        self.count = 0;
        for k in (0..size).filter(|k| set >> k & 1 == 1) {
            self.members[self.count] = k;
            self.count += 1;
        }
        let (n, lower) = (self.count, &mut self.lower);
        for row in 0..n {
            for col in 0..=row {
                let mut rest = matrix[self.members[row] * size + self.members[col]];
                for k in 0..col {
                    rest -= lower[row * n + k] * lower[col * n + k];
                }
                // The ridge keeps what is left of the diagonal above 0; were it not so, a NaN would spread.
                let value = if row == col { rest.max(0.5 * RIDGE).sqrt() } else { rest / lower[col * n + col] };
                lower[row * n + col] = value;
            }
        }
    }

    /// The members' unknowns for the right side `right`; those of the others are 0.
    fn solve(&self, right: &[f64], x: &mut [f64]) {
        x.fill(0.0);
        let (n, lower, members) = (self.count, &self.lower, &self.members[..self.count]);
        for (row, &k) in members.iter().enumerate() {
            let mut rest = right[k];
            for (col, &other) in members[..row].iter().enumerate() {
                rest -= lower[row * n + col] * x[other];
            }
            x[k] = rest / lower[row * n + row];
        }
        for (row, &k) in members.iter().enumerate().rev() {
            let mut rest = x[k];
            for (col, &other) in members.iter().enumerate().skip(row + 1) {
                rest -= lower[col * n + row] * x[other];
            }
            x[k] = rest / lower[row * n + row];
        }
    }
}

/// The problem, and the memory to solve it.
#[derive(Debug)]
pub(crate) struct Nnls {
    size: usize,
    /// Row after row, with 1 on the diagonal and the ridge.
    matrix: Vec<f64>,
    /// For each unknown, its size in the units of the caller; 0 where nothing is left of its column.
    units: Vec<f64>,
    usable: u32,
    whole: Factor,
    part: Factor,
    /// Which unknowns were above 0 in the last frame.
    warm: u32,
    right: Vec<f64>,
    x: Vec<f64>,
    /// What the others leave of each unknown's right side.
    left: Vec<f64>,
}

impl Nnls {
    /// Memory for problems of at most `unknowns`.
    pub fn with_capacity(unknowns: usize) -> Nnls {
        let unknowns = unknowns.min(UNKNOWNS_MAX);
        Nnls {
            size: 0,
            matrix: vec![0.0; unknowns * unknowns],
            units: vec![0.0; unknowns],
            usable: 0,
            whole: Factor::with_capacity(unknowns),
            part: Factor::with_capacity(unknowns),
            warm: 0,
            right: vec![0.0; unknowns],
            x: vec![0.0; unknowns],
            left: vec![0.0; unknowns],
        }
    }

    /// Another problem: `normal` gives `A'A`, `own` the square of each column before anything was taken out of it.
    /// Columns of which nothing is left stay out. `size` is within the capacity.
    pub fn set(&mut self, size: usize, normal: impl Fn(usize, usize) -> f64, own: impl Fn(usize) -> f64) {
        self.size = size;
        self.usable = 0;
        for k in 0..size {
            let square = normal(k, k);
            let is_left = square > NOTHING_LEFT * own(k);
            self.units[k] = if is_left { 1.0 / square.sqrt() } else { 0.0 };
            self.usable |= u32::from(is_left) << k;
        }
        for row in 0..size {
            for col in 0..size {
                let value = normal(row, col) * self.units[row] * self.units[col];
                self.matrix[row * size + col] = if row == col { 1.0 + RIDGE } else { value };
            }
        }
        self.whole.make(&self.matrix, size, self.usable);
        (self.part.set, self.part.count) = (0, 0);
        self.warm = self.usable;
    }

    /// Whether anything is left of this unknown's column; if not, it is always 0.
    pub fn is_usable(&self, k: usize) -> bool {
        self.usable >> k & 1 == 1
    }

    /// The unknowns for `A'y` = `right`, in the caller's units.
    pub fn solve(&mut self, right: &[f64], x: &mut [f64]) {
        for (k, &right) in right.iter().enumerate().take(self.size) {
            self.right[k] = right * self.units[k];
        }
        let is_warm = self.warm != self.usable && self.warm == self.part.set && {
            self.try_set(self.warm);
            self.is_certain()
        };
        if !is_warm {
            self.pivot();
        }
        for (k, x) in x.iter_mut().enumerate().take(self.size) {
            // what rounding, or the end of the exchanges, leaves below 0 is 0
            *x = if self.x[k] > 0.0 { self.x[k] * self.units[k] } else { 0.0 };
        }
    }

    /// The long way, from all above 0.
    fn pivot(&mut self) {
        let (mut set, mut fewest, mut patience) = (self.usable, self.size + 1, 3);
        for _ in 0..EXCHANGES_MAX {
            self.try_set(set);
            let wrong = self.wrong(set);
            if wrong == 0 {
                break;
            }
            let count = wrong.count_ones() as usize;
            if count < fewest {
                (fewest, patience) = (count, 3);
                set ^= wrong;
            } else if patience > 0 {
                patience -= 1;
                set ^= wrong;
            } else {
                set ^= 1 << (31 - wrong.leading_zeros());
            }
        }
        self.warm = set;
    }

    /// Solves for the unknowns of `set` alone, and finds what is left for the others.
    fn try_set(&mut self, set: u32) {
        let size = self.size;
        let factor = if set == self.usable {
            &self.whole
        } else {
            if self.part.set != set {
                self.part.make(&self.matrix, size, set);
            }
            &self.part
        };
        factor.solve(&self.right[..size], &mut self.x[..size]);
        for k in 0..size {
            let mut left = self.right[k];
            if set >> k & 1 == 0 {
                for (&entry, &x) in self.matrix[k * size..(k + 1) * size].iter().zip(&self.x) {
                    left -= entry * x;
                }
            }
            self.left[k] = left;
        }
    }

    /// Unknowns of the set that are below 0, and others that would rather be above.
    fn wrong(&self, set: u32) -> u32 {
        let is_wrong = |k: &usize| if set >> k & 1 == 1 { self.x[*k] < 0.0 } else { self.left[*k] > 0.0 };
        (0..self.size).filter(|k| self.is_usable(*k)).filter(is_wrong).fold(0, |wrong, k| wrong | 1 << k)
    }

    /// Whether the warm set is the only one that can be right.
    fn is_certain(&self) -> bool {
        let largest = |values: &[f64]| values[..self.size].iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        let margin = MARGIN * (largest(&self.right) + largest(&self.x));
        let is_right = |k| if self.warm >> k & 1 == 1 { self.x[k] > margin } else { self.left[k] < -margin };
        (0..self.size).filter(|&k| self.is_usable(k)).all(is_right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Coordinate descent until nothing moves: the definition, slowly.
    fn textbook(normal: &[Vec<f64>], right: &[f64]) -> Vec<f64> {
        let mut x = vec![0.0; right.len()];
        for _ in 0..200_000 {
            let mut moved = 0.0_f64;
            for k in 0..x.len() {
                let others: f64 = (0..x.len()).filter(|&j| j != k).map(|j| normal[k][j] * x[j]).sum();
                let next = ((right[k] - others) / normal[k][k]).max(0.0);
                moved = moved.max((next - x[k]).abs());
                x[k] = next;
            }
            if moved < 1e-13 {
                break;
            }
        }
        x
    }

    /// Columns that overlap, `A'A`, and the problem.
    fn problem(columns: &[Vec<f64>]) -> (Vec<Vec<f64>>, Nnls) {
        let n = columns.len();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let normal: Vec<Vec<f64>> = columns.iter().map(|a| columns.iter().map(|b| dot(a, b)).collect()).collect();
        let mut nnls = Nnls::with_capacity(n);
        nnls.set(n, |i, j| normal[i][j], |k| normal[k][k]);
        (normal, nnls)
    }

    fn columns() -> impl Strategy<Value = Vec<Vec<f64>>> {
        (1_usize..9).prop_flat_map(|n| prop::collection::vec(prop::collection::vec(-1.0..3.0_f64, 12), n))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_answer_is_that_of_the_textbook(columns in columns(), y in prop::collection::vec(-3.0..3.0_f64, 12)) {
            let (normal, mut nnls) = problem(&columns);
            let right: Vec<f64> =
                columns.iter().map(|c| c.iter().zip(&y).map(|(a, b)| a * b).sum::<f64>()).collect();
            let mut x = vec![f64::NAN; columns.len()];
            nnls.solve(&right, &mut x);
            let expected = textbook(&normal, &right);
            let misfit = |x: &[f64]| {
                (0..12).map(|p| (columns.iter().zip(x).map(|(c, x)| c[p] * x).sum::<f64>() - y[p]).powi(2)).sum::<f64>()
            };
            prop_assert!(x.iter().all(|&x| x >= 0.0));
            prop_assert!(misfit(&x) <= misfit(&expected) + 1e-4, "{} {}", misfit(&x), misfit(&expected));
            // where columns are not all but the same, the unknowns are as well
            let wide = |i: usize| (0..i).all(|j| normal[i][j].powi(2) < 0.5 * normal[i][i] * normal[j][j]);
            if columns.len() < 4 && (0..columns.len()).all(wide) {
                for (x, expected) in x.iter().zip(&expected) {
                    prop_assert!((x - expected).abs() < 1e-3, "{x} {expected}");
                }
            }
        }

        #[test]
        fn what_was_solved_before_does_not_show(
            columns in columns(), ys in prop::collection::vec(prop::collection::vec(-3.0..3.0_f64, 12), 1..12),
            tie in 0_usize..4,
        ) {
            let (_, mut used) = problem(&columns);
            for (frame, y) in ys.iter().enumerate() {
                let mut right: Vec<f64> =
                    columns.iter().map(|c| c.iter().zip(y).map(|(a, b)| a * b).sum::<f64>()).collect();
                if frame % 4 == tie {
                    right.fill(0.0);
                }
                let (_, mut fresh) = problem(&columns);
                let (mut a, mut b) = (vec![0.0; columns.len()], vec![0.0; columns.len()]);
                used.solve(&right, &mut a);
                used.solve(&right, &mut a);
                fresh.solve(&right, &mut b);
                let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&a), bits(&b));
            }
        }
    }

    #[test]
    fn a_column_of_which_nothing_is_left_stays_out() {
        let normal = [[1.0, 0.0], [0.0, 1e-12]];
        let mut nnls = Nnls::with_capacity(2);
        nnls.set(2, |i, j| normal[i][j], |_| 1.0);
        let mut x = [9.0; 2];
        nnls.solve(&[2.0, 1.0], &mut x);
        assert!((x[0] - 2.0).abs() < 1e-5 && x[1] == 0.0 && nnls.is_usable(0) && !nnls.is_usable(1));
    }

    #[test]
    fn columns_that_are_all_but_the_same_share_what_they_explain() {
        let mut nnls = Nnls::with_capacity(2);
        nnls.set(2, |_, _| 4.0, |_| 4.0);
        let mut x = [0.0; 2];
        nnls.solve(&[8.0, 8.0], &mut x);
        assert!(x.iter().all(|x| (x - 1.0).abs() < 1e-5), "{x:?}");
    }
}
