"""What a process is told: one model, read from environment and YAML."""
