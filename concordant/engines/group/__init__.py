"""Several processes that compute every batch together: one driver, which runs the algorithm, and its helpers."""
