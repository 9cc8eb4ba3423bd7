"""Makes values, or QEMU's complaints, of a stream of JSON tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

from .json_lexer import Lexer, Token
from .json_strings import decode_lossy, unescape

__all__ = ["JSONReader", "ParseFault"]

_MAX_NESTING = 1024
_MAX_TOKENS = 2 << 20
_MAX_BYTES = 64 << 20
#: What fits the buffer that QEMU writes its complaints to.
_MAX_COMPLAINT = 1023
_KEYWORDS = {b"true": True, b"false": False, b"null": None}


class ParseFault(NamedTuple):
    """What QEMU answers to bytes that are not JSON."""

    desc: str


class _Malformed(Exception):  # noqa: N818 - control flow inside this module, never an outcome
    """The token at hand can't stand where it is; the text is QEMU's."""


class _Words(NamedTuple):
    key: str
    colon: str
    object_end: str
    array_end: str
    key_may_be_any_value: bool


_BUFFERED = _Words(
    "key is not a string in object",
    "missing : in object pair",
    "expected separator in dict",
    "expected separator in list",
    True,
)
_INCREMENTAL = _Words(
    "expecting key", "expecting ':'", "expected ',' or '}'", "expected ',' or ']'", False
)


class _Container:
    """An object or a list that is not complete yet."""

    __slots__ = ("key", "state", "value")

    def __init__(self, value: Any, state: str) -> None:
        self.value = value
        self.state = state
        self.key = ""


class _Automaton:
    """Takes one token after the other; has no stack but its own, so that depth costs nothing."""

    def __init__(self, words: _Words) -> None:
        self._words = words
        self._stack: list[_Container] = []

    def feed(self, token: Token) -> tuple[bool, Any]:
        """Whether a value is complete with this token, and the value.

        Raises:
            _Malformed: the token can't stand here.
        """
        top = self._stack[-1] if self._stack else None
        kind = token.kind
        state = top.state if top else "value"
        if top is not None and state not in ("value", "element", "first element"):
            if state in ("key", "first key"):
                if kind == "}" and state == "first key":
                    return self._complete(self._stack.pop().value)
                if not self._words.key_may_be_any_value and kind != "string":
                    raise _Malformed(self._words.key)
            elif state == "colon":
                if kind != ":":
                    raise _Malformed(self._words.colon)
                top.state = "value"
                return False, None
            elif kind == ",":
                top.state = "key" if state == "object end" else "element"
                return False, None
            elif kind == ("}" if state == "object end" else "]"):
                return self._complete(self._stack.pop().value)
            else:
                words = self._words
                raise _Malformed(words.object_end if state == "object end" else words.array_end)
        elif kind == "]" and state == "first element":
            return self._complete(self._stack.pop().value)
        if kind == "{":
            self._stack.append(_Container({}, "first key"))
            return False, None
        if kind == "[":
            self._stack.append(_Container([], "first element"))
            return False, None
        return self._complete(_scalar(token))

    def _complete(self, value: Any) -> tuple[bool, Any]:
        if not self._stack:
            return True, value
        top = self._stack[-1]
        if top.state in ("key", "first key"):
            if not isinstance(value, str):
                raise _Malformed(self._words.key)
            top.key, top.state = value, "colon"
        elif top.state == "value":
            if top.key in top.value:
                raise _Malformed("duplicate key")
            top.value[top.key] = value
            top.state = "object end"
        else:
            top.value.append(value)
            top.state = "array end"
        return False, None


def _scalar(token: Token) -> Any:
    kind, text = token.kind, token.text
    if kind == "string":
        value, fault = unescape(text)
        if fault:
            raise _Malformed(fault)
        return value
    if kind == "number":
        return _number(text)
    if kind == "keyword":
        if text not in _KEYWORDS:
            raise _Malformed(f"invalid keyword '{text.decode('ascii')}'")
        return _KEYWORDS[text]
    raise _Malformed("expecting value")


def _number(text: bytes) -> int | float:
    # Fewer digits than this fit 64 bits, and Python refuses to convert very many.
    if len(text) <= 21 and text.lstrip(b"-").isdigit():
        value = int(text)
        if -(2**63) <= value < 2**64:
            return value
    return float(text)


class JSONReader:
    """The side of the wire that reads: bytes in, values and ParseFaults out.

    Args:
        incremental: find errors as the bytes come, and say where (QEMU 11.1); else collect
            tokens until the brackets are balanced, then parse them (before that).
    """

    def __init__(self, incremental: bool) -> None:
        self._incremental = incremental
        self._words = _INCREMENTAL if incremental else _BUFFERED
        self._lexer = Lexer()
        self._automaton = _Automaton(self._words)
        self._tokens: list[Token] = []
        self._faulty = False
        self._braces = self._brackets = self._count = self._bytes = 0

    def feed(self, data: bytes) -> list[Any]:
        """The values and ParseFaults that are complete with ``data``, in order."""
        out: list[Any] = []
        for token in self._lexer.feed(data):
            self._take(token, out)
        return out

    def _take(self, token: Token, out: list[Any]) -> None:
        kind = token.kind
        if kind == "{":
            self._braces += 1
        elif kind == "[":
            self._brackets += 1
        elif kind == "}":
            self._braces -= 1
        elif kind == "]":
            self._brackets -= 1
        elif kind == "error":
            if not self._faulty:
                out.append(self._fault(b"stray '" + token.text.split(b"\0", 1)[0] + b"'", token))
            self._reset()
            return
        self._count += 1
        self._bytes += len(token.text)
        limit = self._exceeded()
        if limit:
            if not self._faulty:
                out.append(ParseFault(f"JSON {limit} limit exceeded"))
            if not self._incremental:
                self._reset()
                return
            self._faulty = True
        if self._incremental:
            self._advance(token, out)
        else:
            self._tokens.append(token)
        open_ended = self._braces > 0 or self._brackets > 0
        if open_ended and self._braces >= 0 and self._brackets >= 0:
            return
        for held in self._tokens:
            self._advance(held, out)
        self._reset()

    def _advance(self, token: Token, out: list[Any]) -> None:
        """Feeds the automaton; after a fault, the rest up to the balance is skipped."""
        if self._faulty:
            return
        try:
            complete, value = self._automaton.feed(token)
        except _Malformed as malformed:
            self._faulty = True
            out.append(self._fault(str(malformed).encode()[:_MAX_COMPLAINT], token))
            return
        if complete:
            out.append(value)

    def _exceeded(self) -> str:
        if self._braces + self._brackets > _MAX_NESTING:
            return "nesting depth"
        if self._count > _MAX_TOKENS:
            return "token count"
        if self._bytes > _MAX_BYTES:
            return "token size"
        return ""

    def _fault(self, text: bytes, token: Token) -> ParseFault:
        if not self._incremental:
            return ParseFault(f"JSON parse error, {decode_lossy(text)}")
        shown = decode_lossy(text[:_MAX_COMPLAINT])
        return ParseFault(f"{token.line}:{token.column}: JSON parse error, {shown}")

    def _reset(self) -> None:
        self._automaton = _Automaton(self._words)
        self._tokens = []
        self._faulty = False
        self._braces = self._brackets = self._count = self._bytes = 0
