"""The curve kernel, an optional extension: without a C compiler the package installs all the same, and libsodium answers."""

import sys
from glob import glob

from setuptools import Extension, setup

ARGUMENTS = [] if sys.platform == "win32" else ["-O3", "-std=gnu11", "-Wall", "-Wextra", "-Wno-psabi", "-g0"]

setup(
    ext_modules=[
        Extension(
            "psi._kernel",
            sources=["psi/_kernel.c", *sorted(glob("psi/curve/*.c"))],
            depends=sorted(glob("psi/curve/*.h")),
            extra_compile_args=ARGUMENTS,
            optional=True,
        )
    ]
)
