"""Makes the gRPC stubs of the client from the service's .proto files.

    python -m apical_client.generate [--proto ../../proto]

Needs grpcio-tools. The stubs land in ``apical_client/stubs`` beside this file; they are never edited, and not kept in
version control.
"""

import argparse
import importlib.resources
import pathlib
import re
import shutil

HERE = pathlib.Path(__file__).resolve().parent
STUBS = HERE / "stubs"
PROTO = HERE.parents[3] / "proto"
PACKAGES = ("apical_client.stubs", "apical_client.stubs.apical", "apical_client.stubs.apical.v1")


def generate(proto: pathlib.Path = PROTO, out: pathlib.Path = STUBS) -> list[pathlib.Path]:
    """Makes the stubs of every .proto file under ``proto``; returns the files that were written."""
    from grpc_tools import protoc

    sources = sorted(proto.rglob("*.proto"))
    if not sources:
        raise FileNotFoundError(f"{proto}: no .proto file there; name the service's proto folder with --proto")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(arguments + [str(source) for source in sources]) != 0:
        raise RuntimeError(f"protoc refused a file under {proto}; what it said is above")
    written = sorted(out.rglob("*.py"))
    for file in written:
        # protoc takes the folder of its output for the root of all packages; here it lies inside this one.
        text = re.sub(r"^from apical\.", "from apical_client.stubs.apical.", file.read_text(), flags=re.MULTILINE)
        file.write_text(text)
    for folder in {out, *(file.parent for file in written), *(file.parent.parent for file in written)}:
        (folder / "__init__.py").touch()
    return written


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m apical_client.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--proto", type=pathlib.Path, default=PROTO, help="folder that holds apical/v1/*.proto")
    for file in generate(parser.parse_args().proto):
        print(file)


if __name__ == "__main__":
    main()
