"""Forms (multipart/form-data): what a request with files says, and the same written anew for another model.

Source: RFC 7578. The parts are found by python-multipart; nothing of a part but its model's name is changed.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bursar.types.errors import RequestError

# Parts and bytes of their heads: more than any client sends.
MAX_PARTS = 200
_MAX_HEADER_BYTES = 8192
_FORM = b"multipart/form-data"


class Part(msgspec.Struct):
    """One part: its headers as they came, its name, the name of its file (None for a plain value), and its bytes."""

    headers: list[tuple[bytes, bytes]]
    name: str
    filename: str | None
    content_type: str | None
    data: bytes


def is_form(content_type: bytes) -> bool:
    return content_type.lstrip().lower().startswith(_FORM)


class _Found:
    """What the parser finds, put together."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._field: list[bytes] = []
        self._value: list[bytes] = []
        self._data: list[bytes] = []
        self._head_size = 0

    def on_part_begin(self) -> None:
        if len(self.parts) >= MAX_PARTS:
            raise RequestError(f"the form has more than {MAX_PARTS} parts")
        self._headers, self._data, self._head_size = [], [], 0

    def _head(self, into: list[bytes], piece: bytes) -> None:
        self._head_size += len(piece)
        if self._head_size > _MAX_HEADER_BYTES:
            raise RequestError(f"a part of the form has more than {_MAX_HEADER_BYTES} bytes of headers")
        into.append(piece)

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._head(self._field, data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._head(self._value, data[start:end])

    def on_header_end(self) -> None:
        self._headers.append((b"".join(self._field), b"".join(self._value)))
        self._field, self._value = [], []

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def on_part_end(self) -> None:
        named = {name.lower(): value for name, value in self._headers}
        _, options = parse_options_header(named.get(b"content-disposition", b""))
        if b"name" not in options:
            raise RequestError("a part of the form has no name")
        filename, kind = options.get(b"filename", options.get(b"filename*")), named.get(b"content-type")
        self.parts.append(
            Part(
                self._headers,
                options[b"name"].decode("utf-8", "replace"),
                filename.decode("utf-8", "replace") if filename is not None else None,
                kind.decode("latin-1") if kind is not None else None,
                b"".join(self._data),
            )
        )

    def on_end(self) -> None:
        self.ended = True


def boundary_of(content_type: str) -> bytes:
    """The boundary between parts. Raises RequestError where none is named."""
    _, options = parse_options_header(content_type.encode("latin-1", "replace"))
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:
        raise RequestError("the content-type names no boundary of the form")
    return boundary


def parts_of(body: bytes, content_type: str) -> list[Part]:
    """The parts of a form. Raises RequestError where it is none."""
    found = _Found()
    names = (
        "on_part_begin", "on_header_field", "on_header_value", "on_header_end", "on_part_data", "on_part_end", "on_end",
    )  # fmt: skip
    callbacks: Any = {name: getattr(found, name) for name in names}
    try:
        boundary = boundary_of(content_type)
        parser = MultipartParser(boundary, callbacks)
        # What stands before the first part and behind the last is to be passed over.
        begins, ends = body.find(b"--" + boundary), body.rfind(b"\r\n--" + boundary + b"--")
        parser.write(body[max(0, begins) : ends + len(boundary) + 6 if ends >= 0 else len(body)])
        parser.finalize()
    except FormParserError as e:
        raise RequestError(f"the form cannot be read: {e}") from None
    if not found.ended:
        raise RequestError("the form is cut off: its last boundary is missing")
    return found.parts


def fields_of(parts: list[Part]) -> dict[str, object]:
    """The plain values by name, those that come more than once as a list."""
    fields: dict[str, object] = {}
    for part in parts:
        if part.filename is None:
            text = part.data.decode("utf-8", "replace")
            before = fields.get(part.name)
            several = [*before, text] if isinstance(before, list) else [before, text]
            fields[part.name] = text if before is None else several
    return fields


def files_of(parts: list[Part]) -> list[dict[str, object]]:
    """What there is to say of the files: their bytes are told by their hash."""
    return [
        {
            "field": part.name,
            "filename": part.filename,
            "content_type": part.content_type,
            "bytes": len(part.data),
            "sha256": hashlib.sha256(part.data).hexdigest(),
        }
        for part in parts
        if part.filename is not None
    ]


def written(parts: list[Part], boundary: bytes, model: bytes) -> bytes:
    """The form again, the model's name in it replaced."""
    out = []
    for part in parts:
        lines = b"".join(b"%b: %b\r\n" % header for header in part.headers)
        is_model = part.name == "model" and part.filename is None
        out += [b"--", boundary, b"\r\n", lines, b"\r\n", model if is_model else part.data, b"\r\n"]
    return b"".join([*out, b"--", boundary, b"--\r\n"])
