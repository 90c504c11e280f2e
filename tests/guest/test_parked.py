"""A guest that is held: what it tells of itself."""

from switchover.guest.parked import ParkedGuest
from switchover.model.configuration import Configuration
from switchover.model.ramblock import TARGET_PAGE_SIZE, RAMBlock
from switchover.model.section import SectionHeader

HEADER = SectionHeader(2, "ram", 0, 4)


def test_guest_tells_its_machine_and_size() -> None:
    blocks = RAMBlock("a", 3 * TARGET_PAGE_SIZE), RAMBlock("b", TARGET_PAGE_SIZE)
    guest = ParkedGuest(Configuration("pc-q35-10.0"), blocks, HEADER)
    assert guest.machine == "pc-q35-10.0"
    assert guest.ram_bytes == 4 * TARGET_PAGE_SIZE
    assert [held.block for held in guest.blocks.values()] == list(blocks)
    assert guest.devices is None
    assert guest.has_footers
    assert not guest.sent_switchover_start


def test_old_machine_does_not_tell() -> None:
    assert ParkedGuest(None, [], HEADER).machine is None
    assert ParkedGuest(None, [], HEADER).ram_bytes == 0
