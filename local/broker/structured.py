"""Events in structured mode as Knative's Broker reads them: `readJsonFromIterator` of sdk-go.

It takes member by member, and their order makes a difference. The text is taken as Latin-1, in
which each character is a byte, so that data stays as it is.
"""

from __future__ import annotations

import json
import re
from itertools import takewhile

from local.broker.attributes import READERS, SPACES, lower_name, unknown_version
from local.broker.uri import parse_uri
from relay import jsons
from relay.events import SPEC_VERSIONS, STRUCTURED
from relay.problems import InvalidRequest

# The data of these is JSON; of any other, +json too, a string that stands for its characters.
_JSON_TYPES = ("", "application/json", "text/json", STRUCTURED)
_MAX_INTEGER = 2**31 - 1
_LONE_SURROGATE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")


def read_structured(body: bytes) -> tuple[dict[str, str], bytes]:
    """Return the attributes, not checked yet, and the data.

    Raises:
        InvalidRequest: sdk-go cannot read it.
    """
    reader = _Reader()
    try:
        members = list(jsons.each_member(body.decode("latin-1")))
        for name, _, text in takewhile(lambda each: each[0], members):  # as sdk-go happens to do
            reader.take(name, text.rstrip())
        return reader.attributes, reader.data()
    except jsons.JSONError as exc:
        raise InvalidRequest("event", str(exc)) from exc


class _Reader:
    """What is known between two members."""

    def __init__(self) -> None:
        self.attributes: dict[str, str] = {}
        self._version = ""
        self._early_base64: str | None = None
        self._in_base64 = False
        # Data before the type of it is known, with the white space before it.
        self._kept: str | None = None
        self._data = b""

    def take(self, name: str, text: str) -> None:
        if name in ("specversion", "datacontenttype") and self._version and name in self.attributes:
            raise InvalidRequest(f"ce-{name}", "must be there once")
        if name == "specversion":
            self._version = self.attributes[name] = _string(name, text)
            if self._version not in SPEC_VERSIONS:
                raise unknown_version()
            if self._version == "1.0" and self._early_base64 is not None:
                self._kept, self._in_base64 = self._early_base64, True
            if self._version == "0.3" and "datacontentencoding" in self.attributes:
                self._take_encoding(self.attributes.pop("datacontentencoding"))
        elif name == "data":
            self._take_data(text, in_base64=self._in_base64 and self._version == "0.3")
        elif name == "data_base64" and self._version == "1.0":
            self._take_data(text, in_base64=True)
        elif name == "data_base64" and not self._version:
            self._early_base64 = f'"{_string(name, text)}"'
        elif name == "datacontentencoding" and self._version == "0.3":
            self._take_encoding(_string(name, text))
        else:
            self._take_attribute(name, text)

    def _take_encoding(self, encoding: str) -> None:
        if encoding != "base64":
            raise InvalidRequest("ce-datacontentencoding", "must be base64")
        self._in_base64 = True

    def _take_data(self, text: str, *, in_base64: bool) -> None:
        typed = "datacontenttype" in self.attributes and (self._version == "1.0" or in_base64)
        if self._version and typed:
            if in_base64:  # of what is no string, sdk-go forgets the error
                text = f'"{_string("data", text)}"' if text.lstrip().startswith('"') else '""'
            self._data = self._bytes(text, in_base64)
        else:
            self._in_base64 |= in_base64
            self._kept = text

    def _take_attribute(self, name: str, text: str) -> None:
        standard = READERS.get(self._version, READERS["1.0"])
        lower_name(name, standard)
        is_standard = name in standard
        value = _string(name, text) if is_standard else _extension_text(name, text)
        if is_standard and name in ("dataschema", "schemaurl"):
            try:
                parse_uri(value or "")
            except ValueError:
                value = None  # which is how sdk-go takes it, here and not in a header
        if name in ("subject", "datacontenttype") and value and not value.strip(SPACES):
            raise InvalidRequest(f"ce-{name}", "must not be empty when it is there")
        if value is None or (value == "" and is_standard):
            if name == "datacontenttype" and self._version:
                raise InvalidRequest("ce-datacontenttype", "must not be empty when it is there")
            self.attributes.pop(name, None)
        else:
            self.attributes[name] = value

    def data(self) -> bytes:
        return self._data if self._kept is None else self._bytes(self._kept, self._in_base64)

    def _bytes(self, text: str, in_base64: bool) -> bytes:
        if in_base64:
            if not text.startswith('"'):  # sdk-go cuts off one character at each end
                raise InvalidRequest("data_base64", "must follow its colon at once")
            return jsons.decode_base64(re.sub(r"[\r\n]", "", text[1:-1]))
        kind, parameters, _ = self.attributes.get("datacontenttype", "").partition(";")
        if (kind.strip() if parameters else kind) in _JSON_TYPES:
            return text.encode("latin-1")
        return _string("data", text).encode("utf-8", "surrogateescape")


def _string(name: str, text: str) -> str:
    """Read a string, or the empty one for null."""
    text = text.strip()
    if text == "null":
        return ""
    if not text.startswith('"'):
        raise InvalidRequest(f"ce-{name[:64]}", "must be a string")
    raw = text.encode("latin-1")
    try:
        return re.sub(r"[\ud800-\udfff]", "\ufffd", json.loads(raw.decode("utf-8")))
    except UnicodeDecodeError:
        return _LONE_SURROGATE.sub("\ufffd", json.loads(raw.decode("utf-8", "surrogateescape")))


def _extension_text(name: str, text: str) -> str | None:
    """Read the value of an extension; a number is cut to a whole one of 32 bits."""
    text = text.strip()
    if text in ("true", "false"):
        return text
    if text == "null" or text.startswith('"'):
        return None if text == "null" else _string(name, text)
    number = float("nan") if text[0] in "[{" else float(text)
    if not -_MAX_INTEGER - 1 <= number <= _MAX_INTEGER:
        raise InvalidRequest(
            f"ce-{name[:64]}", "must be a string, a boolean or a number of 32 bits"
        )
    return str(int(number))
