"""Drawing instances on images, and sheets of pictures."""
