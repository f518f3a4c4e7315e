"""Standard library only: errors, environment, progress, logging."""
