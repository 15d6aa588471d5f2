"""Object proposals: files, methods that compute them, and recall."""
