"""Described device state: values to bytes, back again, and into a VM description."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.decoding import OFFSET, check_decoder, check_truncations, decode_error
from tests.fuzzing import memory_limit, mutated, stable
from tests.vmstates import DEVICE, GLOBALSTATE, LINE, TIMER, VALUES, Values, states

from switchover.errors import GuestError, StreamError, TruncatedStream
from switchover.model.section import SectionHeader
from switchover.model.vmstate import VmstateDescription, VmstateField, VmstateType
from switchover.wire.cursor import Cursor, counted_string, u32
from switchover.wire.vmstate import (
    decode_vmstate,
    describe_device,
    describe_vmstate,
    encode_vmstate,
)

Type = VmstateType
PLAIN = bytes.fromhex("02 0102ffff 01fffe 000003 05 0a6c696e652f6578747261 00000001 09")
PLAIN += b"abcdef" + bytes.fromhex("00000007 010000")
IRQ = b"\x05" + counted_string("device/irq") + u32(2) + bytes.fromhex("8000000000000001")
NMI = b"\x05" + counted_string("device/irq/nmi") + u32(1) + b"\xff"
EMPTY = b"\x05" + counted_string("device/empty") + u32(1)


def alone(*fields: VmstateField) -> VmstateDescription:
    return VmstateDescription("device", fields)


# Bytes


@pytest.mark.parametrize(
    ("field_type", "value", "data"),
    [
        (Type.BOOL, True, "01"),
        (Type.BOOL, False, "00"),
        (Type.INT8, -1, "ff"),
        (Type.INT16, -2, "fffe"),
        (Type.INT32, -3, "fffffffd"),
        (Type.INT64, -(1 << 63), "8000000000000000"),
        (Type.UINT8, 0xFE, "fe"),
        (Type.UINT16, 0x0102, "0102"),
        (Type.UINT32, 0x01020304, "01020304"),
        (Type.UINT64, (1 << 64) - 2, "fffffffffffffffe"),
    ],
)
def test_scalars_are_big_endian(field_type: Type, value: object, data: str) -> None:
    description = alone(VmstateField("x", field_type))
    raw = bytes.fromhex(data)
    assert encode_vmstate(description, {"x": value}) == raw
    check_decoder(lambda cursor: decode_vmstate(description, cursor), raw, {"x": value})
    assert describe_vmstate(description, {"x": value})["fields"] == [
        {"name": "x", "type": field_type.value, "size": len(raw)}
    ]


@pytest.mark.parametrize(
    ("description", "values", "data"),
    [
        (
            TIMER,
            {"cpu_ticks_offset": 1, "cpu_clock_offset": -1},
            "0000000000000001 0000000000000000 ffffffffffffffff",
        ),
        (
            GLOBALSTATE,
            {
                "size": 10,
                "runstate": b"prelaunch".ljust(32, b"\0"),
                "has_vm_was_suspended": 0,
                "vm_was_suspended": 0,
            },
            "0000000a 7072656c61756e6368" + "00" * (23 + 68),
        ),
    ],
)
def test_devices_are_those_that_qemu_writes(
    description: VmstateDescription, values: Values, data: str
) -> None:
    raw = bytes.fromhex(data)
    assert encode_vmstate(description, values) == raw
    check_decoder(lambda cursor: decode_vmstate(description, cursor), raw, values)


@pytest.mark.parametrize(
    ("present", "data"),
    [
        ({}, b""),
        ({"device/irq": {"pending": 1 << 63 | 1}}, IRQ),
        ({"device/empty": {}}, EMPTY),
        (
            {"device/irq": {"pending": 1 << 63 | 1, "device/irq/nmi": {"n": -1}}},
            IRQ + NMI,
        ),
        (
            {"device/irq": {"pending": 1 << 63 | 1}, "device/empty": {}},
            IRQ + EMPTY,
        ),
    ],
)
def test_everything_together_comes_back(present: Values, data: bytes) -> None:
    values = VALUES | present
    assert encode_vmstate(DEVICE, values) == PLAIN + data
    cursor = Cursor(PLAIN + data, OFFSET)
    assert decode_vmstate(DEVICE, cursor) == values
    assert cursor.remaining == 0


def test_the_fields_end_only_where_all_of_them_are_there() -> None:
    check_truncations(lambda cursor: decode_vmstate(DEVICE, cursor), PLAIN)


def test_a_subsection_ends_only_where_all_of_it_is_there() -> None:
    prefix = 2 + len("device/")
    for size in range(1, len(IRQ)):
        cursor = Cursor(PLAIN + IRQ[:size], OFFSET)
        if size < prefix:
            # Too few bytes to be told from what may stand behind the device: they are left unread.
            assert decode_vmstate(DEVICE, cursor) == VALUES
            assert cursor.remaining == size
        else:
            with pytest.raises(TruncatedStream):
                decode_vmstate(DEVICE, cursor)


def test_subsections_may_come_in_any_order() -> None:
    values = decode_vmstate(DEVICE, Cursor(PLAIN + EMPTY + IRQ))
    assert values == VALUES | {"device/empty": {}, "device/irq": {"pending": 1 << 63 | 1}}


@pytest.mark.parametrize(
    "following", [IRQ, b"\x05", b"\x05\xff", b"\x05\0\0\0\1", b"\x05\x01\n", b"\x7e", b"\x05" * 40]
)
def test_bytes_that_begin_like_a_subsection_belong_to_whatever_stands_behind(
    following: bytes,
) -> None:
    cursor = Cursor(bytes.fromhex("01fffe") + following, OFFSET)
    assert decode_vmstate(LINE, cursor) == {"on": True, "level": -2}
    assert cursor.remaining == len(following)


def test_a_field_behind_a_struct_may_begin_like_a_subsection() -> None:
    description = alone(
        VmstateField("lines", Type.STRUCT, count=2, struct=LINE), VmstateField("x", Type.UINT16)
    )
    values = {
        "lines": [{"on": True, "level": 5}, {"on": True, "level": 0x0505}],
        "x": 0x05FF,
    }
    raw = encode_vmstate(description, values)
    check_decoder(lambda cursor: decode_vmstate(description, cursor), raw, values)


@pytest.mark.parametrize(
    ("following", "expected", "got"),
    [
        (IRQ + IRQ, "device/empty", "device/irq"),
        (IRQ + EMPTY + EMPTY, "none", "device/empty"),
        (b"\x05" + counted_string("device/more"), "device/empty, device/irq", "device/more"),
        (b"\x05" + counted_string("device/"), "device/empty, device/irq", "device/"),
    ],
)
def test_a_subsection_out_of_place_is_refused(following: bytes, expected: str, got: str) -> None:
    error = decode_error(lambda cursor: decode_vmstate(DEVICE, cursor), PLAIN + following)
    assert error.what == "a subsection of 'device' that does not belong there"
    assert (error.expected, error.got) == (expected, got)


# Versions


def test_an_older_version_has_fewer_fields() -> None:
    values = {name: value for name, value in VALUES.items() if name != "later"}
    raw = PLAIN.replace(bytes.fromhex("00000007"), b"")
    cursor = Cursor(raw)
    assert decode_vmstate(DEVICE, cursor, 2) == values
    assert cursor.remaining == 0


@pytest.mark.parametrize("version", [0, 1, 4, 2**32 - 1])
def test_a_version_that_cannot_be_read_is_refused(version: int) -> None:
    error = decode_error(lambda cursor: decode_vmstate(DEVICE, cursor, version), PLAIN)
    assert str(error) == (
        f"device state 'device': expected version 2 to 3, got {version} at offset 0x1f40"
    )


def test_a_subsections_version_is_checked_too() -> None:
    newer = b"\x05" + counted_string("device/irq") + u32(3) + bytes(8)
    error = decode_error(lambda cursor: decode_vmstate(DEVICE, cursor), PLAIN + newer)
    assert (error.what, error.got) == ("device state 'device/irq'", 3)


# Counts


COUNTED = [Type.BOOL, Type.UINT16, Type.BUFFER, Type.STRUCT]


@pytest.mark.parametrize("element", COUNTED)
def test_a_huge_count_costs_nothing(element: Type) -> None:
    description = alone(
        VmstateField("count", Type.UINT64),
        VmstateField("x", element, count="count", size=1, struct=LINE),
    )
    data = b"\xff" * 8 + bytes(100)
    with memory_limit(100_000):
        for _ in range(10):
            with pytest.raises(TruncatedStream) as caught:
                decode_vmstate(description, Cursor(data, OFFSET))
    assert caught.value.offset == OFFSET + 8
    assert caught.value.expected == f"{2**64 - 1} elements"


def test_a_negative_count_is_refused() -> None:
    description = alone(
        VmstateField("count", Type.INT8), VmstateField("x", Type.UINT8, count="count")
    )
    error = decode_error(lambda cursor: decode_vmstate(description, cursor), b"\xff" * 9)
    assert str(error) == (
        "field 'x' of 'device' has a wrong number of elements: "
        "expected 0 or more, got -1 at offset 0x1f41"
    )


def test_unused_bytes_are_written_as_zeros_and_read_as_nothing() -> None:
    description = alone(
        VmstateField("unused", Type.UNUSED, size=2),
        VmstateField("x", Type.UINT8),
        VmstateField("unused", Type.UNUSED, count=3, size=1),
    )
    assert encode_vmstate(description, {"x": 1}) == b"\0\0\1\0"
    cursor = Cursor(b"\xaa\xbb\x01\xcc")
    assert decode_vmstate(description, cursor) == {"x": 1}
    assert cursor.remaining == 0


# Values that do not fit


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        (VmstateField("x", Type.UINT8), 256, "does not take 256: expected uint8"),
        (VmstateField("x", Type.UINT8), -1, "does not take -1: expected uint8"),
        (VmstateField("x", Type.INT64), "1", "does not take '1': expected int64"),
        (VmstateField("x", Type.UINT32), None, "does not take None: expected uint32"),
        (VmstateField("x", Type.BUFFER, size=2), b"abc", "has 3 bytes, expected 2"),
        (VmstateField("x", Type.BUFFER, size=2), "ab", "does not take 'ab': expected buffer"),
        (VmstateField("x", Type.BUFFER, size=2), 2, "does not take 2: expected buffer"),
        (VmstateField("x", Type.UINT8, count=2), [1], "has 1 elements, expected 2"),
        (VmstateField("x", Type.UINT8, count=2), [1, 2, 3], "has 3 elements, expected 2"),
        (VmstateField("x", Type.UINT8, count=2), 12, "does not take 12: expected 2 elements"),
        (VmstateField("x", Type.UINT8, count=2), [1, 999], "does not take 999: expected uint8"),
        (VmstateField("x", Type.STRUCT, struct=LINE), 5, "device state 'line' does not take 5"),
        (
            VmstateField("x", Type.STRUCT, struct=LINE),
            {"on": True},
            "device state 'line' has no value 'level'",
        ),
        (VmstateField("x", Type.STRUCT), {}, "field 'x' is a struct without a layout"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(
    field: VmstateField, value: object, sentence: str
) -> None:
    with pytest.raises(GuestError) as caught:
        encode_vmstate(alone(field), {"x": value})
    assert sentence in str(caught.value)


def test_a_value_that_is_missing_is_named() -> None:
    with pytest.raises(GuestError) as caught:
        encode_vmstate(TIMER, {"cpu_ticks_offset": 1})
    assert str(caught.value) == "device state 'timer' has no value 'cpu_clock_offset'"


def test_the_number_of_elements_must_be_what_their_count_says() -> None:
    with pytest.raises(GuestError, match="'levels' of 'device' has 2 elements, expected 3"):
        encode_vmstate(DEVICE, VALUES | {"count": 3})


def test_a_struct_without_a_layout_cannot_be_read_either() -> None:
    with pytest.raises(GuestError, match="'x' is a struct without a layout"):
        decode_vmstate(alone(VmstateField("x", Type.STRUCT)), Cursor(b""))


# Descriptions


def test_a_description_tells_each_field() -> None:
    described = describe_vmstate(DEVICE, VALUES)
    line = {
        "vmsd_name": "line",
        "version": 1,
        "fields": [
            {"name": "on", "type": "bool", "size": 1},
            {"name": "level", "type": "int16", "size": 2},
        ],
    }
    extra = {
        "vmsd_name": "line/extra",
        "version": 1,
        "fields": [{"name": "more", "type": "uint8", "size": 1}],
    }
    fields = [
        {"name": "count", "type": "uint8", "size": 1},
        {"name": "levels", "array_len": 2, "type": "uint16", "size": 2},
        {"name": "lines", "index": 0, "type": "struct", "struct": line, "size": 3},
        {
            "name": "lines",
            "index": 1,
            "type": "struct",
            "struct": line | {"subsections": [extra]},
            "size": 20,
        },
        {"name": "names", "array_len": 2, "type": "buffer", "size": 3},
        {"name": "later", "type": "uint32", "size": 4},
        {"name": "last", "type": "struct", "struct": line, "size": 3},
    ]
    assert described == {"vmsd_name": "device", "version": 3, "fields": fields}


def test_a_description_tells_the_subsections_that_are_present() -> None:
    described = describe_vmstate(DEVICE, VALUES | {"device/irq": {"pending": 1}})
    pending = {"name": "pending", "type": "uint64", "size": 8}
    assert described["subsections"] == [
        {"vmsd_name": "device/irq", "version": 2, "fields": [pending]}
    ]


def test_a_device_is_described_by_its_section() -> None:
    header = SectionHeader(5, "timer", 3, 2)
    values = {"cpu_ticks_offset": 0, "cpu_clock_offset": 0}
    described = describe_device(header, TIMER, values)
    assert described == {
        "name": "timer",
        "instance_id": 3,
        "vmsd_name": "timer",
        "version": 2,
        "fields": [
            {"name": "cpu_ticks_offset", "type": "int64", "size": 8},
            {"name": "unused", "type": "unused_buffer", "size": 8},
            {"name": "cpu_clock_offset", "type": "int64", "size": 8},
        ],
    }
    assert list(described) == ["name", "instance_id", "vmsd_name", "version", "fields"]


@pytest.mark.parametrize("element", COUNTED)
def test_an_empty_array_is_not_described(element: Type) -> None:
    description = alone(
        VmstateField("count", Type.UINT8),
        VmstateField("x", element, count="count", size=1, struct=LINE),
    )
    described = describe_vmstate(description, {"count": 0, "x": []})
    assert [field["name"] for field in described["fields"]] == ["count"]


# Any description, any bytes


@stable(60)
@given(states())
def test_any_state_comes_back(state: tuple[VmstateDescription, Values]) -> None:
    description, values = state
    raw = encode_vmstate(description, values)
    cursor = Cursor(raw)
    assert decode_vmstate(description, cursor) == values
    assert cursor.remaining == 0


WHOLE = PLAIN + IRQ + NMI + EMPTY


@stable(200)
@given(st.one_of(st.binary(max_size=80), mutated(WHOLE)))
def test_any_bytes_are_values_or_a_stream_error(data: bytes) -> None:
    cursor = Cursor(data, OFFSET)
    try:
        values = decode_vmstate(DEVICE, cursor)
    except StreamError as error:
        assert OFFSET <= error.offset <= OFFSET + len(data)
    else:
        assert len(encode_vmstate(DEVICE, values)) == cursor.position
