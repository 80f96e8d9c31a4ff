//! Tests of demixing: against a textbook solver pixel by pixel, against known traces, and what must not matter.

use crate::config::sample::{SampleConfig, SampleMode};
use crate::frame::{FrameView, Geometry};
use crate::sample::rois::RawRoi;
use crate::sample::{RoiSet, SampleBuffer, Sampler};
use proptest::prelude::*;

const HEIGHT: usize = 60;
const WIDTH: usize = 72;

/// Numbers that look random and are the same everywhere, 0 to below 1.
fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A disc of radius `radius` px with weights that fall towards its edge.
fn disc(row: f64, col: f64, radius: f64) -> RawRoi {
    let mut pixels = Vec::new();
    for r in 0..HEIGHT as i64 {
        for c in 0..WIDTH as i64 {
            let distance = ((r as f64 - row).powi(2) + (c as f64 - col).powi(2)).sqrt();
            if distance < radius {
                pixels.push((r, c, (1.2 - distance / radius) as f32));
            }
        }
    }
    RawRoi { pixels, ..RawRoi::default() }
}

fn set_of(raw: Vec<RawRoi>) -> RoiSet {
    RoiSet::from_raw(Geometry::new(HEIGHT, WIDTH), raw, None, "discs".into()).unwrap()
}

fn discs(seed: u64, count: usize) -> RoiSet {
    let mut next = uniform(seed);
    let mut disc = |_| {
        let (row, col) = (next() * HEIGHT as f64, next() * WIDTH as f64);
        disc(row, col, 3.0 + 4.0 * next())
    };
    set_of((0..count).map(&mut disc).filter(|raw| !raw.pixels.is_empty()).collect())
}

fn config(mode: SampleMode) -> SampleConfig {
    SampleConfig { mode, neuropil_min_pixels: 80, ..SampleConfig::default() }
}

fn sampler(mode: SampleMode, set: &RoiSet) -> Sampler {
    Sampler::new(&config(mode), set).unwrap()
}

fn view(samples: &[u16]) -> FrameView<'_> {
    FrameView { geometry: Geometry::new(HEIGHT, WIDTH), samples, bias: 0, saturation: 65_535 }
}

fn sampled(sampler: &mut Sampler, samples: &[u16], shift: (f64, f64)) -> SampleBuffer {
    let mut out = SampleBuffer::new(sampler.roi_count());
    sampler.step(&view(samples), shift.0, shift.1, &mut out);
    out
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A frame of cells with these amplitudes on a background, and noise.
fn frame(set: &RoiSet, amplitudes: &[f64], background: f64, noise: f64, seed: u64) -> Vec<u16> {
    let mut clean = vec![background; HEIGHT * WIDTH];
    for (roi, amplitude) in set.rois.iter().zip(amplitudes) {
        for p in &roi.pixels {
            clean[p.row as usize * WIDTH + p.col as usize] += amplitude * f64::from(p.weight);
        }
    }
    let mut next = uniform(seed);
    clean
        .iter()
        .map(|v| (v + noise * (next() + next() + next() - 1.5) * 2.0).round().clamp(0.0, 65_535.0) as u16)
        .collect()
}

/// Groups of cells that share a pixel, by trying all pairs.
fn groups(set: &RoiSet) -> Vec<Vec<usize>> {
    let count = set.rois.len();
    let share = |a: usize, b: usize| {
        set.rois[a].pixels.iter().any(|p| set.rois[b].pixels.iter().any(|q| (p.row, p.col) == (q.row, q.col)))
    };
    let mut label: Vec<usize> = (0..count).collect();
    for a in 0..count {
        for b in 0..a {
            if share(a, b) {
                let (from, into) = (label[a], label[b]);
                label.iter_mut().filter(|l| **l == from).for_each(|l| *l = into);
            }
        }
    }
    let of = |l: usize| (0..count).filter(|&k| label[k] == l).collect::<Vec<_>>();
    (0..count).map(of).filter(|group| !group.is_empty()).collect()
}

/// F of a group by the definition: the frame read bilinearly, every pixel an equation, coordinate descent to the end.
/// `None` where a mask cannot be told from the background.
fn textbook(set: &RoiSet, sampler: &Sampler, group: &[usize], samples: &[u16], shift: (f64, f64)) -> Option<Vec<f64>> {
    let mut pixels: Vec<(u32, u32)> = Vec::new();
    for &k in group {
        pixels.extend(set.rois[k].pixels.iter().map(|p| (p.row, p.col)));
        pixels.extend(sampler.annulus_pixels(k));
    }
    pixels.sort_unstable();
    pixels.dedup();
    let at = |y: f64, x: f64| f64::from(samples[y as usize * WIDTH + x as usize]);
    let read = |&(row, col): &(u32, u32)| {
        let (y, x) = (f64::from(row) + shift.0, f64::from(col) + shift.1);
        let inside = y >= 0.0 && x >= 0.0 && y <= (HEIGHT - 1) as f64 && x <= (WIDTH - 1) as f64;
        inside.then(|| {
            let (fy, fx) = (y - y.floor(), x - x.floor());
            (1.0 - fy) * ((1.0 - fx) * at(y.floor(), x.floor()) + fx * at(y.floor(), x.ceil()))
                + fy * ((1.0 - fx) * at(y.ceil(), x.floor()) + fx * at(y.ceil(), x.ceil()))
        })
    };
    let (kept, y): (Vec<(u32, u32)>, Vec<f64>) = pixels.iter().filter_map(|p| Some((*p, read(p)?))).unzip();
    let column = |&k: &usize| -> Vec<f64> {
        let roi = &set.rois[k];
        let heaviest = roi.pixels.iter().fold(0.0_f32, |most, p| most.max(p.weight));
        let weight = |at: &(u32, u32)| {
            let found = roi.pixels.iter().find(|p| (p.row, p.col) == *at);
            found.map_or(0.0, |p| (f64::from(p.weight / heaviest) * 32_767.0).round() / 32_767.0)
        };
        kept.iter().map(weight).collect()
    };
    let columns: Vec<Vec<f64>> = group.iter().map(column).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let sum = |a: &[f64]| a.iter().sum::<f64>();
    let n = kept.len() as f64;
    if columns.iter().any(|c| dot(c, c) - sum(c).powi(2) / n < 0.02 * dot(c, c)) {
        return None;
    }
    let mut a = vec![0.0; group.len()];
    let mut b = sum(&y) / n;
    let mut residual: Vec<f64> = y.iter().map(|v| v - b).collect();
    for _ in 0..20_000 {
        let mut moved = 0.0_f64;
        for (a, column) in a.iter_mut().zip(&columns) {
            let step = (*a + dot(column, &residual) / dot(column, column)).max(0.0) - *a;
            residual.iter_mut().zip(column).for_each(|(r, c)| *r -= step * c);
            *a += step;
            moved = moved.max(step.abs());
        }
        let step = sum(&residual) / n;
        residual.iter_mut().for_each(|r| *r -= step);
        b += step;
        if moved.max(step.abs()) < 1e-9 {
            break;
        }
    }
    Some(columns.iter().zip(&a).map(|(c, a)| b + a * dot(c, c) / sum(c)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn f_is_what_the_textbook_gives_pixel_by_pixel(
        seed in 0_u64..1_000_000, count in 2_usize..9, dy in -9.0_f64..9.0, dx in -9.0_f64..9.0, still: bool,
    ) {
        let set = discs(seed, count);
        let mut demixed = sampler(SampleMode::Demix, &set);
        let mut next = uniform(seed + 1);
        let amplitudes: Vec<f64> = set.rois.iter().map(|_| (1_500.0 * next() - 400.0).max(0.0)).collect();
        let samples = frame(&set, &amplitudes, 900.0, 200.0, seed + 2);
        let steps = |px: f64| if still { 0.0 } else { (px * 256.0).round() / 256.0 };
        let shift = (steps(dy), steps(dx));
        let out = sampled(&mut demixed, &samples, shift);
        let means = sampled(&mut sampler(SampleMode::Weighted, &set), &samples, shift);
        for group in groups(&set) {
            if group.len() == 1 {
                prop_assert_eq!(out.f[group[0]].to_bits(), means.f[group[0]].to_bits());
            } else if let Some(expected) = textbook(&set, &demixed, &group, &samples, shift) {
                for (&k, expected) in group.iter().zip(expected) {
                    let tolerance = 0.02 + 1e-4 * expected.abs();
                    let same = (out.f[k] - expected).abs() < tolerance || (out.f[k].is_nan() && expected.is_nan());
                    prop_assert!(same, "{} {expected} {}", out.f[k], means.f[k]);
                }
            }
        }
        prop_assert_eq!(bits(&out.f_neuropil), bits(&means.f_neuropil));
        prop_assert_eq!((out.saturated_pixels, out.outside_pixels), (means.saturated_pixels, means.outside_pixels));
    }

    #[test]
    fn neither_strips_nor_earlier_frames_nor_the_order_of_the_rois_show(
        seed in 0_u64..1_000_000, dy in -12.0_f64..12.0, dx in -12.0_f64..12.0, odd in -2.0_f64..2.0,
        cut in 1_usize..HEIGHT, turn in 1_usize..11,
    ) {
        let set = discs(seed, 12);
        let count = set.rois.len();
        let dark = frame(&set, &vec![0.0; count], 500.0, 300.0, seed);
        let mut next = uniform(seed);
        let amplitudes: Vec<f64> = (0..count).map(|_| 900.0 * next()).collect();
        let samples = frame(&set, &amplitudes, 500.0, 300.0, seed + 9);
        let lines = |sampler: &mut Sampler, samples: &[u16], rows: &[std::ops::Range<usize>]| {
            let mut out = SampleBuffer::new(sampler.roi_count());
            sampler.start_lines((dy, dx), odd);
            rows.iter().for_each(|rows| sampler.accumulate(&view(samples), rows.clone()));
            sampler.finish(0, &mut out);
            bits(&out.f)
        };
        let mut one = sampler(SampleMode::Demix, &set);
        one.keep_lines_apart();
        let expected = lines(&mut one, &samples, std::slice::from_ref(&(0..HEIGHT)));
        let mut used = sampler(SampleMode::Demix, &set);
        used.keep_lines_apart();
        sampled(&mut used, &samples, (0.0, 0.0));
        sampled(&mut used, &dark, (dx, dy));
        prop_assert_eq!(&lines(&mut used, &samples, &[cut..HEIGHT, 0..cut]), &expected);
        let ids: Vec<u32> = (0..count as u32).map(|k| (k + turn as u32) % count as u32).collect();
        let mut turned = set.clone();
        turned.rois.rotate_left(turn % count);
        turned.rois.iter_mut().zip(0..).for_each(|(roi, id)| roi.id = id);
        let mut chosen = Sampler::with_ids(&config(SampleMode::Demix), &set, &ids).unwrap();
        for other in [&mut sampler(SampleMode::Demix, &turned), &mut chosen] {
            other.keep_lines_apart();
            let mut back = lines(other, &samples, &[0..cut, cut..HEIGHT]);
            back.rotate_right(turn % count);
            prop_assert_eq!(&back, &expected);
        }
    }

    #[test]
    fn f_scales_with_the_gain_and_moves_with_the_offset(seed in 0_u64..1_000_000, offset in 0_u16..2_000) {
        let set = discs(seed, 9);
        let samples = frame(&set, &[400.0; 9], 800.0, 200.0, seed);
        let other: Vec<u16> = samples.iter().map(|v| 5 * v + offset).collect();
        let mut demixed = sampler(SampleMode::Demix, &set);
        let (a, b) = (sampled(&mut demixed, &samples, (0.3, 0.6)), sampled(&mut demixed, &other, (0.3, 0.6)));
        for (a, b) in a.f.iter().zip(&b.f) {
            let expected = 5.0 * a + f64::from(offset);
            prop_assert!((b - expected).abs() < 1e-6 * expected, "{b} {expected}");
        }
    }
}

/// Pearson's correlation.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(&a, &b)| f(a - ma, b - mb)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

/// Calcium of one cell: rare events that decay over 12 frames.
fn calcium(seed: u64, frames: usize) -> Vec<f64> {
    let (mut next, mut c) = (uniform(seed), 0.0);
    (0..frames)
        .map(|_| {
            c = 0.92 * c + if next() < 0.02 { 0.5 + next() } else { 0.0 };
            c
        })
        .collect()
}

#[test]
fn overlapping_cells_with_known_traces_are_told_apart() {
    let frames = 600;
    // a chain of three whose masks share a third to a half of their pixels, and a pair of which one is not sampled
    let set = set_of(vec![
        disc(20.0, 20.0, 6.5),
        disc(20.0, 26.5, 6.5),
        disc(26.0, 24.0, 6.5),
        disc(42.0, 48.0, 6.5),
        disc(42.0, 54.0, 6.5),
        disc(12.0, 58.0, 6.5),
    ]);
    let traces: Vec<Vec<f64>> = (0..6).map(|k| calcium(100 + k, frames)).collect();
    let ids = [0, 1, 2, 3, 5];
    let demix = config(SampleMode::Demix);
    let mut demixed = Sampler::with_ids(&demix, &set, &ids).unwrap();
    let mut weighted = Sampler::with_ids(&config(SampleMode::Weighted), &set, &ids).unwrap();
    let mut found = [vec![Vec::new(); 5], vec![Vec::new(); 5]];
    for t in 0..frames {
        let amplitudes: Vec<f64> = traces.iter().map(|trace| 300.0 * (1.0 + trace[t])).collect();
        let background = 600.0 + 60.0 * (t as f64 / 40.0).sin();
        let samples = frame(&set, &amplitudes, background, 60.0, 7_000 + t as u64);
        for (sampler, found) in [&mut demixed, &mut weighted].into_iter().zip(&mut found) {
            let out = sampled(sampler, &samples, (0.0, 0.0));
            let above = out.f.iter().zip(&out.f_neuropil).map(|(f, neuropil)| f - neuropil);
            found.iter_mut().zip(above).for_each(|(trace, f)| trace.push(f));
        }
    }
    for (k, &id) in ids.iter().enumerate() {
        let [demixed, weighted] = [0, 1].map(|mode| correlation(&found[mode][k], &traces[id as usize]));
        let alien = |mode: usize| {
            let others = (0..6).filter(|&other| other != id as usize);
            // chance correlates the truths a little as well
            let by = |trace: &[f64], other: usize| correlation(trace, &traces[other]);
            others.map(|o| (by(&found[mode][k], o) - by(&traces[id as usize], o)).abs()).fold(0.0, f64::max)
        };
        let told = format!("cell {id}: {demixed} demixed, {weighted} weighted; of others {}, {}", alien(0), alien(1));
        assert!(demixed > 0.98, "{told}");
        if id == 5 {
            assert_eq!(bits(&found[0][k]), bits(&found[1][k]), "it overlaps none");
        } else {
            assert!(weighted < demixed - 0.02 && alien(0) < 0.03 && alien(1) > 0.2, "{told}");
        }
    }
}

#[test]
fn f_of_a_cell_is_its_weighted_mean_when_it_shines_alone() {
    let set = set_of(vec![disc(20.0, 20.0, 6.0), disc(20.0, 25.0, 6.0), disc(25.0, 22.0, 6.0)]);
    let mut demixed = sampler(SampleMode::Demix, &set);
    let mut weighted = sampler(SampleMode::Weighted, &set);
    let together = sampled(&mut demixed, &frame(&set, &[4_000.0, 2_000.0, 1_000.0], 700.0, 0.0, 1), (0.0, 0.0));
    for k in 0..3 {
        let mut alone = [0.0; 3];
        alone[k] = [4_000.0, 2_000.0, 1_000.0][k];
        let samples = frame(&set, &alone, 700.0, 0.0, 1);
        let expected = sampled(&mut weighted, &samples, (0.0, 0.0)).f[k];
        assert!((together.f[k] - expected).abs() < 0.5, "{} {expected}", together.f[k]);
        let dark = sampled(&mut demixed, &samples, (0.0, 0.0));
        for other in (0..3).filter(|&other| other != k) {
            assert!((dark.f[other] - 700.0).abs() < 0.5, "a dark cell has the background: {}", dark.f[other]);
        }
    }
}

#[test]
fn cells_with_the_same_mask_are_one_cell() {
    let (a, b) = (disc(20.0, 20.0, 6.0), disc(20.0, 25.0, 6.0));
    let twice = set_of(vec![a.clone(), b.clone(), a.clone()]);
    let once = set_of(vec![a, b]);
    let samples = frame(&once, &[900.0, 500.0], 400.0, 80.0, 3);
    let found = sampled(&mut sampler(SampleMode::Demix, &twice), &samples, (0.2, 0.4)).f;
    let expected = sampled(&mut sampler(SampleMode::Demix, &once), &samples, (0.2, 0.4)).f;
    assert_eq!(bits(&found), bits(&[expected[0], expected[1], expected[0]]));
}

#[test]
fn a_group_partly_or_wholly_outside_is_solved_with_what_remains_or_is_nan() {
    let set = set_of(vec![disc(6.0, 20.0, 6.0), disc(12.0, 20.0, 6.0)]);
    let mut demixed = sampler(SampleMode::Demix, &set);
    // the content moved up by 9 rows: of the first cell little is left, of the second most
    let still = frame(&set, &[800.0, 1_200.0], 500.0, 0.0, 1);
    let expected = sampled(&mut demixed, &still, (0.0, 0.0)).f;
    let moved = [&still[9 * WIDTH..], &vec![500; 9 * WIDTH]].concat();
    let out = sampled(&mut demixed, &moved, (-9.0, 0.0));
    assert!(out.outside_pixels[0] > 60 && out.outside_pixels[1] > 10, "{:?}", out.outside_pixels);
    // what is left of a mask has another mean weight, so F is compared through the amplitude
    let background = |f: f64| f - 500.0;
    assert!((background(out.f[1]) / background(expected[1]) - 1.0).abs() < 0.2, "{out:?} {expected:?}");
    let gone = sampled(&mut demixed, &still, (-14.0, 0.0));
    assert!(gone.f[0].is_nan() && gone.f[1].is_finite(), "{gone:?}");
    let nothing = sampled(&mut demixed, &still, (-70.0, 0.0));
    assert!(nothing.f.iter().all(|f| f.is_nan()));
}

#[test]
fn the_boxes_hold_everything_that_is_read() {
    let set = discs(11, 24);
    let mut some = Sampler::with_ids(&config(SampleMode::Demix), &set, &[2, 5]).unwrap();
    let samples = frame(&set, &[700.0; 24], 500.0, 90.0, 4);
    let mut boxed = vec![0; samples.len()];
    for area in some.boxes() {
        for row in area.rows.clone() {
            let line = row as usize * WIDTH + area.cols.start as usize..row as usize * WIDTH + area.cols.end as usize;
            boxed[line.clone()].copy_from_slice(&samples[line]);
        }
    }
    assert!(boxed != samples && some.group_sizes().iter().any(|&size| size > 1), "{:?}", some.group_sizes());
    let expected = bits(&sampled(&mut some, &samples, (0.0, 0.0)).f);
    assert_eq!(bits(&sampled(&mut some, &boxed, (0.0, 0.0)).f), expected);
}

#[test]
fn a_chain_of_cells_is_cut_where_it_overlaps_least() {
    let sides: Vec<RawRoi> = (0..40_i64)
        .map(|k| {
            // neighbours share one pixel of three, but for the 25th and the 26th, which share a faint one
            let faint = if k == 25 { 0.1 } else { 1.0 };
            let pixels = [(2, 2 * k, faint), (3, 2 * k, 1.0), (2, (2 * k + 2).min(71), 1.0)];
            RawRoi { pixels: pixels.into_iter().filter(|p| p.1 < 71).collect(), ..RawRoi::default() }
        })
        .filter(|raw| !raw.pixels.is_empty())
        .collect();
    let set = set_of(sides);
    let sampler = sampler(SampleMode::Demix, &set);
    let sizes = sampler.group_sizes();
    assert_eq!(sizes.iter().sum::<usize>(), set.rois.len(), "{sizes:?}");
    assert!(sizes.len() == 2 && sizes.iter().all(|&size| size <= 32) && sizes.contains(&25), "{sizes:?}");
}
