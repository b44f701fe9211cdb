"""`dpo compare`: two collections of rollouts of the same held-out tasks, side by side."""
