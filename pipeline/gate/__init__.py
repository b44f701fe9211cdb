"""`dpo validate`: the data gate. Rows are checked one by one in worker processes, then across all rows."""
