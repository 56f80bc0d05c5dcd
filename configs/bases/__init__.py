"""What the configs of a paper, or of a data set, share."""
