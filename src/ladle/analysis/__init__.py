"""Why soups work: landscapes and comparisons, as arrays and dataclasses; drawing is apart."""
