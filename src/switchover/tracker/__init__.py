"""Which pages of a guest were written: several ways to know, one way to ask."""
