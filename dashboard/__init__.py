"""The ops admin, the health pages and the metrics: they read the other apps and act through their public functions."""
