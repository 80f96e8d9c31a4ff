//! The real-time thread allocates nothing after warm-up: 10,000 frames through rings, engine, limits, a simulated board
//! and records, with every stage on, a baseline, a calibration, trials, rewards and snapshots among them.

mod common;

use apical::config::sample::{SampleConfig, SampleMode};
use apical::engine::{Command, FrameItem, Overload, Realtime, RealtimeSettings, rings};
use apical::frame::{FrameView, Geometry};
use apical::sample::{Roi, RoiPixel, RoiSet, SampleBuffer, Sampler};
use common::counting::{Counting, count};
use common::{BASELINE_FRAMES, config, driver, frames};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn ten_thousand_frames_allocate_nothing() {
    for phase in ["\"off\"", "\"estimate\""] {
        ten_thousand_frames(1, &[&format!("register.bidirectional_phase={phase}")]);
    }
    ten_thousand_frames(1, &["register.piecewise=true", "register.blocks_y=4", "register.blocks_x=4"]);
    ten_thousand_frames(1, &["register.template_update_frames=700"]);
    ten_thousand_frames(2, &["stream.plane=[0, 1]", "register.z_step_um=10.0"]);
}

/// So many planes take turns.
fn ten_thousand_frames(planes: u64, more: &[&str]) {
    let deconvolution = ["activity.deconvolution=ar2", "activity.deconvolution_lag_frames=2"];
    let config = config(&[&["limits.min_interval_ms=10.0", deconvolution[0], deconvolution[1]], more].concat());
    let distinct = 600;
    let (rois, slots) = frames(&config, distinct);
    let driver = driver(&config, &rois);
    let engine = driver.engine();
    let (thread, mut service) = rings(engine.roi_count(), engine.segments(), engine.state_capacity(), 4);
    let settings = RealtimeSettings { overload: Overload::Every, gap_ns: 0, spin_ns: 0, snapshot_frames: 1_000 };
    let mut realtime = Realtime::new(driver, thread, settings, std::thread::current());
    let mut pool: Vec<Option<FrameItem>> =
        slots.into_iter().map(|slot| Some(FrameItem::Pixels(Box::new(slot)))).collect();
    let (mut rewards, mut snapshots, mut decided) = (0, 0, 0u64);
    service.commands.push((1, Command::StartBaseline)).expect("room");
    while realtime.turn() {}
    let before = count();
    for index in 0..10_000u64 {
        if index == planes * BASELINE_FRAMES {
            service.commands.push((2, Command::Calibrate)).expect("room");
            service.commands.push((3, Command::StartTask { accept_template: true })).expect("room");
            service.commands.push((4, Command::ChangeThreshold { threshold: 0.3, range_low: None })).expect("room");
        }
        let place = (index % distinct) as usize;
        let mut item = pool[place].take().expect("it came back");
        if let FrameItem::Pixels(slot) = &mut item {
            slot.meta.index = index / planes;
            slot.meta.plane = (index % planes) as u32;
            slot.meta.device_ns = index * 33_333_333;
        }
        assert!(service.frames.push(item).is_ok());
        while realtime.turn() {}
        pool[place] = Some(service.publisher.used_frames.pop().expect("the frame was taken").item);
        while let Ok(record) = service.publisher.records.pop() {
            decided += u64::from(record.decision.has_pixels);
            rewards += record.decision.intents.iter().filter(|i| i.width_us > 0).count();
            assert!(service.publisher.free_records.push(record).is_ok());
        }
        while let Ok(snapshot) = service.publisher.snapshots.pop() {
            snapshots += 1;
            assert!(service.publisher.free_snapshots.push(snapshot).is_ok());
        }
    }
    let taken = count() - before;
    assert_eq!(decided, 10_000);
    assert!(rewards > 10 && snapshots >= 10, "{rewards} rewards, {snapshots} snapshots: the test saw too little");
    assert_eq!(taken, 0, "the frame loop allocated or freed memory");
}

#[test]
fn demixing_allocates_nothing_also_at_the_border() {
    let disc = |row: u32, col: u32| {
        let near = (row - 5..row + 6).flat_map(|r| (col - 5..col + 6).map(move |c| (r, c)));
        near.map(|(r, c)| RoiPixel { row: r, col: c, weight: (1 + r % 3) as f32 }).collect()
    };
    let roi = |(id, pixels)| Roi { id, name: String::new(), plane: 0, radius_told_px: None, pixels };
    let rois: Vec<Roi> = (0..8).map(|k| (k, disc(8 + 6 * k, 8 + 5 * k))).map(roi).collect();
    let geometry = Geometry::new(64, 64);
    let set = RoiSet { geometry, rois, ..RoiSet::default() };
    let config = SampleConfig { mode: SampleMode::Demix, ..SampleConfig::default() };
    let mut sampler = Sampler::new(&config, &set).expect("a sampler");
    sampler.keep_lines_apart();
    let mut out = SampleBuffer::new(8);
    let mut samples: Vec<u16> = (0..64 * 64_u32).map(|k| (k * 7_919 % 1_009) as u16).collect();
    let before = count();
    for frame in 0..400_u16 {
        samples[usize::from(frame)] += frame;
        let view = FrameView { geometry, samples: &samples, bias: 0, saturation: 65_535 };
        let px = f64::from(frame) / 10.0 - 20.0;
        sampler.step_lines(&view, (px, -px / 3.0), 0.4, &mut out);
    }
    assert_eq!(count() - before, 0);
    assert!(out.f[0].is_finite() && out.outside_pixels.iter().any(|&outside| outside > 0), "{out:?}");
}
