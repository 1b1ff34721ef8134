"""Files of fitted estimators, and what made them."""
