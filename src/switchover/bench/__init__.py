"""What is published about switchover, measured: each bench prints the figures that it made."""
