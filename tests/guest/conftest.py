"""Every machine gives back what it took, its thread above all."""

from tests.channel.leaks import nothing_left

__all__ = ["nothing_left"]
