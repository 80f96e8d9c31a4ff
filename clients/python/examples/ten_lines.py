import sys, numpy as np
from apical_client import Rig, disc
rig = Rig(sys.argv[1])  # the address that `apical serve` prints
rig.create(set=["ensembles.plus=[0, 1]", "ensembles.minus=[2, 3]"])
rig.upload_rois([disc(40, 40, 6), disc(40, 90, 6), disc(90, 40, 6), disc(90, 90, 6)], height=128, width=128)
with rig.open_stream(128, 128, "uint16", frame_rate_hz=30) as stream:
    for index in range(100):
        frame = np.random.poisson(500, (128, 128)).astype("uint16")  # here your microscope's frame
        stream.send(frame, index=index)
print(f"{rig.state().counters.frames_decided} frames decided; recorded in {rig.stop().directory}")
