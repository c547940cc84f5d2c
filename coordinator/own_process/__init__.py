"""A process of ours and the operating system: its streams, its forks, its end, and what it does as process 1."""
