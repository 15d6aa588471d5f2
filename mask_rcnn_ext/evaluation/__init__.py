"""detectron2 DatasetEvaluators."""
