"""The VM description: what we read out of one, and that what we write describes what is there."""

import json
import struct
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.decoding import OFFSET
from tests.fuzzing import memory_limit, mutated, stable
from tests.vmstates import DEVICE, GLOBALSTATE, TIMER, VALUES, Values, states

from switchover.errors import StreamError, TruncatedStream
from switchover.model.configuration import Configuration
from switchover.model.device import DeviceSection
from switchover.model.section import SectionHeader, SectionType
from switchover.model.vmstate import VmstateDescription
from switchover.wire.configuration import encode_configuration
from switchover.wire.description import (
    DESCRIPTION_STARTS,
    DescribedDevice,
    decode_description,
    describe_opaque,
    encode_description,
    encode_description_section,
    tile_devices,
)
from switchover.wire.stream import encode_footer, encode_section_start
from switchover.wire.vmstate import describe_device, encode_vmstate

MACHINE = Configuration("pc-q35-10.0")
ID = UUID("11223344-5566-7788-99aa-bbccddeeff00")


def description_error(text: bytes) -> StreamError:
    with pytest.raises(StreamError) as caught:
        decode_description(text, OFFSET)
    assert not isinstance(caught.value, TruncatedStream)
    assert str(caught.value).startswith("the VM description makes no sense: expected JSON with")
    assert str(caught.value).isascii() and len(str(caught.value)) < 300
    assert caught.value.offset == OFFSET
    return caught.value


def devices(*described: object) -> bytes:
    return json.dumps({"page_size": 4096, "devices": described}).encode()


def device(fields: object, **more: object) -> dict[str, object]:
    return {"name": "timer", "instance_id": 0, "version": 2, "fields": fields, **more}


# Reading


def test_the_section_is_a_type_a_length_and_a_text() -> None:
    assert encode_description_section(b"x" * 0x337) == bytes.fromhex("06 00000337")


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ([], 0),
        ([{"name": "a", "type": "uint64", "size": 8}, {"name": "b", "type": "bool", "size": 1}], 9),
        ([{"name": "env.regs", "array_len": 16, "type": "uint64", "size": 8}], 128),
        ([{"name": "x", "array_len": 0, "type": "uint64", "size": 8}], 0),
        (
            [
                {"name": "dev", "index": 0, "type": "struct", "struct": {"odd": 1}, "size": 644},
                {"name": "dev", "index": 1, "type": "struct", "struct": None, "size": 6},
            ],
            650,
        ),
        ([{"name": "capabilities", "type": "capability", "size": 16}], 16),
    ],
)
def test_a_device_is_as_large_as_its_fields(fields: object, size: int) -> None:
    (described,) = decode_description(devices(device(fields)), OFFSET)
    assert described == DescribedDevice("timer", 0, 2, size)


def test_subsections_count_with_their_headers() -> None:
    byte = {"name": "a", "type": "uint8", "size": 1}
    inner = {"vmsd_name": "timer/a/b", "version": 1, "fields": [byte, byte]}
    outer = {"vmsd_name": "timer/a", "version": 1, "fields": [byte], "subsections": [inner]}
    plain = device([byte], subsections=[outer, outer])
    (described,) = decode_description(devices(plain), OFFSET)
    header = 1 + 1 + len("timer/a") + 4
    assert described.size == 1 + 2 * (header + 1 + header + len("/b") + 2)


def test_an_old_style_device_has_no_version() -> None:
    data = {"name": "data", "size": 24, "type": "buffer"}
    old = {"name": "slirp", "instance_id": 1, "size": 24, "fields": [data]}
    assert decode_description(devices(old), 0) == [DescribedDevice("slirp", 1, None, 24)]


def test_a_machine_may_have_no_devices() -> None:
    assert decode_description(devices(), 0) == []
    assert decode_description(encode_description(MACHINE), 0) == []


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview])
def test_the_text_may_stand_in_any_memory(container: type[bytes]) -> None:
    assert decode_description(container(devices()), 0) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b"7",
        b'"devices"',
        b'{"devices": 7}',
        b'{"devices": null}',
        b'{"devices": [7]}',
        b'{"devices": [null]}',
        b'{"devices": {"a": 1}}',
        b'{"devices": "timer"}',
        b'{"devices": []} x',
        b'{"devices": [],}',
        b"\xff\xfe{",
        b"\x00",
    ],
)
def test_a_text_of_another_form_is_refused(text: bytes) -> None:
    description_error(text)


@pytest.mark.parametrize("value", [-1, 1 << 32, 1 << 70, 1.0, 1e999, True, None, "8", [8], {}])
@pytest.mark.parametrize("place", ["size", "array_len", "instance_id", "version"])
def test_a_number_that_is_none_is_refused(place: str, value: object) -> None:
    field: dict[str, object] = {"name": "a", "type": "uint8", "size": 1}
    plain = device([field])
    target = field if place in ("size", "array_len") else plain
    target[place] = value
    if place == "version" and value is None:
        assert decode_description(devices(plain), 0)[0].version_id is None
    else:
        assert "a size or a number that is none" in str(description_error(devices(plain)))


@pytest.mark.parametrize("place", ["name", "instance_id", "fields"])
def test_a_device_that_lacks_something_is_refused(place: str) -> None:
    plain = device([])
    del plain[place]
    assert f"KeyError ('{place}')" in str(description_error(devices(plain)))


@pytest.mark.parametrize("name", [None, 7, ["timer"], "t\u00efmer", "\ud800", "\x1b[2J", "a\nb"])
def test_a_name_that_is_none_is_refused(name: object) -> None:
    sentence = "a name that is none"
    assert sentence in str(description_error(devices(device([], name=name))))
    subsection = {"vmsd_name": name, "fields": []}
    assert sentence in str(description_error(devices(device([], subsections=[subsection]))))


@pytest.mark.parametrize(
    "plain",
    [
        device(7),
        device({"size": 1}),
        device(None),
        device([7]),
        device(["size"]),
        device([[]]),
        device([{}]),
        device([], subsections=7),
        device([], subsections=None),
        device([], subsections=[7]),
        device([], subsections=[{}]),
        device([], subsections=[{"vmsd_name": "a"}]),
    ],
)
def test_fields_of_another_form_are_refused(plain: object) -> None:
    description_error(devices(plain))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"devices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"devices": [], "page_size": ' + b"9" * 100_000 + b"}",
        b'{"devices": [' + b'{"size": 1' + b"0" * 5000 + b"}]}",
        b'{"devices": ["' + b"\\u0000" * 50_000 + b'"]}',
    ],
)
def test_a_hostile_text_costs_little(text: bytes) -> None:
    with memory_limit(10_000_000):
        description_error(text)


def test_deep_subsections_are_refused() -> None:
    level = b'{"vmsd_name": "a", "fields": [], "subsections": ['
    depth = 2000
    nested = level * depth + b"]}" * depth
    text = b'{"devices": [{"name": "a", "instance_id": 0, "fields": [], "subsections": ['
    with memory_limit(10_000_000):
        assert "RecursionError" in str(description_error(text + nested + b"]}]}"))


def test_huge_sizes_are_numbers_only() -> None:
    large = {"name": "x", "size": 0xFFFFFFFF, "array_len": 0xFFFFFFFF, "type": "buffer"}
    with memory_limit(2_000_000):
        (described,) = decode_description(devices(device([large] * 1000)), OFFSET)
        assert described.size == 1000 * 0xFFFFFFFF**2
        data = encode_section_start(SectionType.FULL, SectionHeader(0, "timer", 0, 2))
        with pytest.raises(TruncatedStream, match="inside device 'timer'"):
            tile_devices(data, [described], OFFSET, has_footers=True)


# Tiling

HEADERS = (SectionHeader(0, "timer", 0, 2), SectionHeader(3, "dma", 1, 1))
DESCRIBED = (DescribedDevice("timer", 0, 2, 24), DescribedDevice("dma", 1, None, 0))


def sections(*, has_footers: bool) -> bytes:
    return b"".join(
        encode_section_start(SectionType.FULL, header)
        + bytes(described.size)
        + (encode_footer(header.section_id) if has_footers else b"")
        for header, described in zip(HEADERS, DESCRIBED, strict=True)
    )


@pytest.mark.parametrize(("has_footers", "second"), [(True, 65), (False, 60)])
def test_devices_tile_their_sections(has_footers: bool, second: int) -> None:
    data = sections(has_footers=has_footers)
    assert tile_devices(data, DESCRIBED, OFFSET, has_footers=has_footers) == (
        DeviceSection(HEADERS[0], 19, 24),
        DeviceSection(HEADERS[1], second, 0),
    )
    assert tile_devices(b"", [], OFFSET, has_footers=has_footers) == ()


@pytest.mark.parametrize("has_footers", [True, False])
def test_devices_that_do_not_reach_the_end_do_not_tile(has_footers: bool) -> None:
    data = sections(has_footers=has_footers)
    for tail in (b"\0", b"\x04", data):
        with pytest.raises(StreamError) as caught:
            tile_devices(data + tail, DESCRIBED, OFFSET, has_footers=has_footers)
        assert str(caught.value) == (
            "the VM description does not cover all device sections: expected the end of the "
            f"stream, got {len(tail)} bytes more at offset {OFFSET + len(data):#x}"
        )


@pytest.mark.parametrize("has_footers", [True, False])
def test_devices_that_reach_beyond_the_end_do_not_tile(has_footers: bool) -> None:
    data = sections(has_footers=has_footers)
    for size in range(len(data)):
        with pytest.raises(TruncatedStream) as caught:
            tile_devices(data[:size], DESCRIBED, OFFSET, has_footers=has_footers)
        assert OFFSET <= caught.value.offset <= OFFSET + size


@pytest.mark.parametrize("wrong", [-1, 1])
@pytest.mark.parametrize("has_footers", [True, False])
def test_devices_of_another_size_do_not_tile(wrong: int, has_footers: bool) -> None:
    first = DescribedDevice("timer", 0, 2, 24 + wrong)
    data = sections(has_footers=has_footers)
    with pytest.raises(StreamError):
        tile_devices(data, (first, DESCRIBED[1]), OFFSET, has_footers=has_footers)


@pytest.mark.parametrize(
    "described",
    [
        DescribedDevice("timer2", 0, 2, 24),
        DescribedDevice("timer", 1, 2, 24),
        DescribedDevice("timer", 0, 3, 24),
    ],
)
def test_a_device_that_is_not_the_described_one_is_refused(described: DescribedDevice) -> None:
    with pytest.raises(StreamError) as caught:
        tile_devices(sections(has_footers=True), [described], OFFSET, has_footers=True)
    assert str(caught.value) == (
        "a device section is not the described one: "
        f"expected '{described.idstr}' instance {described.instance_id} version "
        f"{described.version_id}, got 'timer' instance 0 version 2 at offset 0x1f40"
    )


def test_another_section_among_the_devices_is_refused() -> None:
    data = encode_section_start(SectionType.START, HEADERS[0])
    with pytest.raises(StreamError) as caught:
        tile_devices(data, DESCRIBED, OFFSET, has_footers=True)
    assert str(caught.value) == (
        "the section of device 'timer': expected a FULL section, got START at offset 0x1f40"
    )


# Writing: read back as QEMU's users read it, from the JSON alone

WIDTHS = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
}


class Walker:
    """Reads a stream field by field, knowing nothing but its description."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        assert self.position + size <= len(self.data)
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def name(self) -> str:
        return self.take(self.number(1)).decode()

    def state(self, described: Any) -> Values:
        """Fields, and behind them the subsections that the description says are there."""
        values = Values()
        for field in described["fields"]:
            if "array_len" in field:
                values[field["name"]] = [self.field(field) for _ in range(field["array_len"])]
            elif "index" in field:
                array = values.setdefault(field["name"], [])
                assert field["index"] == len(array)
                array.append(self.field(field))
            else:
                values[field["name"]] = self.field(field)
        for subsection in described.get("subsections", []):
            assert self.number(1) == 0x05
            assert self.name() == subsection["vmsd_name"]
            assert self.number(4) == subsection["version"]
            values[subsection["vmsd_name"]] = self.state(subsection)
        return values

    def field(self, field: Any) -> Any:
        begin = self.position
        if field["type"] == "struct":
            value: Any = self.state(field["struct"])
        elif field["type"] == "capability":
            value = self.name()
        elif field["type"] in ("buffer", "unused_buffer"):
            value = self.take(field["size"])
        else:
            code = f">{WIDTHS[field['type']]}"
            (value,) = struct.unpack(code, self.take(struct.calcsize(code)))
        assert self.position - begin == field["size"]
        return value

    def device(self, described: Any) -> Values:
        assert self.number(1) == 0x04
        section_id = self.number(4)
        assert self.name() == described["name"]
        assert self.number(4) == described["instance_id"]
        assert self.number(4) == described["version"]
        values = self.state(described)
        assert self.number(1) == 0x7E
        assert self.number(4) == section_id
        return values


Device = tuple[SectionHeader, VmstateDescription, Values]


def write_devices(configuration: Configuration, devices: list[Device]) -> tuple[bytes, bytes]:
    """The device sections and the description of a machine."""
    data = b"".join(
        encode_section_start(SectionType.FULL, header)
        + encode_vmstate(description, values)
        + encode_footer(header.section_id)
        for header, description, values in devices
    )
    return data, encode_description(configuration, (describe_device(*device) for device in devices))


def check_description(devices: list[Device]) -> None:
    """Both readers agree with what was written: the walker, and the one that knows sizes only."""
    data, text = write_devices(MACHINE, devices)
    walker = Walker(data)
    described = json.loads(text)["devices"]
    for (_, description, values), its in zip(devices, described, strict=True):
        assert walker.device(its) == with_unused(description, values)
    assert walker.position == len(data)
    tiles = tile_devices(data, decode_description(text, 0), 0, has_footers=True)
    assert [tile.header for tile in tiles] == [header for header, _, _ in devices]


def with_unused(description: VmstateDescription, values: Values) -> Values:
    """The values as the walker sees them: unused bytes are there, empty arrays are not."""
    seen = Values()
    for field in description.fields:
        value = values.get(field.name, bytes(field.size))
        if field.struct is not None and field.count is not None:
            value = [with_unused(field.struct, element) for element in value]
        elif field.struct is not None:
            value = with_unused(field.struct, value)
        if field.count is None or value:
            seen[field.name] = value
    for subsection in description.subsections:
        if subsection.name in values:
            seen[subsection.name] = with_unused(subsection, values[subsection.name])
    return seen


TIMER_VALUES: Values = {"cpu_ticks_offset": -5, "cpu_clock_offset": 1 << 40}
GLOBALSTATE_VALUES: Values = {
    "size": 10,
    "runstate": b"prelaunch".ljust(32, b"\0"),
    "has_vm_was_suspended": 0,
    "vm_was_suspended": 0,
}
NMI: Values = {"pending": 1, "device/irq/nmi": {"n": -1}}


def test_known_devices_are_described() -> None:
    check_description(
        [
            (SectionHeader(0, "timer", 0, 2), TIMER, TIMER_VALUES),
            (SectionHeader(4, "device", 0, 3), DEVICE, VALUES | {"device/irq": NMI}),
            (SectionHeader(5, "device", 1, 3), DEVICE, VALUES | {"count": 0, "levels": []}),
            (SectionHeader(9, "device", 2, 3), DEVICE, VALUES | {"device/empty": {}}),
            (SectionHeader(3, "globalstate", 0, 1), GLOBALSTATE, GLOBALSTATE_VALUES),
        ]
    )


@stable(60)
@given(st.lists(states(), max_size=3))
def test_any_device_is_described(described: list[tuple[VmstateDescription, Values]]) -> None:
    check_description(
        [
            (SectionHeader(number, f"any{number}", 7, description.version_id), description, values)
            for number, (description, values) in enumerate(described)
        ]
    )


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration("none"),
        Configuration("pc-q35-10.0", uuid=ID),
        Configuration("none", target_page_bits=12),
        Configuration("none", capabilities=("mapped-ram",)),
        Configuration("none", 12, ("mapped-ram", "x-ignore-shared"), ID),
    ],
)
def test_the_configuration_is_described(configuration: Configuration) -> None:
    described = json.loads(encode_description(configuration))["configuration"]
    walker = Walker(encode_configuration(configuration)[1:])
    values = walker.state(described)
    assert walker.position == len(walker.data)
    assert values["name"] == configuration.machine.encode()
    assert values["len"] == len(configuration.machine)


def test_the_text_is_written_as_qemu_writes_it() -> None:
    text = encode_description(Configuration("none", uuid=ID), [])
    assert text == (
        b'{"configuration": {"vmsd_name": "configuration", "version": 1, "fields": '
        b'[{"name": "len", "type": "uint32", "size": 4}, '
        b'{"name": "name", "type": "buffer", "size": 4}], "subsections": '
        b'[{"vmsd_name": "configuration/uuid", "version": 1, "fields": '
        b'[{"name": "uuid", "type": "buffer", "size": 16}]}]}, '
        b'"page_size": 4096, "devices": []}'
    )
    assert text.startswith(DESCRIPTION_STARTS)


# Any bytes

DATA, TEXT = write_devices(
    MACHINE,
    [
        (SectionHeader(0, "timer", 0, 2), TIMER, TIMER_VALUES),
        (SectionHeader(4, "device", 0, 3), DEVICE, VALUES | {"device/irq": NMI}),
    ],
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["devices", "fields", "size", "array_len", "subsections", "vmsd_name", "name"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)
TEXTS = st.one_of(
    st.binary(max_size=60),
    mutated(TEXT),
    JSON.map(lambda value: json.dumps(value).encode()),
    JSON.map(lambda value: json.dumps({"devices": value}).encode()),
    JSON.map(lambda value: devices(device(value))),
    JSON.map(lambda value: devices(device([], subsections=value))),
)


@stable(200)
@given(TEXTS, st.one_of(st.just(DATA), mutated(DATA)), st.booleans())
def test_any_bytes_tile_or_are_a_stream_error(text: bytes, data: bytes, has_footers: bool) -> None:
    try:
        described = decode_description(text, OFFSET)
        tiles = tile_devices(data, described, OFFSET, has_footers=has_footers)
    except StreamError:
        return
    frame = len(b"\x04" + bytes(4) + b"\0" + bytes(8)) + 5 * has_footers
    assert sum(frame + len(tile.header.idstr) + tile.size for tile in tiles) == len(data)


@pytest.mark.parametrize("size", [0, 1, 288])
def test_a_section_that_only_its_owner_understands_is_described_by_its_size(size: int) -> None:
    header = SectionHeader(2, "nic/vfio", 0, 1)
    (described,) = decode_description(devices(describe_opaque(header, size)), OFFSET)
    assert described == DescribedDevice("nic/vfio", 0, None, size)
