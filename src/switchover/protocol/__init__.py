"""Order and state: events in, bytes and events out. No I/O, no clock."""
