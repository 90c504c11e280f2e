"""A named thread whose first error is kept, and which is stopped by closing what it waits on."""

import threading
from collections.abc import Callable


class Worker:
    """Runs a function in a thread of its own.

    Args:
        name: At most 15 characters: a kernel shows no more.
        run: What to run. It ends by itself once what it waits on is closed.
    """

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._run = run
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._guard, name=name, daemon=True)
        self._thread.start()

    def _guard(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._error = error

    @property
    def error(self) -> BaseException | None:
        """What ended it, if an error did."""
        return self._error

    def join(self) -> None:
        """Waits until it has ended."""
        self._thread.join()
