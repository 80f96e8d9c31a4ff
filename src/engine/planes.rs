//! Planes: each has a template, a shift, a depth and masks of its own; together the frames of one index are a volume.
//!
//! A decision falls when the last plane that an ensemble needs has come. What the planes behind it say enters the next
//! decision: there an ROI of such a plane stands with its F of the volume before, in which it was the newest there was.
//! A volume that lacks a plane which is needed is a skipped frame. What a plane says of itself (its place on the
//! reference image, its odd lines) stands as its last frame said it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{EngineError, HISTOGRAM_BINS, HISTOGRAM_STRIDE};
use crate::config::RigConfig;
use crate::frame::{FrameView, Geometry};
use crate::register::{Axial, AxialConfig, BlockGrid, Registration, Rigid, TemplateOffset};
use crate::sample::{PixelBox, PlaneImage, ReferenceKind, RoiSet, SampleBuffer, Sampler};

/// The pixels' part of the way of a frame; absent where the microscope integrates ROIs itself.
pub(super) struct PixelPath {
    /// In the order of the scan.
    pub planes: Vec<PlanePath>,
    pub has_neuropil: bool,
    /// The planes are each other's slices in depth.
    are_slices: bool,
    /// Empty where the offset is configured.
    pub histogram: Vec<u64>,
}

/// The same of one plane.
pub(super) struct PlanePath {
    pub rigid: Rigid,
    /// Where the depth is followed.
    pub axial: Option<Axial>,
    pub sampler: Sampler,
    pub samples: SampleBuffer,
    /// Where its ROIs stand among the session's.
    pub rois: Vec<u32>,
    pub has_reference: bool,
    /// Its template is another day's, and stays.
    has_template: bool,
    /// Of each ROI on a frame whose blocks have shifts, in pixels.
    shifts_px: Vec<(f64, f64)>,
    /// Middle of each ROI's mask as it was drawn, row and column in pixels.
    centres_px: Vec<(f64, f64)>,
    /// Rows and columns by which a mask may at most be read aside of the frame's shift.
    aside_px: (i32, i32),
}

impl PixelPath {
    /// The set, which must have been drawn on frames of this size; without ROIs, what else is in it.
    pub fn set_for(rois: &RoiSet, geometry: Geometry) -> Result<Cow<'_, RoiSet>, EngineError> {
        if rois.rois.is_empty() {
            let (templates, z_stack) = (rois.templates.clone(), rois.z_stack.clone());
            return Ok(Cow::Owned(RoiSet { geometry, templates, z_stack, ..RoiSet::default() }));
        }
        if rois.geometry != geometry {
            let (source_name, got) = (rois.source.clone(), rois.geometry);
            return Err(EngineError::Geometry { source_name, got, expected: geometry });
        }
        Ok(Cow::Borrowed(rois))
    }

    /// For a set that [`PixelPath::set_for`] has given.
    pub fn new(config: &RigConfig, rois: &RoiSet, geometry: Geometry) -> Result<Self, EngineError> {
        if let Some(wrong) = BlockGrid::too_close(&config.register, geometry) {
            return Err(EngineError::Blocks(wrong));
        }
        let read = config.stream.plane.as_slice();
        let first = rois.rois.first().map(|roi| roi.plane);
        let one = rois.rois.iter().all(|roi| Some(roi.plane) == first);
        let planes = if let ([_], true) = (read, one) {
            // Masks of one plane belong to the one that is read, whatever their file calls it.
            let all = (0..rois.rois.len() as u32).collect();
            vec![PlanePath::new(config, rois, all, rois.templates.first())?]
        } else {
            if let Some(roi) = rois.rois.iter().find(|roi| !read.contains(&roi.plane)) {
                let (source_name, read) = (rois.source.clone(), read.to_vec());
                return Err(EngineError::Plane { roi: roi.id, source_name, plane: roi.plane, read });
            }
            let of_plane = |&plane: &u32| {
                let places = rois.rois.iter().zip(0..).filter(|(roi, _)| roi.plane == plane).map(|(_, place)| place);
                // An image that came with masks of several planes shows one of them, and does not say which.
                let mut set = rois.of_plane(plane);
                (set.reference, set.reference_kind) = (None, ReferenceKind::None);
                if !set.rois.is_empty() {
                    set = set.with_reference();
                }
                let template = rois.templates.iter().find(|template| template.plane == plane);
                PlanePath::new(config, &set, places.collect(), template)
            };
            read.iter().map(of_plane).collect::<Result<_, _>>()?
        };
        let estimate = config.activity.detector_offset_counts.is_none();
        let histogram = if estimate { vec![0; HISTOGRAM_BINS] } else { Vec::new() };
        let are_slices = rois.z_stack.is_empty();
        let mut path = Self { planes, has_neuropil: config.sample.neuropil_is_on(), are_slices, histogram };
        path.follow_depth(config, rois, geometry)?;
        Ok(path)
    }

    /// Makes ready to follow the depth, where that is wanted.
    fn follow_depth(&mut self, config: &RigConfig, rois: &RoiSet, geometry: Geometry) -> Result<(), EngineError> {
        let register = &config.register;
        if register.z_step_um <= 0.0 || !register.enabled {
            return Ok(());
        }
        let settings = AxialConfig {
            step_um: register.z_step_um,
            average_frames: register.z_average_frames,
            sigma_px: register.sigma_px,
            max_shift_fraction: register.max_shift_fraction,
            simd: register.simd,
        };
        let got = if self.are_slices { self.planes.len() } else { rois.z_stack.len() };
        for path in &mut self.planes {
            let mut axial = Axial::new(settings, geometry, got).ok_or(EngineError::Slices { got, geometry })?;
            for (slice, image) in rois.z_stack.iter().enumerate() {
                axial.set_slice(slice, image).map_err(EngineError::Stack)?;
            }
            path.axial = Some(axial);
        }
        self.settle_depth();
        Ok(())
    }

    /// Lays the slices of every plane that has a template onto it.
    pub fn settle_depth(&mut self) {
        for place in 0..self.planes.len() {
            let Some(mut axial) = self.planes[place].axial.take() else { continue };
            if self.planes[place].rigid.is_frozen() {
                let own = self.are_slices.then_some(place);
                if self.are_slices {
                    let others = self.planes.iter().enumerate();
                    others.for_each(|(slice, other)| axial.set_template(slice, &other.rigid));
                }
                axial.settle(&mut self.planes[place].rigid, own);
            } else {
                axial.forget();
            }
            self.planes[place].axial = Some(axial);
        }
    }

    /// Enters a frame's samples into the histogram.
    pub fn observe(&mut self, samples: &[u16]) {
        if !self.histogram.is_empty() {
            for &sample in samples.iter().step_by(HISTOGRAM_STRIDE) {
                self.histogram[usize::from(sample)] += 1;
            }
        }
    }

    /// Begins a baseline, of which each plane makes a template, unless it has another day's.
    pub fn begin_baseline(&mut self) {
        self.planes.iter_mut().filter(|path| !path.has_template).for_each(|path| path.rigid.begin_baseline());
        self.settle_depth();
        self.histogram.fill(0);
    }

    /// Freezes every plane's template; whether each has one.
    pub fn freeze_templates(&mut self) -> bool {
        let mut all = true;
        for path in &mut self.planes {
            all &= path.has_template || path.rigid.freeze_template().is_ok() || !path.rigid.is_enabled();
        }
        self.settle_depth();
        all
    }

    /// Whether masks of some plane follow an image that nothing checks.
    pub fn lacks_reference(&self) -> bool {
        self.planes.iter().any(|path| path.rigid.is_enabled() && !path.has_reference && !path.rois.is_empty())
    }
}

impl PlanePath {
    fn new(
        config: &RigConfig,
        set: &RoiSet,
        rois: Vec<u32>,
        template: Option<&PlaneImage>,
    ) -> Result<Self, EngineError> {
        let mut register = config.register.clone();
        if set.reference_kind == ReferenceKind::RenderedFromMasks {
            register.min_reference_score = register.min_rendered_reference_score;
        }
        let mut rigid = Rigid::new(&register, set.geometry);
        let mut has_reference = false;
        if let Some(reference) = &set.reference
            && config.register.enabled
        {
            rigid.set_reference(reference)?;
            has_reference = true;
        }
        let template = template.filter(|_| config.register.enabled);
        if let Some(PlaneImage { plane, image }) = template {
            rigid.load_template(image).map_err(|error| EngineError::Template { plane: *plane, error })?;
        }
        let mut sampler = Sampler::new(&config.sample, set)?;
        let block_px = rigid.block_grid().map_or(0, |grid| grid.limit_px().ceil() as i32);
        let aside_px = (block_px, block_px + config.register.bidirectional_phase.largest_px().ceil() as i32);
        if config.register.bidirectional_phase.is_on() {
            sampler.keep_lines_apart();
        }
        let samples = SampleBuffer::new(sampler.roi_count());
        Ok(Self {
            rigid,
            axial: None,
            samples,
            rois,
            has_reference,
            has_template: template.is_some(),
            shifts_px: Vec::with_capacity(sampler.roi_count()),
            centres_px: (0..sampler.roi_count()).map(|roi| sampler.centre_px(roi)).collect(),
            sampler,
            aside_px,
        })
    }

    /// What stands of it.
    pub fn standing(&self) -> Standing {
        Standing {
            offset: self.rigid.offset(),
            odd_lines_px: self.rigid.odd_lines_px(),
            z_drift_um: self.axial.as_ref().and_then(Axial::drift_um),
        }
    }

    /// Samples a frame whose content and template lie as `lie` says: where blocks have shifts of their own, every ROI
    /// at that of its middle.
    pub fn sample(
        &mut self,
        view: &FrameView,
        lie: (&Registration, Option<TemplateOffset>),
        odd_lines_px: f64,
        (block_dy_px, block_dx_px): (&[f32], &[f32]),
    ) {
        let (registration, offset) = lie;
        let moved_px = registration.moved_px(offset);
        let Some(grid) = self.rigid.block_grid().filter(|grid| grid.fits(block_dy_px, block_dx_px)) else {
            return self.sampler.step_lines(view, moved_px, odd_lines_px, &mut self.samples);
        };
        let template_px = (moved_px.0 - registration.dy_px, moved_px.1 - registration.dx_px);
        self.shifts_px.clear();
        for &(row, column) in &self.centres_px {
            let (dy, dx) = grid.at(block_dy_px, block_dx_px, row + template_px.0, column + template_px.1);
            self.shifts_px.push((moved_px.0 + dy, moved_px.1 + dx));
        }
        self.sampler.step_moved(view, &self.shifts_px, odd_lines_px, &mut self.samples);
    }

    /// The box around each ROI's mask and annulus, with the rows and columns that odd lines and blocks may need.
    pub fn boxes(&self) -> impl Iterator<Item = PixelBox> {
        let (y, x) = self.aside_px;
        let wider = move |PixelBox { rows, cols }| PixelBox {
            rows: rows.start - y..rows.end + y,
            cols: cols.start - x..cols.end + x,
        };
        self.sampler.boxes().into_iter().map(wider)
    }
}

/// What one plane's last frame said that stands.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Where its template lies against the reference image.
    pub offset: Option<TemplateOffset>,
    /// What registration says of odd lines, or what a record says that it said.
    pub odd_lines_px: f64,
    /// By how much the brain lies deeper than its template, in um, where that is known.
    pub z_drift_um: Option<f64>,
}

/// The frames of one index, as far as they have come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Volume {
    planes: Vec<Standing>,
    /// Planes whose depth was warned of, a bit each.
    warned: u32,
    /// Where the plane of the last frame stands among those that are read.
    place: usize,
    /// The planes that have come, a bit each.
    arrived: u32,
    /// It was decided, or cannot be.
    closed: bool,
    /// Registration doubts a frame that the decision needs.
    doubted: bool,
    /// F of every ROI, in counts: of this volume, and of the planes behind the decision of the one before; NaN where
    /// there is none.
    f: Vec<f64>,
    /// Neuropil of every ROI, likewise; empty where none is measured.
    f_neuropil: Vec<f64>,
}

impl Volume {
    pub fn new(planes: usize, roi_count: usize, has_neuropil: bool) -> Self {
        Self {
            planes: vec![Standing::default(); planes],
            warned: 0,
            place: 0,
            arrived: 0,
            closed: true,
            doubted: false,
            f: vec![f64::NAN; roi_count],
            f_neuropil: vec![f64::NAN; if has_neuropil { roi_count } else { 0 }],
        }
    }

    /// Nothing of the next one has come yet.
    pub fn begin(&mut self) {
        self.arrived = 0;
        self.closed = false;
        self.doubted = false;
    }

    /// Nothing will be decided on it any more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// The frames that the decision waits for will not be taken.
    pub fn skip(&mut self, needed: u32) {
        self.arrived |= needed;
        self.close();
    }

    /// Whether it was decided, or cannot be.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the plane at this place has come.
    pub fn has(&self, place: usize) -> bool {
        self.arrived & (1 << place) != 0
    }

    /// The plane at this place has come; it is doubted where the decision needs it.
    pub fn arrive(&mut self, place: usize, doubted: bool) {
        self.place = place;
        self.arrived |= 1 << place;
        self.doubted |= doubted;
    }

    /// The drift of the last frame's plane, in um, when it has just become larger than `limit_um`. It must fall below
    /// four fifths of that before it can do so again.
    pub fn warns_of_depth(&mut self, limit_um: f64) -> Option<f64> {
        let (bit, drift_um) = (1 << self.place, self.plane().z_drift_um.unwrap_or(0.0));
        if drift_um.abs() < 0.8 * limit_um {
            self.warned &= !bit;
        }
        if drift_um.abs() <= limit_um || self.warned & bit != 0 {
            return None;
        }
        self.warned |= bit;
        Some(drift_um)
    }

    /// Whether every plane that is needed has come.
    pub fn is_complete(&self, needed: u32) -> bool {
        needed & !self.arrived == 0
    }

    /// Whether registration doubts a frame that the decision needed.
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Takes F and neuropil of these ROIs out of those of all; NaN where the frame is not believed.
    pub fn put(&mut self, rois: &[u32], believed: bool, f: &[f64], f_neuropil: &[f64]) {
        let value = |values: &[f64], roi: usize| if believed { values[roi] } else { f64::NAN };
        for roi in rois.iter().map(|&roi| roi as usize) {
            self.f[roi] = value(f, roi);
            if let Some(neuropil) = self.f_neuropil.get_mut(roi) {
                *neuropil = value(f_neuropil, roi);
            }
        }
    }

    /// Gives F and neuropil of every ROI away; no value is decided on twice.
    pub fn give(&mut self, f: &mut [f64], f_neuropil: &mut [f64]) {
        f.copy_from_slice(&self.f);
        f_neuropil.copy_from_slice(&self.f_neuropil);
        self.f.fill(f64::NAN);
        self.f_neuropil.fill(f64::NAN);
    }

    /// Where the last frame's plane stands among those that are read.
    pub fn place(&self) -> usize {
        self.place
    }

    /// What stands of the last frame's plane.
    pub fn plane(&self) -> &Standing {
        &self.planes[self.place]
    }

    /// A plane's last frame says this.
    pub fn set(&mut self, place: usize, standing: Standing) {
        self.planes[place] = standing;
    }

    /// No template lies anywhere any more.
    pub fn forget_offsets(&mut self) {
        self.planes.iter_mut().for_each(|plane| plane.offset = None);
    }

    /// Whether some plane's template does not surely lie on its reference image.
    pub fn is_untrusted(&self) -> bool {
        self.planes.iter().any(|plane| plane.offset.is_some_and(|o| !o.trusted))
    }

    /// Whether this can be the state of a session to which `other` belongs.
    pub fn fits(&self, other: &Volume) -> bool {
        let shape = |volume: &Volume| (volume.planes.len(), volume.f.len(), volume.f_neuropil.len());
        shape(self) == shape(other) && self.place < self.planes.len()
    }
}
