"""What is wrong with this machine's set-up, and the command that mends it. Never imports torch itself."""
