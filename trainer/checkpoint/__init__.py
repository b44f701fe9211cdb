"""What a run can be resumed from: checkpoints, whole or not at all."""
