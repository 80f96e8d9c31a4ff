"""Makes the stubs from ../../proto when the package is built or installed."""

import pathlib
import runpy

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithStubs(build_py):
    """build_py, with the stubs made first."""

    def run(self):
        here = pathlib.Path(__file__).resolve().parent
        generate = runpy.run_path(str(here / "src" / "apical_client" / "generate.py"))
        generate["generate"]()
        # The stubs' packages did not exist when setup() listed the packages.
        self.distribution.packages = sorted({*self.distribution.packages, *generate["PACKAGES"]})
        self.packages = self.distribution.packages
        super().run()


setup(cmdclass={"build_py": BuildWithStubs})
