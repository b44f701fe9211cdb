"""Job files for clusters: what `dpo cluster` prints. Nothing here imports torch."""
