"""What traces of other tools have in common: ranges of modules, and work that was launched within them."""
