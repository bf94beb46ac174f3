"""One BLAS thread for the tests: two that spin while another process has the cores made a test forty times slower."""

import os
import sys

assert "numpy" not in sys.modules, "set the threads before NumPy is loaded"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
