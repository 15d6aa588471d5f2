"""One person's way from sixty photos to a video with masks, as a new user goes it."""
