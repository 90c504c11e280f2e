"""How fast a simulated device gives or takes its state: real waiting, in place of hardware."""

from collections.abc import Callable


class Rate:
    """Waits as long as hardware of a rate takes; what it does not do while idle is not made up for.

    Args:
        rate: In bytes a second; 0 for no waiting.
        clock: The time in nanoseconds.
        sleep: Waits for seconds.
    """

    def __init__(self, rate: int, clock: Callable[[], int], sleep: Callable[[float], None]) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._due_ns = self._seen_ns = clock()

    def skip(self) -> None:
        """It was idle until now."""
        if self._rate:
            now_ns = self._clock()
            self._due_ns += now_ns - self._seen_ns
            self._seen_ns = now_ns

    def wait(self, size: int) -> None:
        """Waits until so many bytes more are due. A wait that was too long shortens the next."""
        if self._rate:
            self._due_ns += size * 10**9 // self._rate
            early_ns = self._due_ns - self._clock()
            if early_ns > 0:
                self._sleep(early_ns / 1e9)
            self._seen_ns = self._clock()
