"""People's votes on pairs of answers: the database, who is asked what, and what the votes say. Loads no torch."""
