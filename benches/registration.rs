//! How well and how fast one rigid shift a frame is found: `cargo bench --bench registration`.
//!
//! Movies of 512 x 512 with known truth, rendered by the crate's own optics (40 cells that fire, motion of about 1 px,
//! Poisson and read noise) at 1 and at 0.3 photons a pixel: 200 frames of baseline, then the frames that count. Next to
//! each error the Cramer-Rao bound: the Fisher information of a Poisson image with read noise about its shift is the
//! 2 x 2 matrix `sum over pixels of (grad T)(grad T)' / (T + read variance)`, T in photons, and the least variance of
//! each axis is on the diagonal of its inverse. Gradients are central differences.
//!
//! Piecewise-rigid: the same field of view without activity, its content moved by a known field on top of the same
//! motion (shear by line time and a slow wave, together up to 2.5 px from the frame's shift), and not; errors of the
//! local shift over 16 x 16 places in the frames that are not doubted, a constant offset removed, of the rigid shift
//! and of 8 x 8 blocks.
//!
//! `APICAL_MOVIE=DIR[:DIR..]` adds movies that `make_movie.py` wrote (`movie.tif`, `truth.npz`), from recorded anatomy,
//! and those that `warp_movie.py` made of them, whose truth holds the local shifts as well.
//! A row says `missed` where a bound of the product is not kept; nothing fails, since the machine has its say in times.
//! The thread's own time next to the wall's tells what other programs took away.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::path::Path;
use std::time::Instant;

use apical::config::register::{BidirectionalPhase, RegisterConfig};
use apical::config::synthetic::{AnatomyConfig, MotionConfig, SyntheticConfig};
use apical::frame::{FrameView, Geometry, Image};
use apical::mouse::Optics;
use apical::register::{FitVerdict, Rigid, resample};

const BASELINE: usize = 200;
const FRAMES: usize = 400;
const READ_PHOTONS: f64 = 0.1;
/// Counts a photon makes and counts in the dark, of the optics' default and of `make_movie.py` alike.
const GAIN_COUNTS: f64 = 120.0;
const OFFSET_COUNTS: f64 = 100.0;

/// Places on the template, and by how much the content of each lies elsewhere on each frame.
type Local = (Vec<[f64; 2]>, Vec<Vec<[f64; 2]>>);

/// Frames, where their content lies, and what they would show at rest without noise, in photons.
struct Movie {
    name: String,
    geometry: Geometry,
    frames: Vec<Vec<u16>>,
    truth: Vec<[f64; 2]>,
    template: Vec<f64>,
    local: Option<Local>,
    /// Frames whose content lies 40 px apart in rows, columns, or both together.
    jumps: Vec<(Vec<u16>, [f64; 2])>,
}

/// What must be reached, or `None` where the photon rate is one for which nothing is asked.
fn bounds(photons: f64) -> Option<(f64, f64)> {
    match photons {
        p if p >= 0.9 => Some((0.025, 0.2)),
        p if (0.25..0.9).contains(&p) => Some((0.06, 0.4)),
        _ => None,
    }
}

fn rendered(photons: f64) -> Movie {
    let mut config = SyntheticConfig {
        height_px: 512,
        width_px: 512,
        anatomy: AnatomyConfig { cells: 120, ..AnatomyConfig::default() },
        motion: MotionConfig { limit_px: 30.0, drift_sd_px: 1.0, ..MotionConfig::default() },
        ..SyntheticConfig::default()
    };
    config.detector.photons_per_px = photons;
    let mut optics = Optics::new(&config, 7).expect("a valid configuration");
    let rates = vec![0.3; config.anatomy.cells];
    let mut movie = Movie {
        name: format!("own optics, {photons} photons a pixel"),
        geometry: optics.geometry(),
        frames: Vec::new(),
        truth: Vec::new(),
        template: optics.reference().values.iter().map(|&v| (f64::from(v) - OFFSET_COUNTS) / GAIN_COUNTS).collect(),
        local: None,
        jumps: Vec::new(),
    };
    for _ in 0..BASELINE + FRAMES {
        movie.frames.push(optics.render(&rates).to_vec());
        let truth = optics.truth();
        movie.truth.push([truth.dy_px, truth.dx_px]);
    }
    for shift in [(-20.0, 0.0), (20.0, 0.3), (20.4, -20.0), (20.0, 20.0), (-8.3, -8.2)] {
        let frame = optics.render_at(&rates, shift).to_vec();
        let truth = optics.truth();
        movie.jumps.push((frame, [truth.dy_px, truth.dx_px]));
    }
    movie
}

/// A movie of `make_movie.py`, whose jumps are whole-pixel moves of its last frames.
fn recorded(directory: &Path) -> Movie {
    let file = std::fs::File::open(directory.join("movie.tif")).expect("movie.tif");
    let mut decoder = tiff::decoder::Decoder::new(file).expect("a TIFF file");
    let (width, height) = decoder.dimensions().expect("dimensions");
    let geometry = Geometry::new(height as usize, width as usize);
    let mut frames = Vec::new();
    loop {
        let tiff::decoder::DecodingResult::U16(samples) = decoder.read_image().expect("a page") else {
            panic!("expected uint16")
        };
        frames.push(samples);
        if !decoder.more_images() {
            break;
        }
        decoder.next_image().expect("the next page");
    }
    let optional = |name: &str| -> Option<Vec<f64>> {
        let file = std::fs::File::open(directory.join("truth.npz")).expect("truth.npz");
        let mut archive = zip::ZipArchive::new(file).expect("an npz is a zip");
        let npy = npyz::NpyFile::new(archive.by_name(&format!("{name}.npy")).ok()?).expect("npy");
        Some(npy.into_vec::<f32>().expect("float32").into_iter().map(f64::from).collect())
    };
    let array = |name: &str| optional(name).expect("the array");
    let pairs = |values: Vec<f64>| -> Vec<[f64; 2]> { values.chunks_exact(2).map(|p| [p[0], p[1]]).collect() };
    let local = optional("places").map(pairs).zip(optional("local_shifts").map(pairs)).map(|(places, shifts)| {
        let of_frames = shifts.chunks_exact(places.len()).map(<[_]>::to_vec).collect();
        (places, of_frames)
    });
    let truth: Vec<[f64; 2]> = array("shifts").chunks_exact(2).map(|s| [s[0], s[1]]).collect();
    let (last, at) = (frames.len() - 1, truth[truth.len() - 1]);
    let moved = |dy: i64, dx: i64| -> Vec<u16> {
        let edge = |i: usize, by: i64, size: usize| (i as i64 - by).clamp(0, size as i64 - 1) as usize;
        let pixel = |i: usize| {
            let (row, column) = (i / geometry.width_px, i % geometry.width_px);
            frames[last][edge(row, dy, geometry.height_px) * geometry.width_px + edge(column, dx, geometry.width_px)]
        };
        (0..geometry.count()).map(pixel).collect()
    };
    let jumps = [(-20, 0), (20, 0), (20, -40), (20, 0), (-8, -28)]
        .map(|(dy, dx)| (moved(dy, dx), [at[0] + dy as f64, at[1] + dx as f64]));
    let template = array("template");
    let photons = template.iter().sum::<f64>() / template.len() as f64;
    Movie {
        name: format!("{} ({photons:.2} photons a pixel)", directory.display()),
        geometry,
        truth,
        template,
        jumps: jumps.into(),
        local,
        frames,
    }
}

/// The least standard deviation of each axis of an unbiased estimate from one frame, in pixels.
fn cramer_rao(template: &[f64], geometry: Geometry) -> [f64; 2] {
    let Geometry { height_px, width_px } = geometry;
    let (mut yy, mut xx, mut yx) = (0.0, 0.0, 0.0);
    for row in 1..height_px - 1 {
        for at in row * width_px + 1..(row + 1) * width_px - 1 {
            let dy = 0.5 * (template[at + width_px] - template[at - width_px]);
            let dx = 0.5 * (template[at + 1] - template[at - 1]);
            let variance = template[at].max(0.0) + READ_PHOTONS * READ_PHOTONS;
            yy += dy * dy / variance;
            xx += dx * dx / variance;
            yx += dy * dx / variance;
        }
    }
    let determinant = yy * xx - yx * yx;
    [(xx / determinant).sqrt(), (yy / determinant).sqrt()]
}

/// Time by the wall, and time that this thread ran, in us.
#[derive(Clone, Copy)]
struct Watch(Instant, f64);

impl Watch {
    fn start() -> Self {
        Self(Instant::now(), own_us())
    }

    fn read(self) -> [f64; 2] {
        let own = own_us() - self.1;
        [self.0.elapsed().as_secs_f64() * 1e6, own]
    }
}

#[cfg(unix)]
fn own_us() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e6 + t.tv_nsec as f64 / 1e3
}

#[cfg(not(unix))]
fn own_us() -> f64 {
    f64::NAN
}

/// Rows of times: median and 99 %, each with its bound.
fn times(name: &str, samples: &[[f64; 2]], median_us: f64, late_us: Option<f64>) {
    let of = |which: usize| {
        let mut sorted: Vec<f64> = samples.iter().map(|t| t[which]).collect();
        sorted.sort_by(f64::total_cmp);
        [0.5, 0.99].map(|share| sorted[((sorted.len() - 1) as f64 * share).round() as usize])
    };
    let (wall, own) = (of(0), of(1));
    row(&format!("{name}, median"), format!("{:.0} us", wall[0]), Some((wall[0], median_us)), "us");
    row("  the thread's own time", format!("{:.0} us", own[0]), None, "");
    row(&format!("{name}, 99 %"), format!("{:.0} us", wall[1]), late_us.map(|bound| (wall[1], bound)), "us");
    row("  the thread's own time", format!("{:.0} us", own[1]), None, "");
}

/// Prints a figure next to its bound.
fn row(name: &str, value: String, bound: Option<(f64, f64)>, unit: &str) {
    let said = match bound {
        Some((value, bound)) if value <= bound => format!("<= {bound} {unit}   kept"),
        Some((_, bound)) => format!("<= {bound} {unit}   missed"),
        None => String::new(),
    };
    println!("  {name:<46} {value:>22}   {said}");
}

fn measure(movie: &Movie) {
    let Movie { geometry, frames, truth, .. } = movie;
    let view = |samples| FrameView { geometry: *geometry, samples, bias: 0, saturation: 65_535 };
    let mut rigid = Rigid::new(&RegisterConfig::default(), *geometry);
    rigid.begin_baseline();
    let (mut errors, mut took_us, mut doubted) = (Vec::new(), Vec::new(), 0);
    for (t, samples) in frames.iter().enumerate() {
        if t == BASELINE {
            rigid.freeze_template().expect("a baseline of good frames");
        }
        let watch = Watch::start();
        let r = rigid.step(&view(samples));
        let took = watch.read();
        if t >= BASELINE {
            errors.push([r.dy_px - truth[t][0], r.dx_px - truth[t][1]]);
            took_us.push(took);
            doubted += u32::from(!matches!(r.verdict, FitVerdict::Good | FitVerdict::Jump));
        }
    }
    let n = errors.len() as f64;
    let mean = [0, 1].map(|axis: usize| errors.iter().map(|e| e[axis]).sum::<f64>() / n);
    errors.iter_mut().for_each(|e| *e = [e[0] - mean[0], e[1] - mean[1]]);
    let least = cramer_rao(&movie.template, *geometry);
    let photons = movie.template.iter().sum::<f64>() / movie.template.len() as f64;
    let bound = bounds(photons);
    println!("\n{}: {} frames after a baseline of {BASELINE}, {doubted} doubted", movie.name, errors.len());
    for (axis, name) in ["rows", "columns"].into_iter().enumerate() {
        let rmse = (errors.iter().map(|e| e[axis] * e[axis]).sum::<f64>() / n).sqrt();
        row(&format!("error in {name}, RMSE"), format!("{rmse:.4} px"), bound.map(|b| (rmse, b.0)), "px");
        let ratio = rmse / least[axis];
        row("  Cramer-Rao bound, ratio", format!("{:.4} px, {ratio:.2}", least[axis]), None, "");
        let worst = errors.iter().map(|e| e[axis].abs()).fold(0.0, f64::max);
        row(&format!("error in {name}, worst frame"), format!("{worst:.3} px"), bound.map(|b| (worst, b.1)), "px");
    }
    times("rigid estimate", &took_us, 100.0, Some(250.0));
    if let Some(took_us) = lines_apart(movie) {
        times("  ... with odd lines 1.7 px aside", &took_us, 100.0, Some(250.0));
    }
    let (mut lost, mut worst) = (0, 0.0f64);
    for (samples, at) in &movie.jumps {
        let r = rigid.step(&view(samples));
        let (dy, dx) = (r.dy_px - mean[0] - at[0], r.dx_px - mean[1] - at[1]);
        let off = dy.abs().max(dx.abs());
        worst = worst.max(off);
        lost += u32::from(r.verdict != FitVerdict::Jump || off > 1.0);
    }
    let said = format!("{} of {} frames", movie.jumps.len() - lost as usize, movie.jumps.len());
    row("found in the very frame of a jump of 40 px", said, Some((f64::from(lost), 0.0)), "lost");
    row("  error in these, worst", format!("{worst:.3} px"), None, "");
}

/// What the estimate takes where odd lines are read elsewhere than even ones (only the time counts here).
fn lines_apart(movie: &Movie) -> Option<Vec<[f64; 2]>> {
    let config = RegisterConfig { bidirectional_phase: BidirectionalPhase::Px(1.7), ..RegisterConfig::default() };
    let mut rigid = Rigid::new(&config, movie.geometry);
    let template = movie.template.iter().map(|&v| (v * GAIN_COUNTS + OFFSET_COUNTS) as f32).collect();
    rigid.load_template(&Image { geometry: movie.geometry, values: template }).ok()?;
    let mut took_us = Vec::new();
    for samples in &movie.frames[BASELINE..] {
        // odd lines moved by whole pixels, as a scanner of phase 2 would
        let mut aside = samples.clone();
        aside.chunks_exact_mut(movie.geometry.width_px).skip(1).step_by(2).for_each(|line| line.rotate_right(2));
        let view = FrameView { geometry: movie.geometry, samples: &aside, bias: 0, saturation: 65_535 };
        let watch = Watch::start();
        std::hint::black_box(rigid.step(&view));
        took_us.push(watch.read());
    }
    Some(took_us)
}

/// The frame moved onto the template for people, on its own buffers.
fn preview() {
    let geometry = Geometry::new(512, 512);
    let values = (0..geometry.count()).map(|i| (i * 7_919 % 4_001) as f32).collect();
    let image = Image { geometry, values };
    let mut took_us = Vec::new();
    for k in 0..400 {
        let shift = (0.37 + 0.01 * f64::from(k), -1.61);
        let watch = Watch::start();
        let moved = std::hint::black_box(resample(std::hint::black_box(&image), shift.0, shift.1, 0.0));
        took_us.push(watch.read());
        drop(moved);
    }
    println!("\nthe preview frame, 512 x 512, bilinear (not on the real-time thread)");
    times("preview", &took_us, 100.0, None);
}

/// What the content seen at a place of frame `t` was moved by beyond the frame's motion.
fn field(t: usize, row: f64, column: f64) -> [f64; 2] {
    let t = t as f64;
    let (lines, rate) = (row / 511.0 - 0.5, (0.9 * t).sin());
    let wave = (0.6 * t).cos() * (std::f64::consts::TAU * column / 511.0 + 0.35 * t).sin();
    [2.0 * rate * lines + 0.5 * wave, 3.0 * rate * lines + wave]
}

/// The movie's field of view, at rest but for its motion and, after the baseline, `deform` of the field.
fn deformed(movie: &Movie, photons: f64, deform: f64) -> Movie {
    let Geometry { height_px, width_px } = movie.geometry;
    let mean = movie.template.iter().sum::<f64>() / movie.template.len() as f64;
    let mut state = 11_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    let mut counted = |expected: f64| {
        let normal = (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let limit = (-expected).exp();
        let (mut count, mut product) = (0.0, uniform());
        while expected < 30.0 && product > limit {
            count += 1.0;
            product *= uniform();
        }
        let seen = if expected < 30.0 { count } else { expected + expected.sqrt() * normal };
        (GAIN_COUNTS * (seen + READ_PHOTONS * normal) + OFFSET_COUNTS).round().clamp(0.0, 65_535.0) as u16
    };
    let at = |row: f64, column: f64| {
        // Catmull-Rom, four samples along each axis
        let weights = |t: f64| {
            let (t2, t3) = (t * t, t * t * t);
            [t2 - 0.5 * (t + t3), 1.0 - 2.5 * t2 + 1.5 * t3, 0.5 * t + 2.0 * t2 - 1.5 * t3, 0.5 * (t3 - t2)]
        };
        let (y, x) = (weights(row - row.floor()), weights(column - column.floor()));
        let place =
            |at: f64, k: usize, size: usize| (at.floor() as i64 + k as i64 - 1).clamp(0, size as i64 - 1) as usize;
        let line = |j: usize| (0..4).map(move |i| (j, i));
        let light = (0..4).flat_map(line).map(|(j, i)| {
            y[j] * x[i] * movie.template[place(row, j, height_px) * width_px + place(column, i, width_px)]
        });
        light.sum::<f64>().max(0.0) * photons / mean
    };
    let by = |t: usize, row: f64, column: f64| {
        let (own, more) = (movie.truth[t], field(t, row, column));
        let deform = if t < BASELINE { 0.0 } else { deform };
        [own[0] + deform * more[0], own[1] + deform * more[1]]
    };
    let places: Vec<[f64; 2]> =
        (0..256).map(|k| [16.0 + 32.0 * f64::from(k / 16) - 0.5, 16.0 + 32.0 * f64::from(k % 16) - 0.5]).collect();
    let found = |t: usize| {
        let of = |p: &[f64; 2]| (0..9).fold([0.0; 2], |d, _| by(t, p[0] + d[0], p[1] + d[1]));
        places.iter().map(of).collect()
    };
    let mut frame = |t: usize| -> Vec<u16> {
        let pixel = |k: usize| {
            let (row, column) = ((k / width_px) as f64, (k % width_px) as f64);
            let d = by(t, row, column);
            counted(at(row - d[0], column - d[1]))
        };
        (0..height_px * width_px).map(pixel).collect()
    };
    let what = if deform > 0.0 { "deformed" } else { "moved as a whole" };
    Movie {
        name: format!("own optics without activity, {photons} photons a pixel, {what}"),
        geometry: movie.geometry,
        frames: (0..BASELINE + FRAMES / 2).map(&mut frame).collect(),
        truth: movie.truth.clone(),
        template: movie.template.clone(),
        local: Some((places.clone(), (0..BASELINE + FRAMES / 2).map(found).collect())),
        jumps: Vec::new(),
    }
}

/// Errors of the local shift with blocks and without, and the time of both together.
fn measure_blocks(movie: &Movie) {
    let Some((places, truth)) = &movie.local else { return };
    let view = |samples| FrameView { geometry: movie.geometry, samples, bias: 0, saturation: 65_535 };
    let mut rigid = Rigid::new(&RegisterConfig { piecewise: true, ..RegisterConfig::default() }, movie.geometry);
    rigid.begin_baseline();
    let (mut errors, mut took_us, mut doubted) = (Vec::new(), Vec::new(), 0);
    for (t, samples) in movie.frames.iter().enumerate() {
        if t == BASELINE {
            rigid.freeze_template().expect("a baseline of good frames");
        }
        let watch = Watch::start();
        let r = rigid.step(&view(samples));
        let took = watch.read();
        if t < BASELINE {
            continue;
        }
        took_us.push(took);
        if !matches!(r.verdict, FitVerdict::Good | FitVerdict::Jump) {
            doubted += 1;
            continue;
        }
        let (grid, (dy, dx)) = (rigid.block_grid().expect("blocks"), rigid.block_shifts());
        for (place, truth) in places.iter().zip(&truth[t]) {
            let more = grid.at(dy, dx, place[0], place[1]);
            let off = [r.dy_px - truth[0], r.dx_px - truth[1]];
            errors.push([off, [off[0] + more.0, off[1] + more.1]]);
        }
    }
    println!("\n{}: {} frames, {doubted} doubted", movie.name, took_us.len());
    for (axis, name) in ["rows", "columns"].into_iter().enumerate() {
        let of = |which: usize| {
            let one = move |e: &[[f64; 2]; 2]| e[which][axis];
            let mean = errors.iter().map(one).sum::<f64>() / errors.len() as f64;
            errors.iter().map(move |e| (one(e) - mean).abs())
        };
        let rmse = [0, 1].map(|which| (of(which).map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt());
        let worst = [0, 1].map(|which| of(which).fold(0.0, f64::max));
        row(&format!("local error in {name}, RMSE, rigid"), format!("{:.4} px", rmse[0]), None, "");
        row("  8 x 8 blocks", format!("{:.4} px", rmse[1]), None, "");
        row("  worst place, rigid; blocks", format!("{:.2} px; {:.2} px", worst[0], worst[1]), None, "");
    }
    times("rigid and 8 x 8 blocks", &took_us, 1_000.0, None);
}

fn main() {
    for photons in [1.0, 0.3] {
        measure(&rendered(photons));
    }
    let still = rendered(1.0);
    for (photons, deform) in [(1.0, 1.0), (1.0, 0.0), (8.0, 1.0), (8.0, 0.0)] {
        measure_blocks(&deformed(&still, photons, deform));
    }
    for directory in std::env::var("APICAL_MOVIE").iter().flat_map(|v| v.split(':')) {
        let movie = recorded(Path::new(directory));
        if movie.local.is_none() {
            measure(&movie);
        }
        measure_blocks(&movie);
    }
    preview();
}
