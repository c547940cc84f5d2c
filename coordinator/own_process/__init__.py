"""What a process that runs code of users owes the operating system: its end, its forks and its children."""
