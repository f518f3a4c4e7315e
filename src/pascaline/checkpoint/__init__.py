"""Models on disk: what a user's MODEL argument means, GGUF files, safetensors folders, their settings.

Opening reads directories and settings only; tensors are views of mapped files.
"""
