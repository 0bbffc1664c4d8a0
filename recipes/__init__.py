"""Recipes of the two built-in bundles; they are not part of the installed package."""
