//! The synthetic animal: neurons that fire, calcium, a field of view, a microscope, and a stand-in for learning.
//!
//! In: a configuration and a seed; rewards as they are delivered. Out: frames as a two-photon microscope would store
//! them, and the truth behind them: shift (dy rows, dx columns, pixels: where the frame's content lies relative to
//! the reference), dF/F and spikes of each cell.
//!
//! [`Animal`] says how fast each neuron fires in the next frame, [`Optics`] draws the spikes and renders the frame.
//! `source::synthetic` ties the two together; nothing else renders. Everything is drawn from ChaCha8 streams (pixels:
//! from a counter-based generator keyed by them), with crate `libm` where a logarithm is needed: the same seed gives
//! the same bytes on every machine.

mod anatomy;
pub mod animal;
pub mod calcium;
mod motion;
pub mod optics;
mod photons;
mod seeded;

pub use animal::{Animal, StandInLearner};
pub use calcium::Calcium;
pub use optics::{Optics, OpticsError, RoiMask, Truth};
