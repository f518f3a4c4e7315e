"""Text in, text out: `LLM` in this process, `AsyncLLM` over an engine process."""
