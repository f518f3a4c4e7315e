"""What chips can do: cards, architectures, the machine at hand, and the roofline. Never imports torch."""
