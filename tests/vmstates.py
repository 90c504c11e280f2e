"""Described devices with their values: a few that are known, and any number of others."""

import struct
from typing import Any

from hypothesis import strategies as st

from switchover.model.vmstate import VmstateDescription, VmstateField, VmstateType

Type = VmstateType
Values = dict[str, Any]

TIMER = VmstateDescription(
    "timer",
    (
        VmstateField("cpu_ticks_offset", Type.INT64),
        VmstateField("unused", Type.UNUSED, size=8),
        VmstateField("cpu_clock_offset", Type.INT64),
    ),
    version_id=2,
)
GLOBALSTATE = VmstateDescription(
    "globalstate",
    (
        VmstateField("size", Type.UINT32),
        VmstateField("runstate", Type.BUFFER, size=32),
        VmstateField("has_vm_was_suspended", Type.UINT8),
        VmstateField("vm_was_suspended", Type.UINT8),
        VmstateField("unused", Type.UNUSED, size=66),
    ),
)
LINE = VmstateDescription(
    "line",
    (VmstateField("on", Type.BOOL), VmstateField("level", Type.INT16)),
    subsections=(VmstateDescription("line/extra", (VmstateField("more", Type.UINT8),)),),
)
DEVICE = VmstateDescription(
    "device",
    (
        VmstateField("count", Type.UINT8),
        VmstateField("levels", Type.UINT16, count="count"),
        VmstateField("lines", Type.STRUCT, count=2, struct=LINE),
        VmstateField("names", Type.BUFFER, count=2, size=3),
        VmstateField("later", Type.UINT32, version_id=3),
        VmstateField("last", Type.STRUCT, struct=LINE),
    ),
    version_id=3,
    minimum_version_id=2,
    subsections=(
        VmstateDescription(
            "device/irq",
            (VmstateField("pending", Type.UINT64),),
            version_id=2,
            subsections=(VmstateDescription("device/irq/nmi", (VmstateField("n", Type.INT8),)),),
        ),
        VmstateDescription("device/empty", ()),
    ),
)
VALUES: Values = {
    "count": 2,
    "levels": [0x0102, 0xFFFF],
    "lines": [{"on": True, "level": -2}, {"on": False, "level": 3, "line/extra": {"more": 9}}],
    "names": [b"abc", b"def"],
    "later": 7,
    "last": {"on": True, "level": 0},
}

INTEGERS = {
    Type.INT8: ">b",
    Type.INT16: ">h",
    Type.INT32: ">i",
    Type.INT64: ">q",
    Type.UINT8: ">B",
    Type.UINT16: ">H",
    Type.UINT32: ">I",
    Type.UINT64: ">Q",
}


@st.composite
def states(draw: st.DrawFn, name: str = "device", depth: int = 2) -> tuple[Any, Values]:
    """A description and values that fit it."""
    fields, values = [], Values()
    for number in range(draw(st.integers(0, 4))):
        field, value = draw(described_fields(f"f{number}", depth))
        fields.append(field)
        if field.type != Type.UNUSED:
            values[field.name] = value
    subsections = []
    for number in range(draw(st.integers(0, depth))):
        subsection, its_values = draw(states(f"{name}/{number}", depth - 1))
        subsections.append(subsection)
        if draw(st.booleans()):
            values[subsection.name] = its_values
    version = draw(st.integers(1, 3))
    return VmstateDescription(name, tuple(fields), version, 1, tuple(subsections)), values


@st.composite
def described_fields(draw: st.DrawFn, name: str, depth: int) -> tuple[VmstateField, Any]:
    kinds = [*INTEGERS, Type.BOOL, Type.BUFFER, Type.UNUSED, *([Type.STRUCT] if depth else [])]
    kind = draw(st.sampled_from(kinds))
    count = (
        None if kind in (Type.STRUCT, Type.UNUSED) else draw(st.sampled_from([None, None, 1, 3]))
    )
    size = draw(st.integers(1, 9)) if kind in (Type.BUFFER, Type.UNUSED) else 0
    if kind == Type.STRUCT:
        layout, value = draw(states("inner", depth - 1))
        return VmstateField(name, kind, struct=layout), value
    element: st.SearchStrategy[Any]
    if kind in INTEGERS:
        width = struct.calcsize(INTEGERS[kind])
        element = st.binary(min_size=width, max_size=width).map(
            lambda raw: struct.unpack(INTEGERS[kind], raw)[0]
        )
    elif kind == Type.BOOL:
        element = st.booleans()
    else:
        element = st.binary(min_size=size, max_size=size)
    elements = [draw(element) for _ in range(count or 1)]
    return VmstateField(name, kind, count, size), elements[0] if count is None else elements
