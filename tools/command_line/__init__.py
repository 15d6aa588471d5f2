"""What the command lines of several scripts share."""
