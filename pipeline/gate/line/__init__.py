"""A line of a file to a row, or to what is wrong with it."""
