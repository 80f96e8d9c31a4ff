"""Makes tests/data/rois: one small file of each format, as the programs named write it.

    pip install h5py==3.16.0 numpy==2.4.6 scipy==1.17.1 pynwb==4.2.0
    python tests/reference/roi_fixtures.py

The frame has 6 rows and 7 columns. ROI 0 is (1,2) 0.5, (1,3) 1.0, (2,2) 0.25; ROI 1 is (4,5) 2.0, (5,6) 1.0; ROI 2 is
(0,0), (0,1), (1,2), all 1.0: it shares a pixel with ROI 0.
"""

import datetime
from pathlib import Path

import h5py
import numpy as np
import scipy.sparse
from pynwb import NWBHDF5IO, NWBFile
from pynwb.ophys import ImageSegmentation, OpticalChannel, TwoPhotonSeries

OUT = Path(__file__).resolve().parent.parent / "data" / "rois"
ROWS, COLS = 6, 7
ROIS = [[(1, 2, 0.5), (1, 3, 1.0), (2, 2, 0.25)], [(4, 5, 2.0), (5, 6, 1.0)], [(0, 0, 1.0), (0, 1, 1.0), (1, 2, 1.0)]]


def caiman():
    """As CaImAn's save_dict_to_hdf5 writes an estimates object: a group for the sparse matrix, texts for None."""
    dense = np.zeros((ROWS * COLS, len(ROIS)))
    for k, roi in enumerate(ROIS):
        for row, col, weight in roi:
            dense[row + col * ROWS, k] = weight
    a = scipy.sparse.csc_matrix(dense)
    with h5py.File(OUT / "caiman.hdf5", "w") as f:
        f["estimates/A/data"] = a.data
        f["estimates/A/indices"] = a.indices
        f["estimates/A/indptr"] = a.indptr
        f["estimates/A/shape"] = a.shape
        f["estimates/dims"] = (ROWS, COLS)
        f["estimates/idx_components"] = np.array([0, 2])
        f["estimates/C"] = np.zeros((len(ROIS), 4))
        f["estimates/Cn"] = "NoneType"
        f["params/data/fr"] = 30


def cellpose():
    masks = np.zeros((ROWS, COLS), np.uint16)
    for k, roi in enumerate(ROIS[:2]):
        for row, col, _ in roi:
            masks[row, col] = k + 1
    outlines = masks.copy()
    masks[3, 0:2] = 7  # a number that does not follow the others: cells were deleted
    seg = {
        "outlines": outlines,
        "colors": np.zeros((3, 3), np.uint8),
        "masks": masks,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(3, bool),
        "filename": "mean.tif",
        "flows": [np.zeros((1, ROWS, COLS, 3), np.uint8), None, [np.zeros((2, ROWS, COLS), np.float32)]],
        "diameter": np.float64(3.5),
        "manual_changes": [],
        "model_path": 0,
        "flow_threshold": 0.4,
        "normalize_params": {"lowhigh": None, "percentile": [1.0, 99.0], "normalize": True},
    }
    np.save(OUT / "mean_seg.npy", seg, allow_pickle=True)
    seg["masks"] = np.asfortranarray(np.stack([masks, masks]))
    np.save(OUT / "stack_seg.npy", seg, allow_pickle=True)


def nwb(name, add, series=False):
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    f = NWBFile(session_description="fixture", identifier="fixture", session_start_time=start)
    f.create_device(name="scope")
    channel = OpticalChannel(name="green", description="green", emission_lambda=510.0)
    plane = f.create_imaging_plane(
        name="plane", optical_channel=channel, description="plane", device=f.devices["scope"], excitation_lambda=920.0,
        indicator="GCaMP", location="V1",
    )
    if series:
        data = np.zeros((2, COLS, ROWS), np.uint16)
        f.add_acquisition(TwoPhotonSeries(name="movie", data=data, imaging_plane=plane, rate=30.0, unit="n.a."))
    module = f.create_processing_module(name="ophys", description="ophys")
    segmentation = ImageSegmentation()
    module.add(segmentation)
    table = segmentation.create_plane_segmentation(name="cells", description="cells", imaging_plane=plane)
    for k, roi in enumerate(ROIS):
        table.add_roi(id=10 + k, **add(roi))
    if not series:
        table.add_column(name="iscell", description="suite2p's", data=[[1.0, 0.9], [0.0, 0.2], [1.0, 0.7]])
    with NWBHDF5IO(str(OUT / name), "w") as io:
        io.write(f, cache_spec=False)


def image_mask(roi):
    mask = np.zeros((COLS, ROWS))
    for row, col, weight in roi:
        mask[col, row] = weight
    return {"image_mask": mask}


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    caiman()
    cellpose()
    nwb("image_mask.nwb", image_mask)
    nwb("pixel_mask.nwb", lambda roi: {"pixel_mask": [(col, row, weight) for row, col, weight in roi]}, series=True)
    # packed, in chunks, of whole numbers and of booleans
    with h5py.File(OUT / "image_mask.nwb") as old, h5py.File(OUT / "packed.nwb", "w") as new:
        old.copy(old["processing"], new)
        masks = old["processing/ophys/ImageSegmentation/cells/image_mask"]
        group = new["processing/ophys/ImageSegmentation/cells"]
        del group["image_mask"]
        group.create_dataset("image_mask", data=masks[:] > 0, chunks=(2, 4, 6), compression="gzip", shuffle=True)
    # a million masks of 4096 x 4096, none of them written: 134 terabytes in a few kilobytes
    with h5py.File(OUT / "huge.nwb", "w") as f:
        cells = f.create_group("processing/ophys/ImageSegmentation/cells")
        cells.attrs["neurodata_type"] = "PlaneSegmentation"
        cells.create_dataset("image_mask", shape=(1_000_000, 4096, 4096), dtype="f8", chunks=(1, 64, 64))
