"""The boot sector is what its source says, and the checkers see each kind of break."""

import shutil
import subprocess
from pathlib import Path

import pytest

import switchover.testing
from switchover.testing.guest import (
    DISK_BYTES,
    LETTERS,
    PAGE_BYTES,
    REGION_BYTES,
    REGION_END_GPA,
    REGION_START_GPA,
    BootSectorGuest,
    GuestBroken,
    boot_sector,
    check_memory,
    check_progress,
    check_serial,
    check_ticks,
    find_linux_guest,
    missing_guest_reason,
    parse_ticks,
)

SOURCE = Path(switchover.testing.__file__).with_name("bootsector.S")
PAGES = REGION_BYTES // PAGE_BYTES


def region(*runs: tuple[int, int]) -> bytes:
    """An image of the region: so many pages with this first byte, then so many with that one."""
    marks = b"".join(bytes([mark]) * pages for mark, pages in runs)
    return b"".join(bytes([mark]).ljust(PAGE_BYTES, b"\xee") for mark in marks)


class TestBootSector:
    def test_is_what_its_source_assembles_to(self, tmp_path: Path) -> None:
        missing = [tool for tool in ("as", "ld", "objcopy") if shutil.which(tool) is None]
        if missing:
            pytest.skip(f"binutils is needed, but there is no {', '.join(missing)} in PATH")
        object_file, linked, flat = (tmp_path / f"bootsector.{end}" for end in ("o", "elf", "bin"))
        commands: list[list[str | Path]] = [
            ["as", "--32", "-o", object_file, SOURCE],
            ["ld", "-m", "elf_i386", "-Ttext=0x7c00", "-o", linked, object_file],
            ["objcopy", "-O", "binary", "-j", ".text", linked, flat],
        ]
        for command in commands:
            subprocess.run(command, check=True)
        assert boot_sector() == flat.read_bytes()

    def test_is_one_sector_that_a_firmware_starts(self) -> None:
        assert len(boot_sector()) == 512
        assert boot_sector()[-2:] == b"\x55\xaa"

    def test_writes_to_the_region_that_the_checkers_look_at(self) -> None:
        text = SOURCE.read_text()
        assert f"REGION_START, {REGION_START_GPA:#010x}" in text
        assert f"REGION_END,   {REGION_END_GPA:#010x}" in text
        assert f"PAGE_BYTES,   {PAGE_BYTES}" in text

    def test_each_qemu_gets_a_disk_of_its_own(self, tmp_path: Path) -> None:
        option, drive = BootSectorGuest().arguments(tmp_path)
        image = tmp_path / "bootsector.img"
        assert option == "-drive"
        assert f"file={image}" in drive
        assert image.read_bytes() == boot_sector() + bytes(DISK_BYTES - 512)


class TestMemory:
    @pytest.mark.parametrize("ahead", [0, 1, 2, PAGES // 2, PAGES - 1])
    @pytest.mark.parametrize("passes", [0, 1, 254, 255])
    def test_pages_of_the_present_pass_may_be_one_ahead(self, passes: int, ahead: int) -> None:
        assert check_memory(region(((passes + 1) % 256, ahead), (passes, PAGES - ahead))) == passes

    @pytest.mark.parametrize(
        ("runs", "page", "holds"),
        [
            pytest.param([(7, 10), (5, PAGES - 10)], 10, 5, id="two steps"),
            pytest.param([(5, 10), (6, PAGES - 10)], 10, 6, id="the rest is ahead"),
            pytest.param([(6, 10), (5, 20), (6, PAGES - 30)], 30, 6, id="ahead again"),
            pytest.param([(6, 10), (5, 20), (4, PAGES - 30)], 30, 4, id="a second step"),
            pytest.param([(5, 100), (0, 1), (5, PAGES - 101)], 100, 0, id="a lost page"),
            pytest.param([(6, 10), (5, 1), (6, 9), (5, PAGES - 20)], 11, 6, id="an old page"),
            pytest.param([(5, PAGES - 1), (9, 1)], PAGES - 1, 9, id="the last page"),
            pytest.param([(9, 1), (5, PAGES - 1)], 1, 5, id="the first page"),
        ],
    )
    def test_anything_else_is_broken_and_says_where(
        self, runs: list[tuple[int, int]], page: int, holds: int
    ) -> None:
        gpa = REGION_START_GPA + page * PAGE_BYTES
        with pytest.raises(
            GuestBroken, match=rf"page {page} of {PAGES}, at {gpa:#x}, holds {holds},"
        ):
            check_memory(region(*runs))

    @pytest.mark.parametrize("pages", [0, PAGES - 1, PAGES + 1])
    def test_another_size_is_not_the_region(self, pages: int) -> None:
        with pytest.raises(GuestBroken, match=f"this image {pages * PAGE_BYTES}"):
            check_memory(region((1, pages)))


class TestSerial:
    @pytest.mark.parametrize("letters", [0, 1, 26, 27, 1000])
    def test_letters_go_round(self, letters: int) -> None:
        assert check_serial((LETTERS * 40)[:letters]) == letters

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("ABD", 2),
            ("ABBC", 2),
            ("BCD", 0),
            (LETTERS + "B", 26),
            (LETTERS + LETTERS[1:], 26),
            ("AB\0C", 2),
            ("ABC\n", 3),
            ("abc", 0),
        ],
    )
    def test_gaps_repeats_and_noise_are_broken(self, text: str, place: int) -> None:
        with pytest.raises(GuestBroken, match=f"letter {place} of the serial output"):
            check_serial(text)


class TestProgress:
    @pytest.mark.parametrize(
        ("passes", "letters"), [(0, 0), (1, 0), (255, 255), (0, 511), (0, 256)]
    )
    def test_memory_is_where_the_output_is_or_one_ahead(self, passes: int, letters: int) -> None:
        check_progress(passes, letters)

    @pytest.mark.parametrize(("passes", "letters"), [(0, 1), (2, 0), (3, 300)])
    def test_anything_else_is_broken(self, passes: int, letters: int) -> None:
        with pytest.raises(GuestBroken, match=f"printed {letters} letters"):
            check_progress(passes, letters)


class TestTicks:
    def test_counts_from_one_among_other_lines(self) -> None:
        assert check_ticks("Loading\r\ntick 1\r\ntick 2\r\nhello\ntick 3\r\ntick 4") == 3

    def test_none_yet(self) -> None:
        assert check_ticks("") == 0

    @pytest.mark.parametrize("counts", [(1, 3), (1, 2, 2), (2, 3), (1, 2, 1)])
    def test_gaps_and_repeats_are_broken(self, counts: tuple[int, ...]) -> None:
        text = "".join(f"tick {count}\r\n" for count in counts)
        assert parse_ticks(text) == list(counts)
        with pytest.raises(GuestBroken, match="expected tick"):
            check_ticks(text)


class TestLinuxGuest:
    def test_missing_guest_says_what_and_how(self, tmp_path: Path) -> None:
        assert find_linux_guest(tmp_path) is None
        reason = missing_guest_reason(tmp_path)
        assert f"{tmp_path}/guest/vmlinuz" in reason
        assert f"{tmp_path}/guest/initrd" in reason
        assert "make peers" in reason

    def test_half_a_guest_is_missing_too(self, tmp_path: Path) -> None:
        (tmp_path / "guest").mkdir()
        (tmp_path / "guest" / "vmlinuz").write_bytes(b"kernel")
        assert find_linux_guest(tmp_path) is None
        assert "vmlinuz" not in missing_guest_reason(tmp_path)

    def test_whole_guest_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "guest").mkdir()
        for name in ("vmlinuz", "initrd"):
            (tmp_path / "guest" / name).write_bytes(b"something")
        guest = find_linux_guest(tmp_path)
        assert guest is not None
        assert str(guest.kernel) in guest.arguments(tmp_path)
        with pytest.raises(ValueError, match="is not missing"):
            missing_guest_reason(tmp_path)
