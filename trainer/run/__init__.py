"""The run: setting up, stepping, writing down."""
