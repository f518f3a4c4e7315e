"""The paged KV cache: the pool of pages, the tree of remembered prefixes, the tensors."""
