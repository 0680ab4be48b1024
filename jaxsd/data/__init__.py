"""Training data on disk: one memory-mapped `.npy` file a column."""
