"""What `./dev vendor` writes into the functions' folders, and what lies there beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from functions.vendor import built, generated
from tests.support.processes import REPOSITORY

FOLDERS = (REPOSITORY / "functions/send", REPOSITORY / "functions/receive")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Copy what the files are written from, and the files."""
    for name in ("relay", "schemas", "functions"):
        shutil.copytree(
            REPOSITORY / name,
            tmp_path / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "_vendor"),
        )
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def vendor(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(clone / "functions/vendor.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def wheels_of(clone: Path) -> list[Path]:
    return sorted(clone.glob("functions/*/function/*.whl"))


def pins_of(folder: Path) -> Iterator[str]:
    text = (folder / "function/requirements.txt").read_text(encoding="utf-8")
    for requirement in text.replace("\\\n", "").splitlines():
        if requirement and not requirement.lstrip().startswith(("#", "--")):
            yield requirement


def test_the_files_are_what_the_source_makes() -> None:
    """Whoever changes the relay writes them again."""
    files = generated()

    stale = [path for path in files if not path.is_file() or path.read_bytes() != files[path]]
    assert stale == [], "run ./dev vendor, and commit what it changes"


def test_the_wheel_holds_the_relay_and_its_schemas() -> None:
    """Each file of the source is in it once, and nothing of running it."""
    with zipfile.ZipFile(wheels_of(REPOSITORY)[0]) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]

    sources = [*REPOSITORY.glob("relay/*.py"), *REPOSITORY.glob("relay/schemas/*")]
    assert sorted(names) == sorted(str(path.relative_to(REPOSITORY)) for path in sources)


def test_the_wheel_is_the_same_wherever_and_whenever_it_is_built(clone: Path) -> None:
    """Times, modes and what Python leaves behind make no difference."""
    for path in clone.glob("relay/*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o755)
    (clone / "relay/__pycache__").mkdir()
    (clone / "relay/__pycache__/send.cpython-310.pyc").touch()

    assert built(clone) == built(REPOSITORY)


@pytest.mark.parametrize("changed", ["relay/urls.py", "schemas/openapi.yaml"])
def test_another_source_is_another_version(clone: Path, changed: str) -> None:
    """An old relay would stay installed: pip leaves a package of the same version as it is."""
    before = wheels_of(clone)
    with (clone / changed).open("a", encoding="utf-8") as source:
        source.write("# changed\n")

    checked = vendor(clone, "--check")
    assert checked.returncode != 0
    assert f"functions/send/function/{before[0].name} is not what" in checked.stderr
    assert vendor(clone).returncode == 0

    after = wheels_of(clone)
    assert len(after) == len(before) == 2
    assert not set(after) & set(before)
    assert vendor(clone, "--check").returncode == 0


def test_what_is_up_to_date_is_left_alone(clone: Path) -> None:
    """A second run writes nothing."""
    assert vendor(clone).returncode == 0
    paths = [*wheels_of(clone), *clone.glob("functions/*/function/requirements.txt")]
    for path in paths:
        os.utime(path, (1, 1))

    assert vendor(clone).returncode == 0

    assert [path.stat().st_mtime for path in paths] == [1] * 4


def test_the_version_is_local() -> None:
    """No index serves a local version (PEP 440): what is installed is the wheel in the folder."""
    release, _, local = built(REPOSITORY)[0].partition("+")

    assert re.fullmatch(r"[0-9]+(\.[0-9]+)*", release)
    assert re.fullmatch(r"clone[0-9a-f]{12}", local)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_requirements_are_pinned_with_hashes(folder: Path) -> None:
    """A function built next year is built from the files tested today."""
    pins = list(pins_of(folder))

    assert len(pins) > 10
    for pin in pins:
        assert re.match(r"[a-z0-9-]+==[0-9]\S* .*--hash=sha256:[0-9a-f]{64}", pin), pin


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_requirements_are_those_that_were_asked_for(folder: Path) -> None:
    """Each line of requirements.in is in requirements.txt, in the same version."""
    asked = (REPOSITORY / "functions/requirements.in").read_text(encoding="utf-8")
    wanted = re.findall(r"(?m)^([A-Za-z0-9.-]+)(?:\[.+\])?==(\S+)", asked)

    pinned = {re.split(r"[ ;\\]", pin)[0] for pin in pins_of(folder)}

    assert len(wanted) > 5
    missing = {f"{name.lower()}=={version}" for name, version in wanted} - pinned
    assert missing == set(), "run ./dev lock, and commit what it changes"


def test_the_functions_are_packaged_alike() -> None:
    """What both folders hold by the same name is the same, but what makes them two functions."""
    own = {"README.md", "func.yaml", "function/main.py"}
    send, receive = (
        {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not {"__pycache__", "_vendor", ".func"} & set(path.parts)
        }
        for folder in FOLDERS
    )

    assert send.keys() == receive.keys()
    assert {name for name in send if send[name] != receive[name]} == own
