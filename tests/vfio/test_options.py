"""The options of a simulated device, as they are written."""

import errno
from fractions import Fraction

import pytest

from switchover.errors import UsageError
from switchover.model.vfio import VfioState
from switchover.vfio.options import (
    DataSize,
    Failure,
    Lie,
    SimOptions,
    Step,
    Told,
    parse_options,
)

KEYS = (
    "id, state, initial, dirty-rate, allocate, load-rate, save-rate, data-size, precopy, p2p, "
    "reinit, lie, fail or never-ack"
)


def test_defaults() -> None:
    options = parse_options("", "sim0")
    assert options == SimOptions("sim0")
    assert (options.state_bytes, options.initial_bytes) == (300 << 20, 300 << 20)
    assert (options.allocate_ns, options.dirty_rate) == (1_480_000_000, 0)
    assert (options.load_rate, options.save_rate) == (0, 0)
    assert (options.has_precopy, options.has_p2p, options.never_acks) == (True, True, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id=nic", SimOptions("nic")),
        ("state=1G", SimOptions("sim0", 1 << 30)),
        ("state=0", SimOptions("sim0", 0)),
        ("state=4K,initial=1K", SimOptions("sim0", 4096, 1024)),
        ("initial=1K,state=1K", SimOptions("sim0", 1024, 1024)),
        ("initial=0", SimOptions("sim0", initial=0)),
        ("dirty-rate=200M", SimOptions("sim0", dirty_rate=200 << 20)),
        ("allocate=1.5s", SimOptions("sim0", allocate_ns=1_500_000_000)),
        ("load-rate=2G", SimOptions("sim0", load_rate=2 << 30)),
        ("save-rate=3G", SimOptions("sim0", save_rate=3 << 30)),
        ("data-size=left", SimOptions("sim0")),
        ("data-size=whole", SimOptions("sim0", data_size=DataSize.WHOLE)),
        ("data-size=error", SimOptions("sim0", data_size=DataSize.ERROR)),
        ("precopy=off", SimOptions("sim0", has_precopy=False)),
        ("precopy", SimOptions("sim0")),
        ("p2p=off", SimOptions("sim0", has_p2p=False)),
        ("p2p=on", SimOptions("sim0")),
        ("never-ack", SimOptions("sim0", never_acks=True)),
        ("never-ack=off", SimOptions("sim0")),
        ("reinit=2s", SimOptions("sim0", reinit_ns=(2 * 10**9,))),
        ("reinit=2s:15ms:0s", SimOptions("sim0", reinit_ns=(0, 15 * 10**6, 2 * 10**9))),
        ("fail=read:EIO", SimOptions("sim0", failure=Failure(Step.READ, errno.EIO))),
        ("fail=stop-copy:4095", SimOptions("sim0", failure=Failure(Step.STOP_COPY, 4095))),
        ("lie=initial+1K", SimOptions("sim0", lies=(Lie(Told.INITIAL, more_bytes=1024),))),
        (
            "lie=stop-copy-2M:dirty*0.5",
            SimOptions(
                "sim0",
                lies=(
                    Lie(Told.STOP_COPY, more_bytes=-(2 << 20)),
                    Lie(Told.DIRTY, factor=Fraction(1, 2)),
                ),
            ),
        ),
    ],
)
def test_what_is_written_is_read(text: str, expected: SimOptions) -> None:
    assert parse_options(text, "sim0") == expected


STEPS = (
    "pre-copy, pre-copy-p2p, stop-copy, stop, resuming, running, running-p2p, read, write, "
    "precopy-info or data-size"
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("speed=3", f"a simulated device has no option 'speed': expected {KEYS}"),
        ("state=1K,", f"a simulated device has no option '': expected {KEYS}"),
        ("state=1K,state=2K", "option 'state' stands there twice"),
        (
            "state=big",
            "option 'state': 'big' is not a size: expected a number and K, M, G or T",
        ),
        ("state", "option 'state': '' is not a size: expected a number and K, M, G or T"),
        ("allocate=3", "option 'allocate': '3' is not a time: expected a number and ms or s"),
        ("reinit=1s:", "option 'reinit': '' is not a time: expected a number and ms or s"),
        ("id=", "option 'id': '' is not a name: expected at least one letter"),
        ("p2p=", "option 'p2p': '' is neither of two: expected on or off"),
        ("never-ack=yes", "option 'never-ack': 'yes' is neither of two: expected on or off"),
        (
            "data-size=all",
            "option 'data-size': 'all' is not a way to tell it: expected left, whole or error",
        ),
        (
            "lie=initial",
            "option 'lie': 'initial' is not a lie: expected a size's name and +SIZE, -SIZE, "
            "*FACTOR",
        ),
        (
            "lie=stop-copy",
            "option 'lie': 'stop' is not a size that is told: expected initial, dirty or stop-copy",
        ),
        (
            "lie=initial+x",
            "option 'lie': 'x' is not a size: expected a number and K, M, G or T",
        ),
        (
            "lie=initial*x",
            "option 'lie': 'x' is not a factor: expected a number such as 2 or 0.5",
        ),
        ("fail=sleep:EIO", f"option 'fail': 'sleep' is not a step: expected {STEPS}"),
        *(
            (
                f"fail=read:{reason}",
                f"option 'fail': '{reason}' is not an errno: expected its name, such as EIO, or 1 "
                "to 4095",
            )
            for reason in ("", "0", "4096", "EWHAT", "-5", "9" * 5000, "\N{SUPERSCRIPT TWO}")
        ),
        (
            "state=1K,initial=2K,id=nic",
            "device 'nic' has 2048 bytes of initial data: expected at most its state, 1024 bytes",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options(text, "sim0")
    assert str(caught.value) == sentence


def test_each_state_but_error_has_a_step_into_it() -> None:
    steps = {Step.into(state) for state in VfioState if state != VfioState.ERROR}
    assert steps == set(Step) - {Step.READ, Step.WRITE, Step.PRECOPY_INFO, Step.DATA_SIZE}


@pytest.mark.parametrize(
    ("lie", "size", "told"),
    [
        ("dirty+5", 10, 15),
        ("dirty-5", 10, 5),
        ("dirty-50", 10, 0),
        ("dirty*3", 10, 30),
        ("dirty*0.25", 10, 2),
        ("dirty*0", 10, 0),
        ("dirty*2:dirty+1:initial+500", 10, 21),
        ("dirty+1:dirty*2", 10, 22),
        ("dirty+99999999T", 10, 2**64 - 1),
        ("initial+5", 10, 10),
    ],
)
def test_a_lie_changes_what_is_told(lie: str, size: int, told: int) -> None:
    assert parse_options(f"lie={lie}", "sim0").told(Told.DIRTY, size) == told
