"""Is everything as it must be: doctor and verify."""
