"""Migration URIs: each form read and written back, and each mistake named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzzing import stable

from switchover.errors import UsageError
from switchover.model.address import (
    ExecAddress,
    FdAddress,
    FileAddress,
    InetAddress,
    MigrationAddress,
    UnixAddress,
    parse_address,
)


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("tcp:localhost:4444", InetAddress("localhost", 4444)),
        ("tcp:192.0.2.1:0", InetAddress("192.0.2.1", 0)),
        ("tcp::65535", InetAddress("", 65535)),
        ("tcp:[::1]:4444", InetAddress("::1", 4444)),
        ("unix:/run/vm.sock", UnixAddress("/run/vm.sock")),
        ("unix:a:b", UnixAddress("a:b")),
        ("fd:3", FdAddress(3)),
        ("exec:cat > a:b", ExecAddress("cat > a:b")),
        ("file:/tmp/vm", FileAddress("/tmp/vm")),
    ],
)
def test_an_address_is_read_and_written_back(uri: str, address: MigrationAddress) -> None:
    assert parse_address(uri) == address
    assert str(address) == uri


def test_brackets_around_what_needs_none_are_dropped() -> None:
    assert str(parse_address("tcp:[localhost]:1")) == "tcp:localhost:1"


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("tcp:", "expected tcp:HOST:PORT"),
        ("file:/tmp/vm,offset=4096", "an offset in a file is not supported yet"),
        ("fd:" + "9" * 5000, "expected fd:NUMBER"),
        ("tcp:4444", "expected tcp:HOST:PORT"),
        ("tcp:host", "expected tcp:HOST:PORT"),
        ("tcp:host:", "expected tcp:HOST:PORT"),
        ("tcp:host:http", "expected tcp:HOST:PORT"),
        ("tcp:host:-1", "expected tcp:HOST:PORT"),
        ("tcp:host:65536", "expected tcp:HOST:PORT"),
        ("tcp:host:" + "9" * 5000, "expected tcp:HOST:PORT"),
        ("tcp:::1:4444", "an IPv6 host stands in brackets"),
        ("tcp:[::1:4444", "an IPv6 host stands in brackets"),
        ("fd:", "expected fd:NUMBER"),
        ("fd:-1", "expected fd:NUMBER"),
        ("fd:name", "expected fd:NUMBER"),
        ("unix:", "nothing stands behind unix:"),
        ("exec:", "nothing stands behind exec:"),
        ("file:", "nothing stands behind file:"),
        ("", "unknown migration protocol ''"),
        ("/tmp/vm", "unknown migration protocol '/tmp/vm'"),
        ("bogus:1", "unknown migration protocol 'bogus:1'"),
        ("TCP:host:1", "unknown migration protocol 'TCP:host:1'"),
    ],
)
def test_a_mistake_is_named(uri: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(uri)
    assert sentence in str(caught.value)
    assert repr(uri) in str(caught.value)


@stable(100)
@given(
    st.sampled_from(["tcp:", "tcp:[", "unix:", "fd:", "exec:", "file:", ""]),
    st.text(),
    st.sampled_from(["", ":1", "]:1", ":99999"]),
)
def test_any_text_is_an_address_or_a_usage_error(scheme: str, rest: str, end: str) -> None:
    try:
        address = parse_address(scheme + rest + end)
    except UsageError:
        return
    assert parse_address(str(address)) == address
