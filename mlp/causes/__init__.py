"""Which settings make the loss oscillate, by reruns."""
