//! Annuli and F against suite2p's own extraction (`tests/reference/suite2p_reference.py`): ROIs that overlap, crowd and
//! touch the edges.

use apical::config::sample::{Overlap, SampleConfig};
use apical::frame::{FrameView, Geometry};
use apical::sample::{ReferenceKind, Roi, RoiPixel, RoiSet, SampleBuffer, Sampler};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    height_px: usize,
    width_px: usize,
    frames: usize,
    rois: Vec<Cell>,
    annuli: Vec<Annuli>,
    f: Vec<Traces>,
}

#[derive(Deserialize)]
struct Cell {
    radius_px: f64,
    pixels: Vec<(u32, u32, f32)>,
}

#[derive(Deserialize)]
struct Annuli {
    inner_px: u32,
    min_pixels: u32,
    weight_percentile: f64,
    /// First pixel and length, row after row, for each ROI.
    runs: Vec<Vec<(u32, u32)>>,
}

#[derive(Deserialize)]
struct Traces {
    overlap: Overlap,
    /// ROIs x frames.
    f: Vec<Vec<f64>>,
    neuropil: Vec<Vec<f64>>,
}

fn fixture() -> (Fixture, RoiSet) {
    let fixture: Fixture = serde_json::from_str(include_str!("reference/suite2p.json")).expect("the fixture");
    let pixel = |&(row, col, weight): &(u32, u32, f32)| RoiPixel { row, col, weight };
    let roi = |(id, cell): (u32, &Cell)| Roi {
        id,
        name: id.to_string(),
        plane: 0,
        pixels: cell.pixels.iter().map(pixel).collect(),
        radius_told_px: Some(cell.radius_px),
    };
    let set = RoiSet {
        geometry: Geometry::new(fixture.height_px, fixture.width_px),
        rois: (0..).zip(&fixture.rois).map(roi).collect(),
        reference_kind: ReferenceKind::None,
        ..RoiSet::default()
    };
    (fixture, set)
}

#[test]
fn annuli_are_those_of_suite2p_pixel_for_pixel() {
    let (fixture, set) = fixture();
    assert!(fixture.rois.len() >= 20 && fixture.annuli.len() >= 5);
    for annuli in &fixture.annuli {
        let config = SampleConfig {
            neuropil_inner_px: annuli.inner_px,
            neuropil_min_pixels: annuli.min_pixels,
            neuropil_weight_percentile: annuli.weight_percentile,
            ..SampleConfig::default()
        };
        let sampler = Sampler::new(&config, &set).expect("a sampler");
        for (k, runs) in annuli.runs.iter().enumerate() {
            let expected: Vec<u32> = runs.iter().flat_map(|&(first, length)| first..first + length).collect();
            let got: Vec<u32> =
                sampler.annulus_pixels(k).map(|(row, col)| row * fixture.width_px as u32 + col).collect();
            let (inner, least, percentile) = (annuli.inner_px, annuli.min_pixels, annuli.weight_percentile);
            assert!(got == expected, "ROI {k}, {inner} px, {least} pixels, {percentile} %: {} pixels", got.len());
        }
    }
}

#[test]
fn f_and_neuropil_are_those_of_suite2p() {
    let (fixture, set) = fixture();
    let (height, width) = (fixture.height_px, fixture.width_px);
    let mut largest = 0.0_f64;
    for traces in &fixture.f {
        let config = SampleConfig { overlap: traces.overlap, ..SampleConfig::default() };
        let mut sampler = Sampler::new(&config, &set).expect("a sampler");
        let mut out = SampleBuffer::new(set.rois.len());
        for t in 0..fixture.frames {
            let value = |at: usize| {
                let (y, x) = (at / width, at % width);
                ((y * 131 + x * 71 + y * x * 17 + t * 977) * (t + 3) % 4001) as u16
            };
            let samples: Vec<u16> = (0..height * width).map(value).collect();
            let frame = FrameView { geometry: set.geometry, samples: &samples, bias: 0, saturation: u16::MAX };
            sampler.step(&frame, 0.0, 0.0, &mut out);
            for k in 0..set.rois.len() {
                for (got, expected) in [(out.f[k], traces.f[k][t]), (out.f_neuropil[k], traces.neuropil[k][t])] {
                    let error = (got - expected).abs() / expected;
                    assert!(error <= 1e-5, "ROI {k}, frame {t}, {:?}: {got}, expected {expected}", traces.overlap);
                    largest = largest.max(error);
                }
            }
        }
    }
    println!("largest relative difference from suite2p: {largest:.1e}");
}
