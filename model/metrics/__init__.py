"""How good captions are, and what to look at."""
