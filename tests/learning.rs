//! The published task on the synthetic animal's own dF/F (no pixels): hits rise and P- quieten within a short session.

use apical::config::synthetic::SyntheticConfig;
use apical::mouse::{Animal, Calcium};

const TRIAL: usize = 60;
const START: usize = 15;
const HOLD: usize = 60;
const ITI: usize = 15;
const MISS_ITI: usize = 90;
const F0_WINDOW: usize = 4 * TRIAL;
const BASELINE: usize = 900;

/// A uniform number generator of the test's own (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn gaussian(&mut self) -> f64 {
        // The sum of twelve uniform numbers: near enough for measurement noise.
        (0..12).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.0
    }

    fn poisson(&mut self, mean: f64) -> u32 {
        let (mut product, limit, mut count) = (1.0, (-mean).exp(), 0);
        loop {
            product *= (self.next() >> 11) as f64 / (1u64 << 53) as f64;
            if product <= limit {
                return count;
            }
            count += 1;
        }
    }
}

struct Session {
    animal: Animal,
    calcium: Calcium,
    random: Random,
    config: SyntheticConfig,
    /// F of the control cells, frame after frame.
    f: Vec<Vec<f64>>,
}

impl Session {
    /// One frame: F of each control cell, with the photon noise of a soma of about 100 pixels.
    fn frame(&mut self) {
        let rates = self.animal.next_rates().to_vec();
        let spikes: Vec<u32> = rates.iter().map(|rate| self.random.poisson(rate / 30.0)).collect();
        let dff = self.calcium.step(&spikes).to_vec();
        let cells = self.config.animal.p_plus.iter().chain(&self.config.animal.p_minus);
        let f = cells.map(|&cell| 1.0 + 0.8 * dff[cell] + 0.06 * self.random.gaussian()).collect();
        self.f.push(f);
    }
}

/// 10th percentile as MATLAB's prctile gives it.
fn percentile(mut values: Vec<f64>) -> f64 {
    let at = 0.1 * values.len() as f64 - 0.5;
    let (low, part) = (at.floor() as usize, at - at.floor());
    let (_, &mut value, above) = values.select_nth_unstable_by(low, f64::total_cmp);
    value + (above.iter().copied().fold(f64::MAX, f64::min) - value) * part
}

/// x of the newest of `window`, F0 over all of it.
fn contrast(window: &[&Vec<f64>]) -> f64 {
    let now = window[window.len() - 1];
    let half = now.len() / 2;
    let dff = |cell: usize| {
        let f0 = percentile(window.iter().map(|f| f[cell]).collect());
        (now[cell] - f0) / f0
    };
    (0..half).map(dff).sum::<f64>() / half as f64 - (half..now.len()).map(dff).sum::<f64>() / half as f64
}

/// Threshold and lower end of the range, from a circular baseline.
fn calibrate(f: &[Vec<f64>], random: &mut Random) -> (f64, f64) {
    let n = f.len();
    let x: Vec<f64> = (0..n)
        .map(|frame| contrast(&(0..F0_WINDOW).map(|k| &f[(frame + 1 + k + n - F0_WINDOW) % n]).collect::<Vec<_>>()))
        .collect();
    let mut starts: Vec<usize> = (0..n).collect();
    for i in 0..200 {
        let j = i + (random.next() % (n - i) as u64) as usize;
        starts.swap(i, j);
    }
    let peaks: Vec<f64> = starts[..200]
        .iter()
        .map(|start| {
            let segment: Vec<f64> = (0..TRIAL).map(|k| x[(start + k) % n]).collect();
            segment.windows(3).map(|w| w.iter().sum::<f64>() / 3.0).fold(f64::MIN, f64::max)
        })
        .collect();
    let (low, high) = x.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    let mut threshold = low;
    while threshold < high && peaks.iter().filter(|&&peak| peak > threshold).count() > 100 {
        threshold += 0.005;
    }
    (threshold, low)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Hit,
    Aversive,
    Miss,
}

fn session(seed: u64, trials: usize, learns: bool) -> Vec<Outcome> {
    let config = SyntheticConfig { seed, ..SyntheticConfig::default() };
    let mut session = Session {
        animal: Animal::new(&config, seed),
        calcium: Calcium::new(&config.calcium, config.anatomy.cells, config.frame_rate_hz),
        random: Random(seed),
        config,
        f: Vec::new(),
    };
    (0..BASELINE).for_each(|_| session.frame());
    let (threshold, low) = calibrate(&session.f.clone(), &mut session.random);
    let mut recent = Vec::new();
    let mut outcomes = Vec::new();
    while outcomes.len() < trials {
        let mut outcome = Outcome::Miss;
        for frame in 1..=TRIAL {
            // Nobody looks at the cursor before the last two frames of the start.
            if frame + 2 <= START {
                session.frame();
                continue;
            }
            let z = cursor(&mut session, &mut recent) - low;
            let rotation = (90.0 * z / (threshold - low)).round();
            if frame > START && rotation >= 90.0 {
                outcome = Outcome::Hit;
                break;
            }
            if frame > START && rotation < 0.0 {
                outcome = Outcome::Aversive;
                break;
            }
        }
        if outcome == Outcome::Hit && learns {
            session.animal.reward();
        }
        let rest = if outcome == Outcome::Miss { MISS_ITI } else { HOLD + ITI };
        // The cursor is a mean of three frames: before the last ones of a rest nobody looks at it.
        for left in (0..rest).rev() {
            if left < 3 {
                cursor(&mut session, &mut recent);
            } else {
                session.frame();
            }
        }
        outcomes.push(outcome);
    }
    outcomes
}

/// One frame on: mean of x over the last three frames.
fn cursor(session: &mut Session, recent: &mut Vec<f64>) -> f64 {
    session.frame();
    recent.push(contrast(&session.f[session.f.len() - F0_WINDOW..].iter().collect::<Vec<_>>()));
    let last = &recent[recent.len().saturating_sub(3)..];
    last.iter().sum::<f64>() / last.len() as f64
}

/// Percentages of hits and of aversive ends in blocks of ten trials, over `seeds` sessions.
fn curve(seeds: u64, trials: usize, learns: bool) -> Vec<(f64, f64)> {
    let sessions: Vec<Vec<Outcome>> = (1..=seeds).map(|seed| session(seed, trials, learns)).collect();
    (0..trials / 10)
        .map(|block| {
            let share = |outcome| {
                let count = sessions.iter().flat_map(|s| &s[10 * block..10 * block + 10]).filter(|&&o| o == outcome);
                100.0 * count.count() as f64 / (10.0 * seeds as f64)
            };
            (share(Outcome::Hit), share(Outcome::Aversive))
        })
        .collect()
}

/// `APICAL_LEARNING_SEEDS` animals instead of 6 give a smoother curve (`-- --nocapture` prints it).
#[test]
fn hits_rise_from_chance_to_a_clear_majority_and_only_by_learning() {
    let seeds = std::env::var("APICAL_LEARNING_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let learning = curve(seeds, 40, true);
    let naive = curve(seeds, 40, false);
    println!("hits %, aversive % by ten trials: learning {learning:.1?}, without {naive:.1?}");
    assert!((25.0..60.0).contains(&learning[0].0), "{learning:?}");
    assert!(learning[3].0 > 70.0 && learning[3].0 > learning[0].0 + 20.0, "{learning:?}");
    let aversive_naive = naive.iter().map(|block| block.1).sum::<f64>() / naive.len() as f64;
    assert!(learning[3].1 < 0.5 * aversive_naive, "{learning:?} {naive:?}");
    assert!(naive[3].0 < naive[0].0 + 15.0, "{naive:?}");
}
