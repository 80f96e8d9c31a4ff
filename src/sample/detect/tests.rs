//! The detector on small movies that are made here.

use super::*;

const SIZE: usize = 72;
const FRAMES: usize = 300;

/// Noise from -1 to 1 that is always the same.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}

/// A disc: row, column, radius in pixels, and the frames at which its transients begin.
type Cell = (f32, f32, f32, Vec<usize>);

fn brightness(cell: &Cell, at: usize, frame: usize) -> f32 {
    let (row, col) = ((at / SIZE) as f32, (at % SIZE) as f32);
    if (row - cell.0).powi(2) + (col - cell.1).powi(2) > cell.2.powi(2) {
        return 0.0;
    }
    let since = cell.3.iter().filter(|&&begin| begin <= frame).max().map(|begin| (frame - begin) as f32);
    since.map_or(0.0, |frames| 60.0 * (1.0 - frames / 15.0).max(0.0))
}

fn detect(cells: &[Cell], noise: f32, config: &DetectConfig) -> Detection {
    let mut detector = Detector::new(config, Geometry::new(SIZE, SIZE)).unwrap();
    let mut random = Noise(7);
    for t in 0..FRAMES {
        let light = |at: usize| 100.0 + cells.iter().map(|cell| brightness(cell, at, t)).sum::<f32>();
        let frame: Vec<f32> = (0..SIZE * SIZE).map(|at| light(at) + noise * random.next()).collect();
        detector.add(&frame, 0..SIZE, 0..SIZE).unwrap();
    }
    detector.finish().unwrap()
}

fn cells() -> Vec<Cell> {
    vec![
        (15.0, 18.0, 4.0, vec![30, 150]),
        // two that overlap and take turns
        (45.0, 40.0, 4.5, vec![60, 210]),
        (45.0, 47.0, 4.5, vec![100, 255]),
        (60.0, 12.0, 5.0, vec![20, 120, 240]),
    ]
}

fn found_near(found: &Detection, cell: &Cell) -> Vec<usize> {
    let geometry = Geometry::new(SIZE, SIZE);
    let as_found = |roi: &crate::sample::Roi| Found {
        pixels: roi.pixels.iter().map(|p| (p.row as usize * SIZE + p.col as usize, p.weight)).collect(),
        by: FoundBy::Activity,
        score: 0.0,
    };
    let centres = found.set.rois.iter().map(|roi| as_found(roi).centre(geometry));
    let near = centres
        .enumerate()
        .filter(|(_, (row, col))| (row - f64::from(cell.0)).powi(2) + (col - f64::from(cell.1)).powi(2) < 4.0);
    near.map(|(k, _)| k).collect()
}

#[test]
fn cells_that_brighten_are_found_where_they_are_and_overlapping_ones_apart() {
    let found = detect(&cells(), 30.0, &DetectConfig::default());
    for cell in &cells() {
        let near = found_near(&found, cell);
        assert_eq!(near.len(), 1, "at {} {}", cell.0, cell.1);
        let area = std::f32::consts::PI * cell.2 * cell.2;
        let pixels = found.set.rois[near[0]].pixels.len() as f32;
        assert!((0.5 * area..2.0 * area).contains(&pixels), "{pixels} pixels, expected some {area}");
    }
    assert_eq!(found.set.rois.len(), 4);
    assert!(found.set.check().is_ok());
    assert!(found.found_by.iter().all(|&by| by == FoundBy::Activity));
    let mean = found.set.reference.as_ref().unwrap();
    assert!((mean.values[5] - 100.0).abs() < 8.0, "{}", mean.values[5]);
}

#[test]
fn the_same_frames_give_the_same_rois() {
    let config = DetectConfig::default();
    let (a, b) = (detect(&cells(), 30.0, &config), detect(&cells(), 30.0, &config));
    assert_eq!((a.set, a.scores), (b.set, b.scores));
}

#[test]
fn noise_alone_and_a_blank_movie_have_no_cells() {
    assert_eq!(detect(&[], 30.0, &DetectConfig::default()).set.rois, []);
    assert_eq!(detect(&[], 0.0, &DetectConfig::default()).set.rois, []);
}

#[test]
fn regions_that_are_too_small_or_too_large_are_dropped() {
    let diameter_px = Some(8.5);
    let small = DetectConfig { diameter_px, max_area: 0.2, ..DetectConfig::default() };
    assert_eq!(detect(&cells(), 30.0, &small).set.rois, []);
    let large = DetectConfig { diameter_px, min_area: 1.0, max_area: 9.0, ..DetectConfig::default() };
    let found = detect(&cells(), 30.0, &large);
    assert!(found.set.rois.iter().all(|roi| roi.pixels.len() >= 57));
}

#[test]
fn one_frame_is_too_few() {
    let mut detector = Detector::new(&DetectConfig::default(), Geometry::new(4, 4)).unwrap();
    detector.add(&[1.0; 16], 0..4, 0..4).unwrap();
    let error = detector.finish().unwrap_err();
    assert_eq!(error, DetectError::TooFewFrames { frames: 1 });
    assert_eq!(error.to_string(), "the recording has 1 usable frames, expected at least 20 to find cells in");
}

#[test]
fn a_frame_of_another_size_or_with_no_number_is_refused() {
    let mut detector = Detector::new(&DetectConfig::default(), Geometry::new(4, 4)).unwrap();
    assert_eq!(detector.add(&[1.0; 15], 0..4, 0..4), Err(DetectError::FrameSize { got: 15, expected: 16 }));
    assert!(matches!(detector.add(&[f32::NAN; 16], 0..4, 0..4), Err(DetectError::NotFinite { .. })));
    // nothing of it was recorded
    assert_eq!(detector.add(&[1.0; 16], 4..4, 0..4), Ok(()));
    assert_eq!(detector.finish().unwrap_err(), DetectError::TooFewFrames { frames: 0 });
}

#[test]
fn a_frame_smaller_than_a_cell_has_none() {
    for (height, width) in [(1, 1), (1, 9), (7, 3)] {
        let mut detector = Detector::new(&DetectConfig::default(), Geometry::new(height, width)).unwrap();
        let mut random = Noise(3);
        for _ in 0..40 {
            let frame: Vec<f32> = (0..height * width).map(|_| random.next()).collect();
            detector.add(&frame, 0..height, 0..width).unwrap();
        }
        assert_eq!(detector.finish().unwrap().set.rois, []);
    }
}

#[test]
fn every_parameter_out_of_range_is_named_at_once() {
    let config = DetectConfig {
        diameter_px: Some(f64::NAN),
        min_energy: 0.0,
        max_false: 2.0,
        same_cell_correlation: -1.0,
        max_unlikeness: 11.0,
        max_silent: -1.0,
        min_area: 0.5,
        max_area: 0.5,
        transient_frames: 500,
        high_pass_frames: 500,
        bins_max: 1,
    };
    let Err(DetectError::Config(violations)) = Detector::new(&config, Geometry::new(4, 4)).map(|_| ()) else {
        panic!("it was accepted");
    };
    let keys = ["diameter_px", "min_energy", "same_cell_correlation", "max_unlikeness", "bins_max", "high_pass_frames"];
    for key in keys.iter().chain(&["max_false", "max_silent", "max_area"]) {
        assert!(violations.iter().any(|v| v.starts_with(&format!("detect.{key}: "))), "{key}: {violations:?}");
    }
    let mut none = Vec::new();
    DetectConfig::default().validate("detect", &mut none);
    assert_eq!(none, Vec::<String>::new());
}
