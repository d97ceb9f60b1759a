"""Speed and memory against peers: in one process, with the same weights and the same input, taking turns."""
