"""The training loop: stages, epochs, checkpoints, interrupts, several processes."""
