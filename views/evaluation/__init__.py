"""`dpo eval`: what it measured, as a page."""
