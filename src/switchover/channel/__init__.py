"""Byte pipes: what a stream is received from and sent to."""
