"""What a process that runs code of users owes the operating system: to end in time, and to reap its children."""
