"""What each process is made of, and the only place that turns settings into values."""
