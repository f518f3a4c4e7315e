"""What a model holds and what a step of it computes, from its headers alone. Never imports torch.

The planner sums these up, the engine allocates by them, kernels state their costs with them, and
importers put them beside what other engines measured: each formula stands once.
"""
