"""The resources in a folder of manifests, read field by field with errors that say where."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import yaml

_DURATION = re.compile(
    r"P(?=.)(?:(?P<weeks>N)W)?(?:(?P<days>N)D)?"
    r"(?:T(?=.)(?:(?P<hours>N)H)?(?:(?P<minutes>N)M)?(?:(?P<seconds>N)S)?)?".replace(
        "N", r"\d+(?:[.,]\d+)?"
    ),
    re.ASCII,
)
_UNIT_S = {"weeks": 604800, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names file, resource and field."""


def parse_duration(text: str) -> float:
    """Return the seconds of an ISO 8601 duration in weeks, days, hours, minutes and seconds.

    Raises:
        ValueError: the text is none; years and months have no fixed length.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError("must be an ISO 8601 duration such as PT0.2S")
    return sum(
        float(number.replace(",", ".")) * _UNIT_S[unit]
        for unit, number in match.groupdict().items()
        if number is not None
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """One resource of a file; a `path` below names a field, from the resource's root."""

    file: Path
    kind: str
    namespace: str
    name: str
    spec: Mapping[str, object]

    def error(self, path: str, problem: str) -> ManifestError:
        """Make the error that says what is wrong with a field."""
        return ManifestError(
            f"{self.file}: {self.kind} {self.namespace}/{self.name}: {path} {problem}"
        )

    def mapping(self, parent: Mapping[str, object], path: str) -> Mapping[str, object]:
        """Return an object, empty when it is not there."""
        value = parent.get(_last(path))
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(path, "must be an object")
        return cast("dict[str, object]", value)

    def text(self, parent: Mapping[str, object], path: str) -> str:
        """Return a string, empty when it is not there."""
        value = parent.get(_last(path), "")
        if not isinstance(value, str):
            raise self.error(path, "must be a string")
        return value

    def required_text(self, parent: Mapping[str, object], path: str) -> str:
        """Return a string that must be there."""
        value = self.text(parent, path)
        if not value:
            raise self.error(path, "must be given")
        return value

    def duration_s(self, parent: Mapping[str, object], path: str) -> float | None:
        """Return the seconds of a duration, None when it is not there."""
        text = self.text(parent, path)
        try:
            return parse_duration(text) if text else None
        except ValueError as exc:
            raise self.error(path, f"{exc}, not {text!r}") from exc


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def read_resources(folder: Path) -> Iterator[Resource]:
    """Read Knative's eventing resources of a folder, in the order of the files' names.

    Raises:
        ManifestError: a file is no YAML, or a resource has no name.
    """
    for file in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))):
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as exc:
            raise ManifestError(f"{file}: must be YAML: {exc}") from exc
        for document in documents:
            if not isinstance(document, dict):
                continue
            api_version = document.get("apiVersion")
            if not isinstance(api_version, str) or not api_version.startswith(
                ("eventing.knative.dev/", "sources.knative.dev/")
            ):
                continue
            yield _resource(file, document)


def _resource(file: Path, document: Mapping[str, object]) -> Resource:
    draft = Resource(
        file=file, kind=str(document.get("kind")), namespace="default", name="?", spec={}
    )
    metadata = draft.mapping(document, "metadata")
    named = replace(
        draft,
        namespace=draft.text(metadata, "metadata.namespace") or "default",
        name=draft.required_text(metadata, "metadata.name"),
    )
    return replace(named, spec=named.mapping(document, "spec"))
