"""What is fitted and reported: labels, losses, errors and their tables."""
