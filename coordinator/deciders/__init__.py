"""The deciders, one file per kind: pure functions of a command, the state and the time. No clock, no I/O."""
