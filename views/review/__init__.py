"""`dpo review`: a local page on which people judge responses."""
