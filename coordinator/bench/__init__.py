"""
Benchmarks of the running system: one module for each `coordinator bench …`; its `run` returns the figures to print.

Each starts the processes it needs in a temporary home and always stops them. Timings of one machine mean little alone,
so each run also measures the bare cost of NATS. The product imports nothing from here.
"""
