"""Rows: where they are, and the products with X."""
