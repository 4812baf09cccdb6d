"""Install function/requirements.txt into function/_vendor when func builds the package."""

import shutil
import subprocess
import sys
from pathlib import Path

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class VendorRequirements(BuildHookInterface[BuilderConfig]):
    """Puts what the function needs into its wheel."""

    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        """Install afresh: `pip --target` leaves what an earlier build put there."""
        package = Path(self.root, "function")
        vendor = package / "_vendor"
        shutil.rmtree(vendor, ignore_errors=True)
        subprocess.run(  # noqa: S603 - no input but our own files
            [
                *(sys.executable, "-m", "pip", "install", "--no-compile", "--require-hashes"),
                # A builder may set PIP_USER, which --target refuses.
                *("--no-user", "--target", str(vendor)),
                *("--requirement", str(package / "requirements.txt")),
            ],
            check=True,
        )
        # Some requirements are compiled for one platform.
        build_data |= {"pure_python": False, "infer_tag": True}
