"""`dpo report` of rollouts and of pairs."""
