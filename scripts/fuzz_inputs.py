"""What fuzz_fake.py sends: bytes that are nearly JSON, envelopes, arguments of real commands."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Mapping
from typing import Any

from pytest_qmp.qmp.schema import (
    AlternateType,
    ArrayType,
    EnumType,
    Member,
    ObjectType,
    Schema,
)

#: Commands that change nothing and answer the same at any time.
_HARMLESS = ("query-name", "query-version", "query-uuid", "query-status", "query-target")
_OUT_OF_BAND = ("migrate-pause", "query-name", "stop")
_PIECES = (
    *(bytes([code]) for code in b"{}[]:,\"'\\%-+.eE 0179\n\t\r/#uax\x00\x01\x1f\x7f\x80\xc0\xff"),
    b'{"execute":"query-name"}',
    b'{"execute":"query-name","id":',
    b'"arguments":{}',
    b'"execute":',
    b'"id":1',
    b"true",
    b"false",
    b"null",
    b"nul",
    b"NaN",
    b"-0",
    b"1.5e3",
    b"0e1",
    b"1e400",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775809",
    b'"\\ud83d\\ude00"',
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\uFFFE"',
    b'"\\u0000"',
    b'"\\x"',
    b"'it\\'s'",
    b'"\xc3\xa9"',
    b'"\xf0\x9f\x98\x80"',
    b'"\xed\xa0\x80"',
    b'"\xef\xbf\xbe"',
    b'"\xc0\x80"',
    b"\xe2\x82",
    b"\xfe",
    b"%s %p %i",
    b"a" * 1100,
    b"\xc3\xa9" * 600,
    b"[" * 1025,
    b'{"a":' * 1025,
    b"]" * 8,
)
_TEXTS = ("", "x", "é", "a b", "\0", "\x7f", "😀", "\ufffd", '"', "a\\", "%s", "x" * 300, "id")


class Inputs:
    """Makes inputs; the same seed makes the same ones.

    Args:
        chooser: where the chances come from.
        schema: of the emulated version.
    """

    def __init__(self, chooser: random.Random, schema: Schema) -> None:
        self._random = chooser
        self._schema = schema
        self._commands = sorted(set(schema.commands) - {"device_add", "quit"})

    def stream(self) -> bytes:
        """Bytes for the lexer, the parser and the checks of the envelope."""
        kind = self._random.random()
        if kind < 0.3:
            return b"".join(self._random.choices(_PIECES, k=self._random.randint(1, 12)))
        if kind < 0.4:
            return self._random.randbytes(self._random.randint(1, 40))
        text = self._json(self.envelope())
        return self._mutated(text) if kind < 0.75 else text

    def envelope(self) -> Any:
        """Something like a command, with keys missing, added, or of a wrong type."""
        chance = self._random.random
        if chance() < 0.06:
            return self.value()
        message: dict[str, Any] = {}
        if chance() < 0.9:
            message["execute"] = self._random.choice(_HARMLESS)
        if chance() < 0.25:
            message["exec-oob"] = self._random.choice(_OUT_OF_BAND)
            if chance() < 0.8:
                message.pop("execute", None)
        if chance() < 0.5:
            message["arguments"] = {} if chance() < 0.6 else self.value()
        if chance() < 0.6:
            message["id"] = self.value()
        if chance() < 0.2:
            message[self._random.choice(("foo", "Execute", "control", *_TEXTS))] = self.value()
        if chance() < 0.1 and message:
            message[self._random.choice(list(message))] = self.value()
        keys = list(message)
        self._random.shuffle(keys)
        return {key: message[key] for key in keys}

    def value(self, depth: int = 0) -> Any:
        """Any JSON value."""
        kind = self._random.randrange(6 if depth > 3 else 8)
        if kind == 0:
            return None
        if kind == 1:
            return self._random.choice((True, False))
        if kind == 2:
            return self.integer()
        if kind == 3:
            return self._random.choice((0.1, 1.5, -0.0, 1e15, 1e17, 1e300, 5e-324, 3.0, -2.5))
        if kind in (4, 5):
            return self._text()
        size = self._random.randrange(5)
        if kind == 6:
            return [self.value(depth + 1) for _ in range(size)]
        return {self._text(): self.value(depth + 1) for _ in range(size)}

    def integer(self) -> int:
        """An integer, often at the edge of a width."""
        edge = 1 << self._random.choice((0, 7, 8, 15, 16, 31, 32, 53, 62, 63))
        near = self._random.choice((edge, -edge)) + self._random.randint(-1, 1)
        return self._random.choice((near, self._random.randint(-5, 300)))

    def _text(self) -> str:
        if self._random.random() < 0.5:
            return self._random.choice(_TEXTS)
        return "".join(self._random.choices(string.ascii_lowercase + "-_", k=6))

    def _json(self, value: Any) -> bytes:
        """JSON, in one of the spellings that QEMU takes."""
        text = json.dumps(value, ensure_ascii=self._random.random() < 0.5)
        if self._random.random() < 0.2:
            text = text.replace(" ", self._random.choice(("", "\n", "\t \r")))
        return text.encode("utf-8", "surrogatepass")

    def _mutated(self, text: bytes) -> bytes:
        data = bytearray(text)
        for _ in range(self._random.randint(1, 4)):
            at = self._random.randint(0, len(data))
            to = min(len(data), at + self._random.randint(0, 3))
            piece = b"" if self._random.random() < 0.4 else self._random.choice(_PIECES)
            data[at:to] = piece
        return bytes(data)

    def command(self) -> tuple[str, dict[str, Any]]:
        """A command of the schema, with arguments that are right but for a few mutations."""
        name = self._random.choice(self._commands)
        arguments = self._right(self._schema.command(name).arg_type)
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 3))):
            self._spoil(arguments)
        return name, arguments

    def _right(self, type_name: str, depth: int = 0) -> Any:
        found = self._schema.type(type_name)
        if isinstance(found, ObjectType):
            return self._object(found, depth)
        if isinstance(found, ArrayType):
            size = 0 if depth > 6 else self._random.randint(0, 3)
            return [self._right(found.element_type, depth + 1) for _ in range(size)]
        if isinstance(found, EnumType):
            return self._random.choice(found.values)
        if isinstance(found, AlternateType):
            return self._right(self._random.choice(found.types), depth + 1)
        simple = {
            "int": self.integer,
            "number": lambda: self._random.choice((1, 0.5, self.integer())),
            "boolean": lambda: self._random.choice((True, False)),
            "string": lambda: self._random.choice(("x", "y0", "")),
            "null": lambda: None,
        }
        return simple.get(found.json_type, self.value)()

    def _object(self, found: ObjectType, depth: int) -> dict[str, Any]:
        wanted = 0.35 if depth < 5 else 0.0
        value: dict[str, Any] = {}
        self._members(found.members, value, wanted, depth)
        if found.tag is not None and found.tag in value:
            variant = found.variants.get(value[found.tag])
            if variant is not None:
                value |= self._object(self._schema.object(variant), depth)
        return value

    def _members(
        self, members: tuple[Member, ...], value: dict[str, Any], wanted: float, depth: int
    ) -> None:
        for member in members:
            if not member.optional or self._random.random() < wanted:
                value[member.name] = self._right(member.type, depth + 1)

    def _spoil(self, arguments: dict[str, Any]) -> None:
        """Changes one thing somewhere inside."""
        place: Any = arguments
        while isinstance(place, (dict, list)) and place and self._random.random() < 0.5:
            inner = self._random.choice(list(self._containers(place)) or [None])
            if inner is None:
                break
            place = inner
        chance = self._random.random()
        if isinstance(place, list):
            place.insert(self._random.randint(0, len(place)), self.value())
        elif chance < 0.25 and place:
            del place[self._random.choice(list(place))]
        elif chance < 0.75 and place:
            place[self._random.choice(list(place))] = self.value()
        else:
            for _ in range(self._random.choice((1, 1, 2, 5))):
                place[self._text()] = self.value()

    @staticmethod
    def _containers(place: Mapping[str, Any] | list[Any]) -> list[Any]:
        values = place.values() if isinstance(place, Mapping) else place
        return [value for value in values if isinstance(value, (dict, list))]
