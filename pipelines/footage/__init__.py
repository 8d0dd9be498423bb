"""Stage raw_video: clips rendered by the program, or cut from a user's own footage."""
