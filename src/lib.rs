//! `apical`: real-time control of two-photon imaging brain-computer interfaces.
//!
//! ```text
//!  source            register        sample          activity          decode           task             trigger
//!  ────────  frame   ────────  shift ────────  F,Fnp ────────  dF/F,z  ────────  cursor ────────  intent ────────
//!  grpc               rigid          ROI masks       F0 baseline       P+ / P-          trial             reward
//!  file (tiff, bin)   template       neuropil        dF/F, z-score     linear           calibration       device
//!  synthetic mouse                                                     feedback                           limits
//!                                                                          └─► feedback (grating angle) ─► subscribers
//!  every arrow is also a line in the session's journal ──► replay, verify, export, report
//! ```
//!
//! Frames come in, brain motion is corrected, chosen neurons are read, P+ minus P- turns a grating, the trial runs, the
//! reward is fired; everything is recorded so that it can be recomputed bit for bit. [`engine::Engine::step`] is the
//! one pure step that all of this goes through; the modules below stand in the order in which a frame meets them.

#![forbid(unsafe_op_in_unsafe_fn)]
#![deny(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod config;
pub mod frame;
pub mod source;

pub mod register;
pub mod sample;

pub mod activity;
pub mod decode;
pub mod task;

pub mod trigger;

pub mod engine;

pub mod journal;
pub mod proto;

pub mod export;
pub mod mouse;
pub mod report;
#[allow(clippy::disallowed_types, reason = "everything here runs beside the real-time thread, never on it")]
pub mod service;

#[allow(
    clippy::print_stderr,
    clippy::disallowed_types,
    reason = "a command line says what it does, and none of it runs on the real-time thread"
)]
pub mod cli;
