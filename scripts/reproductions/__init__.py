"""The papers' figures and tables, one module for each or for a few that share their computation."""

import os

# every computation is one thread, and --jobs runs several side by side; libraries look at these
# when they are loaded, so that this comes before all other imports
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
