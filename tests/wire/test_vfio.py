"""The sections of VFIO devices: whole, byte by byte, with a tail, cut off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.decoding import OFFSET, check_decoder, decode_error, parse_step
from tests.fuzzing import stable

from switchover.errors import StreamError, TruncatedStream, UnsupportedStream
from switchover.model.section import Parsed, SectionType
from switchover.model.vfio import PciConfig
from switchover.wire.cursor import u32, u64
from switchover.wire.vfio import (
    END_OF_STATE,
    INIT_DATA_SENT,
    SETUP_BODY,
    VfioData,
    VfioInitialDataSent,
    VfioParser,
    VfioTag,
    decode_config,
    encode_config,
    encode_data_header,
)

PART = SectionType.PART
LIVE = [SectionType.START, PART, SectionType.END]
CONFIG = PciConfig(bytes(range(256)), (0, 1, 0, 0), b"msix" * 5)


def read(body: bytes, cuts: list[int]) -> tuple[bytes, int, int]:
    """What a body says, cut in pieces: data, how often the initial data ended, bytes used."""
    parser = VfioParser("nic/vfio")
    data, sent, position = b"", 0, 0
    ends = iter([*sorted(cut for cut in cuts if cut < len(body)), len(body)])
    end = next(ends)
    while True:
        try:
            parsed = parser.parse(PART, memoryview(body)[position:end], OFFSET + position)
        except TruncatedStream:
            end = next(ends)
            continue
        position += parsed.size
        match parsed.item:
            case VfioData(data=piece):
                data += piece
            case VfioInitialDataSent():
                sent += 1
        if parsed.is_last:
            return data, sent, position


def test_tags_are_qemus() -> None:
    assert END_OF_STATE.hex() == "ffffffffef100001"
    assert SETUP_BODY.hex() == "ffffffffef100003ffffffffef100001"
    assert encode_data_header(3).hex() == "ffffffffef1000040000000000000003"
    assert INIT_DATA_SENT.hex() == "ffffffffef100005"


def test_a_section_is_named_after_its_device() -> None:
    parser = VfioParser("nic/vfio")
    assert (parser.idstr, parser.version_id) == ("nic/vfio", 1)


@pytest.mark.parametrize("section_type", LIVE)
@pytest.mark.parametrize(
    ("body", "item"),
    [(END_OF_STATE, None), (SETUP_BODY, None), (INIT_DATA_SENT, VfioInitialDataSent())],
)
def test_a_body_without_data(section_type: SectionType, body: bytes, item: object) -> None:
    check_decoder(
        lambda cursor: parse_step(VfioParser("nic/vfio"), section_type, cursor),
        body,
        Parsed(len(body), item, is_last=True),
    )


def test_data_of_no_bytes_is_nothing() -> None:
    check_decoder(
        lambda cursor: parse_step(VfioParser("nic/vfio"), PART, cursor),
        encode_data_header(0),
        Parsed(16, None, is_last=False),
    )


@stable(300)
@given(
    st.lists(st.binary(max_size=40), max_size=4),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_data_comes_back_however_it_is_cut(
    blocks: list[bytes], is_initial: bool, cuts: list[int]
) -> None:
    body = b"".join(encode_data_header(len(block)) + block for block in blocks)
    body += INIT_DATA_SENT if is_initial else END_OF_STATE
    assert read(body, cuts) == (b"".join(blocks), int(is_initial), len(body))


def test_data_is_not_gathered() -> None:
    parser = VfioParser("nic/vfio")
    body = memoryview(encode_data_header(1 << 60) + b"abc")
    parsed = parser.parse(PART, body, 0)
    assert parsed == Parsed(19, VfioData(memoryview(b"abc")), is_last=False)
    with pytest.raises(TruncatedStream):
        parser.parse(PART, memoryview(b""), 19)
    assert parser.parse(PART, memoryview(b"de"), 19).item == VfioData(memoryview(b"de"))


@pytest.mark.parametrize("tag", [0, 0xFFFFFFFF_EF100000, 0xFFFFFFFF_EF100007, 2**64 - 1])
def test_an_unknown_tag_is_refused_as_qemu_does(tag: int) -> None:
    error = decode_error(lambda cursor: parse_step(VfioParser("nic/vfio"), PART, cursor), u64(tag))
    assert str(error) == f"nic/vfio: Unknown tag {tag:#x} at offset 0x1f40"


def test_a_setup_without_its_end_is_refused_as_qemu_does() -> None:
    body = u64(VfioTag.DEV_SETUP_STATE) + INIT_DATA_SENT
    error = decode_error(lambda cursor: parse_step(VfioParser("nic/vfio"), PART, cursor), body)
    assert str(error) == (
        "nic/vfio: SETUP STATE: EOS not found 0xffffffffef100005 at offset 0x1f40"
    )


def test_device_state_over_multifd_is_refused_by_name() -> None:
    body = u64(VfioTag.DEV_CONFIG_LOAD_READY)
    error = decode_error(lambda cursor: parse_step(VfioParser("nic/vfio"), PART, cursor), body)
    assert isinstance(error, UnsupportedStream)
    assert "capability 'multifd' is not supported yet" in str(error)


@pytest.mark.parametrize("section_type", LIVE)
def test_a_live_section_has_no_configuration(section_type: SectionType) -> None:
    error = decode_error(
        lambda cursor: parse_step(VfioParser("nic/vfio"), section_type, cursor),
        u64(VfioTag.DEV_CONFIG_STATE),
    )
    assert str(error) == (
        f"nic/vfio: the configuration stands in a {section_type.name} section: "
        "expected a FULL section at offset 0x1f40"
    )


@stable(300)
@given(st.binary(max_size=64))
def test_any_bytes_are_a_body_or_a_stream_error(body: bytes) -> None:
    parser = VfioParser("nic/vfio")
    position = 0
    try:
        while True:
            parsed = parser.parse(PART, memoryview(body)[position:], position)
            assert 0 < parsed.size <= len(body) - position
            position += parsed.size
    except StreamError:
        pass


# The configuration


@pytest.mark.parametrize(
    "config", [CONFIG, PciConfig(bytes(4096)), PciConfig(b"\xff" * 256, (2**32 - 1, 0, 0, 7))]
)
def test_a_configuration_comes_back(config: PciConfig) -> None:
    body = encode_config(config)
    assert decode_config(body, config, "nic/vfio", OFFSET) == config
    assert body[:12] == u64(VfioTag.DEV_CONFIG_STATE) + u32(2)
    assert len(body) == 8 + 4 + len(config.space) + 16 + len(config.msix) + 8


@pytest.mark.parametrize("size", [0, 311, 313, 5000])
def test_a_configuration_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(StreamError) as caught:
        decode_config(bytes(size), CONFIG, "nic/vfio", OFFSET)
    assert str(caught.value) == (
        "the configuration of 'nic/vfio': expected 312 bytes, as this side's device has it, got "
        f"{size} at offset 0x1f40"
    )


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "nic/vfio: Failed loading device config space, flag incorrect: expected"),
        (11, "the configuration of 'nic/vfio': expected version 2, got 253 at offset 0x1f48"),
        (311, "nic/vfio: Failed loading device config space, flag incorrect: expected"),
    ],
)
def test_a_configuration_of_another_form_is_refused(at: int, text: str) -> None:
    body = bytearray(encode_config(CONFIG))
    body[at] ^= 0xFF
    with pytest.raises(StreamError) as caught:
        decode_config(bytes(body), CONFIG, "nic/vfio", OFFSET)
    assert str(caught.value).startswith(text)
