//! `Engine::step` on 512 x 512 uint16 with 10 and with 200 ROIs, every stage on, frames back to back:
//! `cargo bench --bench engine`. The first row reads one frame from memory: the floor of every pass over it.

use apical::config::{RigConfig, load_text};
use apical::engine::{Command, Engine, Input, StreamShape};
use apical::frame::{FrameAssembly, FrameMeta, FrameSlot, Geometry, PixelType, StripMeta};
use apical::sample::{ReferenceKind, Roi, RoiPixel, RoiSet};
use apical::source::SyntheticSource;
use divan::Bencher;

const FRAMES: usize = 64;

fn main() {
    divan::main();
}

fn config(cells: usize, deconvolution: &str) -> RigConfig {
    let ids: Vec<usize> = (0..10).collect();
    let set = [
        format!("synthetic.anatomy.cells={cells}"),
        "synthetic.anatomy.margin_px=2.0".to_owned(),
        format!("ensembles.plus={:?}", &ids[..5]),
        format!("ensembles.minus={:?}", &ids[5..]),
        "task.trial_frames=750".to_owned(),
        "baseline.frames=220".to_owned(),
        format!("activity.deconvolution={deconvolution}"),
    ];
    load_text("", &set).expect("a valid configuration")
}

fn slots(source: &mut SyntheticSource, count: usize) -> Vec<FrameSlot> {
    let geometry = source.header().geometry;
    let mut assembly = FrameAssembly::new(geometry, PixelType::U16, false);
    let mut bytes = Vec::new();
    let fill = |_| {
        let recorded = source.next(&mut bytes);
        let mut slot = FrameSlot::new(geometry, PixelType::U16);
        let frame = FrameMeta { index: recorded.index, ..FrameMeta::default() };
        assert_eq!(assembly.add(&StripMeta::whole(frame), &bytes, &mut slot), Ok(true));
        slot
    };
    (0..count).map(fill).collect()
}

#[divan::bench]
fn read_one_frame_from_memory(bencher: Bencher) {
    let frames: Vec<Vec<u16>> = (0..FRAMES).map(|k| vec![k as u16; 512 * 512]).collect();
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % FRAMES;
        frames[next].iter().fold(0u16, |sum, &sample| sum.wrapping_add(sample))
    });
}

#[divan::bench(args = [(10, "off"), (200, "off"), (200, "ar1")], sample_count = 500)]
fn step_512x512(bencher: Bencher, (rois, deconvolution): (usize, &str)) {
    let config = config(rois, deconvolution);
    let mut source = SyntheticSource::new(&config.synthetic).expect("an animal");
    let set = RoiSet {
        geometry: Geometry::new(512, 512),
        rois: source
            .rois()
            .iter()
            .zip(0..)
            .map(|(mask, id)| Roi {
                id,
                name: String::new(),
                plane: 0,
                radius_told_px: None,
                pixels: mask.pixels.iter().map(|&(row, col, weight)| RoiPixel { row, col, weight }).collect(),
            })
            .collect(),
        reference: Some(source.reference()),
        reference_kind: ReferenceKind::Given,
        templates: Vec::new(),
        z_stack: Vec::new(),
        source: String::new(),
    };
    let shape = StreamShape::Pixels {
        geometry: Geometry::new(512, 512),
        pixel_type: PixelType::U16,
        detector_offset_counts: None,
    };
    let mut engine = Engine::new(&config, &set, &shape, 0).expect("an engine");
    engine.step(&Input::Command(&Command::StartBaseline));
    let baseline = slots(&mut source, 220);
    for slot in &baseline {
        engine.step(&Input::Frame(slot));
    }
    engine.step(&Input::Command(&Command::Calibrate));
    engine.step(&Input::Command(&Command::StartTask { accept_template: true }));
    let mut frames = slots(&mut source, FRAMES);
    let mut index = 220;
    bencher.bench_local(|| {
        let slot = &mut frames[(index % FRAMES as u64) as usize];
        slot.meta.index = index;
        index += 1;
        engine.step(&Input::Frame(slot)).decision.cursor
    });
}
