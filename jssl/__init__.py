"""jssl: self-supervised, semi-supervised and data-efficient vision training in JAX."""
