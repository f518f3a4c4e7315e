"""The record that every run leaves, and what reads it. Never imports torch."""
