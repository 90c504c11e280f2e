"""Devices with the kernel's VFIO migration interface: real ones, and one that is simulated."""
