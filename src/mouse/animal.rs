//! When the neurons fire, and what a reward does to them.
//!
//! In: the end of a frame ([`Animal::next_rates`]), and rewards as the valve opens ([`Animal::reward`]). Out: the
//! firing rate of each cell in the next frame, in hertz.
//!
//! Each cell has bursts of its own (Poisson, `burst_rate_hz`), and the network has shared events in which each cell
//! takes part with a probability; so P+ and P- begin alike, and partly together. A burst is a fixed time of fast
//! firing; a new one within it prolongs it.
//!
//! The animal does not see, hear or choose: feedback, sound and light have no effect on it. It moves no differently
//! when it is rewarded. Only the rule of [`StandInLearner`] links reward to activity.

use super::seeded::{Draws, Purpose};
use crate::config::synthetic::{AnimalConfig, SyntheticConfig};

/// A stand-in until there is a learner: each delivered reward multiplies the event rate of every P- cell by
/// `1 - learning_rate`, down to `floor` of what it was; P+ cells keep theirs.
///
/// It states the published outcome (P- lose events, neither population falls silent) and explains nothing: no credit
/// is assigned, and a reward given for nothing teaches as much as an earned one.
#[derive(Debug, Clone, PartialEq)]
pub struct StandInLearner {
    learning_rate: f64,
    floor: f64,
    p_minus_factor: f64,
}

impl StandInLearner {
    /// A naive animal.
    pub fn new(config: &AnimalConfig) -> Self {
        Self { learning_rate: config.learning_rate, floor: config.floor, p_minus_factor: 1.0 }
    }

    /// One reward has been delivered.
    pub fn reward(&mut self) {
        self.p_minus_factor = (self.p_minus_factor * (1.0 - self.learning_rate)).max(self.floor);
    }

    /// What is left of the P- cells' event rate, `floor` to 1.
    pub fn p_minus_factor(&self) -> f64 {
        self.p_minus_factor
    }
}

/// The neurons' activity.
#[derive(Debug, Clone)]
pub struct Animal {
    config: AnimalConfig,
    period_s: f64,
    burst_frames: u32,
    is_p_minus: Vec<bool>,
    learner: StandInLearner,
    rewards: u64,
    draws: Draws,
    /// Frames for which each cell's burst goes on.
    burst_left: Vec<u32>,
    rates_hz: Vec<f64>,
}

impl Animal {
    /// A naive animal, drawn from `seed`.
    pub fn new(config: &SyntheticConfig, seed: u64) -> Self {
        let cells = config.anatomy.cells;
        let animal = &config.animal;
        Self {
            period_s: config.frame_period_s(),
            burst_frames: (animal.burst_duration_s * config.frame_rate_hz).round().max(1.0) as u32,
            is_p_minus: (0..cells).map(|cell| animal.p_minus.contains(&cell)).collect(),
            learner: StandInLearner::new(animal),
            rewards: 0,
            draws: Draws::new(seed, Purpose::Animal),
            burst_left: vec![0; cells],
            rates_hz: vec![0.0; cells],
            config: animal.clone(),
        }
    }

    /// The firing rate of each cell in the next frame, in hertz.
    pub fn next_rates(&mut self) -> &[f64] {
        let is_shared_event = self.draws.uniform() < self.config.shared_rate_hz * self.period_s;
        for cell in 0..self.burst_left.len() {
            let factor = self.factor(cell);
            let begins = self.draws.uniform() < self.config.burst_rate_hz * self.period_s * factor;
            let joins = self.draws.uniform() < self.config.shared_participation * factor;
            let left = self.burst_left[cell].saturating_sub(1);
            self.burst_left[cell] = if begins || (is_shared_event && joins) { self.burst_frames } else { left };
            let bursts = self.burst_left[cell] > 0;
            self.rates_hz[cell] = if bursts { self.config.burst_spikes_hz } else { self.config.quiet_spikes_hz };
        }
        &self.rates_hz
    }

    /// The valve has opened.
    pub fn reward(&mut self) {
        self.rewards += 1;
        self.learner.reward();
    }

    /// Rewards so far.
    pub fn rewards(&self) -> u64 {
        self.rewards
    }

    /// Bursts a second that a cell has now, its own and those of the network's events.
    pub fn event_rate_hz(&self, cell: usize) -> f64 {
        (self.config.burst_rate_hz + self.config.shared_rate_hz * self.config.shared_participation) * self.factor(cell)
    }

    fn factor(&self, cell: usize) -> f64 {
        if self.is_p_minus.get(cell) == Some(&true) { self.learner.p_minus_factor() } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bursts(animal: &mut Animal, frames: usize) -> Vec<u32> {
        let mut was = [false; 40];
        let mut begun = vec![0; 40];
        for _ in 0..frames {
            for (cell, &rate) in animal.next_rates().iter().enumerate() {
                let bursts = rate > 1.0;
                begun[cell] += u32::from(bursts && !was[cell]);
                was[cell] = bursts;
            }
        }
        begun
    }

    proptest! {
        #[test]
        fn reward_takes_the_stated_fraction_and_never_more_than_the_floor(
            learning_rate in 0.0..1.0f64, floor in 0.01..1.0f64, rewards in 0usize..60
        ) {
            let mut config = SyntheticConfig::default();
            (config.animal.learning_rate, config.animal.floor) = (learning_rate, floor);
            let mut animal = Animal::new(&config, 1);
            let (p_plus, p_minus) = (animal.event_rate_hz(0), animal.event_rate_hz(1));
            prop_assert_eq!(p_plus, p_minus);
            let mut expected = 1.0f64;
            for _ in 0..rewards {
                animal.reward();
                expected = (expected * (1.0 - learning_rate)).max(floor);
                prop_assert!(animal.event_rate_hz(1) >= floor * p_minus);
            }
            prop_assert_eq!(animal.event_rate_hz(1), p_minus * expected);
            prop_assert_eq!(animal.event_rate_hz(0), p_plus);
            prop_assert_eq!(animal.rewards(), rewards as u64);
        }
    }

    #[test]
    fn bursts_begin_as_often_as_stated_and_p_minus_lose_theirs() {
        let config = SyntheticConfig::default();
        let mut animal = Animal::new(&config, 2);
        let frames = 30_000;
        let before = bursts(&mut animal, frames);
        let rate = |begun: &[u32]| begun.iter().sum::<u32>() as f64 / begun.len() as f64 / (frames as f64 / 30.0);
        // Bursts that overlap are seen as one: a loss of about rate x duration.
        let stated = animal.event_rate_hz(0) * (1.0 - animal.event_rate_hz(0) * config.animal.burst_duration_s);
        assert!((rate(&before) / stated - 1.0).abs() < 0.05, "{} {stated}", rate(&before));
        for _ in 0..100 {
            animal.reward();
        }
        let after = bursts(&mut animal, frames);
        let (p_plus, p_minus) = (after[0] + after[2] + after[4], after[1] + after[3] + after[5]);
        let left = f64::from(p_minus) / f64::from(p_plus);
        assert!(p_minus > 0 && (left - config.animal.floor).abs() < 0.07, "{p_minus} of {p_plus}");
    }

    #[test]
    fn the_same_seed_gives_the_same_activity() {
        let config = SyntheticConfig::default();
        let run = |seed| bursts(&mut Animal::new(&config, seed), 2_000);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
