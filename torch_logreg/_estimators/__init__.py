"""The estimators that users see."""
