"""From checked data to a solved problem, and back."""
