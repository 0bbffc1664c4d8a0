"""How the `scenes` bundle was made."""
