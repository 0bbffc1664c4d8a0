"""How the two built-in bundles were made; not part of the installed package."""
