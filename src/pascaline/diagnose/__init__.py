"""Why a recorded run is slow: named causes, each with its evidence, its remedy and what that would save.

Reads run records and the tables of `hardware` only; never imports torch.
"""
