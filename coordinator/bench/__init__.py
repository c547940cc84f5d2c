"""
Measurements of the running system: one module for each `coordinator bench …`, whose `run` gives what is printed.

Each starts what it needs in a temporary home and stops it, however it ends. Timings of one machine are worth little
alone, so the bare cost of the same thing is measured in the same run. Nothing of the product imports this.
"""
