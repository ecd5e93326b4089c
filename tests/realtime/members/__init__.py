"""Users of a project that has a model of its own for them."""
