"""The paper's ablations, small: what is compared, the training runs, and their results."""
