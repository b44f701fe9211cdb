"""What a run is told: its options, and where they come from."""
