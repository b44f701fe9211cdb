"""What a run takes: work, time and memory, and what to do where it is not enough."""
