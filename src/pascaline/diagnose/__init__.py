"""Why a run was as slow as it was, and what to do: rules over run records. Never imports torch."""
