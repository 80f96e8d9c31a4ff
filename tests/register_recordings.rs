//! Registration on recorded movies: most frames are good, and the motion found is that of quiet tissue.

mod outside;

use std::fs::File;

use apical::config::register::RegisterConfig;
use apical::frame::{FrameView, Geometry};
use apical::register::{FitVerdict, Registration, Rigid};
use outside::real;
use tiff::decoder::{Decoder, DecodingResult};

/// The frames of a 16-bit recording of the shared data, or `None` where it is missing.
fn recording(name: &str) -> Option<(Geometry, Vec<Vec<u16>>)> {
    let file = File::open(real(name)?).expect("it opens");
    let mut decoder = Decoder::new(file).expect("a TIFF file");
    let (width, height) = decoder.dimensions().expect("dimensions");
    let mut frames = Vec::new();
    loop {
        match decoder.read_image().expect("a page") {
            DecodingResult::U16(samples) => frames.push(samples),
            // canonical samples: the value raised by 32,768
            DecodingResult::I16(values) => frames.push(values.iter().map(|&v| (v as u16) ^ 0x8000).collect()),
            _ => panic!("{name}: expected 16-bit pixels"),
        }
        if !decoder.more_images() {
            return Some((Geometry::new(height as usize, width as usize), frames));
        }
        decoder.next_image().expect("the next page");
    }
}

/// Registers a recording, the first `baseline` frames as baseline; returns what was said of the others.
fn register(geometry: Geometry, frames: &[Vec<u16>], baseline: usize) -> Vec<Registration> {
    let mut rigid = Rigid::new(&RegisterConfig { min_template_frames: 5, ..RegisterConfig::default() }, geometry);
    rigid.begin_baseline();
    let mut results = Vec::new();
    for (t, samples) in frames.iter().enumerate() {
        if t == baseline {
            rigid.freeze_template().expect("enough frames");
        }
        let r = rigid.step(&FrameView { geometry, samples, bias: 0, saturation: 65_535 });
        if t >= baseline {
            results.push(r);
        }
    }
    results
}

fn good(results: &[Registration]) -> usize {
    results.iter().filter(|r| r.verdict == FitVerdict::Good).count()
}

/// Standard deviations of the shifts, rows then columns.
fn spread(results: &[Registration]) -> (f64, f64) {
    let n = results.len() as f64;
    let deviation = |value: &dyn Fn(&Registration) -> f64| {
        let mean = results.iter().map(value).sum::<f64>() / n;
        (results.iter().map(|r| (value(r) - mean).powi(2)).sum::<f64>() / n).sqrt()
    };
    (deviation(&|r| r.dy_px), deviation(&|r| r.dx_px))
}

#[test]
fn most_frames_of_a_recording_with_little_motion_are_good() {
    let Some((geometry, frames)) = recording("neurofinder/crop_600x128x128_u16_deflate.tif") else { return };
    let results = register(geometry, &frames, 200);
    println!("{} of {} good, spread {:?}", good(&results), results.len(), spread(&results));
    assert!(good(&results) * 100 >= results.len() * 97);
    let (y, x) = spread(&results);
    assert!(y < 0.6 && x < 0.6, "{y} {x}");
}

#[test]
fn a_running_mouses_small_field_is_followed() {
    let Some((geometry, frames)) = recording("running_mouse_500x64x64_i16.tif") else { return };
    let results = register(geometry, &frames, 200);
    println!("{} of {} good, spread {:?}", good(&results), results.len(), spread(&results));
    assert!(good(&results) * 100 >= results.len() * 97);
}

#[test]
fn a_dim_recording_is_followed_from_a_template_of_few_frames() {
    let Some((geometry, frames)) = recording("sima_example_20x128x256_u16.tif") else { return };
    let results = register(geometry, &frames, 8);
    println!("{} of {} good, spread {:?}", good(&results), results.len(), spread(&results));
    assert_eq!(good(&results), results.len());
}
