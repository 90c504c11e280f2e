"""Live migration as Python: QEMU's migration protocol, byte for byte."""

__version__ = "0.1.0"
