"""What the models cost: parameters and multiply-adds."""
