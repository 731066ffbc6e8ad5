"""The executor for CPUs: cache-blocked sums with first and second derivatives written out."""
