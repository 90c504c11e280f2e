"""Every test gives back what it took of the kernel."""

from tests.channel.leaks import nothing_left

__all__ = ["nothing_left"]
