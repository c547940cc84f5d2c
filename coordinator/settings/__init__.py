"""The settings of a process: one model, read from environment and YAML."""
