"""The rules on all rows together."""
