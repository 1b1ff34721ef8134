"""The way from checked data to a solved problem, and back."""
