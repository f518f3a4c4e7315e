"""Measurements of this machine that users can make, and that the planner reads."""
