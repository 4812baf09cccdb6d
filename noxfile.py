"""The project's tasks; bare `nox` runs what CI runs."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nox

nox.needs_version = ">=2026.7"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
SHARED = Path("functions/shared")
DEPLOYED = SHARED / "function/requirements.txt"
CONFIG_MAP = Path("knative/500-sample-api-configmap.yaml")
FUNCTIONS = (Path("functions/send"), Path("functions/receive"))
# Only Send hands the schemas out.
SERVES_SCHEMAS = FUNCTIONS[0] / "function"
CODE = ("relay", "functions", "local", "bench", "tests", "knative", "docs", "noxfile.py")


def install(session: nox.Session, *groups: str) -> None:
    """Install what is deployed, and dependency groups of pyproject.toml."""
    packages = nox.project.dependency_groups(PYPROJECT, *groups)
    session.install("--quiet", "--requirement", str(DEPLOYED), *packages)


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
    shared = ("functions/shared" if path == "functions" else path for path in CODE)
    session.run("mypy", *shared)
    for function in FUNCTIONS:  # two modules of one name cannot be checked in one run
        session.run("mypy", str(function / "function/main.py"))


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
def bench(session: nox.Session) -> None:
    """Measure the relay beside its rivals; words after -- go to it."""
    install(session, "local", "bench")
    session.run("python", "-m", "bench", *session.posargs)


@nox.session(default=False)
def screenshots(session: nox.Session) -> None:
    """Take the pictures in docs/images/ anew, of the running system."""
    install(session, "local", "test")
    session.run("python", "-m", "tests.screenshots")


@nox.session(venv_backend="none")
def vendored(session: nox.Session) -> None:
    """Check that what `./dev vendor` writes is up to date."""
    stale = [copy for source, copy in copies() if not same(source, copy)]
    if CONFIG_MAP.read_text() != rendered_config_map():
        stale.append(CONFIG_MAP)
    known = {copy for _, copy in copies()}
    strays = [path for path in vendored_files() if path not in known]
    for path in (*stale, *strays):
        session.warn(f"{path} is not a copy of its source")
    if stale or strays:
        session.error("run ./dev vendor, and commit what it changes")


@nox.session(default=False, venv_backend="none")
def vendor(session: nox.Session) -> None:
    """Copy into the functions what they do not own; with -- --check only compare."""
    if session.posargs == ["--check"]:
        vendored(session)
        return
    for path in vendored_files():
        path.unlink()
    for source, copy in copies():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    CONFIG_MAP.write_text(rendered_config_map())


def copies() -> Iterator[tuple[Path, Path]]:
    """Name each source with each of its copies."""
    for source in sorted(Path("schemas").iterdir()):
        yield source, SERVES_SCHEMAS / source
    for function in FUNCTIONS:
        for source in sorted(Path("relay").glob("*.py")):
            yield source, function / "function" / source
        for source in sorted(path for path in SHARED.rglob("*") if path.is_file()):
            if source.name != "requirements.in" and "__pycache__" not in source.parts:
                yield source, function / source.relative_to(SHARED)


def vendored_files() -> Iterator[Path]:
    """Name each file that is in the place of a copy of relay/ or schemas/."""
    yield from sorted((SERVES_SCHEMAS / "schemas").glob("*"))
    for function in FUNCTIONS:
        yield from sorted((function / "function/relay").glob("*.py"))


def same(source: Path, copy: Path) -> bool:
    """Compare byte for byte."""
    return copy.is_file() and filecmp.cmp(source, copy, shallow=False)


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
    """Resolve the functions' requirements, for every Python version and platform at once."""
    session.install("--quiet", *nox.project.dependency_groups(PYPROJECT, "lock"))
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.10"),
        *("--no-emit-index-url", "--no-emit-find-links", "--upgrade"),
        "--custom-compile-command=./dev lock",
        str(SHARED / "requirements.in"),
        f"--output-file={DEPLOYED}",
    )
    vendor(session)


@nox.session(default=False)
def up(session: nox.Session) -> None:
    """Start the whole system on this machine; `./dev up` runs it without nox in between."""
    install(session, "local")
    session.run("python", "-m", "local")
