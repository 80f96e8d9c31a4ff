//! The far end of the trigger's line: a board on a pseudo-terminal, whose thread says when it read which sync pulse.
//! Where there are no pseudo-terminals the board is in the service, and nothing is read at a far end.

#[cfg(unix)]
pub(super) use terminal::FarEnd;

#[cfg(not(unix))]
pub(super) struct FarEnd;

#[cfg(not(unix))]
impl FarEnd {
    /// Nothing is started.
    pub fn start(_realtime_priority: u32) -> anyhow::Result<Self> {
        Ok(Self)
    }

    /// Overrides that put the board into the service.
    pub fn overrides(&self) -> [String; 1] {
        ["outputs.reward.device=simulated".to_owned()]
    }

    /// Nothing is read.
    pub fn count(&self) -> usize {
        0
    }

    /// Nothing is read.
    pub fn seen(&self) -> Vec<(u32, u64)> {
        Vec::new()
    }
}

#[cfg(unix)]
mod terminal {
    use std::sync::{Arc, Mutex, PoisonError};

    use anyhow::Context;

    use crate::engine::{Clock, HostClock, run_first};
    use crate::trigger::{ValveOptions, ValveSimulator, ValveWitness};

    /// The board, and what it has read.
    pub(in super::super) struct FarEnd {
        simulator: ValveSimulator,
        witness: Arc<Witness>,
    }

    /// Notes when each sync pulse was read.
    #[derive(Debug)]
    struct Witness {
        realtime_priority: u32,
        seen: Mutex<Vec<(u32, u64)>>,
    }

    impl ValveWitness for Witness {
        fn begins(&self) {
            if self.realtime_priority > 0 {
                // The service's own thread says whether it is granted; this one asks for the same.
                let _ = run_first(self.realtime_priority);
            }
        }

        fn sync(&self, sequence: u32) {
            let now_ns = HostClock.now_ns();
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((sequence, now_ns));
        }
    }

    impl FarEnd {
        /// A board whose thread runs at `realtime_priority`; 0: as an ordinary one.
        pub fn start(realtime_priority: u32) -> anyhow::Result<Self> {
            let witness = Arc::new(Witness { realtime_priority, seen: Mutex::new(Vec::with_capacity(1 << 20)) });
            let options = ValveOptions { witness: Some(witness.clone()), ..ValveOptions::default() };
            let simulator = ValveSimulator::start_with(&options).context("the valve simulator")?;
            Ok(Self { simulator, witness })
        }

        /// Overrides that point the reward's output here.
        pub fn overrides(&self) -> [String; 2] {
            let port = self.simulator.path().display().to_string();
            ["outputs.reward.device=serial".to_owned(), format!("outputs.reward.port={port:?}")]
        }

        /// Sync pulses so far.
        pub fn count(&self) -> usize {
            self.witness.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
        }

        /// The number of each sync pulse, and when it was read, on the host's clock.
        pub fn seen(&self) -> Vec<(u32, u64)> {
            self.witness.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }
}
