"""Put functions-framework and the function's requirements into the package, as function/_vendor."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class VendorRequirements(BuildHookInterface[BuilderConfig]):
    """Installs function/requirements.txt into function/_vendor before the wheel is built."""

    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        """Install the requirements afresh, and mark the wheel as bound to this platform.

        Args:
            version: hatchling's name for the kind of build, unused.
            build_data: hatchling's options for this build, changed in place.

        Raises:
            subprocess.CalledProcessError: pip failed; it has said why.
        """
        package = Path(self.root, "function")
        vendor = package / "_vendor"
        # pip --target leaves what an earlier build put there, in whatever version.
        shutil.rmtree(vendor, ignore_errors=True)
        subprocess.run(  # noqa: S603 - no input but our own files
            [
                *(sys.executable, "-m", "pip", "install", "--no-compile"),
                # A builder may set PIP_USER, which --target refuses.
                *("--no-user", "--target", str(vendor)),
                *("--requirement", str(package / "requirements.txt")),
            ],
            check=True,
        )
        # Some requirements are compiled.
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
