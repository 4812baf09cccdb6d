"""Trigger filters: which events a Trigger wants, by their context attributes and extensions.

`cesql` is refused, because no other part of the project needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from msgspec import Meta, Struct, structs

_Attributes = Mapping[str, str]


class AttributesFilter(Struct, frozen=True, kw_only=True):
    """`spec.filter`: exact values, where `""` stands for any value."""

    attributes: dict[str, str] = {}

    def matches(self, attributes: _Attributes) -> bool:
        for name, value in self.attributes.items():
            if name not in attributes or value not in ("", attributes[name]):
                return False
        return True


class Dialect(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename=lambda name: name.rstrip("_"),
):
    """One filter of `spec.filters`, of one dialect; an absent attribute never matches."""

    exact: dict[str, str] | None = None
    prefix: dict[str, str] | None = None
    suffix: dict[str, str] | None = None
    any_: _Dialects | None = None
    all_: _Dialects | None = None
    not_: Dialect | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in structs.astuple(self)) != 1:
            raise ValueError("Expected exactly one of exact, prefix, suffix, any, all and not")

    def matches(self, attributes: _Attributes) -> bool:
        if self.exact is not None:
            return _all(str.__eq__, self.exact, attributes)
        if self.prefix is not None:
            return _all(str.startswith, self.prefix, attributes)
        if self.suffix is not None:
            return _all(str.endswith, self.suffix, attributes)
        if self.not_ is not None:
            return not self.not_.matches(attributes)
        if self.any_ is not None:
            return any(each.matches(attributes) for each in self.any_)
        return all(each.matches(attributes) for each in self.all_ or ())


def _all(
    compare: Callable[[str, str], bool], expected: Mapping[str, str], attributes: _Attributes
) -> bool:
    for name, value in expected.items():
        if name not in attributes or not compare(attributes[name], value):
            return False
    return True


_Dialects = Annotated[tuple[Dialect, ...], Meta(min_length=1)]
