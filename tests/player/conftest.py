"""Every test of a player gives back what it took."""

from tests.channel.leaks import nothing_left

__all__ = ["nothing_left"]
