"""Before anything is imported: scikit-learn skips its array API check without this."""

import os

os.environ["SCIPY_ARRAY_API"] = "1"
