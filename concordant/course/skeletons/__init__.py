"""Files that a learner starts from."""
