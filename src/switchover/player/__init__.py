"""A process whose calls on some of its descriptors are answered by this one. x86-64 Linux."""
