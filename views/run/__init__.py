"""`dpo report` of a run: its metrics, verdicts, answers, and runs side by side."""
