"""The paper's ablations with small models: the comparisons, the trainings and the results."""
