"""A trace in Chrome's JSON format, event by event: the file may be larger than memory.

Format: Trace Event Format, Google, 2016 (an object with "traceEvents", or the array of events alone).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from typing import Any, BinaryIO

from pascaline.core.errors import CheckpointError
from pascaline.report.record_file import RecordFile

_CHUNK_BYTES = 1 << 20
_MAX_VALUE = 8 << 20
"""Characters of one event, or of one of the trace's other members."""
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(strict=False)

Event = dict[str, Any]


def is_trace(file: RecordFile) -> bool:
    """Whether a file begins as a trace does."""
    start = file.head.lstrip(b" \t\r\n\xef\xbb\xbf")
    return (start[:1] == b"{" and b'"traceEvents"' in start) or (start[:1] == b"[" and b'"ph"' in start)


def read_events(file: RecordFile, take: Callable[[Event], None]) -> dict[str, Any]:
    """Call `take` with each event that is an object; the trace's other members are returned.

    Raises
    ------
    CheckpointError : it is no JSON, ends early, or holds a value that is larger than any event.
    """
    with file.open() as stream:
        text = _Text(file, stream)
        if text.peek() == "[":
            _take_array(text, take)
            return {}
        others: dict[str, Any] = {}
        for name in text.members():
            if name == "traceEvents" and text.peek() == "[":
                _take_array(text, take)
            else:
                others[name] = _as_unicode(text.value())
        return others


def _as_unicode(value: Any) -> Any:
    """The value, halves of surrogate pairs (which no encoding can write) replaced in all of its texts."""
    written = json.dumps(value, ensure_ascii=False)
    if written.isascii():
        return value
    return json.loads(written.encode("utf-8", "replace"))


def _take_array(text: _Text, take: Callable[[Event], None]) -> None:
    text.skip("[")
    if text.peek() == "]":
        text.skip("]")
        return
    while True:
        event = text.value()
        if isinstance(event, dict):
            take(event)
        if text.peek() == "]":
            text.skip("]")
            return
        text.skip(",")


class _Text:
    """A position in a stream of JSON."""

    def __init__(self, file: RecordFile, stream: BinaryIO) -> None:
        self._file, self._stream = file, stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
        self._text, self._at, self._is_whole = "", 0, False

    def peek(self) -> str:
        """The next character that is no space."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = self._at if found is None else found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise self._damaged("ends early")

    def skip(self, wanted: str) -> None:
        if self.peek() != wanted:
            raise self._damaged(f"has {self.peek()!r} where {wanted!r} should be")
        self._at += 1

    def members(self) -> Any:
        """The names of an object's members, each before its value is read."""
        self.skip("{")
        if self.peek() == "}":
            return
        while True:
            name = self.value()
            self.skip(":")
            yield name
            if self.peek() == "}":
                return
            self.skip(",")

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or self._is_whole:  # else a number may go on
                    self._at = end
                    return value
            except RecursionError:
                raise self._damaged("has values too deep in each other") from None
            except ValueError:
                if len(self._text) - self._at > _MAX_VALUE:
                    raise self._damaged("has a value that is no JSON, or larger than any event") from None
                if self._is_whole:
                    raise self._damaged("ends early, or is no JSON") from None
            self._more()

    def _more(self) -> bool:
        """Read on, at least as much as is there already, so that retries stay few."""
        if self._is_whole:
            return False
        kept = self._text[self._at :]
        data = self._stream.read(max(_CHUNK_BYTES, len(kept)))
        self._is_whole = not data
        self._text, self._at = kept + self._decode(data, final=self._is_whole), 0
        return bool(data)

    def _damaged(self, how: str) -> CheckpointError:
        return CheckpointError(f"{self._file.path} {how}", expected="a trace", remedy="Record it again")
