"""The parts that the command lines of several scripts share."""
