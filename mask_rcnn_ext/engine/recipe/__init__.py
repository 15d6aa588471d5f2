"""A recipe from the data: `train_net.py --auto` and `--epochs N`.

`derive_recipe` computes the values from facts about the training data and the machine; it reads and
writes no file. `choose` puts the values into the config of a run, and logs a table.
"""
