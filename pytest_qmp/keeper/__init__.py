"""A tiny process beside this one, which ends and removes what this one can leave behind."""
