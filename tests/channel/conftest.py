"""Every test of a channel gives back what it took."""

from tests.channel.leaks import nothing_left

__all__ = ["nothing_left"]
