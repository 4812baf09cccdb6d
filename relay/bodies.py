"""Write bodies for targets, and make bodies readable for people, as their headers say."""

from __future__ import annotations

import base64
import codecs
import contextlib
import re
from encodings.aliases import aliases
from typing import Final
from urllib.parse import urlencode

from relay import jsons
from relay.headers import Headers, find, is_json, media_type
from relay.jsons import MAX_DEPTH, Number, Raw, json_type
from relay.problems import InvalidRequest

FORM: Final = "application/x-www-form-urlencoded"

# A parameter of a Content-Type (RFC 9110 section 5.6.6).
_PARAMETER = re.compile(r";\s*([^\s;=\"]+)=(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;\"]*))", re.ASCII)
# Python would look for a codec of any name, and remember each. These are charsets; the others make
# bytes of bytes, or are there on Windows alone.
_CODECS: Final = frozenset(aliases.values()) - {
    *("base64_codec", "bz2_codec", "hex_codec", "mbcs", "oem", "quopri_codec", "rot_13"),
    *("uu_codec", "zlib_codec"),
}


def charset_of(content_type: str) -> str:
    """Return the charset that a Content-Type names; UTF-8 when it names none."""
    for name, quoted, token in _PARAMETER.findall(content_type):
        if name.lower() == "charset":
            return str(quoted or token)
    return "utf-8"


def codec_of(charset: str) -> str | None:
    """Return Python's name of a charset; None when that is not known."""
    name = charset.lower().replace("-", "_")
    codec = aliases.get(name, name)
    return codec if codec in _CODECS else None


def seems(raw: bytes, content_type: str) -> str:
    """Say what a body that should be JSON seems to be instead; "" when that cannot be told."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "it begins with the byte order mark of UTF-16; send UTF-8"
    kind = media_type(content_type)
    if kind == "multipart/form-data":
        return "it is multipart/form-data, as curl -F sends it; send JSON, as with curl -d @FILE"
    if kind == FORM and not raw.lstrip().startswith(b"{"):  # curl -d calls everything a form
        return "it is a form; send JSON"
    if kind and kind != FORM and not is_json(kind):
        return f"its Content-Type is {kind[:64]!a}; send application/json"
    return ""


def content_of(value: object, text: str, headers: Headers) -> bytes:
    """Write an envelope's body as its headers declare it.

    Args:
        value: the body.
        text: its JSON text, which goes out as it came.
        headers: what the envelope asks for.

    Raises:
        InvalidRequest: the body cannot be what the headers say.
    """
    declared = find(headers, "Content-Type")
    charset = charset_of(declared or "")
    codec = codec_of(charset)
    if codec is None:
        raise InvalidRequest(
            "headers.Content-Type", f"has the unknown charset {charset[:40]}; send bodyBase64"
        )
    try:
        if declared is None or is_json(declared):
            return text.encode(codec)
        if isinstance(value, str):
            return value.encode(codec)
        if isinstance(value, dict) and media_type(declared) == FORM:
            return urlencode(_fields(value), doseq=True, encoding=codec).encode("ascii")
    except UnicodeEncodeError as exc:
        raise InvalidRequest(
            "body", f"has a character that is not in the charset {charset[:40]}"
        ) from exc
    raise InvalidRequest(
        "body",
        f"must be a string, not {json_type(value)}, since headers.Content-Type is not JSON",
    )


def check_not_encoded(headers: Headers, *, field: str, but: str) -> None:
    """Refuse a Content-Encoding over a body that is sent as it is.

    Raises:
        InvalidRequest: there is one; the error says what to do instead.
    """
    if (find(headers, "Content-Encoding") or "identity").lower() != "identity":
        raise InvalidRequest(
            f"{field}.Content-Encoding", f"must not be set: the body is not encoded; {but}"
        )


def _fields(value: dict[str, object]) -> dict[str, str | list[str]]:
    """Read an object as the fields of a form; a list is a field that is repeated."""
    return {
        name: [_field(each) for each in item] if isinstance(item, list) else _field(item)
        for name, item in value.items()
    }


def _field(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, Number):
        return value.text
    if not isinstance(value, str):
        raise InvalidRequest(
            "body", f"must not hold {json_type(value)} in a field: it is sent as a form"
        )
    return value


def readable(
    raw: bytes,
    content_type: str,
    *,
    is_whole: bool = True,
    is_exact: bool = False,
    max_depth: int = MAX_DEPTH,
) -> dict[str, object]:
    """Write bytes into JSON so that people can read them and nothing is lost.

    Args:
        is_whole: else it was cut, and may end within a character, which is left out.
        is_exact: only what `from_readable` makes the same bytes of may be text.
        max_depth: JSON that is nested deeper is not `body`.

    Returns:
        JSON as the value of `body`, text as a string in `body`, anything else as `bodyBase64`, and
        so malformed JSON, and text that is shorter that way; an empty dict for no bytes.
    """
    if not raw:
        return {}
    with contextlib.suppress(ValueError):  # it is not what it says
        codec = codec_of(charset_of(content_type)) or "utf_8"
        text = codecs.getincrementaldecoder(codec)().decode(raw, final=is_whole)
        is_same = codec == "utf_8" or not (is_exact and is_whole) or text.encode(codec) == raw
        if is_json(content_type) and is_whole:
            written = raw if codec == "utf_8" else text.encode("utf-8")
            jsons.loads(written, max_depth=max_depth)
            if is_same and not written.startswith(jsons.BOM):
                return {"body": Raw(written)}
        elif is_same and len(jsons.dumps(text)) <= _base64_bytes(raw) + len('Base64""'):
            return {"body": text}
    return {"bodyBase64": base64.b64encode(raw).decode("ascii")}


def _base64_bytes(raw: bytes) -> int:
    return (len(raw) + 2) // 3 * 4


def from_readable(value: object, text: str, content_type: str, *, is_whole: bool) -> bytes:
    """Make the bytes of a `body` that `readable` wrote.

    Args:
        value: the member `body`.
        text: its JSON text, with the blanks around it.

    Raises:
        ValueError: it cannot have been written so.
    """
    codec = codec_of(charset_of(content_type)) or "utf_8"
    if isinstance(value, str) and not (is_json(content_type) and is_whole):
        return value.encode(codec, "replace")  # JSON may hold a lone surrogate
    return text.encode(codec)
