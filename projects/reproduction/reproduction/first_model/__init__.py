"""The commands of docs/first_model.md: from sixty photos to a video with masks."""
