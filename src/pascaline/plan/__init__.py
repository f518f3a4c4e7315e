"""What fits and how fast it will be. The engine allocates with the formulas of this folder."""
