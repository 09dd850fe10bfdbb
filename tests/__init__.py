"""The tests. What a library reads when it is loaded is set here, before anything is."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads spin, and tests already run side by side
