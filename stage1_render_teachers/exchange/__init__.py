"""Features per Gaussian that others lifted: from folders of theirs to caches of ours, and back."""
