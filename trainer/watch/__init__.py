"""What a run tells: people, trackers, and what looks wrong."""
