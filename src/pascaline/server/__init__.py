"""The OpenAI-compatible HTTP server and its chat page. It sees text and token ids, no tensors."""
