"""The built-in bundle `photos`: how it was made, and the card it carries."""
