"""What the gate found, in the languages of terminals, programs and CI services."""
