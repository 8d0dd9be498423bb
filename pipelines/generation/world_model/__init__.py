"""System E: an action-conditioned world model, trained on windows and rolled out without an end."""
