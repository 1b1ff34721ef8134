"""Checks of what users pass, and the only private names of scikit-learn."""
