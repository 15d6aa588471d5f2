"""Our trainer against a plain loop of detectron2's, on real photographs."""
