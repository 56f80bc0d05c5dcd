"""Classifiers on features: kNN, softmax and logistic regression, linear SGD, and others."""
