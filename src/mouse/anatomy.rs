//! What can be seen: a soft neuropil, dark vessels, and somata that are rings or discs.
//!
//! Out: light of each pixel relative to the mean background, on a field of view that is larger than the frame by a
//! margin on every side, so that brain motion brings in tissue and not an edge. Invented, not recorded: random
//! lattices of four spacings, interpolated smoothly. Built once, at the start.

use super::seeded::Draws;
use crate::config::synthetic::AnatomyConfig;
use crate::frame::Geometry;

/// Spacing of the lattices in pixels, and how much light each may add or take, relative.
const LATTICES: [(usize, f64); 4] = [(3, 0.14), (7, 0.15), (19, 0.14), (53, 0.16)];
/// Share of the background's light that a soma displaces.
const DISPLACED: f32 = 0.7;
const ATTEMPTS: usize = 20_000;

/// One soma: its pixels in the wide field of view.
#[derive(Debug, Clone)]
pub(super) struct Soma {
    /// Index into the wide field, weight with the brightest at 1.
    pub pixels: Vec<(usize, f32)>,
}

#[derive(Debug, Clone)]
pub(super) struct Anatomy {
    /// The field of view with its margin.
    pub wide: Geometry,
    /// Light that does not fluctuate; mean of `still + neuropil` over the frame without somata is 1.
    pub still: Vec<f32>,
    /// Light that follows the common fluctuation.
    pub neuropil: Vec<f32>,
    pub somata: Vec<Soma>,
}

impl Anatomy {
    /// `Err` holds how many cells found room.
    pub fn new(config: &AnatomyConfig, frame: Geometry, margin_px: usize, draws: &mut Draws) -> Result<Self, usize> {
        let wide = Geometry::new(frame.height_px + 2 * margin_px, frame.width_px + 2 * margin_px);
        let mut light = vec![1.0f32; wide.count()];
        for (spacing, depth) in LATTICES {
            add_lattice(&mut light, wide, spacing, depth as f32, draws);
        }
        light.iter_mut().for_each(|value| *value = value.max(0.1) * value.max(0.1));
        for _ in 0..config.vessels {
            darken_vessel(&mut light, wide, draws);
        }
        let mean = light.iter().map(|&v| f64::from(v)).sum::<f64>() / wide.count() as f64;
        light.iter_mut().for_each(|value| *value /= mean as f32);
        let somata = place(config, frame, wide, margin_px, draws)?;
        for &(index, weight) in somata.iter().flat_map(|soma| &soma.pixels) {
            light[index] *= 1.0 - DISPLACED * weight;
        }
        let share = config.neuropil_share as f32;
        let neuropil = light.iter().map(|value| value * share).collect();
        let still = light.iter().map(|value| value * (1.0 - share)).collect();
        Ok(Self { wide, still, neuropil, somata })
    }
}

fn add_lattice(light: &mut [f32], wide: Geometry, spacing: usize, depth: f32, draws: &mut Draws) {
    let (rows, columns) = (wide.height_px / spacing + 2, wide.width_px / spacing + 2);
    let knots: Vec<f32> = (0..rows * columns).map(|_| draws.between(-1.0, 1.0) as f32 * depth * 2.0).collect();
    let smooth = |at: usize| {
        let t = (at % spacing) as f32 / spacing as f32;
        (at / spacing, t * t * (3.0 - 2.0 * t))
    };
    for (row, line) in light.chunks_exact_mut(wide.width_px).enumerate() {
        let (i, v) = smooth(row);
        let (upper, lower) = (&knots[i * columns..(i + 1) * columns], &knots[(i + 1) * columns..(i + 2) * columns]);
        for (column, value) in line.iter_mut().enumerate() {
            let (j, u) = smooth(column);
            let above = upper[j] + (upper[j + 1] - upper[j]) * u;
            let below = lower[j] + (lower[j + 1] - lower[j]) * u;
            *value += above + (below - above) * v;
        }
    }
}

/// A dark line that wanders across the field, a stamp of soft edge at every step.
fn darken_vessel(light: &mut [f32], wide: Geometry, draws: &mut Draws) {
    let (height, width) = (wide.height_px as f64, wide.width_px as f64);
    let radius = draws.between(1.5, 5.0);
    let (mut row, mut column) = (draws.between(0.0, height), draws.between(0.0, width));
    let mut heading = draws.between(0.0, std::f64::consts::TAU);
    let mut shade = vec![1.0f32; light.len()];
    for _ in 0..(height + width) as usize {
        stamp(wide, row, column, radius + 1.0, |index, distance| {
            let inside = (radius + 1.0 - distance).clamp(0.0, 1.0) as f32;
            shade[index] = shade[index].min(1.0 - 0.65 * inside);
        });
        heading += 0.06 * draws.gaussian();
        row += libm::sin(heading);
        column += libm::cos(heading);
        if row < -radius || column < -radius || row > height + radius || column > width + radius {
            break;
        }
    }
    light.iter_mut().zip(&shade).for_each(|(value, shade)| *value *= shade);
}

/// Calls `visit` with index and distance of every pixel within `radius` of a point.
fn stamp(wide: Geometry, row: f64, column: f64, radius: f64, mut visit: impl FnMut(usize, f64)) {
    let span = |centre: f64, end: usize| {
        ((centre - radius).ceil().max(0.0) as usize, ((centre + radius).floor() + 1.0).clamp(0.0, end as f64) as usize)
    };
    let (top, bottom) = span(row, wide.height_px);
    let (left, right) = span(column, wide.width_px);
    for r in top..bottom {
        for c in left..right {
            let (dr, dc) = (r as f64 - row, c as f64 - column);
            let distance = (dr * dr + dc * dc).sqrt();
            if distance <= radius {
                visit(r * wide.width_px + c, distance);
            }
        }
    }
}

fn place(
    config: &AnatomyConfig,
    frame: Geometry,
    wide: Geometry,
    margin_px: usize,
    draws: &mut Draws,
) -> Result<Vec<Soma>, usize> {
    let mut centres: Vec<[f64; 3]> = Vec::with_capacity(config.cells);
    let mut attempts = 0;
    while centres.len() < config.cells {
        attempts += 1;
        let radius = config.cell_radius_px * draws.between(0.85, 1.15);
        let edge = radius + 1.0 + config.margin_px;
        let (bottom, right) = (frame.height_px as f64 - edge, frame.width_px as f64 - edge);
        if attempts > ATTEMPTS || bottom <= edge || right <= edge {
            return Err(centres.len());
        }
        let (row, column) = (draws.between(edge, bottom), draws.between(edge, right));
        let is_free = centres.iter().all(|&[r, c, other]| {
            let apart = radius + other + 2.0 + config.margin_px;
            (r - row) * (r - row) + (c - column) * (c - column) > apart * apart
        });
        if is_free {
            centres.push([row, column, radius]);
            attempts = 0;
        }
    }
    Ok(centres.iter().map(|&[row, column, radius]| soma(wide, margin_px, row, column, radius, draws)).collect())
}

/// Two of three somata are rings, since the indicator stays out of the nucleus.
fn soma(wide: Geometry, margin_px: usize, row: f64, column: f64, radius: f64, draws: &mut Draws) -> Soma {
    let nucleus = if draws.uniform() < 2.0 / 3.0 { 0.6 } else { 0.0 };
    let mut pixels = Vec::new();
    let (row, column) = (row + margin_px as f64, column + margin_px as f64);
    stamp(wide, row, column, radius + 0.5, |index, distance| {
        let body = (radius + 0.5 - distance).clamp(0.0, 1.0);
        let weight = body * (1.0 - nucleus * (0.55 * radius + 0.5 - distance).clamp(0.0, 1.0));
        if weight > 0.05 {
            pixels.push((index, weight as f32));
        }
    });
    Soma { pixels }
}
