"""What may be said of a fit."""
