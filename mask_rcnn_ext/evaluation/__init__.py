"""detectron2 `DatasetEvaluator`s, and the choice of one for a data set."""
