"""The mainstream's linears, compiled from their sources, which are not ours to keep."""
