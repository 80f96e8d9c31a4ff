//! The frame loop of the stages activity, decode and task, and the calibration at a baseline's end, take no memory
//! once they exist. The counter is the thread's own: the test harness takes memory on its main thread meanwhile.

use apical::activity::{Activity, StateError};
use apical::config::{
    activity::ActivityConfig, calibration::CalibrationConfig, decode::DecodeConfig, task::TaskConfig,
};
use apical::decode::{Decoder, Ensembles, feedback::Feedback};
use apical::task::calibration::{Calibration, CalibrationInput, CalibrationWorkspace, calibrate};
use apical::task::{Task, TaskInput};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn allocations() -> usize {
    ALLOCATIONS.with(Cell::get)
}

// SAFETY: everything is handed on to the system's allocator; the counter is a constant-initialised cell that takes no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROIS: usize = 12;
const BASELINE_FRAMES: usize = 400;

#[test]
fn no_memory_is_taken_from_the_first_frame_on() {
    let task_config = TaskConfig { trial_frames: 100, ..Default::default() };
    let activity_config = ActivityConfig { detector_offset_counts: Some(100.0), ..Default::default() };
    let decode_config = DecodeConfig::default();
    let ensembles = Ensembles { plus: vec![0, 1, 2, 3], minus: vec![4, 5, 6, 7] };
    let window_frames = activity_config.f0_window_frames(task_config.trial_frames);
    let mut activity = Activity::new(&activity_config, ROIS, window_frames, BASELINE_FRAMES);
    let mut decoder = Decoder::new(&decode_config, &ensembles, ROIS).expect("ensembles");
    let mut feedback = Feedback::new(&task_config);
    let mut task = Task::new(&task_config);
    let mut workspace = CalibrationWorkspace::new(BASELINE_FRAMES, window_frames, 200, ROIS);
    let mut calibration = Calibration::with_capacity(200);
    let calibration_config = CalibrationConfig::default();
    let ensembles = Ensembles { plus: vec![8, 9, 10], minus: vec![11, 1, 2, 3] };
    let mut bytes = Vec::with_capacity(1 << 20);
    let mut random = 1u64;
    let mut row = [0.0; ROIS];
    task.begin_baseline();

    let before = allocations();
    let mut failures = 0;
    for frame in 0..10_000usize {
        for f in &mut row {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *f = 1000.0 + ((random >> 33) % 600) as f64;
        }
        if frame % 501 == 7 {
            row[3] = f64::NAN;
        }
        if frame == BASELINE_FRAMES + 100 {
            activity.end_baseline();
            failures += usize::from(decoder.set_ensembles(&ensembles).is_err());
            let input = CalibrationInput {
                block: activity.baseline(),
                f0: activity.f0_settings(),
                ensembles: decoder.ensembles(),
                signal: decoder.signal(),
                smooth_frames: 3,
                trial_frames: 100,
            };
            failures += usize::from(calibrate(&input, &calibration_config, &mut workspace, &mut calibration).is_err());
            decoder.begin(calibration.range_low);
            feedback.set_range(calibration.threshold, calibration.range_low);
            task.begin_trials();
        }
        let valid = frame % 17 != 3;
        let values = activity.step(&row, &row, valid);
        let decoded = decoder.step(values.dff, values.z, values.valid, valid);
        let rotation_deg = feedback.rotation_deg(decoded.cursor);
        task.step(TaskInput { valid: decoded.valid, rotation_deg, step: feedback.step(decoded.cursor) });
        if frame % 1000 == 999 {
            task.missed(3);
            bytes.clear();
            let saved: Result<(), StateError> = activity.save(&mut bytes);
            failures +=
                usize::from(saved.is_err() || decoder.save(&mut bytes).is_err() || task.save(&mut bytes).is_err());
        }
    }
    let taken = allocations() - before;
    assert!(before > 0, "the counter counts");
    assert_eq!((taken, failures), (0, 0));
    let counts = task.counts();
    assert!(counts.hits > 0 && counts.aversives + counts.misses > 0, "{counts:?}");
}
