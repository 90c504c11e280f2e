"""Bytes to values and back: no state, no order, no I/O. One module for each page of docs/wire."""
