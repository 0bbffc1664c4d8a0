"""Label Studio over its HTTP API: what it holds, and how it reaches us."""
