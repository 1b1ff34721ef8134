"""The objective of any module, and modules themselves."""
