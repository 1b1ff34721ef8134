"""Choices: of C, of rows to keep aside, of scores."""
