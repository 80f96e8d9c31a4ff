"""Client of apical, the real-time control service for two-photon imaging brain-computer interfaces.

``Rig`` steers a session and subscribes to what it does; ``Rig.open_stream`` gives a stream that takes frames as numpy
arrays. See README.md for ten lines that connect a microscope.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["FrameStream", "Rig", "RigError", "Subscription", "ValuesStream", "disc", "v1"]


def __getattr__(name):
    # Looked up late, so that `python -m apical_client.generate` runs before there are stubs.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    v1 = importlib.import_module(".v1", __name__)
    if name == "v1":
        return v1
    rig, streams = (importlib.import_module(f".{module}", __name__) for module in ("rig", "streams"))
    return getattr(rig, name, None) or getattr(streams, name)
