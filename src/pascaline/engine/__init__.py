"""The engine: requests in, tokens out. It sees token ids, never text."""
