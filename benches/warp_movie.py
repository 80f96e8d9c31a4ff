#!/usr/bin/env python3
"""Move parts of a rendered movie differently, by a known field.

In: a directory that make_movie.py wrote (truth.npz). Out: another with movie.tif and truth.npz, of the same field of
view, cells, activity and motion, in which lines move differently after the baseline (shear by line time, different in
every frame) and a slow wave comes on top; and its truth: `places` (n, 2), rows and columns on the template, and
`local_shifts` (frames, n, 2), where the content of each lies on each frame. `cargo bench --bench registration` reads it.

    python3 warp_movie.py MOVIE_DIR OUT_DIR [--frames 400] [--baseline 200] [--deform 1.0] [--seed 1]

Needs numpy, scipy, tifffile. Rows and columns in pixels; the same arguments give the same bytes.
"""
import argparse
import pathlib

import numpy as np
import tifffile
from scipy import ndimage, sparse

GAIN, OFFSET, READ = 120.0, 100.0, 12.0


def field(t, rows, columns, size, deform):
    """What the content seen at a place of frame t was moved by beyond the frame's motion."""
    rate = np.sin(0.9 * t) * (rows / (size - 1) - 0.5)
    wave = np.cos(0.6 * t) * np.sin(2 * np.pi * columns / (size - 1) + 0.35 * t)
    return deform * (2.0 * rate + 0.5 * wave), deform * (3.0 * rate + wave)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("movie")
    p.add_argument("out")
    p.add_argument("--frames", type=int, default=400)
    p.add_argument("--baseline", type=int, default=200)
    p.add_argument("--deform", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    z = np.load(pathlib.Path(a.movie) / "truth.npz")
    out = pathlib.Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(a.seed)
    template = z["template"].astype(np.float64)
    size = template.shape[0]
    cells = len(z["mask_indptr"]) - 1
    mask = sparse.csc_matrix((z["mask_data"], z["mask_indices"], z["mask_indptr"]), shape=(size * size, cells))
    # dF/F of 1 doubles what a cell adds to the light, four tenths of what lies under its mask
    under = np.array([template.ravel()[mask.indices[i:j]].sum() for i, j in zip(mask.indptr[:-1], mask.indptr[1:])])
    frames = min(a.frames, len(z["shifts"]))
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64)
    at = np.arange(16) * size / 16 + size / 32 - 0.5
    places = np.array([(r, c) for r in at for c in at])
    local = np.zeros((frames, len(places), 2), np.float32)
    with tifffile.TiffWriter(out / "movie.tif") as tif:
        for t in range(frames):
            deform = 0.0 if t < a.baseline else a.deform
            dy, dx = z["shifts"][t]
            clean = template + (mask @ (0.4 * under * z["traces"][:, t])).reshape(size, size)
            fy, fx = field(t, rows, columns, size, deform)
            moved = ndimage.map_coordinates(clean, [rows - dy - fy, columns - dx - fx], order=3, mode="nearest")
            seen = rng.poisson(np.clip(moved, 0, None)) * GAIN + OFFSET + rng.normal(0, READ, moved.shape)
            tif.write(np.clip(np.rint(seen), 0, 32767).astype(np.uint16), contiguous=True)
            by = np.zeros_like(places)
            for _ in range(9):
                fy, fx = field(t, places[:, 0] + by[:, 0], places[:, 1] + by[:, 1], size, deform)
                by = np.stack([dy + fy, dx + fx], axis=1)
            local[t] = by
    np.savez_compressed(out / "truth.npz", shifts=z["shifts"][:frames], template=z["template"],
                        places=places.astype(np.float32), local_shifts=local)
    print(f"{frames} frames of {size} x {size}, {cells} cells, deformed by {a.deform} after {a.baseline} -> {out}")


if __name__ == "__main__":
    main()
