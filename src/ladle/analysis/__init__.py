"""Why soups work, as arrays: soups against ensembles, and the paper's approximation of that."""
