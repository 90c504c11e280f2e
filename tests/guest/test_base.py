"""A live device that overrides nothing has nothing to say."""

from switchover.guest.base import LiveDevice


def test_live_device_has_nothing_to_say() -> None:
    device = LiveDevice()
    assert (device.version_id, device.wants_switchover_ack) == (1, False)
    assert device.pending_bytes() == 0
    assert device.save_setup() == device.save_iterate() == device.save_complete() == b""


def test_live_device_takes_whatever_comes() -> None:
    said: list[str] = []
    device = LiveDevice()
    device.load_setup()
    device.load(b"anything", lambda: said.append("ready"))
    device.load_complete()
    assert said == []
