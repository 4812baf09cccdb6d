"""Trigger filters: which events a Trigger wants, by their context attributes and extensions.

`spec.filter.attributes` and the `spec.filters` dialects `exact`, `prefix`, `suffix`, `any`, `all`
and `not` are read; `cesql` is refused, because no other part of the project needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

AttributeDialect = Literal["exact", "prefix", "suffix"]
GroupDialect = Literal["any", "all", "not"]
_ATTRIBUTE_DIALECTS: tuple[AttributeDialect, ...] = get_args(AttributeDialect)
_GROUP_DIALECTS: tuple[GroupDialect, ...] = get_args(GroupDialect)


class FilterError(ValueError):
    """A filter that cannot be read; the message starts with the field's path."""


class Filter(Protocol):
    """What decides on an event by its attributes."""

    def matches(self, attributes: Mapping[str, str]) -> bool:
        """Say whether an event with these attributes passes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributeFilter:
    """Compare attributes with expected values; an attribute that is absent never matches."""

    dialect: AttributeDialect
    expected: Mapping[str, str]

    def matches(self, attributes: Mapping[str, str]) -> bool:
        """Say whether every expected attribute is there and compares."""
        return all(self._compares(attributes.get(name), v) for name, v in self.expected.items())

    def _compares(self, actual: str | None, expected: str) -> bool:
        if actual is None:
            return False
        if self.dialect == "exact":
            return actual == expected
        if self.dialect == "prefix":
            return actual.startswith(expected)
        return actual.endswith(expected)


@dataclass(frozen=True, kw_only=True, slots=True)
class LegacyFilter:
    """`spec.filter.attributes`: exact values, where `""` stands for any value that is there."""

    expected: Mapping[str, str]

    def matches(self, attributes: Mapping[str, str]) -> bool:
        """Say whether every expected attribute is there and has its value."""
        return all(
            name in attributes and value in ("", attributes[name])
            for name, value in self.expected.items()
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupFilter:
    """Join filters; `not` holds exactly one."""

    dialect: GroupDialect
    filters: tuple[Filter, ...]

    def matches(self, attributes: Mapping[str, str]) -> bool:
        """Say whether any, all or none of the filters match."""
        results = (each.matches(attributes) for each in self.filters)
        if self.dialect == "all":
            return all(results)
        return any(results) == (self.dialect == "any")


def parse_filter(spec: Mapping[str, object]) -> Filter:
    """Read a Trigger's filter from its `spec`.

    Args:
        spec: the Trigger's `spec`. As in Knative, a `filters` list that is not empty replaces
            `filter`; with neither, every event passes.

    Raises:
        FilterError: naming the field and what would be right.
    """
    if spec.get("filters"):
        return GroupFilter(dialect="all", filters=_parse_list(spec["filters"], "spec.filters"))
    legacy = spec.get("filter") or {}
    if not isinstance(legacy, dict):
        raise FilterError("spec.filter must be an object with attributes")
    expected = legacy.get("attributes") or {}
    return LegacyFilter(expected=_parse_expected(expected, "spec.filter.attributes"))


def _parse_list(value: object, path: str) -> tuple[Filter, ...]:
    if not isinstance(value, list) or not value:
        raise FilterError(f"{path} must be a list of at least one filter")
    return tuple(_parse_dialect(each, f"{path}[{index}]") for index, each in enumerate(value))


def _parse_dialect(value: object, path: str) -> Filter:
    if not isinstance(value, dict) or len(value) != 1:
        raise FilterError(f"{path} must be an object with exactly one dialect")
    ((name, content),) = value.items()
    path = f"{path}.{name}"
    for dialect in _ATTRIBUTE_DIALECTS:
        if name == dialect:
            return AttributeFilter(dialect=dialect, expected=_parse_expected(content, path))
    for group in _GROUP_DIALECTS:
        if name == group:
            filters = (
                (_parse_dialect(content, path),) if group == "not" else _parse_list(content, path)
            )
            return GroupFilter(dialect=group, filters=filters)
    known = ", ".join((*_ATTRIBUTE_DIALECTS, *_GROUP_DIALECTS))
    raise FilterError(f"{path} is not a dialect that the local Broker reads; it reads {known}")


def _parse_expected(value: object, path: str) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(text, str) for name, text in value.items()
    ):
        raise FilterError(f"{path} must be an object of attribute names to strings")
    return value
