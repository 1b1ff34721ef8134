"""The objective of the linear model."""
