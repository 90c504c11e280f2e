"""The kernel's headers as they are installed here, read without a compiler."""

import re
from pathlib import Path

_DIRECTORY = Path("/usr/include/linux")
_DIRECTIONS = {"_IO": 0, "_IOW": 1, "_IOR": 2, "_IOWR": 3}


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

    def _find(self, name: str) -> re.Match[str] | None:
        return re.search(rf"^#\s*define\s+{name}\s+(.+)$", self._text, re.MULTILINE)

    def definition(self, name: str) -> str:
        """What a macro stands for."""
        found = self._find(name)
        assert found is not None, name
        return found[1].strip()

    def constant(self, name: str) -> int:
        """The value of a macro that is a number, a shifted number or another such macro."""
        return self._value(self.definition(name))

    def _value(self, text: str) -> int:
        text = re.sub(r"\(__u64\)|[()\s]", "", text)
        if re.fullmatch(r"'.'", text):
            return ord(text[1])
        if re.fullmatch(r"[A-Z_]\w*", text):
            return self.constant(text)
        value, _, shift = text.partition("<<")
        return int(value, 0) << int(shift or "0")

    def size(self, struct: str) -> int:
        """The bytes of a struct of 64-bit fields and other such structs."""
        body = re.search(rf"^struct {struct} \{{(.*?)^\}};", self._text, re.MULTILINE | re.DOTALL)
        assert body is not None, struct
        fields = re.sub(r"^#.*$", "", body[1], flags=re.MULTILINE).split(";")
        types = [field.split()[:-1] for field in fields if field.strip()]
        assert all(kind[0] == "struct" or kind in (["__u64"], ["__s64"]) for kind in types), types
        return sum(self.size(kind[1]) if kind[0] == "struct" else 8 for kind in types)

    def number(self, name: str) -> int:
        """The number of an ioctl whose argument is a struct."""
        macro, group, number, struct = re.findall(
            r"(\w+)\(\s*([^,]+),\s*([^,]+),\s*struct\s+(\w+)\s*\)", self.definition(name)
        )[0]
        fields = (_DIRECTIONS[macro], 30), (self.size(struct), 16), (self._value(group), 8)
        return sum(value << shift for value, shift in fields) + self._value(number)


def header(name: str) -> Header:
    """A header of Linux as it is installed; one that defines nothing where it is not."""
    path = _DIRECTORY / name
    return Header(path.read_text() if path.exists() else "")
