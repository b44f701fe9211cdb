"""`dpo compare`: rollouts before and after, as a page."""
