//! The public contract, generated from `proto/apical/v1`; field documentation comes from there.

/// Messages and services of package `apical.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("apical.v1");
}

/// The descriptor set of everything in [`v1`], with comments: for reflection, and as the journal's schema.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/apical.bin"));
