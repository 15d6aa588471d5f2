"""What several machines and many images need, shown on one machine."""
