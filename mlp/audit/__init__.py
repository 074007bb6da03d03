"""Hand-written gradients, held against the loss that they belong to."""
