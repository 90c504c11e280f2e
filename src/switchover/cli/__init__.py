"""The command line: arguments, environment, wiring. It decides nothing."""
