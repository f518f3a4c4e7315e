"""What the benchmark scripts share: the machine, worker processes, results."""
