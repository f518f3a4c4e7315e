"""The `pascaline` command: one file a verb."""
