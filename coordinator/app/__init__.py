"""What all facades use: the app of the process, the leases it holds, and the address of its coordinator."""
