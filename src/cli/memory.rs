//! How the C library's allocator keeps memory.
//!
//! A service allocates for every message, on several threads, for hours. By default glibc gives most threads a heap of
//! their own, and learns from large blocks that it should keep even larger ones in these heaps: memory then grows for
//! many minutes, into holes that nothing fits. So there are two heaps, large blocks (snapshots, frames of more than
//! 1 MiB) go back to the system when they are freed, and a heap is not cut and grown again for every frame. What a busy
//! moment has left free inside the heaps goes back every few seconds.
//! Measured by `tests/soak.rs`; mallopt(3), malloc_trim(3).
#![allow(unsafe_code)]

/// Blocks from this size on are mapped on their own, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: i32 = 1 << 20;

/// A heap keeps so much for what comes next, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: i32 = 32 << 20;

/// Heaps of all threads together.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: i32 = 2;

/// To be called before the first thread begins. Elsewhere than on glibc nothing happens; a refusal changes nothing.
pub(super) fn keep_it_flat() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_BYTES), (libc::M_ARENA_MAX, HEAPS)]
    {
        // SAFETY: it sets a number of the allocator; no pointer is passed, and no other thread runs yet.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// How often free memory goes back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GIVE_BACK_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// From now on what is free goes back to the system every few seconds, as long as the program runs. Who takes memory
/// meanwhile waits for part of a millisecond; the real-time thread takes none.
pub(super) fn give_back_what_is_free() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let give_back = || loop {
            std::thread::sleep(GIVE_BACK_EVERY);
            // SAFETY: no pointer is passed, and blocks that are in use stay where they are.
            unsafe { libc::malloc_trim(0) };
        };
        // Without it memory is only less flat.
        let _ = std::thread::Builder::new().name("apical-memory".into()).spawn(give_back);
    }
}
