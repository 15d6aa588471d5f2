"""detectron2 `DatasetEvaluator`s, and which one a data set gets."""
