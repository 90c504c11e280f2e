"""The kernel's headers as they are installed here, read without a compiler."""

import re
from pathlib import Path

_DIRECTORY = Path("/usr/include/linux")
_DIRECTIONS = {"_IO": 0, "_IOW": 1, "_IOR": 2, "_IOWR": 3}
_SIZES = {"__u8": 1, "__u16": 2, "__u32": 4, "__s32": 4, "__u64": 8, "__s64": 8, "__aligned_u64": 8}


class Header:
    """One header.

    Args:
        text: What stands in it.
    """

    def __init__(self, text: str) -> None:
        self._text = re.sub(r"/\*.*?\*/|\\\n", " ", text, flags=re.DOTALL)

    def has(self, name: str) -> bool:
        """Whether it defines a macro: an older header lacks what a newer kernel brought."""
        return self._find(name) is not None

    def has_struct(self, struct: str) -> bool:
        """Whether it defines a struct."""
        return self._body(struct) is not None

    def _body(self, struct: str) -> re.Match[str] | None:
        pattern = rf"^struct {struct} \{{(.*?)^\}};"
        return re.search(pattern, self._text, re.MULTILINE | re.DOTALL)

    def _find(self, name: str) -> re.Match[str] | None:
        return re.search(rf"^#\s*define\s+{name}\s+(.+)$", self._text, re.MULTILINE)

    def definition(self, name: str) -> str:
        """What a macro stands for."""
        found = self._find(name)
        assert found is not None, name
        return found[1].strip()

    def constant(self, name: str) -> int:
        """The value of a macro that is a number, a shifted number, another such or a sum."""
        return self._value(self.definition(name))

    def _value(self, text: str) -> int:
        text = re.sub(r"\(__u64\)|[()\s]", "", text)
        if re.fullmatch(r"'.'", text):
            return ord(text[1])
        if re.fullmatch(r"[A-Z_]\w*", text):
            return self.constant(text)
        if "+" in text:
            return sum(map(self._value, text.split("+")))
        value, _, shift = text.partition("<<")
        return int(value, 0) << int(shift or "0")

    def enumerator(self, name: str) -> int | None:
        """The value of a member of an enum; None if no enum has it."""
        for body in re.findall(r"^enum[^{;]*\{(.*?)\}", self._text, re.MULTILINE | re.DOTALL):
            value = -1
            for member in body.split(","):
                stem, _, given = member.partition("=")
                value = self._value(given) if given.strip() else value + 1
                if stem.strip() == name:
                    return value
        return None

    def size(self, struct: str) -> int:
        """The bytes of a struct of integers and other such structs, an open end not counted.

        Nothing is said about gaps: there must be none.
        """
        body = self._body(struct)
        assert body is not None, struct
        fields = re.sub(r"^\s*#.*$", "", body[1], flags=re.MULTILINE).split(";")
        size = 0
        for *kind, name in (field.split() for field in fields if field.strip()):
            if name.endswith("[]"):
                continue
            field_size = self.size(kind[1]) if kind[0] == "struct" else _SIZES[kind[0]]
            assert kind[0] == "struct" or (len(kind) == 1 and size % field_size == 0), (kind, name)
            size += field_size
        return size

    def number(self, name: str) -> int:
        """The number of an ioctl whose argument is a struct, or that tells nothing about it."""
        macro, group, number, struct = re.findall(
            r"(\w+)\(\s*([^,]+),\s*([^,]+?)\s*(?:,\s*struct\s+(\w+)\s*)?\)",
            self.definition(name),
        )[0]
        size = self.size(struct) if struct else 0
        fields = (_DIRECTIONS[macro], 30), (size, 16), (self._value(group), 8)
        return sum(value << shift for value, shift in fields) + self._value(number)


def header(name: str) -> Header:
    """A header of Linux as it is installed; one that defines nothing where it is not."""
    path = _DIRECTORY / name
    return Header(path.read_text() if path.exists() else "")
