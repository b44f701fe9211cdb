"""The policy: packed rows in, log-probs of responses out; and the reference."""
