"""Our trainer compared with detectron2's, on real photographs."""
