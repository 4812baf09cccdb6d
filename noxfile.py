"""The project's tasks; bare `nox` runs what CI runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2026.7"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
REQUIREMENTS = Path("functions/requirements.in")
DEPLOYED = Path("functions/send/function/requirements.txt")
CONFIG_MAP = Path("knative/500-sample-api-configmap.yaml")
CODE = (
    *("relay", "functions", "client", "local", "bench", "tests", "knative", "docs"),
    "noxfile.py",
)


def install(session: nox.Session, *groups: str) -> None:
    """Install what is deployed but the relay, which runs from its source, and dependency groups."""
    lines = DEPLOYED.read_text().splitlines()
    pins = [line.removesuffix(" \\") for line in lines if line[:1].isalpha()]
    packages = nox.project.dependency_groups(PYPROJECT, *groups)
    session.install("--quiet", *(pin for pin in pins if "+clone" not in pin), *packages)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the code's style."""
    session.install("--quiet", *nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types, strictly."""
    install(session, "local", "bench", "test", "typing")
    session.run("mypy", *CODE)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests; words after -- go to pytest."""
    install(session, "local", "test")
    session.run("pytest", *session.posargs)


@nox.session(default=False)
def crash(session: nox.Session) -> None:
    """Kill the relay's processes under load and count what is lost; words after -- go to it."""
    install(session, "local")
    session.run("python", "-m", "tests.system.crash", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Fuzz every reader of outside text with new inputs; words after -- go to it."""
    install(session, "local", "test")
    session.run("python", "-m", "tests.system.fuzz", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure the relay beside its rivals; words after -- go to it."""
    install(session, "local", "bench")
    session.run("python", "-m", "bench", *session.posargs)


@nox.session(default=False)
def screenshots(session: nox.Session) -> None:
    """Take the pictures in docs/images/ anew, of the running system."""
    install(session, "local", "test")
    session.run("python", "-m", "tests.local.display.screenshots")


@nox.session(venv_backend="none")
def vendored(session: nox.Session) -> None:
    """Check that what `./dev vendor` writes is up to date."""
    session.run(sys.executable, "functions/vendor.py", "--check", external=True)
    if CONFIG_MAP.read_text() != rendered_config_map():
        session.error(f"{CONFIG_MAP} is not what ./dev vendor writes: run it")


@nox.session(default=False, venv_backend="none")
def vendor(session: nox.Session) -> None:
    """Put the relay into the functions' folders, and the sample API into its manifest."""
    session.run(sys.executable, "functions/vendor.py", external=True)
    CONFIG_MAP.write_text(rendered_config_map())


def rendered_config_map() -> str:
    """Return the manifest that carries the sample API into a cluster."""
    command = [sys.executable, "knative/sample_api_configmap.py"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


@nox.session(default=False, venv_backend="none")
def diagrams(session: nox.Session) -> None:
    """Draw docs/diagrams/ again, that of the code from its imports; needs Graphviz."""
    session.run(sys.executable, "-m", "docs.diagrams")


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Resolve functions/requirements.in for every Python and platform; -- --upgrade takes newer."""
    session.install("--quiet", *nox.project.dependency_groups(PYPROJECT, "lock"))
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.10"),
        *("--generate-hashes", "--no-emit-index-url", "--no-emit-find-links"),
        "--custom-compile-command=./dev lock",
        str(REQUIREMENTS),
        f"--output-file={DEPLOYED}",
        *session.posargs,
    )
    shutil.copyfile(DEPLOYED, "functions/receive/function/requirements.txt")
    vendor(session)


@nox.session(default=False)
def up(session: nox.Session) -> None:
    """Start the whole system on this machine; `./dev up` runs it without nox in between."""
    install(session, "local")
    session.run("python", "-m", "local")
