"""Pure numbers: average precision, corruption errors, clusters, codebooks, collapse."""
