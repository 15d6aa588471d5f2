"""Images with any number of channels: a data set format, a mapper and a trainer that reads it."""

from .channels import ChannelsMapper, read_channels, register_channels
from .shapes import convert, register_shapes, write_shapes
from .trainer import ChannelsTrainer

__all__ = [
    "ChannelsMapper",
    "ChannelsTrainer",
    "convert",
    "read_channels",
    "register_channels",
    "register_shapes",
    "write_shapes",
]
