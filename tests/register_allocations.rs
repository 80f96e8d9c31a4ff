//! Registration allocates nothing after construction: not per frame, not at a template refresh, not in a wide search,
//! not when it saves into a vector with room.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use apical::config::register::RegisterConfig;
use apical::frame::{FrameView, Geometry, Image};
use apical::register::{FitVerdict, Rigid};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_session_allocates_nothing_after_construction() {
    // a size whose FFT lengths are not powers of two
    let geometry = Geometry::new(130, 246);
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 48) as u16
    };
    let coarse: Vec<u16> = (0..60 * 90).map(|_| random() / 16).collect();
    let scene = |r: i64, c: i64| coarse[((r + 60) / 4 % 60 * 90 + (c + 60) / 4 % 90) as usize];
    let frames: Vec<Vec<u16>> = [0, 1, -1, 17]
        .iter()
        .map(|&shift| (0..geometry.count() as i64).map(|i| scene(i / 246 - shift, i % 246) + random() / 256).collect())
        .collect();
    let config = RegisterConfig { min_template_frames: 10, ..RegisterConfig::default() };
    let mut rigid = Rigid::new(&config, geometry);
    let reference = Image { geometry, values: frames[0].iter().map(|&s| f32::from(s)).collect() };
    let mut saved = Vec::with_capacity(4 << 20);

    let before = ALLOCATIONS.load(Ordering::SeqCst);
    let mut verdicts = [None; 60];
    rigid.set_reference(&reference).expect("a good image");
    rigid.begin_baseline();
    for (t, verdict) in verdicts.iter_mut().enumerate() {
        if t == 40 {
            rigid.freeze_template().expect("enough frames");
        }
        let samples = if t == 50 { &frames[3] } else { &frames[t % 3] };
        *verdict = Some(rigid.step(&FrameView { geometry, samples, bias: 0, saturation: 65_535 }).verdict);
        saved.clear();
        rigid.save(&mut saved);
    }
    let after = ALLOCATIONS.load(Ordering::SeqCst);

    assert_eq!(after - before, 0);
    assert_eq!(verdicts[50], Some(FitVerdict::Jump));
    assert!(verdicts[..50].iter().all(|v| *v == Some(FitVerdict::Good)));
}
