"""A look at a data folder without a daemon, and its repair: `python -m tertuliad.doctor`."""
