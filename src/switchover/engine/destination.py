"""The destination that parks: it holds a guest, and has it on disk before it says that it has it.

A guest that is parked never runs here.
"""

from collections.abc import Callable

from ..channel.base import Channel
from ..channel.connection import Listener
from ..channel.file import AtomicFile
from ..errors import ChannelError, PeerError, StreamError
from ..protocol.event import Event, SectionItem
from ..protocol.savevm import SaveVM
from ..wire.vfio import VfioInitialDataSent
from .incoming import IncomingMigration, ReceiveOptions
from .load import GuestLoader
from .progress import Progress
from .save import save_guest


class ParkingDestination(IncomingMigration):
    """Receives one guest into a file.

    Args:
        incoming: Where it comes from.
        output: The file, which takes its name when the guest is whole.
        options: How to behave.
        progress: Where it is counted.
        warn: Told, in a sentence, what is odd but not wrong.
    """

    def __init__(
        self,
        incoming: Channel | Listener,
        output: AtomicFile,
        options: ReceiveOptions,
        progress: Progress,
        warn: Callable[[str], None],
    ) -> None:
        self._guest_loader = GuestLoader(options.max_ram_bytes, progress)
        super().__init__(incoming, self._guest_loader, options, progress, warn)
        self._output = output

    def _handle(self, event: Event, channel: Channel) -> None:
        """A device that is held is ready as soon as its initial data is there."""
        super()._handle(event, channel)
        match event:
            case SectionItem(header=header, item=VfioInitialDataSent()):
                if not self._acks.is_enabled:
                    raise StreamError(
                        f"{header.idstr}: Received INIT_DATA_SENT but switchover ack is not used",
                        offset=self._guest_loader.load.buffer.offset,
                    )
                self._acks.ready(header.idstr)

    def _take_over(self, channel: Channel) -> None:
        """Writes the file and gives it its name, then tells the source, if it is there to hear."""
        self._write_output()
        self._check_source(channel)
        try:
            self._output.finish()
            self._shut(channel)
        except BaseException as error:
            if not self._output.is_finished:
                raise
            unsure = (
                f"{self._output.name} holds the whole guest, but its source may not know: look "
                "whether it runs there before the file is used"
            )
            if isinstance(error, ChannelError):
                raise PeerError(f"{error}; {unsure}", after_switchover=True) from error
            error.add_note(unsure)
            raise

    def _write_output(self) -> None:
        guest = self._guest_loader.guest
        buffers = save_guest(
            guest,
            SaveVM(has_footers=guest.has_footers),
            Progress(),
            opens_return_path=False,
            sends_switchover_start=guest.sent_switchover_start,
        )
        for written in buffers:
            self._output.send(written)
