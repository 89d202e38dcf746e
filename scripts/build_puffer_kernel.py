"""Compile PufferLib's advantage kernel for the torch that is here.

    python scripts/build_puffer_kernel.py

The wheel of pufferlib-core has it for one version of torch. Without it PuffeRL does not train, and metta-train takes
its own, which is as right and on CUDA launches more. The sources are in the wheel; what is built takes the place of the
library in the installed package. Needs a C++ compiler and ninja, and nvcc for CUDA.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils import cpp_extension

HOPPER = "9.0"  # where no GPU is here to ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", choices=("auto", "yes", "no"), default="auto", help="auto: where torch and nvcc are")
    arguments = parser.parse_args()
    compiler = cpp_extension.CUDA_HOME is not None and torch.version.cuda is not None
    cuda = compiler if arguments.cuda == "auto" else arguments.cuda == "yes"
    package = find_spec("pufferlib")
    if package is None or package.origin is None:
        sys.exit("pufferlib is not installed here")
    sources = Path(package.origin).parent / "extensions"
    library = PathFinder.find_spec("_C", package.submodule_search_locations)
    if library is None or library.origin is None:
        sys.exit(f"{sources.parent} has no library to replace")
    if cuda and not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", HOPPER)
    with tempfile.TemporaryDirectory() as build:
        # Loaded for a check: a library that does not fit torch fails here, before it replaces anything.
        built = cpp_extension.load(
            name="_C",
            sources=[str(sources / "pufferlib.cpp"), *([str(sources / "cuda" / "advantage.cu")] if cuda else [])],
            extra_cflags=["-O3"],
            build_directory=build,
            is_python_module=False,
        )
        assert isinstance(built, str)
        shutil.copyfile(built, f"{library.origin}.new")
        os.replace(f"{library.origin}.new", library.origin)  # a process that has the old one goes on with it
    print(f"{library.origin}: for torch {torch.__version__}, CPU{' and CUDA' if cuda else ''}")


if __name__ == "__main__":
    main()
