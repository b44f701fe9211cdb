"""What a run leaves: policies, checkpoints, cards, exports."""
