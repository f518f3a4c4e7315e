"""Parts that models are made of. Each knows its module path and launches ops through the launcher."""
